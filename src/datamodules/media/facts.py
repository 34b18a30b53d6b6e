"""What is known of a video file; samples store it."""

from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from datamodules.media.packets import Packets
from datamodules.media.sampling import frame_gap, frame_rate

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


class VideoFacts(TypedDict):
    """Facts of a video file. Fields that end with `_from_header` repeat the container's claims, None if it makes none.

    Attributes:
        codec: FFmpeg's name.
        stream: number of the stream in the file, as ffprobe counts.
        width, height: px; as stored until a frame has been decoded, then of the frames: upright and, with
            `Decoding.square_pixels`, with square pixels.
        pixel_aspect_ratio: width of a stored pixel over its height, before any turn; 1.0 if the file names none.
        num_frames: frames that can be shown.
        num_skipped_frames: frames that the stream has but no decoder can show, mostly because the stream begins in the
            middle of a group of pictures.
        fps: frames per second by the times of the frames (`sampling.frame_rate`); None: unknown.
        duration_seconds: by the times of the frames, the last one included (`sampling.frame_gap`).
        begin_seconds: time of the first frame, on the container's clock.
        backends: those that decoded frames so far; more than one only after a fallback. `torchcodec-cpu` is torchcodec
            on the CPU where NVDEC was asked for.
    """

    codec: str
    stream: int
    width: int
    height: int
    pixel_aspect_ratio: float
    num_frames: int
    num_skipped_frames: int
    fps: float | None
    duration_seconds: float
    num_frames_from_header: int | None
    duration_seconds_from_header: float | None
    average_fps_from_header: float | None
    begin_seconds: float
    backends: list[str]


def container_facts(container: "InputContainer", stream: "VideoStream", packets: Packets) -> VideoFacts:
    """Return the facts of a file that PyAV has opened.

    Args:
        container: of PyAV.
        stream: of the container.
        packets: of the stream.
    """
    header_fps = round(float(stream.average_rate), 6) if stream.average_rate else None
    fps = frame_rate(packets.pts_seconds, header_fps)
    gap = frame_gap(packets.pts_seconds) or (1 / fps if fps else 0.0)
    seconds = (
        stream.duration * stream.time_base
        if stream.duration and stream.time_base
        else (container.duration or 0) / 1_000_000
    )
    begin = int(packets.pts[0]) * packets.time_base
    return VideoFacts(
        codec=stream.codec_context.codec.canonical_name,
        stream=stream.index,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        pixel_aspect_ratio=round(float(stream.sample_aspect_ratio or 1), 6),
        num_frames=len(packets.frame_packets),
        num_skipped_frames=packets.num_skipped_frames,
        fps=fps,
        duration_seconds=round(float(packets.pts_seconds[-1]) + gap, 6),
        num_frames_from_header=stream.frames or None,
        duration_seconds_from_header=round(float(seconds), 6) or None,
        average_fps_from_header=header_fps,
        begin_seconds=round(float(begin), 6),
        backends=[],
    )


def seconds_beyond(facts: VideoFacts, stop_seconds: float | None) -> float:
    """Return how much of a part of a video is beyond its end, in s; 0.0 for less than a frame, as rounded times have.

    Args:
        facts: of the video.
        stop_seconds: end of the part, since the first frame; None: the end of the video.
    """
    beyond = 0.0 if stop_seconds is None else stop_seconds - facts["duration_seconds"]
    return round(beyond, 6) if beyond >= 1 / (facts["fps"] or 1) else 0.0


def animation_facts(
    codec: str, size: tuple[int, int], pts_seconds: NDArray[np.float64], duration_seconds: float
) -> VideoFacts:
    """Return the facts of an animated image, whose header has neither rate nor duration.

    Args:
        codec: gif, png or webp.
        size: (height, width) in px.
        pts_seconds: float64 [T], when each frame is shown.
        duration_seconds: of all frames.
    """
    return VideoFacts(
        codec=codec,
        stream=0,
        width=size[1],
        height=size[0],
        pixel_aspect_ratio=1.0,
        num_frames=len(pts_seconds),
        num_skipped_frames=0,
        fps=frame_rate(pts_seconds, None),
        duration_seconds=round(duration_seconds, 6),
        num_frames_from_header=None,
        duration_seconds_from_header=None,
        average_fps_from_header=None,
        begin_seconds=0.0,
        backends=[],
    )
