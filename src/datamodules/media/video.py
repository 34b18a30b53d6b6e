"""Videos to RGB frames: those that were asked for, or a failure.

One pass over a file's packets tells how many frames it holds and when each is shown (`packets.py`); a selection says
which are wanted (`sampling.py`); a backend decodes them; each is looked at to be the one that was wanted. Frames are
resized in one place, and once, so the pixels do not depend on the backend.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.errors import DecodeError
from datamodules.media.animation import codec_of, read_durations
from datamodules.media.container import decoder_errors, open_container, video_stream
from datamodules.media.decoder import decoded
from datamodules.media.decoding import Decoding, load_backend
from datamodules.media.display_matrix import display_matrix, is_turned
from datamodules.media.facts import VideoFacts, animation_facts, container_facts
from datamodules.media.first_bytes import is_mp4_or_matroska, read_head
from datamodules.media.limits import require_pixels
from datamodules.media.packets import Packets, read_packets
from datamodules.media.resize import resize
from datamodules.media.sampling import Every, Selection

_EVERY = Every()
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # FFmpeg's names
_SAME_SECONDS = 0.001  # float32, in an hour of video
_MAX_ASPECT = 4  # of a pixel, either way; the widest that broadcasters use is 2.9 (352x576 shown as 16:9)


_DECODING = Decoding()
_last_scanned: dict[tuple[Path, int, int, int], Packets] = {}  # of this process; one at most


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video.

    Attributes:
        frames: uint8 [T, 3, H, W], RGB.
        pts_seconds: float64 [T]: when each is shown, since the video's first frame.
        facts: what is known of the file.
    """

    frames: Tensor
    pts_seconds: NDArray[np.float64]
    facts: VideoFacts


def read_frames(
    path: Path, selection: Selection = _EVERY, size: tuple[int, int] | None = None, decoding: Decoding = _DECODING
) -> VideoFrames:
    """The wanted frames of the video in `path`, resized to `size` (height, width) if that is given.

    Raises:
        MissingError, OSError, DecodeError: see `Video`.
    """
    video = Video(path, decoding)
    indices = selection.indices(video.pts_seconds)
    frames = torch.stack(list(video.frames(indices, size)))
    return VideoFrames(frames, video.pts_seconds[indices], video.facts)


