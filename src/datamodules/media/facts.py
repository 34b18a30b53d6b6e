"""What is known of a video file."""

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from datamodules.media.packets import Packets
from datamodules.media.sampling import frame_gap, frame_rate


class VideoFacts(TypedDict):
    """What is known of a video file; `*_from_header` is what the container says, None if nothing.

    `fps` and `duration_seconds` come from the times of the frames, see `sampling.frame_rate` and `sampling.frame_gap`.
    `stream` is its number in the file, as ffprobe counts; `num_frames` is the number of frames that can be shown, and
    `begin_seconds` when the first is shown. `num_skipped_frames` is the number of frames that the stream holds but no
    decoder can show, mostly as it begins in the middle of a group of pictures. `backends` are those that decoded the
    frames, more than one only after a fallback. `pixel_aspect_ratio` is the width of a stored pixel over its height,
    before any turn; 1.0 if the file names none. `width` and `height` are in px: as stored until a frame has been
    decoded, then those of the frames, upright and (`Decoding.square_pixels`) with square pixels.
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


def animation_facts(
    codec: str, size: tuple[int, int], pts_seconds: NDArray[np.float64], duration_seconds: float
) -> VideoFacts:
    """Facts of an animation of `size`, (height, width); its header says nothing of rate and duration."""
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


def container_facts(container: Any, stream: Any, packets: Packets) -> VideoFacts:
    """What the container says; and the packets."""
    header_fps = round(float(stream.average_rate), 6) if stream.average_rate else None
    fps = frame_rate(packets.pts_seconds, header_fps)
    gap = frame_gap(packets.pts_seconds) or (1 / fps if fps else 0.0)
    seconds = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1_000_000
    begin = int(packets.pts[0]) * packets.time_base
    return VideoFacts(
        codec=stream.codec_context.codec.canonical_name,
        stream=stream.index,
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        pixel_aspect_ratio=round(float(stream.sample_aspect_ratio or 1), 6),
        num_frames=len(packets.shown),
        num_skipped_frames=packets.num_skipped_frames,
        fps=fps,
        duration_seconds=round(float(packets.pts_seconds[-1]) + gap, 6),
        num_frames_from_header=stream.frames or None,
        duration_seconds_from_header=round(float(seconds), 6) or None,
        average_fps_from_header=header_fps,
        begin_seconds=round(float(begin), 6),
        backends=[],
    )
