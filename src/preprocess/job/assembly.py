"""Assembly: turns the results of one item's frames into its sample.

`Extraction` opens an item's assembly before its first frame is extracted. The writer adds the results in order, and
finishes the assembly with the item's summary. An assembly that streams (to a file, through a tracker) needs constant
memory for a video of any length; the default keeps all results in a list.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from datamodules.corpus import Item
from datamodules.errors import EnvironmentFailure, ItemError
from datamodules.loading.batch import ItemSummary
from preprocess.job.late import LateResult


class Assembly(ABC):
    """Collects the results of one item and makes its sample."""

    @abstractmethod
    def add(self, frame_idx: int, result: Any) -> None:
        """Add the result of the next frame.

        Args:
            frame_idx: 0 for the item's first frame, then 1, 2, …
            result: what `Extractor.extract` returned for the frame.

        Raises:
            ExtractError: no sample can be made of the item. It becomes a failure.
            EnvironmentFailure: the result cannot be stored, for example because the disk is full; see `disk_errors`.
        """

    @abstractmethod
    def finish(self, summary: ItemSummary) -> Any:
        """Return the sample. Called after the last frame.

        Raises:
            ExtractError, EnvironmentFailure: see `add`.
        """

    def close(self) -> None:  # noqa: B027
        """Release files and the state of a tracker. Called once, whether or not `finish` was called."""


class ListAssembly(Assembly):
    """Keeps all results in memory.

    Args:
        assemble: makes the sample from the results and the summary; see `Extractor.assemble`.
    """

    def __init__(self, assemble: Callable[[Sequence[Any], ItemSummary], Any]) -> None:
        self._assemble = assemble
        self._results: list[Any] = []

    def add(self, frame_idx: int, result: Any) -> None:
        """Append the result."""
        self._results.append(result)

    def finish(self, summary: ItemSummary) -> Any:
        """Return the sample that `assemble` makes of all results."""
        return self._assemble(self._results, summary)


class Outcome(NamedTuple):
    """The result of one frame, or the reason why it has none.

    Attributes:
        result: what `extract` returned, maybe a `LateResult`; an ItemError if the frame could not be decoded or
            processed; None if the item already has a result.
        split_to: number of frames in the batch that it was extracted in, if that was smaller than planned; else None.
    """

    result: Any
    split_to: int | None

    @property
    def is_late(self) -> bool:
        """Whether the result may have to be waited for."""
        return isinstance(self.result, LateResult)

    def ready(self) -> "Outcome":
        """Return this with the result itself, which may have to be waited for."""
        return self._replace(result=self.result.get()) if isinstance(self.result, LateResult) else self


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise EnvironmentFailure for an OSError in the block, which writes results to the run's disk."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFailure(
            f"results cannot be written to disk: {error}. Fix the problem and rerun the same command"
        ) from error


class OpenItem:
    """An item in progress, at least one frame of which has arrived, and its assembly.

    Args:
        item: the planned item.
        num_frames: number of frames that are to be taken of it.
        open_assembly: makes the assembly. Called when `assembly` is first read.

    Attributes:
        seconds: time that extracting its frames has taken; of a batch, the share of its frames.
        split_to: size of the smallest batch that a frame of the item was extracted in, if a batch was split; else None.
    """

    def __init__(self, item: Item, num_frames: int, open_assembly: Callable[[Item], Assembly]) -> None:
        self.item, self.num_frames = item, num_frames
        self.seconds = 0.0
        self.split_to: int | None = None
        self._open_assembly = open_assembly
        self._assembly: Assembly | None = None
        self._error: ItemError | None = None

    @property
    def assembly(self) -> Assembly:
        """The item's assembly.

        Raises:
            ItemError: the assembly cannot be opened, or a frame of the item has failed.
        """
        if self._error:
            raise self._error
        if self._assembly is None:
            self._assembly = self._open_assembly(self.item)
        return self._assembly

    @property
    def has_failed(self) -> bool:
        """Whether a frame of the item has failed, so that its other frames are no longer needed."""
        return self._error is not None

    def add(self, frame_idx: int, outcome: Outcome) -> None:
        """Add the outcome of the next frame. After the first failure, further results are ignored."""
        if outcome.split_to:
            self.split_to = min(outcome.split_to, self.split_to or outcome.split_to)
        if self._error:
            return
        try:
            if isinstance(outcome.result, ItemError):
                raise outcome.result
            self.assembly.add(frame_idx, outcome.result)
        except ItemError as error:
            self.close()  # free a failed video's resources now, not at its last frame
            self._error = error.with_traceback(None)  # which refers to the frames of its batch

    def close(self) -> None:
        """Close the assembly, if it was opened."""
        if self._assembly:
            self._assembly.close()
            self._assembly = None


class OpenItems:
    """The items that this rank has in progress, by shard and row."""

    def __init__(self, open_assembly: Callable[[Item], Assembly]) -> None:
        self._open_assembly = open_assembly
        self._items: dict[tuple[int, int], OpenItem] = {}

    def begin(self, shard: int, row: int, item: Item, num_frames: int) -> None:
        """Open an item when its first frame arrives. Drops an earlier, incomplete attempt at the item.

        Args:
            shard, row: of the item in the plan.
            item: the planned item.
            num_frames: number of frames that are to be taken of it.
        """
        self.close(shard, row)
        self._items[shard, row] = OpenItem(item, num_frames, self._open_assembly)

    def __getitem__(self, key: tuple[int, int]) -> OpenItem:
        """Return the open item of this (shard, row)."""
        return self._items[key]

    def get(self, shard: int, row: int) -> OpenItem | None:
        """Return the open item of this shard and row; None if no frame of it has arrived."""
        return self._items.get((shard, row))

    def close(self, shard: int, row: int) -> None:
        """Close an item. Does nothing if it is not open."""
        if item := self._items.pop((shard, row), None):
            item.close()

    def close_unless(self, is_pending: Callable[[int, int], bool]) -> None:
        """Close the items for whose (shard, row) `is_pending` returns False."""
        for shard, row in list(self._items):
            if not is_pending(shard, row):
                self.close(shard, row)

    def close_all(self) -> None:
        """Close all items."""
        self.close_unless(lambda shard, row: False)
