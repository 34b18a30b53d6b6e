"""Reading one item: its frames, one after another, and at the end what is known of it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.corpus import Item
from datamodules.errors import DecodeError, ListingError
from datamodules.loading.batch import ItemSummary
from datamodules.loading.fetching import Fetching
from datamodules.loading.image_fetcher import ImageFetcher
from datamodules.loading.item_files import ItemFiles
from datamodules.loading.request import FrameRequest, FrameTransform, GroupTransform
from datamodules.media.decoding import Decoding
from datamodules.media.facts import VideoFacts, seconds_beyond
from datamodules.media.image import decode_image
from datamodules.media.jpeg import Jpeg, read_jpeg
from datamodules.media.sampling import AtRate, between, frame_gap, frame_rate
from datamodules.media.stored import as_stored
from datamodules.media.video import Video

_DECODING = Decoding()


class ReadFrame(NamedTuple):
    """One frame of an item.

    Attributes:
        frame_idx: index among the item's selected frames, from 0.
        pts_seconds: time of the frame in s since the video's first; None for an image.
        content: the frame, uint8 [3, H, W], or a `Jpeg`; with a transform, what that returned.
    """

    frame_idx: int
    pts_seconds: float | None
    content: Any


class ItemReader:
    """Reads the frames of one item once, and then sums up what is known of it.

    Args:
        item: what to read.
        files: the item's files.
        request: which frames to read, and how to decode them.
        transform: applied to the frames; None: they are left as they are.
        mark_active: called before each step that may crash or hang on the item's files.
    """

    def __init__(
        self,
        item: Item,
        files: ItemFiles,
        request: FrameRequest,
        transform: FrameTransform | GroupTransform | None = None,
        mark_active: Callable[[], None] = lambda: None,
    ) -> None:
        self._item, self._files, self._request = item, files, request
        self._transform, self._mark_active = transform, mark_active
        # found out once per item, not per frame: `isinstance` of a protocol takes 10 microseconds
        self._num_together = transform.num_frames if isinstance(transform, GroupTransform) else 1
        self._results = transform and _results_of(transform)
        self._num_frames = 0
        self._size: tuple[int, int] | None = None
        self._fps: float | None = None
        self._facts: VideoFacts | None = None
        self._pts_seconds: list[float] | None = None
        self._content: bytes | None = None
        self._seconds = {"read": 0.0, "transform": 0.0}
        self._taken_seconds = self._seconds.copy()

    def frames(self) -> Iterator[ReadFrame]:
        """Read the frames, check that they have one size, and apply the transform.

        Raises:
            ListingError: the listing of the corpus found the item unusable.
            DecodeError: see `decoded`; or the frames differ in size; or the item has no frames.
            ExtractError: the transform cannot handle the item.
            OSError, MemoryError: the file system cannot give the bytes, or memory is exhausted.
        """
        if self._item.problem is not None:
            raise ListingError(self._item.problem)
        self._mark_active()
        if self._transform:
            self._transform.start(self._item)
        frames = self.decoded()
        while group := self._read_group(frames):
            for content in self._transformed(group):
                frame_idx = self._num_frames
                self._num_frames += 1
                yield ReadFrame(frame_idx, self._pts_seconds[frame_idx] if self._pts_seconds else None, content)
        if self._num_frames == 0:
            raise DecodeError(f"{self._item.source} has no frames")

    def decoded(self) -> Iterator[Tensor | Jpeg]:
        """Yield the frames as they are decoded, uint8 [3, H, W]; or as `Jpeg`, where the GPU is to decode them.

        Raises:
            DecodeError, OSError: see `ItemFiles`, `decode_image` and `Video`.
        """
        self._files.require_unchanged()
        yield from self._images() if self._item.frames else self._video_frames()

    @property
    def num_planned(self) -> int:
        """Number of frames to take of the item. Of a video it is known once the first frame has been read."""
        return len(self._item.frames) if self._pts_seconds is None else len(self._pts_seconds)

    def take_seconds(self) -> dict[str, float]:
        """Return the time spent on the item by phase, `read` and `transform`, since the last call."""
        before, self._taken_seconds = self._taken_seconds, self._seconds.copy()
        return {phase: seconds - before[phase] for phase, seconds in self._seconds.items()}

    def summary(self, row: int, reason: str | None = None, reason_class: str | None = None) -> ItemSummary:
        """Return the item's summary, after its last frame or its failure.

        Args:
            row: row of the item in its shard.
            reason: why the item failed; None if it did not.
            reason_class: class of the failure.
        """
        return ItemSummary(
            row=row,
            num_frames=self._num_frames,
            size=self._size,
            fps=self._fps,
            video=self._facts,
            pts_seconds=self._pts_seconds,
            content=self._content,
            reason=reason,
            reason_class=reason_class,
            read_seconds=self._seconds["read"],
            transform_seconds=self._seconds["transform"],
        )

    def _read_group(self, frames: Iterator[Tensor | Jpeg]) -> list[Tensor | Jpeg]:
        """Return the next frames, as many as the transform takes at once; none at the end."""
        group: list[Tensor | Jpeg] = []
        while len(group) < self._num_together and (frame := self._timed_next(frames)) is not None:
            self._require_one_size(frame, self._num_frames + len(group))
            group.append(frame)
        return group

    def _timed_next(self, frames: Iterator[Tensor | Jpeg]) -> Tensor | Jpeg | None:
        self._mark_active()
        started = time.perf_counter()
        frame = next(frames, None)
        self._seconds["read"] += time.perf_counter() - started
        return frame

    def _require_one_size(self, frame: Tensor | Jpeg, frame_idx: int) -> None:
        height, width = frame.size if isinstance(frame, Jpeg) else frame.shape[1:]
        if self._size is None:
            self._size = (height, width)
        if self._size != (height, width):
            raise DecodeError(
                f"frame {frame_idx} is {width}x{height} px, but the first is {self._size[1]}x{self._size[0]}: "
                "all frames of an item must have the same size"
            )

    def _transformed(self, frames: Sequence[Tensor | Jpeg]) -> Sequence[Any]:
        if not self._results:
            return frames
        self._mark_active()
        started = time.perf_counter()
        tensors = [frame for frame in frames if isinstance(frame, Tensor)]
        assert len(tensors) == len(frames)  # `FrameRequest.resolve` refuses a transform of what the GPU decodes
        results = self._results(tensors)
        self._seconds["transform"] += time.perf_counter() - started
        return results

    def _require_end(self, facts: VideoFacts) -> None:
        """Raise DecodeError if the item goes on beyond the end of its video, and may not be shortened."""
        if self._request.decoding.beyond_end == "fail" and (missing := seconds_beyond(facts, self._item.stop_seconds)):
            raise DecodeError(
                f"it should end at {self._item.stop_seconds:g} s, which is {missing:g} s beyond the end of the video. "
                "To take the frames that exist, set --data.decoding.beyond_end shorten"
            )

    def _images(self) -> Iterator[Tensor | Jpeg]:
        item, request = self._item, self._request
        for content, name in zip(self._files.images(), item.frames, strict=True):
            frame = read_jpeg(content, name) if request.decoding.images == "nvjpeg" else decode_image(content, name)
            if request.store and len(item.frames) == 1:
                self._content = as_stored(content, name, request.store)
            yield frame

    def _video_frames(self) -> Iterator[Tensor]:
        """Yield the selected frames: first the item's times and rate apply, then the extractor's selection."""
        with self._files.video() as path:
            video = Video(path, self._request.decoding)
            try:
                self._require_end(video.facts)
                header_fps = video.facts["average_fps_from_header"]
                indices, self._fps = _select_frames(self._item, video.pts_seconds, header_fps)
                indices = indices[self._request.selection.indices(video.pts_seconds[indices])]
            except DecodeError as error:
                raise DecodeError(f"{self._item.path}: {error}") from error
            self._facts = video.facts  # decoding completes them
            self._pts_seconds = [round(seconds, 6) for seconds in video.pts_seconds[indices].tolist()]
            yield from video.frames(indices, self._request.size)


def frames_of(item: Item, root: str, decoding: Decoding = _DECODING, scratch: Path | None = None) -> Iterator[Tensor]:
    """Yield every frame of `item`, uint8 [3, H, W]. Images are decoded on the CPU, whatever `Decoding.images` says.

    Args:
        item: the item.
        root: folder or URL that its paths are relative to.
        decoding: how its files are decoded.
        scratch: folder for the file of a video in a store; None: the system's temporary folder.

    Raises:
        DecodeError, OSError: see `ItemReader.decoded`.
    """
    fetcher = ImageFetcher(root, Fetching())
    fetcher.expect([item])
    request = FrameRequest(decoding=replace(decoding, images="pillow"))
    return ItemReader(item, ItemFiles(item, root, fetcher, scratch=scratch), request).decoded()  # type: ignore[return-value]  # no frame is left encoded


def is_readable(item: Item, root: str, decoding: Decoding = _DECODING, scratch: Path | None = None) -> bool:
    """Return whether the first frame of `item` can be read now; see `frames_of`."""
    try:
        return next(frames_of(item, root, decoding, scratch), None) is not None
    except (OSError, DecodeError):
        return False


def _results_of(transform: FrameTransform | GroupTransform) -> Callable[[Sequence[Tensor]], Sequence[Any]]:
    """Return a function from frames, uint8 [3, H, W], to their results."""
    if isinstance(transform, GroupTransform):
        return transform.results
    return lambda frames: [transform(frame) for frame in frames]


def _select_frames(
    item: Item, pts_seconds: NDArray[np.float64], header_fps: float | None
) -> tuple[NDArray[np.int64], float | None]:
    """Select the frames between the item's start and stop times, at the item's rate.

    Args:
        item: with `start_seconds`, `stop_seconds` and `fps`.
        pts_seconds: [T], times of all frames of the video.
        header_fps: frame rate that the header claims; used if the times agree with it, or if there is one frame.

    Returns:
        The indices of these frames in `pts_seconds`, and their frame rate.
    """
    indices = between(pts_seconds, item.start_seconds, item.stop_seconds)
    times = pts_seconds[indices]
    fps = frame_rate(times, header_fps)
    if item.fps:
        indices = indices[AtRate(item.fps).indices(times)]
        # a frame that is on screen at a requested time may have appeared up to one frame gap before it
        tolerance_seconds = 1.01 * frame_gap(times)
        fps = frame_rate(pts_seconds[indices], min(item.fps, fps or item.fps), tolerance_seconds)
    return indices, fps
