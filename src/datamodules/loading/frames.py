"""Frames: what a DataLoader worker does. It takes tickets, opens each item once, and yields its frames in slices.

A batch, one slice of one ticket, is a dict:

| field     | type                          | meaning                                                             |
|-----------|-------------------------------|---------------------------------------------------------------------|
| shard     | int                           | number of the shard in the plan                                     |
| rows      | list[int], B                  | for each frame, the row of its item in the shard                    |
| frame_idx | list[int], B                  | for each frame, its place among the frames taken of its item        |
| frames    | uint8 [B, 3, H, W], or a list of B times [3, H, W] where sizes differ; RGB                          |
| encoded   | list of B `Jpeg`: in place of `frames`, where the rank's GPU is to decode them (`Decoding.images`)  |
| results   | list of B: in place of `frames`, where the extractor works inside the workers                       |
| pts_seconds | list[float or None], B      | for each frame, when it is shown since its video's first; None: an image |
| summaries | list of `ItemSummary`         | the items that this slice completes, or that failed                 |
| ahead     | `datamodules.loading.prefetch.Copy`, where `frames` are on their way to the GPU already  |
| alone     | bool                          | a process died of one of these items: extract them one by one       |

Slices of one item come in order. A slice holds frames of several items only if these are single images. Where these
are put together by size (`Batching`), their ends come with the ticket's last slice: it is done, or done again, whole.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from typing_extensions import NotRequired

from datamodules.corpus import Item, located
from datamodules.errors import (
    DecodeError,
    EnvironmentFailure,
    FramemillError,
    ItemError,
    ListingError,
)
from datamodules.loading.worker_progress import Stamps
from datamodules.media.content import read_file, read_member
from datamodules.media.decoding import Decoding
from datamodules.media.facts import VideoFacts
from datamodules.media.image import decode_image
from datamodules.media.jpeg import Jpeg, read_jpeg
from datamodules.media.sampling import AtRate, Every, Selection, between, frame_gap, frame_rate
from datamodules.media.stored import Stored, as_stored
from datamodules.media.video import Video
from datamodules.run.drift import require_unchanged
from datamodules.run.plan import Plan

_EVERY, _DECODING = Every(), Decoding()
GIVEN_UP = "given up"  # in place of the reason of an item that the rank has failed already


class Ticket(NamedTuple):
    """A piece of work for one worker: rows of one shard; several only if they are single images.

    `given_up` are those of its rows that have failed already, and are not to be active again.
    """

    shard: int
    rows: tuple[int, ...]
    given_up: frozenset[int] = frozenset()


class ItemSummary(TypedDict):
    """That an item has no more frames.

    `reason` (and its class, see `datamodules.errors`) is None unless the item failed; `size` is (height, width) in px
    of its frames, None if there was none. None for images: `fps`, by the times of the frames that `Item` describes, not
    the header's (None also for a single frame, if that names none); `video`, what is known of the file; `pts_seconds`,
    of each frame since the video's first. `content` is a single image's file, if `FrameRequest.store` asks for
    it.
    """

    row: int
    num_frames: int
    size: tuple[int, int] | None
    fps: float | None
    video: VideoFacts | None
    pts_seconds: list[float] | None
    content: bytes | None
    reason: str | None
    reason_class: str | None
    read_seconds: float
    transform_seconds: float


class Batch(TypedDict):
    """One slice; see the module's table."""

    shard: int
    rows: list[int]
    frame_idx: list[int]
    pts_seconds: list[float | None]
    summaries: list[ItemSummary]
    alone: NotRequired[bool]
    frames: NotRequired[Tensor | list[Tensor]]
    encoded: NotRequired[list[Jpeg]]
    ahead: NotRequired[Any]
    results: NotRequired[list[Any]]


class FrameTransform(Protocol):
    """An extractor that runs on the CPU, inside the workers; made and used in one process."""

    def start(self, item: Item) -> None:
        """The frames of `item` follow: forget the ones before."""
        ...

    def __call__(self, frame: Tensor) -> Any:
        """The result of one frame, uint8 [3, H, W]; whatever can be sent to another process.

        Raises:
            ExtractError: this frame cannot be handled; its item fails.
        """
        ...


class HasSize(Protocol):
    """What a transform makes of a frame, if batches are to be limited by size; both are padded to the batch's largest.

    Attributes:
        num_pixels: that the model will see.
        num_tokens: likewise.
    """

    @property
    def num_pixels(self) -> int: ...

    @property
    def num_tokens(self) -> int: ...


