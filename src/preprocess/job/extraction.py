"""Extraction: calls `extract` so that a bad item fails alone, and splits batches that do not fit into memory.

| event                                    | consequence                                                             |
|------------------------------------------|-------------------------------------------------------------------------|
| `extract` raises ExtractError            | frames are tried one by one; an item fails if its frame fails again     |
| the GPU cannot decode a frame            | the same                                                                |
| memory runs out, the host's or the GPU's | halves are tried, down to one frame; after a retry, its item fails      |
| EnvironmentFailure or RunError is raised | no item gets a failed attempt; the error ends the process               |
| the device becomes unusable              | the error is recorded for the batch's items; exit status 3              |
| the process dies or hangs                | the next rank that leases the shard tries these items one by one        |
| `extract` raises anything else           | the error is recorded for the batch's items and ends the process        |

Results may be late (`preprocess.job.late`): those of a batch are then waited for when the device has the next one, and
errors of the device are recorded for the items of both.

The frames of a batch are a list or a stacked tensor, as the workers made it. It is split before `extract` packs
them, so batches of models with packed inputs can be split too. If the workers only read the image files
(`Decoding.images`), the frames are decoded here, on the extractor's device.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple, NoReturn

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule

from datamodules.errors import EnvironmentFailure, ItemError, RunError
from datamodules.loading.batch import Batch
from datamodules.media.jpeg import decode_jpegs
from datamodules.run.rank import Rank
from preprocess.gpu_errors import is_device_lost, is_out_of_memory
from preprocess.job.assembly import OpenItems, Outcome
from preprocess.job.extractor import Extractor
from preprocess.job.late import LateResults


class _Late(NamedTuple):
    """The late results of one batch, and the shard and the rows of its items."""

    shard: int
    rows: set[int]
    results: LateResults


class Extraction(LightningModule):
    """The module of the predict loop: extracts batches as the table above says.

    Args:
        extractor: its `extract` is called, with parts of the batch on its device.
        rank: keeps track of which items are active, and records failed attempts.
        items: the items in progress. `predict_step` opens an item when its first frame arrives.
    """

    def __init__(self, extractor: Extractor, rank: Rank, items: OpenItems) -> None:
        super().__init__()
        self._extractor, self._rank, self._items = extractor, rank, items
        self._late: _Late | None = None  # of the last batch
        self._next_late: _Late | None = None  # of the current one

    def setup(self, stage: str) -> None:
        """Load the extractor's weights onto this rank's device."""
        self._extractor.setup(stage)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Return the batch unchanged: the device may have memory for parts of a batch only."""
        return batch

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Outcome]:
        """Return one outcome for each frame of `batch`, in order. Those of the last batch are no longer late then."""
        if not self.may_overlap(batch):
            self.wait()
        for row, frame_idx in zip(batch["rows"], batch["frame_idx"], strict=True):
            if frame_idx == 0:
                self._items.begin(batch["shard"], row, batch["items"][row], batch["num_frames"][row])
        parts = _by_item(batch) if batch.get("alone") else [batch] if batch["rows"] else []
        outcomes = [outcome for part in parts for outcome in self._outcomes(part, may_be_late=part is batch)]
        self.wait(batch["rows"])
        self._late, self._next_late = self._next_late, None
        planned = len(outcomes)  # here, `split_to` is the size of each part; None where nothing was split
        return [Outcome(result, None if size == planned else size) for result, size in outcomes]

    def may_overlap(self, batch: Batch) -> bool:
        """Return whether the device may get `batch` before the late results of the last batch are read.

        Both batches are active then, so they must be of one shard. No item is beside one that has ended a process. And
        the results of an item that starts anew must not be mixed with those of its attempt before.
        """
        if self._late is None or batch["shard"] != self._late.shard or batch.get("alone"):
            return False
        started = {row for row, frame_idx in zip(batch["rows"], batch["frame_idx"], strict=True) if frame_idx == 0}
        return started.isdisjoint(self._late.rows)

    def wait(self, rows: Sequence[int] = ()) -> None:
        """Wait for the late results of the last batch.

        Args:
            rows: of the batch that the device has got since.

        Raises:
            EnvironmentFailure: the device became unusable.
        """
        if self._late is None:
            return
        self._rank.mark_active(self._late.shard, sorted(self._late.rows.union(rows)))
        try:
            self._late.results.get()
        except RuntimeError as error:
            self._end(error)
        except Exception as error:
            self._rank.attribute_crash(error)
            raise
        finally:
            self._late = None
            self._rank.mark_idle()

    def _end(self, error: RuntimeError) -> NoReturn:
        """Attribute an error that ends this process to the active items. Raise it, or EnvironmentFailure."""
        keys = self._rank.attribute_crash(error)
        if not is_device_lost(self._extractor.device):
            raise error
        raise EnvironmentFailure(
            f"the device became unusable while processing {keys}: {' '.join(str(error).split())[:200]}. These "
            "items are recorded. Rerun the same command (torchrun --max-restarts does this)"
        ) from error

    def _is_obsolete(self, batch: Batch) -> bool:
        """Whether all items of `batch` already have results, or have failed in an earlier batch."""
        shard = self._rank.open.get(batch["shard"])
        return shard is None or all(
            row in shard.spool.results or self._items[batch["shard"], row].has_failed for row in batch["rows"]
        )

    def _outcomes(self, batch: Batch, may_be_late: bool = False) -> list[Outcome]:
        """Extract `batch`, in parts if need be; the `split_to` of an outcome is the size of its part.

        Parts are waited for, so that no error of one is attributed to the items of another.
        """
        size = len(batch["rows"])
        if self._is_obsolete(batch):  # the item failed in an earlier part, for example
            return [Outcome(None, size)] * size
        failure = self._try(batch, may_be_late)
        if not isinstance(failure, Exception):
            return [Outcome(result, size) for result in failure]
        if size > 1:
            step = 1 if isinstance(failure, ItemError) else (size + 1) // 2
            del failure  # its traceback keeps the tensors of the failed call in memory
            _free()
            parts = [_part(batch, slice(start, start + step)) for start in range(0, size, step)]
            return [outcome for part in parts for outcome in self._outcomes(part)]
        if isinstance(failure, ItemError):
            return [Outcome(failure, size)]
        del failure
        _free()
        if self._rank.add_failed_attempt(batch["shard"], batch["rows"][0], "out of memory", "memory"):
            return self._outcomes(batch)
        return [Outcome(None, size)]  # the rank has recorded the failure, so results of the item are ignored

    def _try(self, batch: Batch, may_be_late: bool) -> list[Any] | LateResults | Exception:
        """Return the results of `extract`, or the ItemError or out-of-memory error that it raised."""
        late_rows = self._late.rows if self._late else set()
        self._rank.mark_active(batch["shard"], sorted(late_rows.union(batch["rows"])))
        try:
            shard = batch["shard"]
            on_device = _to_device(batch, self._extractor.device)
            on_device["assemblies"] = [self._items[shard, row].assembly for row in batch["rows"]]
            results = self._extractor.extract(on_device)
            if isinstance(results, LateResults) and not may_be_late:
                results = results.get()
        except ItemError as error:
            return error
        except MemoryError as error:
            return error
        except RuntimeError as error:
            if is_out_of_memory(error):
                return error
            self._end(error)
        except (EnvironmentFailure, RunError):  # a server is down, or the run folder is unsafe: no item is at fault
            raise
        except Exception as error:
            self._rank.attribute_crash(error)
            raise
        finally:
            self._rank.mark_idle()
        if len(results) != len(batch["rows"]):
            raise ValueError(f"extract returned {len(results)} results for {len(batch['rows'])} frames")
        if isinstance(results, LateResults):
            self._next_late = _Late(batch["shard"], set(batch["rows"]), results)
        return results


