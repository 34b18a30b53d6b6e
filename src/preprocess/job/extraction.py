"""Extraction: calls `extract` such that one bad item costs that item, and a batch too large for the memory is split.

| what `extract` does                      | what becomes of it                                                      |
|------------------------------------------|-------------------------------------------------------------------------|
| raises ExtractError                      | the batch is tried frame by frame; items of frames that fail again fail |
| gets no frames, as the GPU decodes none  | likewise                                                                |
| runs out of memory, or the GPU's         | halves are tried, down to one frame; that is tried again, then fails    |
| raises EnvironmentFailure                | no item is charged; the process ends with exit status 3                 |
| leaves the device unusable               | noted against the batch's items; the process ends with exit status 3    |
| kills the process, or does not come back | likewise; the next rank to take the shard tries these items one by one  |
| raises anything else                     | likewise, with its traceback: a programming error ends the process      |

Batches are handed over as they came from the workers, as lists or stacked frames, and split before `extract` puts
them together, so that models with packed inputs are split as well. Of files that the workers only read
(`Decoding.images`), the frames are decoded here, on the extractor's device.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule

from datamodules.errors import EnvironmentFailure, ItemError, RunError
from datamodules.loading.batch import Batch
from datamodules.media.jpeg import decode_jpegs
from datamodules.run.rank import Rank
from preprocess.job.assembly import OpenItems, Outcome
from preprocess.job.extractor import Extractor

_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED")  # also what cuDNN and cuBLAS say


class Extraction(LightningModule):
    """The module of the predict loop: extracts batches as the table above says.

    Args:
        extractor: its `extract` is called, with parts of the batch on its device.
        rank: is told which items are active, and records failed attempts.
        items: the items in progress; an item begins here, with its first frame.
    """

    def __init__(self, extractor: Extractor, rank: Rank, items: OpenItems) -> None:
        super().__init__()
        self._extractor, self._rank, self._items = extractor, rank, items

    def setup(self, stage: str) -> None:
        """Load the extractor's weights onto this rank's device."""
        self._extractor.setup(stage)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Leave the frames where they are: the device's memory may suffice for parts of a batch only."""
        return batch

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Outcome]:
        """One outcome for each frame of `batch`, in order."""
        for row, frame_idx in zip(batch["rows"], batch["frame_idx"], strict=True):
            if frame_idx == 0:
                self._items.begin(batch["shard"], row, batch["items"][row])
        parts = _items(batch) if batch.get("alone") else [batch] if batch["rows"] else []
        outcomes = [outcome for part in parts for outcome in self._outcomes(part)]
        whole = len(outcomes)
        return [Outcome(result, None if size == whole else size) for result, size in outcomes]

    def _is_obsolete(self, batch: Batch) -> bool:
        """Whether all items of `batch` have results already: another rank has committed them, or they have failed."""
        opened = self._rank.open.get(batch["shard"])
        return opened is None or all(row in opened.spool.results for row in batch["rows"])

    def _outcomes(self, batch: Batch) -> list[Outcome]:
        size = len(batch["rows"])
        if self._is_obsolete(batch):  # the item failed in an earlier part, for example
            return [Outcome(None, size)] * size
        failure = self._try(batch)
        if not isinstance(failure, Exception):
            return [Outcome(result, size) for result in failure]
        if size > 1:
            step = 1 if isinstance(failure, ItemError) else (size + 1) // 2
            del failure  # its traceback holds what fills the memory
            _free()
            parts = [_part(batch, slice(start, start + step)) for start in range(0, size, step)]
            return [outcome for part in parts for outcome in self._outcomes(part)]
        if isinstance(failure, ItemError):
            return [Outcome(failure, size)]
        del failure
        _free()
        if self._rank.add_failed_attempt(batch["shard"], batch["rows"][0], "out of memory", "memory"):
            return self._outcomes(batch)
        return [Outcome(None, size)]  # the rank has recorded the failure: no result of the item is looked at

    def _try(self, batch: Batch) -> list[Any] | Exception:
        """The results; or the ItemError, or what says that memory ran out."""
        self._rank.mark_active(batch["shard"], sorted(set(batch["rows"])))
        try:
            shard = batch["shard"]
            on_device = _on(batch, self._extractor.device)
            on_device["assemblies"] = [self._items[shard, row].assembly for row in batch["rows"]]
            results = self._extractor.extract(on_device)
        except (ItemError, MemoryError, torch.OutOfMemoryError) as error:
            return error
        except RuntimeError as error:
            if any(words in str(error) for words in _OUT_OF_MEMORY):
                return error
            keys = self._rank.attribute_crash(error)
            if not _is_device_lost(error):
                raise
            raise EnvironmentFailure(
                f"the device is out of order after {keys}: {' '.join(str(error).split())[:200]}; that is noted: "
                "run the same command again (torchrun --max-restarts does)"
            ) from error
        except (EnvironmentFailure, RunError):  # a server is gone, or the run folder is unsafe: no item's fault
            raise
        except Exception as error:
            self._rank.attribute_crash(error)
            raise
        finally:
            self._rank.mark_idle()
        if len(results) != len(batch["rows"]):
            raise ValueError(f"extract gave {len(results)} results for {len(batch['rows'])} frames")
        return results


def _on(batch: Batch, device: torch.device) -> Batch:
    """`batch` with its frames, decoded if they are not, or with the workers' results, on `device`."""
    copy = batch.pop("device_copy", None)  # once: if it is too large, it is not to stay while parts are tried
    there = batch.copy()
    if copy:
        there["frames"] = copy.take()
    elif "encoded" in there:
        there["frames"] = decode_jpegs(there.pop("encoded"), device)
    elif "frames" in there:
        there["frames"] = move_data_to_device(there["frames"], device)
    if "results" in there:
        there["results"] = move_data_to_device(there["results"], device)
    return there


def _is_device_lost(error: RuntimeError) -> bool:
    """Whether `error` is of the kind after which no more work can be done on the GPU by this process."""
    if isinstance(error, torch.AcceleratorError):
        return True
    if torch.cuda.is_available():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return True
    return False


def _free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _items(batch: Batch) -> Iterator[Batch]:
    """The frames of each item of `batch` by themselves."""
    for _, group in groupby(range(len(batch["rows"])), key=lambda place: batch["rows"][place]):
        places = list(group)
        yield _part(batch, slice(places[0], places[-1] + 1))


def _part(batch: Batch, places: slice) -> Batch:
    part = Batch(
        shard=batch["shard"],
        rows=batch["rows"][places],
        frame_idx=batch["frame_idx"][places],
        pts_seconds=batch["pts_seconds"][places],
        items={row: batch["items"][row] for row in batch["rows"][places]},
        summaries=[],
    )
    if "results" in batch:
        part["results"] = batch["results"][places]
    elif "encoded" in batch:
        part["encoded"] = batch["encoded"][places]
    else:
        part["frames"] = batch["frames"][places]
    return part
