"""The writer: hands the results of frames to their items, and finished samples to the rank, which spools them."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from datamodules.errors import EnvironmentFailure, ItemError, RunError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.run.rank import Rank
from datamodules.run.result import OK, Result
from datamodules.samples.content import Content
from datamodules.samples.fields import CorpusTypes, uniform
from preprocess.job.assembly import OpenItems, Outcome
from preprocess.job.extractor import Extractor
from preprocess.job.tokens import count_tokens


class ShardWriter(BasePredictionWriter):
    """Gathers results, encodes samples, and spools them; the rank commits a shard when its last row has a result.

    Args:
        rank: this process's part in the run.
        extractor: makes the samples.
        items: the items in progress, which `Extraction` has begun.
        corpus_types: the types of the corpus's fields in the run; see `datamodules.samples.fields`.
    """

    def __init__(self, rank: Rank, extractor: Extractor, items: OpenItems, corpus_types: CorpusTypes) -> None:
        super().__init__(write_interval="batch")
        self._rank, self._extractor, self._items = rank, extractor, items
        self._corpus_types = corpus_types
        self._computing_since = 0.0

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Note the time."""
        self._computing_since = time.monotonic()

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Sequence[Outcome],
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Add the results of one slice, and finish the items that end with it."""
        self._rank.activity.add_seconds("compute", time.monotonic() - self._computing_since)
        self._rank.activity.tokens += count_tokens(outcome.result for outcome in prediction)
        shard = batch["shard"]
        for row, frame_idx, outcome in zip(batch["rows"], batch["frame_idx"], prediction, strict=True):
            if self._is_wanted(shard, row):
                with self._attributed(shard, row):
                    self._items[shard, row].add(frame_idx, outcome)
        for summary in batch["summaries"]:
            if self._is_wanted(shard, summary.row):
                self._finish(shard, summary)
        self._items.close_unless(self._is_wanted)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Drop the items in progress: they are begun again by whoever continues the run."""
        self._items.close_all()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Drop the items in progress; Lightning calls no `teardown` then."""
        self._items.close_all()

    def _is_wanted(self, shard: int, row: int) -> bool:
        """Whether this row has no result yet, of this rank or of another that has committed its shard."""
        opened = self._rank.open.get(shard)
        return opened is not None and row not in opened.spool.results

    def _finish(self, shard: int, summary: ItemSummary) -> None:
        members: Mapping[str, Content] = {}
        reason, reason_class, status = summary.reason, summary.reason_class, OK
        opened = self._items.get(shard, summary.row)
        if reason is None:
            assert opened is not None  # an item without frames has a reason
            try:
                with self._attributed(shard, summary.row):
                    assembly = opened.assembly  # raises the error of a frame that failed
                    self._extractor.validate(opened.item)
                    sample = assembly.finish(summary)
                    if fields := self._extractor.samples.fields:
                        sample.meta = uniform(sample.meta, self._corpus_types, fields)
                    members, status = self._extractor.samples.encode(sample), self._extractor.status(sample)
            except ItemError as error:
                reason, reason_class = str(error), error.reason_class
        result = Result(
            row=summary.row,
            num_frames=summary.num_frames if reason is None else 0,
            seconds=round(summary.read_seconds + summary.transform_seconds, 4),
            reason=reason,
            reason_class=reason_class,
            split_to=opened.split_to if opened else None,
            decoder=",".join(summary.video["backends"]) or None if summary.video else None,
            status=status,
        )
        self._rank.add(shard, result, members)
        self._items.close(shard, summary.row)

    @contextmanager
    def _attributed(self, shard: int, row: int) -> Iterator[None]:
        """Attribute a programming error, which ends the process, to the item; as for one in `extract`."""
        try:
            yield
        except (ItemError, EnvironmentFailure, RunError):
            raise
        except Exception as error:
            self._rank.mark_active(shard, [row])
            self._rank.attribute_crash(error)
            raise