class Video:
    """One video, opened in the process that reads it: a decoder does not survive a fork.

    Args:
        path: the file.
        decoding: how to decode it.

    Attributes:
        pts_seconds: float64 [T]: when each of its frames is shown, since the first.
        facts: what is known of the file; `backends` are those that have been at work so far.
        pixel_aspect_ratio: the container's, or else the codec's when the file is opened; 1 if neither names one.
        num_decoded: frames that the backend has decoded so far, where it tells (`pyav`).
        num_streams: video streams in the file.

    Raises:
        MissingError: it is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: it is empty, no video, cut off, or there is no decoder for it; or its pixels are to be square, and
            their aspect ratio is above 4 or below 1/4.
    """

    def __init__(self, path: Path, decoding: Decoding = _DECODING) -> None:
        self.path, self.decoding, self.num_decoded = path, decoding, 0
        self._head = read_head(path)
        animation = codec_of(self._head)
        self._backends = ("animation",) if animation else decoding.backends
        with decoder_errors(path.name):
            if animation:
                self._read_animation(animation)
            else:
                self._read_container()

    def _read_animation(self, codec: str) -> None:
        if self.decoding.stream:
            raise DecodeError(f"{self.path.name} has no video stream {self.decoding.stream}; its video streams: 0")
        size, durations = read_durations(self.path)
        self.pixel_aspect_ratio, self.num_streams = Fraction(1), 1
        self.pts_seconds = np.cumsum([0.0, *durations[:-1]]) / 1000
        self.facts = animation_facts(codec, size, self.pts_seconds, sum(durations) / 1000)

    def _read_container(self) -> None:
        self._container: Any = None
        with ExitStack() as stack:
            container = stack.enter_context(open_container(self.path))
            stream = video_stream(container, self.decoding.stream)
            self.pixel_aspect_ratio = Fraction(stream.sample_aspect_ratio or 1)
            self._require_plausible_aspect()
            self.packets, self._is_read = _scanned(self.path, container, stream)
            self.pts_seconds = self.packets.pts_seconds
            self.facts = container_facts(container, stream, self.packets)
            self.num_streams = len(container.streams.video)
            self._format = container.format.name
            if self._format in _INDEXED and self.packets.is_seekable:  # others do not go back well
                self._container = container
                stack.pop_all()

    def _require_plausible_aspect(self) -> None:
        ratio = self.pixel_aspect_ratio
        if self.decoding.square_pixels and not Fraction(1, _MAX_ASPECT) <= ratio <= _MAX_ASPECT:
            raise DecodeError(
                f"{self.path.name} has the pixel aspect ratio {ratio.numerator}:{ratio.denominator}, which cannot be "
                "right: set --data.decoding.square_pixels false to take its pixels as square"
            )

    @cached_property
    def display_matrix(self) -> NDArray[np.int32] | None:
        """How the first frame that can be decoded is to be turned and mirrored, see `packets.display_matrix`."""
        with decoder_errors(self.path.name), open_container(self.path) as container:
            stream = container.streams[self.facts["stream"]]
            _, first = next(decoded(container, stream, self.packets.begin), (0, None))
            return None if first is None else display_matrix(first)

    def _shown_size(self, frame: Tensor) -> tuple[int, int]:
        """(height, width) in px at which players show `frame`, which is upright: only the stored width changes."""
        height, width = frame.shape[1:]
        if not self.decoding.square_pixels or self.pixel_aspect_ratio == 1:
            return height, width
        if is_turned(self.display_matrix):
            return max(1, round(height * self.pixel_aspect_ratio)), width
        return height, max(1, round(width * self.pixel_aspect_ratio))

    def take_container(self) -> tuple[Any, bool]:
        """(the file, opened, to be closed by who takes it; whether it has been read to its end already)"""
        container, self._container = self._container, None
        return (open_container(self.path), False) if container is None else (container, self._is_read)

    def require_indexed(self, backend: str) -> None:
        """DecodeError unless the file is of a kind of which every backend finds the right frames, and upright.

        Only a file that is such a kind to every release of FFmpeg: the libraries behind other backends have no list of
        formats that they may open, and would follow a playlist to other files.
        """
        if self._format not in _INDEXED:
            raise DecodeError(f"{backend} is not trusted with {self._format}: choose backend pyav, or allow a fallback")
        if not is_mp4_or_matroska(self._head):
            raise DecodeError(
                f"{backend} opens only files whose first bytes are those of MP4, QuickTime, Matroska or WebM: "
                "choose backend pyav, or allow a fallback"
            )
        if not self.packets.is_seekable:
            raise DecodeError(f"{backend} needs timestamps that tell which frame is which: choose backend pyav")
        if num_skipped := self.packets.num_skipped_frames:
            raise DecodeError(f"{backend} miscounts where {num_skipped} frames cannot be shown: choose backend pyav")
        if self.display_matrix is not None and np.linalg.det(self.display_matrix) < 0:
            raise DecodeError(f"{backend} does not mirror what is to be mirrored: choose backend pyav")

    def require_times(self, backend: str, indices: Sequence[int], pts_seconds: NDArray[np.floating[Any]]) -> None:
        """DecodeError unless the frames that `backend` has for `indices` are shown when the packets say."""
        late = np.abs(pts_seconds - self.pts_seconds[list(indices)]) > _SAME_SECONDS
        if late.any():
            place = int(np.flatnonzero(late)[0])
            raise DecodeError(f"{backend} has another frame for number {indices[place]}, of {pts_seconds[place]:.3f} s")

    def frames(
        self, indices: Sequence[int] | NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> Iterator[Tensor]:
        """The frames `indices` (ascending; one may come several times) in order, each decoded once.

        Args:
            indices: places among all frames of the video.
            size: (height, width) in px to resize to: bilinear, with antialiasing; None: `facts`' height and width.

        Returns:
            uint8 [3, H, W], RGB, upright.

        Raises:
            DecodeError: a frame does not come; both counts are named.
        """
        wanted = list(dict.fromkeys(int(index) for index in indices))
        counts = Counter(int(index) for index in indices)
        if wanted != sorted(wanted):
            raise ValueError(f"indices have to ascend: {wanted}")
        done = 0
        for number, name in enumerate(self._backends if wanted else (), 1):
            if name not in self.facts["backends"]:
                self.facts["backends"].append(name)
            try:
                for frame in self._decoded(name, wanted[done:]):
                    shown = self._shown_size(frame)
                    height, width = frame.shape[1:] if size else shown
                    require_pixels(self.path.name, width, height)
                    self.facts["height"], self.facts["width"] = shown
                    resized = resize(frame, size or shown)
                    done += 1
                    yield from [resized] * counts[wanted[done - 1]]
                return
            except DecodeError as error:
                if number == len(self._backends):
                    raise DecodeError(
                        f"{self.path.name} breaks after {done} of {len(wanted)} wanted frames: {error}"
                    ) from error

    def _decoded(self, backend: str, indices: Sequence[int]) -> Iterator[Tensor]:
        """The frames `indices` by one backend, as stored but upright."""
        with decoder_errors(backend):
            yield from load_backend(backend).decode(self, indices)


def _scanned(path: Path, container: Any, stream: Any) -> tuple[Packets, bool]:
    """(the packets of `stream`, whether `container` was read to its end for them)

    Those of the last video are remembered: clips of a long one follow one another, and need one pass over it.
    """
    stat = os.stat(path)
    key = (path, stat.st_size, stat.st_mtime_ns, stream.index)
    if key in _last_scanned:
        return _last_scanned[key], False
    packets = read_packets(container, stream)
    _last_scanned.clear()
    _last_scanned[key] = packets
    return packets, True