class Batching(NamedTuple):
    """How single images are put together by size: those of a window are sorted, and cut where a limit is reached.

    One that is above a limit by itself is a batch by itself.

    Attributes:
        window: images that a worker prepares, and holds in memory, before it sorts them.
        max_pixels: of a batch, its largest image's times their number; None: any.
        max_tokens: likewise.
    """

    window: int
    max_pixels: int | None = None
    max_tokens: int | None = None

    def fits(self, images: Sequence[HasSize]) -> bool:
        """Whether these can be one batch."""
        pixels = len(images) * max(image.num_pixels for image in images)
        tokens = len(images) * max(image.num_tokens for image in images)
        fits_pixels = self.max_pixels is None or pixels <= self.max_pixels
        return fits_pixels and (self.max_tokens is None or tokens <= self.max_tokens)


class FrameRequest(NamedTuple):
    """What an extractor wants of the frames; slices are its micro-batches, so every field changes results.

    Attributes:
        slice_frames: frames in a batch, at most; single images are put together up to this many.
        transform: makes the extractor's `FrameTransform` in each worker; None: it wants the frames themselves.
        selection: which frames of a video, among those that are its item's.
        size: (height, width) in px that frames of videos are resized to; None: as they are.
        decoding: how videos and images are decoded; the DataModule's (`--data.decoding`) replaces it.
        store: send along the files of single images (`ItemSummary.content`), as `media/stored.py` says; None: do not.
        batching: how single images are put together by the sizes of the results that `transform` makes, which are
            `HasSize`; None: as they come.
    """

    slice_frames: int = 32
    transform: Callable[[], FrameTransform] | None = None
    selection: Selection = _EVERY
    size: tuple[int, int] | None = None
    decoding: Decoding = _DECODING
    store: Stored | None = None
    batching: Batching | None = None

    @property
    def images_in_ticket(self) -> int:
        """Single images that one worker takes at once."""
        return self.batching.window if self.batching else self.slice_frames


class TicketQueue(Protocol):
    """Where workers take tickets from; None says that no more will come."""

    def get(self) -> Ticket | None:
        """Wait for the next ticket."""
        ...


class ActivityMonitor(Protocol):
    """Is told which items a process goes on with, so that its death or hang is charged to them."""

    def mark_active(self, shard: int, rows: Sequence[int]) -> None:
        """From now on these rows of a shard."""
        ...

    def mark_idle(self) -> None:
        """From now on none."""
        ...


class FrameStream(IterableDataset[Batch]):
    """The slices of the tickets that this worker takes.

    Args:
        plan: path of the plan, opened here and in each worker anew.
        root: folder that items' paths are relative to.
        tickets: shared by the workers of one rank.
        request: see `FrameRequest`.
        monitor: is told which items are read: the stamps of the workers, or the rank that reads by itself.
    """

    def __init__(
        self, plan: Path, root: str, tickets: TicketQueue, request: FrameRequest, monitor: Stamps | ActivityMonitor
    ) -> None:
        self._plan, self._root, self._tickets, self._request = plan, root, tickets, request
        self._monitor = monitor

    def __iter__(self) -> Iterator[Batch]:
        plan = Plan(self._plan)
        transform = self._request.transform() if self._request.transform else None
        info = get_worker_info()
        monitor = self._monitor.of(info.id if info else 0) if isinstance(self._monitor, Stamps) else self._monitor
        while (ticket := self._tickets.get()) is not None:
            touch = partial(monitor.mark_active, ticket.shard)
            slices = _batches(plan, self._root, ticket, self._request, transform, touch)
            while batch := _next(slices, dies=info is not None):
                monitor.mark_idle()
                yield batch


def _next(slices: Iterator[Batch], dies: bool) -> Batch | None:
    """The next slice; a worker dies of an unexpected error, so that this is charged to the item it touches."""
    try:
        return next(slices, None)
    except FramemillError:
        raise
    except Exception:
        if not dies:
            raise
        sys.excepthook(*sys.exc_info())  # as `begin_worker` has set it
        os._exit(1)


def _batches(
    plan: Plan,
    root: str,
    ticket: Ticket,
    request: FrameRequest,
    transform: FrameTransform | None,
    touch: Callable[[Sequence[int]], None],
) -> Iterator[Batch]:
    batching = request.batching
    if batching is None or len(plan.item(ticket.shard, ticket.rows[0]).frames) != 1:
        yield from _slices(plan, root, ticket, request, transform, touch)
        return
    whole = request._replace(slice_frames=batching.window)
    for window in _slices(plan, root, ticket, whole, transform, touch):  # one, as the ticket's images fill no more
        yield from _by_size(window, request.slice_frames, batching)


