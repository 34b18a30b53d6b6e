"""PyAV, which brings FFmpeg's newest decoders in its wheel; one thread.

Frames that are neither requested nor needed by others are not decoded: about half of an H.264 file with B-frames.
Before each packet whose frame is not requested, the decoder is set to skip it if it is a non-reference frame.

Decoding begins at the last keyframe before a requested frame. Some streams (intra-refresh, some edit lists, MPEG-TS)
have keyframes that are not real keyframes. Where they do not lead to the requested frame, all frames are decoded from
the beginning of the file, and none skipped.
"""

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import DecodeError
from datamodules.media.container import error_text, video_stream
from datamodules.media.decoder import decode_stream
from datamodules.media.display_matrix import apply_display_matrix, display_matrix
from datamodules.media.packets import Packets

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from datamodules.media.video import Video


def require() -> None:
    """Return: PyAV is always installed."""


def decode(video: "Video", indices: Sequence[int]) -> Iterator[Tensor]:
    """Yield the frames `indices` of `video`, see `Backend.decode`.

    Raises:
        DecodeError: one of them does not come, or is damaged.
    """
    num_done = 0
    if video.packets.is_seekable:
        with suppress(_Astray), closing(_Decoder(video)) as decoder:
            for frame in decoder.by_keyframes(indices):
                yield decoder.pixels(frame)
                num_done += 1
            return
    with closing(_Decoder(video)) as decoder:
        for frame in decoder.from_start(indices[num_done:]):
            yield decoder.pixels(frame)


class _Astray(Exception):
    """Decoding from a keyframe does not give the requested frame."""


