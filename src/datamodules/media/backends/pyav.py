"""PyAV, which brings FFmpeg's newest decoders in its wheel; one thread.

Frames that nobody wants, and on which no other depends, are not decoded: about half of an H.264 file with B-frames.
Before each packet whose frame is not wanted the decoder is told to skip it if it is a non-reference frame. Decoding
begins at the last keyframe before a wanted frame; and at the beginning of the file, with nothing skipped, where that
does not lead to it: some streams (intra-refresh, some edit lists, MPEG-TS) bear keyframes that are none.
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
from datamodules.media.container import said, video_stream
from datamodules.media.decoder import decoded
from datamodules.media.display_matrix import apply_display_matrix, display_matrix
from datamodules.media.packets import Packets

if TYPE_CHECKING:
    from datamodules.media.video import Video


def decode(video: "Video", indices: Sequence[int]) -> Iterator[Tensor]:
    """The frames `indices` of `video`; see the package.

    Raises:
        DecodeError: one of them does not come, or is damaged.
    """
    done = 0
    if video.packets.is_seekable:
        with suppress(_Astray), closing(_Decoder(video)) as decoder:
            for frame in decoder.by_keyframes(indices):
                yield decoder.pixels(frame)
                done += 1
            return
    with closing(_Decoder(video)) as decoder:
        for frame in decoder.from_the_beginning(indices[done:]):
            yield decoder.pixels(frame)


class _Astray(Exception):
    """The keyframes do not lead to what is wanted."""


class _Decoder:
    """The decoder of one video; to be closed."""

    def __init__(self, video: "Video") -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()  # one for all frames: making it costs as much as converting a small one
        self._video, self._packets = video, video.packets
        self._container, self._is_read = video.take_container()  # opening one costs as much as 5 frames
        self._stream = video_stream(self._container, video.facts["stream"])
        self._codec = self._stream.codec_context
        self._first_aspect = self._codec.sample_aspect_ratio or 1
        # where the container names another ratio than the codec, it holds for all frames
        is_codecs = self._first_aspect == video.pixel_aspect_ratio
        self._checks_aspect = video.decoding.square_pixels and is_codecs
        self._codec.thread_type = "NONE"  # the workers are the parallelism; and with threads a skip would come late

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def pixels(self, frame: Any) -> Tensor:
        """What `frame` shows: uint8 [3, H, W], RGB, upright.

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
        now = self._codec.sample_aspect_ratio or 1  # of the last packet: PyAV does not know that of a frame
        if self._checks_aspect and now != self._first_aspect:
            raise DecodeError(
                f"the pixel aspect ratio changes from {float(self._first_aspect):g} to {float(now):g}, and the frames "
                "of an item have one: cut the file there, or set --data.decoding.square_pixels false"
            )

    def by_keyframes(self, indices: Sequence[int]) -> Iterator[Any]:
        """The frames `indices`, each stretch of them from the keyframe before it.

        Raises:
            _Astray: one of them does not come, or is damaged.
        """
        import av

        places = {pts: place for place, pts in enumerate(self._packets.stream_pts.tolist())}
        try:
            for first, members in _stretches(self._packets, indices):
                last = int(self._packets.shown[members].max())
                due = deque(self._packets.pts[members].tolist())
                if first or self._is_read:
                    self._container.seek(int(self._packets.stream_pts[first]), stream=self._stream)
                for frame in self._stretch(places, first, last, frozenset(due)):
                    if not due or frame.pts != due.popleft():
                        raise _Astray
                    yield frame
                if due:
                    raise _Astray
        except av.FFmpegError as error:
            raise _Astray from error

    def _stretch(self, places: dict[int, int], first: int, last: int, wanted: Collection[int]) -> Iterator[Any]:
        """The wanted frames among those of the packets from place `first` to `last` of the stream."""
        skips, begin = self._video.decoding.skip_non_reference, self._packets.stream_pts[first]
        begun, latest = False, -math.inf
        for packet in self._container.demux(self._stream):
            place = places.get(packet.pts, -1)
            if not begun and (place > first or packet.size == 0):  # the search ended behind it
                raise _Astray
            begun = begun or place == first
            if not begun:
                continue
            self._codec.skip_frame = "NONREF" if skips and packet.pts not in wanted else "DEFAULT"
            for frame in [*packet.decode(), *(self._codec.decode(None) if place >= last else ())]:
                self._video.num_decoded += 1
                if frame.is_corrupt and frame.pts >= begin:  # others may be made of it; what is shown before is not
                    raise _Astray
                if frame.pts <= latest:
                    raise _Astray
                latest = frame.pts
                if frame.pts in wanted:
                    yield frame
            if place >= last:
                return

    def from_the_beginning(self, indices: Sequence[int]) -> Iterator[Any]:
        """The frames `indices`, with all frames of the file decoded up to the last of them.

        Raises:
            DecodeError: one of them does not come; or a frame, wanted or not, is damaged or comes out of order.
        """
        import av

        packets, due = self._packets, deque(indices)
        shown = packets.shown.tolist()
        members = frozenset(shown)
        index = count = 0
        try:
            for place, frame in decoded(
                self._container, self._stream, packets.begin, packets.restarts, first=min(shown)
            ):
                self._video.num_decoded += 1
                if place not in members:
                    continue
                if frame.is_corrupt:
                    raise DecodeError(f"frame {index} is damaged")
                while index < len(shown) and shown[index] != place:
                    index += 1
                if index > due[0]:
                    break
                if index == due[0]:
                    yield frame
                    due.popleft()
                if not due:
                    return
                index, count = index + 1, count + 1
        except av.FFmpegError as error:
            raise DecodeError(f"frame {index} cannot be decoded: {said(error)}") from error
        seconds = packets.pts_seconds[due[0]]
        raise DecodeError(f"{count} of {len(shown)} frames came, and not that of {seconds:.3f} s")


def _stretches(packets: Packets, indices: Sequence[int]) -> list[tuple[int, list[int]]]:
    """(the keyframe's place in the stream, indices of frames): what is decoded in one go without a seek."""
    stretches: list[tuple[int, list[int]]] = []
    sent = -1
    for index in indices:
        place = int(packets.shown[index])
        key = int(np.searchsorted(packets.keyframes, place, side="right")) - 1
        while key > 0 and packets.stream_pts[packets.keyframes[key]] > packets.stream_pts[place]:
            key -= 1  # the frame is decoded after this keyframe, but shown before it, and needs what came earlier
        first = int(packets.keyframes[key])
        if not stretches or first > sent:
            stretches.append((first, []))
        stretches[-1][1].append(index)
        sent = max(sent, place)
    return stretches