def _by_size(window: Batch, slice_frames: int, batching: Batching) -> Iterator[Batch]:
    """The images of `window` in batches of similar size, from small to large; the ends come with the last."""
    rows, results = window["rows"], window["results"]
    places = sorted(range(len(rows)), key=lambda at: (results[at].num_pixels, results[at].num_tokens, rows[at]))
    groups: list[list[int]] = [[]]
    for place in places:
        grown = [*groups[-1], place]
        if len(grown) > 1 and (len(grown) > slice_frames or not batching.fits([results[at] for at in grown])):
            groups.append([place])
        else:
            groups[-1] = grown
    for group in groups:
        yield Batch(
            shard=window["shard"],
            rows=[rows[at] for at in group],
            frame_idx=[window["frame_idx"][at] for at in group],
            pts_seconds=[window["pts_seconds"][at] for at in group],
            summaries=window["summaries"] if group is groups[-1] else [],
            results=[results[at] for at in group],
        )


def _slices(
    plan: Plan,
    root: str,
    ticket: Ticket,
    request: FrameRequest,
    transform: FrameTransform | None,
    touch: Callable[[Sequence[int]], None],
) -> Iterator[Batch]:
    current = _Slice(ticket.shard, transform)
    for row in ticket.rows:
        item = located(plan.item(ticket.shard, row), root)
        summary = _summary_of(row)
        if row in ticket.given_up:
            summary["reason"] = summary["reason_class"] = GIVEN_UP
            current.summaries.append(summary)
            continue
        touch([row])
        try:
            if item.problem is not None:
                raise ListingError(item.problem)
            if transform:
                transform.start(item)
            for frame in _timed(_read(item, root, request, summary), summary):
                if len(current) == request.slice_frames:
                    yield current.batch()
                    current = _Slice(ticket.shard, transform)
                touch([row])
                current.add(frame, summary)
            if summary["num_frames"] == 0:
                raise DecodeError(f"{item.source} has no frames")
        except ItemError as error:
            if isinstance(error, DecodeError):
                _require(root)
            summary["reason"], summary["reason_class"] = str(error), error.reason_class
        except OSError as error:  # EIO, ESTALE, EACCES, …: the file's, or its mount's
            _require(root)
            summary["reason"] = f"{item.source} cannot be read: {error.strerror or error}"
            summary["reason_class"] = "io"
        except MemoryError:
            summary["reason"], summary["reason_class"] = "out of memory", "memory"
        current.summaries.append(summary)
    yield current.batch()


def _summary_of(row: int) -> ItemSummary:
    return ItemSummary(
        row=row,
        num_frames=0,
        size=None,
        fps=None,
        video=None,
        pts_seconds=None,
        content=None,
        reason=None,
        reason_class=None,
        read_seconds=0.0,
        transform_seconds=0.0,
    )


def frames_of(item: Item, root: str, decoding: Decoding = _DECODING) -> Iterator[Tensor]:
    """Every frame of `item`: uint8 [3, H, W]; images are decoded whatever `Decoding.images` says.

    Raises:
        DecodeError, OSError: see `Video`, `read_file`, `read_member` and `decode_image`.
    """
    request = FrameRequest(decoding=replace(decoding, images="pillow"))
    return _read(item, root, request, _summary_of(0))  # type: ignore[return-value]  # none is left encoded


def is_readable(item: Item, root: str, decoding: Decoding = _DECODING) -> bool:
    """Whether the first frame of `item` can be read now."""
    try:
        return next(frames_of(item, root, decoding), None) is not None
    except (OSError, DecodeError):
        return False


def _require(root: str) -> None:
    """Raise EnvironmentFailure if the corpus is gone as a whole: an unmounted folder is missing, or empty."""
    try:
        with os.scandir(root) as entries:
            there = next(entries, None) is not None
    except OSError:
        there = False
    if not there:
        raise EnvironmentFailure(
            f"the corpus root {root} is gone, or empty. Finished work is safe. Bring it back and rerun the same command"
        )


