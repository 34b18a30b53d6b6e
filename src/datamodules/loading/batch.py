"""Batches: what workers send to the extractor, and the summary of each item that a batch completes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from torch import Tensor
from torch.utils.data import default_collate
from typing_extensions import NotRequired

from datamodules.corpus import Item
from datamodules.loading.request import Batching
from datamodules.media.facts import VideoFacts
from datamodules.media.jpeg import Jpeg


@dataclass(frozen=True)
class ItemSummary:
    """What is known of an item once its last frame has been read, or once it has failed.

    Attributes:
        row: row of the item in its shard.
        num_frames: number of frames that were taken; of a failed item, those before the failure.
        size: (height, width) of the frames in px; None if there was none.
        fps: frames per second, by the times of the frames that `Item` describes, not by the header. None for an image,
            and for a single frame of a video whose header names none.
        video: what is known of the video file; None for images.
        pts_seconds: presentation time of each frame in s since the video's first frame; None for images.
        content: file of a single image in the format `FrameRequest.store`; None if it was not asked for.
        reason: why the item failed; None if it did not.
        reason_class: class of the failure, see `datamodules.errors`; None if it did not fail.
        read_seconds: time spent on reading and decoding, in s.
        transform_seconds: time spent in the `FrameTransform`, in s.
    """

    row: int
    num_frames: int = 0
    size: tuple[int, int] | None = None
    fps: float | None = None
    video: VideoFacts | None = None
    pts_seconds: Sequence[float] | None = None
    content: bytes | None = None
    reason: str | None = None
    reason_class: str | None = None
    read_seconds: float = 0.0
    transform_seconds: float = 0.0


class Batch(TypedDict):
    """One slice of one ticket: B frames, and the summaries of the items that end with them.

    | field       | type                    | meaning                                                         |
    |-------------|-------------------------|-----------------------------------------------------------------|
    | shard       | int                     | index of the shard in the plan; -1 in a batch of an idle rank   |
    | rows        | list[int], B            | row of each frame's item in the shard                           |
    | frame_idx   | list[int], B            | index of each frame among those that are taken of its item      |
    | pts_seconds | list[float or None], B  | time of each frame in s since its video's first; None: an image |
    | items       | dict[int, Item]         | by row, the items whose first frame is in it, as `located`      |
    | num_frames  | dict[int, int]          | by row, how many frames are to be taken of each of these items  |
    | seconds     | dict[str, float]        | time that the worker spent by phase, `read` and `transform`     |
    | summaries   | list[ItemSummary]       | the items that this slice completes, or that failed             |
    | frames      | uint8 [B, 3, H, W], RGB | the frames; a list of B times [3, H, W] where sizes differ      |
    | encoded     | list[Jpeg], B           | instead of `frames`, where the rank's GPU decodes images        |
    | results     | list, B                 | instead of `frames`, what the request's transform returned      |
    | device_copy | prefetch.DeviceCopy     | copy of `frames` on its way to the GPU, where there is one      |
    | alone       | bool                    | a process died of one of the items: extract them one by one     |
    | assemblies  | list[Any], B            | only in `Extractor.extract`: the assembly of each frame's item  |

    Slices of one item come in order. A slice holds frames of several items only if these are single images. Where
    images are grouped by size (`Batching`), all summaries come with the ticket's last slice: a ticket is done, or is
    done again, as a whole.
    """

    shard: int
    rows: list[int]
    frame_idx: list[int]
    pts_seconds: list[float | None]
    items: dict[int, Item]
    num_frames: dict[int, int]
    seconds: dict[str, float]
    summaries: list[ItemSummary]
    frames: NotRequired[Tensor | list[Tensor]]
    encoded: NotRequired[list[Jpeg]]
    results: NotRequired[list[Any]]
    device_copy: NotRequired[Any]
    alone: NotRequired[bool]
    assemblies: NotRequired[list[Any]]


def idle_batch() -> Batch:
    """Return the batch of a rank that has nothing to do now: no frames of no shard."""
    return Batch(
        shard=-1, rows=[], frame_idx=[], pts_seconds=[], items={}, num_frames={}, seconds={}, summaries=[], results=[]
    )


class Slice:
    """A slice that is being filled.

    Args:
        shard: index of the shard in the plan.
        has_results: whether the contents are results of a transform, not frames.
    """

    def __init__(self, shard: int, has_results: bool) -> None:
        self._shard, self._has_results = shard, has_results
        self._rows: list[int] = []
        self._frame_idx: list[int] = []
        self._pts_seconds: list[float | None] = []
        self._items: dict[int, Item] = {}
        self._num_frames: dict[int, int] = {}
        self._contents: list[Any] = []
        self._seconds = {"read": 0.0, "transform": 0.0}
        self._summaries: list[ItemSummary] = []

    def __len__(self) -> int:
        return len(self._contents)

    def begin(self, row: int, item: Item, num_frames: int) -> None:
        """Add an item before its first frame. `num_frames` are to be taken of it."""
        self._items[row], self._num_frames[row] = item, num_frames  # once: an item may list 100,000 file names

    def add(self, row: int, frame_idx: int, pts_seconds: float | None, content: Any) -> None:
        """Add a frame, or the transform's result of it."""
        self._rows.append(row)
        self._frame_idx.append(frame_idx)
        self._pts_seconds.append(pts_seconds)
        self._contents.append(content)

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Add time that was spent on the frames, by phase."""
        for phase, spent in seconds.items():
            self._seconds[phase] += spent

    def end(self, summary: ItemSummary) -> None:
        """Add the summary of an item that has no more frames."""
        self._summaries.append(summary)

    def batch(self) -> Batch:
        """Return what was added."""
        batch = Batch(
            shard=self._shard,
            rows=self._rows,
            frame_idx=self._frame_idx,
            pts_seconds=self._pts_seconds,
            items=self._items,
            num_frames=self._num_frames,
            seconds=self._seconds,
            summaries=self._summaries,
        )
        if self._has_results:
            batch["results"] = self._contents
        elif self._contents and isinstance(self._contents[0], Jpeg):
            batch["encoded"] = self._contents
        elif self._contents and all(frame.shape == self._contents[0].shape for frame in self._contents):
            batch["frames"] = _stack(self._contents)
        else:
            batch["frames"] = self._contents
        return batch


def part_of(batch: Batch, indices: Sequence[int], is_last: bool) -> Batch:
    """Return some images of a batch of results. The last part has its summaries, and the time that it took."""
    rows = [batch["rows"][index] for index in indices]
    return Batch(
        shard=batch["shard"],
        rows=rows,
        frame_idx=[batch["frame_idx"][index] for index in indices],
        pts_seconds=[batch["pts_seconds"][index] for index in indices],
        items={row: batch["items"][row] for row in rows},
        num_frames={row: batch["num_frames"][row] for row in rows},
        seconds=batch["seconds"] if is_last else {},
        summaries=batch["summaries"] if is_last else [],
        results=[batch["results"][index] for index in indices],
    )


def by_size(window: Batch, max_images: int, batching: Batching) -> Iterable[Batch]:
    """Yield the images of a window of results in batches of similar size, the summaries with the last of them."""
    groups = batching.groups(window["results"], max_images) or [[]]
    for group in groups[:-1]:
        yield part_of(window, group, is_last=False)
    yield part_of(window, groups[-1], is_last=True)


def _stack(frames: Sequence[Tensor]) -> Tensor:
    """Return uint8 [B, 3, H, W] in the memory layout of the frames, which decoders give as [H, W, 3].

    Copying whole frames is fast; transposing 2 MB to [3, H, W] would take more than 1 ms. In a worker,
    `default_collate` copies them into the memory that it shares with the rank.
    """
    stacked: Tensor = default_collate([frame.permute(1, 2, 0) for frame in frames])
    return stacked.permute(0, 3, 1, 2)