def _to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a copy of `batch` with its frames (decoded if needed) or the workers' results on `device`."""
    # used once: a copy that is too large must not stay in memory while parts are tried
    copy = batch.pop("device_copy", None)
    moved = batch.copy()
    if copy:
        moved["frames"] = copy.take()
    elif "encoded" in moved:
        moved["frames"] = decode_jpegs(moved.pop("encoded"), device)
    elif "frames" in moved:
        moved["frames"] = move_data_to_device(moved["frames"], device)
    if "results" in moved:
        moved["results"] = move_data_to_device(moved["results"], device)
    return moved


def _free() -> None:
    """Return cached GPU memory to the driver, so that a smaller batch finds contiguous memory. On a CPU do nothing."""
    torch.cuda.empty_cache()


def _by_item(batch: Batch) -> Iterator[Batch]:
    """Split `batch` into one batch for each item."""
    for _, group in groupby(range(len(batch["rows"])), key=lambda index: batch["rows"][index]):
        indices = list(group)
        yield _part(batch, slice(indices[0], indices[-1] + 1))


def _part(batch: Batch, indices: slice) -> Batch:
    """Return the frames `indices` of `batch` as a batch without summaries."""
    part = Batch(
        shard=batch["shard"],
        rows=batch["rows"][indices],
        frame_idx=batch["frame_idx"][indices],
        pts_seconds=batch["pts_seconds"][indices],
        items=batch["items"],
        num_frames=batch["num_frames"],
        seconds={},
        summaries=[],
    )
    if "results" in batch:
        part["results"] = batch["results"][indices]
    elif "encoded" in batch:
        part["encoded"] = batch["encoded"][indices]
    else:
        part["frames"] = batch["frames"][indices]
    return part
