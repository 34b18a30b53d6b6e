"""The writer: gathers the results of each item's frames, and hands the samples to the rank, which spools them."""

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from datamodules import FramesDataModule
from datamodules.corpus import located
from datamodules.errors import ConfigError, ItemError, RunError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.run.failure_limit import FailureLimit, Tolerance
from datamodules.run.files import VIDEOS, write_whole
from datamodules.run.folder import Run, plan_path
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import OK, Result
from datamodules.run.retries import RetryRequest, open_or_plan_retry
from datamodules.samples.content import Content
from datamodules.samples.fields import CorpusTypes, uniform
from preprocess.job.extraction import Extraction, Outcome
from preprocess.job.extractor import Extractor
from preprocess.job.fingerprint import fingerprint
from preprocess.job.placement import device_name, gpu_uuid, rank_position
from preprocess.job.relisting import Relisting
from preprocess.job.telemetry import machine_figures
from preprocess.job.tokens import count_tokens

_log = logging.getLogger(__name__)
_DEFAULT_SIZE = ShardSize()


class ShardWriter(BasePredictionWriter):
    """Makes this process a rank of the run in `dir`, and writes its shards.

    Args:
        dir: the run's folder: a new one, or one to go on with.
        shards: how many items go into a shard.
        only: `i/n`: work only on every n-th shard, from the i-th (from 0). For splitting by hand between machines that
            share no folder; the plan stays the same. None: on all.
        stale_seconds: a rank whose heartbeat stands still this long is taken for dead, and its shards are taken over.
        max_attempts: at an item that crashes or hangs its process, exhausts memory or cannot be read for now.
        max_failures: stop when more items than this have failed: a number, or as in `50%` a share of those done (judged
            once 1 % of the planned ones are, and no less than 100).
        extract_timeout_seconds: a call of `extract` that takes longer ends its process, and its items have used up
            one of their attempts.
        grace_seconds: after the first signal to stop, what is in hand may take so long to finish; torchrun and SLURM
            kill 30 s after theirs.
        same_device: refuse to work on this rank if its device is of another model than that of the run's first rank,
            which wrote the plan: the same bytes are promised for one model only.
        videos: draw each video's results over it, to `{dir}/videos`, as it goes; these are for looking at only. What is
            done already is not drawn: `preprocess visualize` draws it.
    """

    def __init__(
        self,
        dir: str,
        shards: ShardSize = _DEFAULT_SIZE,
        only: str | None = None,
        stale_seconds: float = 60.0,
        max_attempts: int = 3,
        max_failures: str = "50%",
        extract_timeout_seconds: float = 600.0,
        grace_seconds: float = 25.0,
        same_device: bool = False,
        videos: bool = False,
    ) -> None:
        super().__init__(write_interval="batch")
        if grace_seconds < 0:
            raise ConfigError(f"{grace_seconds = }: it must be 0 or more")
        self.grace_seconds = grace_seconds
        self.tolerance = Tolerance(max_attempts, FailureLimit.parse(str(max_failures)), extract_timeout_seconds)
        self.dir, self.shards, self.stale_seconds = Path(dir), shards, stale_seconds
        self.only, self.same_device, self.videos = _parse_only(only), same_device, videos
        self.config: str | None = None  # text of the configuration, kept in the folder for people
        self.retry: RetryRequest | None = None  # set for `preprocess retry`: try items of the run in `dir` again
        self.rank: Rank | None = None
        self._relisting: Relisting | None = None
        self._corpus_types: CorpusTypes = {}
        self._gathered: dict[tuple[int, int], _Gathered] = {}  # by shard and row
        self._root = ""  # of the corpus
        self._computing_since = 0.0

    @property
    def run(self) -> Run:
        """The run; only once predicting has begun."""
        assert self.rank is not None
        return self.rank.run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the run, planning it if it is new, and join it.

        Raises:
            RunError, CorpusError, EnvironmentFailure: see `open_or_plan` and `open_or_plan_retry`.
            RunError: `same_device` is set, and this rank has another device.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, FramesDataModule)
        assert isinstance(pl_module, Extractor)
        if data.corpus is None:
            raise ConfigError("there is no corpus to work on: set data.corpus")
        self._root = data.corpus.root
        if self.videos:
            pl_module.draw_to(self.dir / VIDEOS)
        device = trainer.strategy.root_device
        name, made_by = device_name(device), fingerprint(data, pl_module, self.shards, device)
        is_resumed = plan_path(self.dir).exists()
        run = Run(self.dir) if self.retry else open_or_plan(self.dir, data.corpus, made_by, self.shards, name)
        self._refuse_other_device(run, name)
        self._corpus_types = run.plan.corpus_types or {}  # a retry has those of the run
        if self.retry:
            run = open_or_plan_retry(self.dir, made_by, self.shards, self.retry, pl_module.retry_invariants)
        self._keep_config()
        if self.videos and (done := len(run.committed())):
            _log.warning("%s shards are done, and are not drawn: `preprocess visualize %s`", f"{done:,}", self.dir)
        measure = partial(machine_figures, gpu_uuid(device))
        self.rank = Rank(run, self.only, self.stale_seconds, rank_position(), measure, self.tolerance, name)
        data.rank = pl_module.rank = self.rank.__enter__()
        pl_module.extraction = Extraction(pl_module, self.rank)
        if is_resumed and not self.retry and self.rank.name <= min(self.rank.leases.at_work(), default=self.rank.name):
            self._relisting = Relisting(run.plan, data.corpus)  # by one of the ranks that start together
            self._relisting.start()

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Note the time."""
        self._computing_since = time.monotonic()

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Gather the results of one slice, and finish the items that end with it."""
        assert self.rank is not None
        assert isinstance(pl_module, Extractor)
        self.rank.activity.add_seconds("compute", time.monotonic() - self._computing_since)
        self.rank.activity.tokens += count_tokens(outcome.result for outcome in prediction)
        for row, frame_idx, outcome in zip(batch["rows"], batch["frame_idx"], prediction, strict=True):
            if frame_idx == 0:  # also of an item that is begun again
                self._gathered[batch["shard"], row] = _Gathered()
            self._gathered.setdefault((batch["shard"], row), _Gathered()).add(outcome)
        for summary in batch["summaries"]:
            self._finish(pl_module, batch["shard"], summary)
        for shard, row in list(self._gathered):  # of items that were given up, or that another rank has committed
            if shard not in self.rank.open or row in self.rank.open[shard].spool.results:
                del self._gathered[shard, row]
                pl_module.release(shard, row)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the run."""
        assert isinstance(pl_module, Extractor)
        rank = self.rank
        try:
            while self._gathered:
                pl_module.release(*self._gathered.popitem()[0])
        finally:
            if rank is not None:
                rank.__exit__()
                if self._relisting:
                    self._relisting.finish(lambda: rank.stopping is not None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the run, which Lightning does not do by `teardown` then."""
        if self._relisting:
            self._relisting.cancel()
        self.teardown(trainer, pl_module, "predict")

    def _refuse_other_device(self, run: Run, name: str) -> None:
        first = run.plan.device or "an unknown device"
        if self.same_device and name != first:
            raise RunError(
                f"{self.dir} was started on {first}, but this rank has {name}. Use the same device model, or set "
                "--output.same_device false"
            )

    def _keep_config(self) -> None:
        path = self.dir / "config.yaml"
        if self.config is not None and not path.exists():
            write_whole(path, self.config)

    def _finish(self, extractor: Extractor, shard: int, summary: ItemSummary) -> None:
        assert self.rank is not None
        gathered = self._gathered.pop((shard, summary.row), _Gathered())
        opened = self.rank.open.get(shard)
        if opened is None or summary.row in opened.spool.results:
            extractor.release(shard, summary.row)
            return  # committed by another rank meanwhile; or done before, and again for its neighbours in the ticket
        item = located(opened.items[summary.row], self._root)
        seconds = round(summary.read_seconds + summary.transform_seconds, 4)
        members: Mapping[str, Content] = {}
        reason, reason_class, status = summary.reason, summary.reason_class, OK
        if reason is None:
            try:
                if gathered.error:
                    raise gathered.error
                extractor.validate(item)
                sample = extractor.assemble(item, gathered.results, summary)
                if fields := extractor.samples.fields:
                    sample.meta = uniform(sample.meta, self._corpus_types, fields)
                members, status = extractor.samples.encode(sample), extractor.status(sample)
            except ItemError as error:
                reason, reason_class = str(error), error.reason_class
            except Exception as error:  # ends the process, as in `extract`
                self.rank.mark_active(shard, [summary.row])
                self.rank.attribute_crash(error)
                raise
        result = Result(
            row=summary.row,
            num_frames=summary.num_frames if reason is None else 0,
            seconds=seconds,
            reason=reason,
            reason_class=reason_class,
            split_to=gathered.split_to,
            decoder=",".join(summary.video["backends"]) or None if summary.video else None,
            status=status,
        )
        self.rank.add(shard, result, members)
        extractor.release(shard, summary.row)


class _Gathered:
    """What is known of an item's frames so far; of a long video, 8 bytes a frame where results are None."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.error: ItemError | None = None
        self.split_to: int | None = None

    def add(self, outcome: Outcome) -> None:
        """The next frame's."""
        result, split_to = outcome
        self.results.append(result)
        if isinstance(result, ItemError):
            self.error = self.error or result
        if split_to:
            self.split_to = min(split_to, self.split_to or split_to)


def _parse_only(only: str | None) -> tuple[int, int] | None:
    if only is None:
        return None
    index, _, count = only.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f"--output.only {only!r}: give i/n with 0 <= i < n, for example 0/4")
    return int(index), int(count)
