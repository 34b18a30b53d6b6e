"""DataLoaders of splits, for training, validation and test."""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import Dataset

from datamodules.errors import RunError
from datamodules.run.condition import Condition
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.run.remote_tars import RemoteTars
from datamodules.run.tar_cache import TarCache
from datamodules.samples import SampleKind
from datamodules.training.batches import RemoteSampleBatches, SampleBatches
from datamodules.training.resume import ResumableLoader
from datamodules.training.sampler import EpochSampler, ReadAheadSampler
from datamodules.training.sequential import SequentialBatches, SequentialSampler
from datamodules.training.workers import context_of
from datamodules.worker_process import begin_worker

Reading = Literal["random", "sequential"]
Use = Literal["train", "val", "test"]
_log = logging.getLogger(__name__)
_VALIDATION_SPLITS = ("dev", "val")  # usual names of the validation split, the preferred one first


class TrainingSplits(ABC):
    """Loads training batches of splits, of one run or of several.

    Args:
        names: split of each use; None for `val`: `dev` if it is planned, else `val`.
        batch_size: number of samples in a batch of each rank.
        seed: seed of the shuffled order; the same on all ranks.
        num_workers: DataLoader workers of each rank; 0: read in the training process.
        pin_memory: put batches into page-locked memory.
        reading: `random`: each sample by itself; `sequential`: whole shards, one after another, for shuffled batches.
        shuffle_buffer: number of samples that `sequential` shuffles together.

    Attributes:
        names: as given.
        planned: names of the splits that there are, sorted.
    """

    planned: Sequence[str]

    def __init__(
        self,
        names: Mapping[Use, str | None],
        batch_size: int,
        seed: int,
        num_workers: int,
        pin_memory: bool,
        reading: Reading,
        shuffle_buffer: int,
    ) -> None:
        self.names, self._batch_size, self._seed = names, batch_size, seed
        self._num_workers, self._pin_memory = num_workers, pin_memory
        self._reading, self._shuffle_buffer = reading, shuffle_buffer

    @abstractmethod
    def open(self, use: Use) -> Any:
        """Return the committed samples of a split, which are read from the tables when it is first opened.

        Raises:
            RunError: the split is not planned, or has no committed samples, or all are left out.
        """

    @abstractmethod
    def source(self, use: Use) -> dict[str, Any]:
        """Return the settings that made the samples of a split, digests of their corpora, and its name; JSON-able."""

    @abstractmethod
    def identity(self, use: Use) -> str:
        """Return the number of samples of a split, and a digest of what and where they are, in one line."""

    @property
    @abstractmethod
    def selection(self) -> dict[str, Any]:
        """How samples of the runs are selected, for messages; JSON-able."""

    @abstractmethod
    def batches(self, use: Use, shuffle: bool) -> tuple[Dataset[dict[str, Any]], EpochSampler]:
        """Return (batches of a split, the order of its samples)."""

    @property
    def has_validation(self) -> bool:
        """Whether a validation split is configured, or the run has one under a usual name."""
        return self.names["val"] is not None or any(name in self.planned for name in _VALIDATION_SPLITS)

    def require(self, stage: str, trainer: Trainer | None) -> None:
        """Check that the splits that a stage of the Trainer needs have committed samples, the same on all ranks.

        Args:
            stage: `fit`, `validate` or `test`.
            trainer: of these ranks; None: they are not compared.

        Raises:
            RunError: see `open`; or the ranks do not have the same samples.
        """
        fit: tuple[Use, ...] = ("train", "val") if self.has_validation else ("train",)
        uses: dict[str, tuple[Use, ...]] = {"fit": fit, "validate": ("val",), "test": ("test",)}
        for use in uses[stage]:
            self.open(use)
        if trainer is not None and trainer.world_size > 1:
            identities = [self.identity(use) for use in uses[stage]]
            is_same = trainer.strategy.broadcast(identities) == identities
            # all ranks raise: those that went on would lose their connections, and end with an error about them
            if not trainer.strategy.reduce_boolean_decision(is_same):
                raise RunError(
                    "the ranks do not have the same samples, as a shard was committed between their starts, or their "
                    "exclude=… or where=… differ. Start the training again"
                )

    def dataloader(self, use: Use, shuffle: bool = False, trainer: Trainer | None = None) -> ResumableLoader:
        """Return a DataLoader of the batches of this rank.

        Args:
            use: what the split is for.
            shuffle: use a new order each epoch; False: planned order.
            trainer: trains on the batches; None: no Trainer, or for evaluation.

        Raises:
            ConfigError: the split has fewer samples than there are ranks.
            RunError: see `require`.
        """
        batches, sampler = self.batches(use, shuffle)
        has_workers = self._num_workers > 0
        order: dict[str, Any] = {"seed": self._seed, "shuffle": shuffle, "reading": self._reading}
        if self._reading == "sequential":
            order["shuffle_buffer"] = self._shuffle_buffer
        return ResumableLoader(
            batches,
            sampler,
            {"samples": self.identity(use), "selection": self.selection, "order": order},
            trainer,
            num_workers=self._num_workers,
            multiprocessing_context=context_of(batches) if has_workers else None,
            worker_init_fn=begin_worker if has_workers else None,
            persistent_workers=has_workers,
            pin_memory=self._pin_memory,
        )

    def sequential(
        self, parts: Collection["RunSplits"], use: Use, counts: Sequence[int]
    ) -> tuple[SequentialBatches, SequentialSampler]:
        """Return (shuffled batches of a split of several runs of one kind, the order of their samples).

        Args:
            parts: the runs.
            use: what the split is for.
            counts: number of samples of each run in an epoch.
        """
        runs = [part.open(use) for part in parts]
        batches = SequentialBatches(runs, [part.tars(use) for part in parts], next(iter(parts)).samples)
        order = (self._batch_size, self._seed, self._num_workers, self._shuffle_buffer)
        return batches, SequentialSampler(runs, counts, *order)

    def split(self, use: Use) -> str:
        """Return the name of the split of a use."""
        default = next((name for name in _VALIDATION_SPLITS if name in self.planned), _VALIDATION_SPLITS[0])
        return self.names[use] or default


