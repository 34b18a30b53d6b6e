"""Videos to RGB frames: the requested ones, or a failure.

One pass over a file's packets gives the number of frames and when each is shown (`packets`); a selection says which
to take (`sampling`); a backend decodes them (`backends`), and each frame is checked to be the requested one. Frames are
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
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.errors import DecodeError
from datamodules.media.animation import animation_codec, read_durations
from datamodules.media.container import decoder_errors, open_container, stream_at, video_stream
from datamodules.media.decoder import decode_stream
from datamodules.media.decoding import Decoding, load_backend
from datamodules.media.display_matrix import display_matrix, is_turned
from datamodules.media.facts import VideoFacts, animation_facts, container_facts
from datamodules.media.first_bytes import is_mp4_or_matroska, read_head
from datamodules.media.limits import require_pixels
from datamodules.media.packets import Packets, read_packets
from datamodules.media.resize import resize
from datamodules.media.sampling import Every, Selection

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


_EVERY = Every()
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # FFmpeg's names of formats with an index of their packets
_SAME_SECONDS = 0.001  # precision of float32 in an hour of video
_MAX_ASPECT = 4  # of a pixel, either way; the widest that broadcasters use is 2.9 (352x576 shown as 16:9)

_DECODING = Decoding()
# packets of the last video that this process has scanned; at most one entry
_last_scanned: dict[tuple[Path, int, int, int], Packets] = {}


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video.

    Attributes:
        frames: uint8 [T, 3, H, W], RGB.
        pts_seconds: float64 [T], when each frame is shown, since the video's first frame.
        facts: what is known of the file.
    """

    frames: Tensor
    pts_seconds: NDArray[np.float64]
    facts: VideoFacts


def read_frames(
    path: Path, selection: Selection = _EVERY, size: tuple[int, int] | None = None, decoding: Decoding = _DECODING
) -> VideoFrames:
    """Read frames of a video.

    Args:
        path: of the file.
        selection: which frames to take.
        size: (height, width) in px to resize to; None: as shown.
        decoding: how to decode it.

    Raises:
        MissingError, OSError, DecodeError: see `Video`.
    """
    video = Video(path, decoding)
    indices = selection.indices(video.pts_seconds)
    frames = torch.stack(list(video.frames(indices, size)))
    return VideoFrames(frames, video.pts_seconds[indices], video.facts)


class Backend(Protocol):
    """What a module of `datamodules.media.backends` provides: a decoder of videos.

    All backends give the same pixels. `animation` reads animated images and cannot be chosen.
    """

    def require(self) -> None:
        """Raise ConfigError unless the backend is installed and works on this machine."""
        ...

    def decode(self, video: "Video", indices: Sequence[int]) -> Iterator[Tensor]:
        """Yield some frames of a video.

        Args:
            video: to decode.
            indices: of the frames, ascending, without repetition; at least one.

        Yields:
            uint8 [3, H, W], RGB, with the stored pixels, upright.

        Raises:
            DecodeError: the backend cannot give one of them, or does not give the right frames of such a file.
        """
        ...