class _Decoder:
    """The decoder of one video. The caller closes it."""

    def __init__(self, video: "Video") -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()  # one for all frames: making it takes as long as converting a small one
        self._video, self._packets = video, video.packets
        self._container, self._is_read = video.take_container()  # opening the file again takes as long as 5 frames
        self._stream = video_stream(self._container, video.facts["stream"])
        self._codec = self._stream.codec_context
        self._first_aspect = self._codec.sample_aspect_ratio or 1
        # a ratio of the container's own holds for all frames
        is_codecs = self._first_aspect == video.pixel_aspect_ratio
        self._checks_aspect = video.decoding.square_pixels and is_codecs
        # workers are the parallelism; and with threads, `skip_frame` would take effect some packets late
        self._codec.thread_type = "NONE"

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def pixels(self, frame: "VideoFrame") -> Tensor:
        """Convert a decoded frame to uint8 [3, H, W], RGB, upright.

        Raises:
            DecodeError: pixels are to be square, and their aspect ratio changes within the file.
        """
        self._require_one_aspect()
        pixels: Any = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        matrix = display_matrix(frame)
        if matrix is not None:
            pixels = np.ascontiguousarray(apply_display_matrix(pixels, matrix))
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _require_one_aspect(self) -> None:
        aspect = self._codec.sample_aspect_ratio or 1  # of the last packet: PyAV does not expose that of a frame
        if self._checks_aspect and aspect != self._first_aspect:
            raise DecodeError(
                f"the pixel aspect ratio changes from {float(self._first_aspect):g} to {float(aspect):g}, and the "
                "frames of an item must have one. Cut the file there, or set --data.decoding.square_pixels false"
            )

    def by_keyframes(self, indices: Sequence[int]) -> Iterator["VideoFrame"]:
        """Yield the frames `indices`, each stretch of them decoded from the keyframe before it.

        Raises:
            _Astray: one of them does not come, or is damaged.
        """
        import av

        packet_of: dict[int | None, int] = {pts: index for index, pts in enumerate(self._packets.stream_pts.tolist())}
        try:
            for first, members in _stretches(self._packets, indices):
                last = int(self._packets.frame_packets[members].max())
                due = deque(self._packets.pts[members].tolist())
                if first or self._is_read:
                    self._container.seek(int(self._packets.stream_pts[first]), stream=self._stream)
                for frame in self._stretch(packet_of, first, last, frozenset(due)):
                    if not due or frame.pts != due.popleft():
                        raise _Astray
                    yield frame
                if due:
                    raise _Astray
        except av.FFmpegError as error:
            raise _Astray from error

    def _stretch(
        self, packet_of: dict[int | None, int], first: int, last: int, requested_pts: Collection[int]
    ) -> Iterator["VideoFrame"]:
        """Yield the requested frames of a stretch of packets.

        Args:
            packet_of: index of a packet in the stream, by its timestamp.
            first: index of the first packet, a keyframe.
            last: index of the last packet.
            requested_pts: timestamps of the requested frames.
        """
        skips, start_pts = self._video.decoding.skip_non_reference, self._packets.stream_pts[first]
        has_begun, latest_pts = False, -math.inf
        for packet in self._container.demux(self._stream):
            index = packet_of.get(packet.pts, -1)
            if not has_begun and (index > first or packet.size == 0):  # the seek went too far
                raise _Astray
            has_begun = has_begun or index == first
            if not has_begun:  # the seek ended before `first`
                continue
            self._codec.skip_frame = "NONREF" if skips and packet.pts not in requested_pts else "DEFAULT"
            # after the last packet, the decoder is drained of the frames that it holds back
            for frame in [*packet.decode(), *(self._codec.decode(None) if index >= last else ())]:
                self._video.num_decoded += 1
                # frames before the keyframe in display order may be damaged: no requested one is made from them
                if frame.is_corrupt and frame.pts >= start_pts:
                    raise _Astray
                if frame.pts <= latest_pts:
                    raise _Astray
                latest_pts = frame.pts
                if frame.pts in requested_pts:
                    yield frame
            if index >= last:
                return

    def from_start(self, indices: Sequence[int]) -> Iterator["VideoFrame"]:
        """Yield the frames `indices`, decoding all frames from the start of the file to the last of them.

        Raises:
            DecodeError: one of them does not come; or a frame, requested or not, is damaged or out of order.
        """
        import av

        packets, due = self._packets, deque(indices)
        frame_packets = packets.frame_packets.tolist()
        shows_frame = frozenset(frame_packets)
        index = count = 0  # of the next frame in display order; of the frames that came
        try:
            for packet_index, frame in decode_stream(
                self._container, self._stream, packets.start, packets.restarts, strict_from=min(frame_packets)
            ):
                self._video.num_decoded += 1
                if packet_index not in shows_frame:
                    continue
                if frame.is_corrupt:
                    raise DecodeError(f"frame {index} is damaged")
                while index < len(frame_packets) and frame_packets[index] != packet_index:
                    index += 1
                if index > due[0]:  # the requested frame did not come, or not in its place
                    break
                if index == due[0]:
                    yield frame
                    due.popleft()
                if not due:
                    return
                index, count = index + 1, count + 1
        except av.FFmpegError as error:
            raise DecodeError(f"frame {index} cannot be decoded: {error_text(error)}") from error
        seconds = packets.pts_seconds[due[0]]
        raise DecodeError(f"{count} of {len(frame_packets)} frames came, and not that of {seconds:.3f} s")


def _stretches(packets: Packets, indices: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Group frames that are decoded in one go, without a seek.

    Args:
        packets: of the video.
        indices: of the frames, ascending.

    Returns:
        (index of the packet to begin at, indices of frames) for each group.
    """
    stretches: list[tuple[int, list[int]]] = []
    sent = -1  # index of the last packet that the groups so far need
    for index in indices:
        packet = int(packets.frame_packets[index])
        key = int(np.searchsorted(packets.keyframes, packet, side="right")) - 1
        # a leading picture is decoded after a keyframe and shown before it, and needs earlier packets
        while key > 0 and packets.stream_pts[packets.keyframes[key]] > packets.stream_pts[packet]:
            key -= 1
        first = int(packets.keyframes[key])
        if not stretches or first > sent:
            stretches.append((first, []))
        stretches[-1][1].append(index)
        sent = max(sent, packet)
    return stretches
