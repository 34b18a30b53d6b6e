"""The writer: adds the results of frames to their items, and passes finished samples to the rank."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from datamodules.errors import EnvironmentFailure, ItemError, RunError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.run.rank import Rank
from datamodules.run.result import OK, Result
from datamodules.samples.content import Content
from datamodules.samples.fields import CorpusTypes, uniform
from preprocess.job.assembly import OpenItems, Outcome
from preprocess.job.extraction import Extraction
from preprocess.job.extractor import Extractor
from preprocess.job.tokens import count_tokens


class _Extracted(NamedTuple):
    """A batch without its frames, the outcome of each, and the seconds that extracting them took."""

    shard: int
    rows: Sequence[int]
    frame_idx: Sequence[int]
    summaries: Sequence[ItemSummary]
    outcomes: Sequence[Outcome]
    seconds: float


class ShardWriter(BasePredictionWriter):
    """Collects results, then makes and encodes samples. The rank commits a shard when its last row has a result.

    Args:
        rank: spools samples and commits shards for this process.
        extractor: makes the samples.
        items: the items in progress, which `Extraction` opens.
        corpus_types: types of the corpus's fields in the run; see `datamodules.samples.fields`.
    """

    def __init__(self, rank: Rank, extractor: Extractor, items: OpenItems, corpus_types: CorpusTypes) -> None:
        super().__init__(write_interval="batch")
        self._rank, self._extractor, self._items = rank, extractor, items
        self._corpus_types = corpus_types
        self._computing_since = 0.0
        self._late: _Extracted | None = None  # the last batch, if its results are late; see `preprocess.job.late`

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Record when the computation of the batch starts. Write the last one now if the two must not overlap."""
        self._computing_since = time.monotonic()
        assert isinstance(pl_module, Extraction)
        if not pl_module.may_overlap(batch):
            pl_module.wait()
            self._write_late()

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
        """Write a batch; if its results are late, when the device has the next one."""
        seconds = time.monotonic() - self._computing_since
        self._rank.add_seconds(batch["shard"], "compute", seconds)
        self._write_late()
        extracted = _Extracted(
            batch["shard"], batch["rows"], batch["frame_idx"], batch["summaries"], prediction, seconds
        )
        if any(outcome.is_late for outcome in prediction):
            self._late = extracted
        else:
            self._write(extracted)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last batch."""
        assert isinstance(pl_module, Extraction)
        pl_module.wait()
        self._write_late()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Drop the items in progress. The rank that continues the run starts them again."""
        self._items.close_all()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Drop the items in progress. After an exception Lightning does not call `teardown`."""
        self._items.close_all()

    def _write_late(self) -> None:
        """Write the last batch if it was late. `Extraction` has waited for it."""
        if self._late:
            extracted, self._late = self._late, None
            self._write(extracted._replace(outcomes=[outcome.ready() for outcome in extracted.outcomes]))

    def _write(self, extracted: _Extracted) -> None:
        """Add the results of one batch, and finish the items that end with it."""
        self._rank.activity.tokens += count_tokens(outcome.result for outcome in extracted.outcomes)
        shard, frame_seconds = extracted.shard, extracted.seconds / max(1, len(extracted.rows))
        for row, frame_idx, outcome in zip(extracted.rows, extracted.frame_idx, extracted.outcomes, strict=True):
            if self._is_pending(shard, row):
                open_item = self._items[shard, row]
                with self._attributed(shard, row):
                    open_item.add(frame_idx, outcome)
                open_item.seconds += frame_seconds
                if not open_item.has_failed:
                    self._rank.add_frame(shard, row, frame_idx, open_item.num_frames)
        for summary in extracted.summaries:
            if self._is_pending(shard, summary.row):
                self._finish(shard, summary)
        self._items.close_unless(self._is_pending)

    def _is_pending(self, shard: int, row: int) -> bool:
        """Whether this row has no result yet: neither from this rank nor in a shard that another rank committed."""
        open_shard = self._rank.open.get(shard)
        return open_shard is not None and row not in open_shard.spool.results

    def _finish(self, shard: int, summary: ItemSummary) -> None:
        """Make and encode the sample of an item, and give the rank the sample or the failure."""
        members: Mapping[str, Content] = {}
        metrics: dict[str, float] = {}
        reason, reason_class, status = summary.reason, summary.reason_class, OK
        open_item = self._items.get(shard, summary.row)
        seconds = open_item.seconds if open_item else 0.0
        if reason is None:
            assert open_item is not None  # an item without frames has a reason
            try:
                with self._attributed(shard, summary.row):
                    assembly = open_item.assembly  # raises the error of a frame that failed
                    self._extractor.validate(open_item.item)
                    sample = assembly.finish(summary)
                    if fields := self._extractor.samples.fields:
                        sample.meta = uniform(sample.meta, self._corpus_types, fields)
                    members, status = self._extractor.samples.encode(sample), self._extractor.status(sample)
                    metrics = self._extractor.samples.metrics_of(sample)
            except ItemError as error:
                reason, reason_class = str(error), error.reason_class
        result = Result(
            row=summary.row,
            num_frames=summary.num_frames if reason is None else 0,
            seconds=round(summary.read_seconds + summary.transform_seconds + seconds, 4),
            reason=reason,
            reason_class=reason_class,
            split_to=open_item.split_to if open_item else None,
            decoder=",".join(summary.video["backends"]) or None if summary.video else None,
            status=status,
            metrics=metrics,
        )
        self._rank.add(shard, result, members)
        self._items.close(shard, summary.row)

    @contextmanager
    def _attributed(self, shard: int, row: int) -> Iterator[None]:
        """Attribute a programming error to the item, as for an error in `extract`. The error ends the process."""
        try:
            yield
        except (ItemError, EnvironmentFailure, RunError):
            raise
        except Exception as error:
            self._rank.mark_active(shard, [row])
            self._rank.attribute_crash(error)
            raise