class Video:
    """One video, opened in the process that reads it, because a decoder does not survive a fork.

    Args:
        path: of the file.
        decoding: how to decode it.

    Attributes:
        pts_seconds: float64 [T], when each of its frames is shown, since the first.
        facts: what is known of the file; `facts["backends"]` grows as backends decode.
        pixel_aspect_ratio: the container's, or else the codec's when the file is opened; 1 if neither has one.
        num_decoded: number of frames that the backend has decoded so far, if it counts them (`pyav`).
        num_streams: number of video streams in the file.

    Raises:
        MissingError: the file is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: it is empty, not a video or cut off, there is no decoder for it, or its pixels should become square
            and their aspect ratio is above 4 or below 1/4.
    """

    def __init__(self, path: Path, decoding: Decoding = _DECODING) -> None:
        self.path, self.decoding, self.num_decoded = path, decoding, 0
        self._head = read_head(path)
        animation = animation_codec(self._head)
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
        self._container: InputContainer | None = None
        with ExitStack() as stack:
            container = stack.enter_context(open_container(self.path))
            stream = video_stream(container, self.decoding.stream)
            self.pixel_aspect_ratio = Fraction(stream.sample_aspect_ratio or 1)
            self._require_plausible_aspect()
            self.packets, self._is_read = _scan_once(self.path, container, stream)
            self.pts_seconds = self.packets.pts_seconds
            self.facts = container_facts(container, stream, self.packets)
            self.num_streams = len(container.streams.video)
            self._format = container.format.name
            # kept open for the backend, which seeks back to the beginning; only these formats seek reliably
            if self._format in _INDEXED and self.packets.is_seekable:
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
        """Display matrix of the first frame that can be decoded, see `display_matrix.display_matrix`."""
        with decoder_errors(self.path.name), open_container(self.path) as container:
            stream = stream_at(container, self.facts["stream"])
            _, first = next(decode_stream(container, stream, self.packets.start), (0, None))
            return None if first is None else display_matrix(first)

    def _shown_size(self, frame: Tensor) -> tuple[int, int]:
        """Return (height, width) in px at which players show an upright `frame`: only the stored width changes."""
        height, width = frame.shape[1:]
        if not self.decoding.square_pixels or self.pixel_aspect_ratio == 1:
            return height, width
        if is_turned(self.display_matrix):
            return max(1, round(height * self.pixel_aspect_ratio)), width
        return height, max(1, round(width * self.pixel_aspect_ratio))

    def take_container(self) -> tuple["InputContainer", bool]:
        """Return the file, open, for the caller to close; and whether it has been read to its end already."""
        container, self._container = self._container, None
        return (open_container(self.path), False) if container is None else (container, self._is_read)

    def rename_backend(self, backend: str, used: str) -> None:
        """Replace the name of a backend in `facts` by that of the decoder which it has used in fact."""
        names = [used if name == backend else name for name in self.facts["backends"]]
        self.facts["backends"] = list(dict.fromkeys(names))

    def require_indexed(self, backend: str) -> None:
        """Check that the file is of a kind of which every backend gives the right frames, upright.

        The file must be of that kind to every release of FFmpeg: the libraries behind other backends have no list of
        formats that they may open, and would follow a playlist to other files.

        Args:
            backend: that asks, for the message.

        Raises:
            DecodeError: it is not.
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
            raise DecodeError(f"{backend} does not mirror frames that the header mirrors: choose backend pyav")

    def require_times(self, backend: str, indices: Sequence[int], pts_seconds: NDArray[np.floating[Any]]) -> None:
        """Check that a backend gives the right frames, by their times.

        Args:
            backend: that gave them, for the message.
            indices: of the requested frames.
            pts_seconds: float [T], times of the frames that the backend gives, since the first frame.

        Raises:
            DecodeError: a time differs from that of the packet by more than 1 ms.
        """
        is_other = np.abs(pts_seconds - self.pts_seconds[list(indices)]) > _SAME_SECONDS
        if is_other.any():
            first = int(np.flatnonzero(is_other)[0])
            raise DecodeError(f"{backend} has another frame for number {indices[first]}, of {pts_seconds[first]:.3f} s")

    def frames(
        self, indices: Sequence[int] | NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> Iterator[Tensor]:
        """Yield frames, each decoded once.

        Args:
            indices: of the frames among all frames of the video, ascending; one may be repeated.
            size: (height, width) in px to resize to: bilinear, with antialiasing; None: `facts`' height and width.

        Yields:
            uint8 [3, H, W], RGB, upright.

        Raises:
            DecodeError: a frame does not come; the message has the number of frames that came and were requested.
        """
        requested = list(dict.fromkeys(int(index) for index in indices))
        counts = Counter(int(index) for index in indices)
        if requested != sorted(requested):
            raise ValueError(f"indices must ascend: {requested}")
        num_done = 0
        for number, name in enumerate(self._backends if requested else (), 1):
            if name not in self.facts["backends"]:
                self.facts["backends"].append(name)
            try:
                # a fallback continues with the frames that the backend before has not given
                for frame in self._decoded(name, requested[num_done:]):
                    shown = self._shown_size(frame)
                    height, width = frame.shape[1:] if size else shown
                    require_pixels(self.path.name, width, height)
                    self.facts["height"], self.facts["width"] = shown
                    resized = resize(frame, size or shown)
                    num_done += 1
                    yield from [resized] * counts[requested[num_done - 1]]
                return
            except DecodeError as error:
                if number == len(self._backends):
                    raise DecodeError(
                        f"{self.path.name} breaks after {num_done} of {len(requested)} requested frames: {error}"
                    ) from error

    def _decoded(self, backend: str, indices: Sequence[int]) -> Iterator[Tensor]:
        """Yield frames as one backend gives them, with the stored pixels, upright."""
        with decoder_errors(backend):
            yield from cast(Backend, load_backend(backend)).decode(self, indices)


def _scan_once(path: Path, container: "InputContainer", stream: "VideoStream") -> tuple[Packets, bool]:
    """Return the packets of `stream`, and whether `container` was read to its end for them.

    Those of the last video are kept, because the clips of a long video follow one another and need only one pass over
    it.
    """
    stat = os.stat(path)
    key = (path, stat.st_size, stat.st_mtime_ns, stream.index)
    if key in _last_scanned:
        return _last_scanned[key], False
    packets = read_packets(container, stream)
    _last_scanned.clear()
    _last_scanned[key] = packets
    return packets, True