class RunSplits(TrainingSplits):
    """Loads training batches of the splits of one run.

    Args:
        run: the run.
        samples: kind of its samples.
        cache: keeps tars of a run in a bucket on a local disk; None: every sample is requested from the bucket. Not
            used for a run in a folder.
        opened: the samples of splits, by name, that an earlier object opened; this one adds those that it opens.
        excluded: keys of samples to leave out, a set.
        where: only samples that meet this condition; None: all.
        keeps_keys: see `CommittedSamples`.
        loading: see `TrainingSplits`.

    Attributes:
        run, samples: as given.
    """

    def __init__(
        self,
        run: Run,
        samples: SampleKind[Any],
        cache: TarCache | None,
        opened: dict[str, CommittedSamples],
        excluded: Collection[str],
        where: Condition | None,
        keeps_keys: bool,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.run, self.samples, self._keeps_keys = run, samples, keeps_keys
        self._cache = None if run.store.num_reads_at_once == 1 else cache
        self._opened, self._excluded, self._where = opened, excluded, where
        self.planned = sorted({shard.split for shard in run.plan.shards})

    def source(self, use: Use) -> dict[str, Any]:
        """Return the settings that made the samples of a split, a digest of the corpus, and its name; JSON-able."""
        plan = self.run.plan
        return {"run": plan.fingerprint, "corpus": plan.listing, "split": self.split(use)}

    def identity(self, use: Use) -> str:
        """Return the number of samples of a split, and a digest of what and where they are, in one line."""
        committed = self.open(use)
        digest = hashlib.sha256(json.dumps(self.source(use), sort_keys=True).encode())
        digest.update(committed.digest())
        return f"{len(committed):,} (digest {digest.hexdigest()[:16]})"

    @property
    def selection(self) -> dict[str, Any]:
        """The condition and the number of excluded keys."""
        return {"where": self._where.text if self._where else None, "exclude": len(self._excluded)}

    def batches(self, use: Use, shuffle: bool) -> tuple[Dataset[dict[str, Any]], EpochSampler]:
        """Return (batches of a split, the order of its samples); those of a bucket are read ahead."""
        if shuffle and self._reading == "sequential":
            return self.sequential([self], use, [len(self.open(use))])
        batches = self.dataset(use)
        order = (self._batch_size, shuffle, self._seed)
        if isinstance(batches, RemoteSampleBatches):
            return batches, ReadAheadSampler(batches, *order, self._num_workers)
        return batches, EpochSampler(batches, *order)

    def dataset(self, use: Use) -> SampleBatches:
        """Return the batches of a split."""
        committed, store = self.open(use), self.run.store
        samples = self.samples if use == "train" else self.samples.for_evaluation()
        if store.num_reads_at_once == 1:
            return SampleBatches(committed, samples)
        tars = self.tars(use)
        if self._cache and tars.num_bytes > self._cache.max_bytes:
            _log.warning(
                "the tars of the split %s have %s bytes, more than cache_bytes = %s. In a random order each is fetched "
                "again and again. Give more, or leave cache_dir out",
                *(self.split(use), f"{tars.num_bytes:,}", f"{self._cache.max_bytes:,}"),
            )
        return RemoteSampleBatches(committed, samples, tars, store.num_reads_at_once)

    def tars(self, use: Use) -> RemoteTars:
        """Return what reads the tars of a split."""
        return RemoteTars(self.run.store, self.open(use).tars, self._cache)

    def open(self, use: Use) -> CommittedSamples:
        """Return the committed samples of a split; see `TrainingSplits.open`."""
        split = self.split(use)
        if split not in self.planned:
            raise RunError(
                f"{self.run.store} has no split {split!r}. Set {use}_split to one of {', '.join(self.planned)}"
            )
        if split not in self._opened:
            self._report_progress()
            committed = CommittedSamples(self.run, split, self._excluded, self._where, self._keeps_keys)
            if self._where and committed.num_undecided:
                _log.warning(
                    "where=%r leaves out %s samples of split %r in %s that lack a value which it compares",
                    *(self._where.text, f"{committed.num_undecided:,}", split, self.run.store),
                )
            if not len(committed):
                wrong = f"the condition {self._where.text!r:.200}" if self._where else "the list of keys"
                raise RunError(
                    f"{self.run.store} has no samples of split {split!r} but those that exclude=… or where=… leaves "
                    f"out. Correct {wrong}"
                )
            self._opened[split] = committed
            self.run.store.wait_longer()  # workers get the store as it is now
        return self._opened[split]

    def _report_progress(self) -> None:
        """Log how much of a run that is still being written is committed, when the first split is opened."""
        if self._opened:
            return
        num_committed, num_planned = len(self.run.committed()), len(self.run.plan.shards)
        if num_committed < num_planned:
            rank_zero_info(
                f"{self.run.store} is not complete: {num_committed:,} of {num_planned:,} shards are committed. "
                "The training uses what is committed now"
            )