class _Slice:
    """The slice being filled."""

    def __init__(self, shard: int, transform: FrameTransform | None) -> None:
        self._shard, self._transform = shard, transform
        self._rows: list[int] = []
        self._frame_idx: list[int] = []
        self._pts_seconds: list[float | None] = []
        self._content: list[Any] = []
        self.summaries: list[ItemSummary] = []

    def __len__(self) -> int:
        return len(self._content)

    def add(self, frame: Tensor | Jpeg, summary: ItemSummary) -> None:
        height, width = frame.size if isinstance(frame, Jpeg) else frame.shape[1:]
        if summary["size"] is None:
            summary["size"] = (height, width)
        elif summary["size"] != (height, width):
            raise DecodeError(
                f"frame {summary['num_frames']} has {width}x{height} px, "
                f"the first {summary['size'][1]}x{summary['size'][0]}: "
                "the frames of one item have one size"
            )
        if self._transform:
            started = time.perf_counter()
            assert isinstance(frame, Tensor)  # see `FramesDataModule`
            self._content.append(self._transform(frame))
            summary["transform_seconds"] += time.perf_counter() - started
        else:
            self._content.append(frame)
        self._rows.append(summary["row"])
        self._frame_idx.append(summary["num_frames"])
        self._pts_seconds.append(summary["pts_seconds"][summary["num_frames"]] if summary["pts_seconds"] else None)
        summary["num_frames"] += 1

    def batch(self) -> Batch:
        batch = Batch(
            shard=self._shard,
            rows=self._rows,
            frame_idx=self._frame_idx,
            pts_seconds=self._pts_seconds,
            summaries=self.summaries,
        )
        if self._transform:
            batch["results"] = self._content
        elif self._content and isinstance(self._content[0], Jpeg):
            batch["encoded"] = self._content
        elif self._content and all(frame.shape == self._content[0].shape for frame in self._content):
            batch["frames"] = _stack(self._content)
        else:
            batch["frames"] = self._content
        return batch


def _stack(frames: Sequence[Tensor]) -> Tensor:
    """[B, 3, H, W], in memory as the frames are, which mostly come as [H, W, 3]; to turn 2 MB costs more than 1 ms."""
    return torch.stack([frame.permute(1, 2, 0) for frame in frames]).permute(0, 3, 1, 2)


def _read(item: Item, root: str, request: FrameRequest, summary: ItemSummary) -> Iterator[Tensor | Jpeg]:
    path = Path(os.path.join(root, item.path))
    require_unchanged(item, root)
    if item.frames:
        for name in item.frames:
            if item.start_byte is None:
                content = read_file(path / name)
            else:
                content = read_member(path, name, item.start_byte, item.cost)
            frame = read_jpeg(content, name) if request.decoding.images == "nvjpeg" else decode_image(content, name)
            if request.store and len(item.frames) == 1:
                summary["content"] = as_stored(content, name, request.store)
            yield frame
    else:
        yield from _read_video(item, Video(path, request.decoding), request, summary)


def _read_video(item: Item, video: Video, request: FrameRequest, summary: ItemSummary) -> Iterator[Tensor]:
    """The frames that the item's times and rate leave of the video, and the extractor's selection of these."""
    try:
        indices, summary["fps"] = _taken(item, video.pts_seconds, video.facts["average_fps_from_header"])
        indices = indices[request.selection.indices(video.pts_seconds[indices])]
    except DecodeError as error:
        raise DecodeError(f"{item.path}: {error}") from error
    summary["video"] = video.facts
    summary["pts_seconds"] = [round(seconds, 6) for seconds in video.pts_seconds[indices].tolist()]
    yield from video.frames(indices, request.size)


def _taken(
    item: Item, pts_seconds: NDArray[np.float64], header_fps: float | None
) -> tuple[NDArray[np.int64], float | None]:
    """(indices of the frames that the item's times and rate leave of its video, how many these are a second)"""
    indices = between(pts_seconds, item.start_seconds, item.stop_seconds)
    times = pts_seconds[indices]
    fps = frame_rate(times, header_fps)
    if item.fps:
        indices = indices[AtRate(item.fps).indices(times)]
        begun_before = 1.01 * frame_gap(times)  # a frame on show at a wanted time may be one frame old
        fps = frame_rate(pts_seconds[indices], min(item.fps, fps or item.fps), begun_before)
    return indices, fps


def _timed(frames: Iterator[Tensor | Jpeg], summary: ItemSummary) -> Iterator[Tensor | Jpeg]:
    while True:
        started = time.perf_counter()
        frame = next(frames, None)
        summary["read_seconds"] += time.perf_counter() - started
        if frame is None:
            return
        yield frame
