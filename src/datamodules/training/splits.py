"""DataLoaders of the splits of a run: for training, validation and test."""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from typing import Any, Literal

from lightning.pytorch import Trainer

from datamodules.errors import ConfigError, RunError
from datamodules.run.condition import Condition
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.run.remote_tars import RemoteTars
from datamodules.run.tar_cache import TarCache
from datamodules.samples import SampleKind
from datamodules.training.batches import RemoteSampleBatches, SampleBatches
from datamodules.training.resume import ResumableLoader
from datamodules.training.sampler import EpochSampler, ReadAheadSampler
from datamodules.training.sequential import SectionSampler, SequentialBatches
from datamodules.worker_process import begin_worker, fork_server

Reading = Literal["random", "sequential"]
Use = Literal["train", "val", "test"]
_log = logging.getLogger(__name__)
_VALIDATION_SPLITS = ("dev", "val")  # usual names of the validation split, the preferred one first


class TrainingSplits:
    """Loads training batches of the splits of one run.

    Args:
        run: the run.
        samples: kind of its samples.
        names: split of each use; None for `val`: `dev` if the run has it, else `val`.
        batch_size: number of samples in a batch of each rank.
        seed: seed of the shuffled order; the same on all ranks.
        num_workers: DataLoader workers of each rank; 0: read in the training process.
        pin_memory: put batches into page-locked memory.
        cache: keeps tars of a run in a bucket on a local disk; None: every sample is requested from the bucket.
        opened: the samples of splits, by name, that an earlier object opened; this one adds those that it opens.
        excluded: keys of samples to leave out, a set.
        where: only samples that meet this condition; None: all.
        reading: `random`: each sample by itself; `sequential`: whole shards, one after another, for shuffled batches.
        shuffle_buffer: number of samples that `sequential` shuffles together.

    Raises:
        ConfigError: there is a cache, but the run is in a folder.
    """

    def __init__(
        self,
        run: Run,
        samples: SampleKind[Any],
        names: Mapping[Use, str | None],
        batch_size: int,
        seed: int,
        num_workers: int,
        pin_memory: bool,
        cache: TarCache | None,
        opened: dict[str, CommittedSamples],
        excluded: Collection[str],
        where: Condition | None,
        reading: Reading,
        shuffle_buffer: int,
    ) -> None:
        if cache and run.store.num_reads_at_once == 1:
            raise ConfigError("cache_dir has no effect for a run in a folder. Leave it out")
        self._run, self._samples, self._names = run, samples, names
        self._batch_size, self._seed = batch_size, seed
        self._num_workers, self._pin_memory = num_workers, pin_memory
        self._cache, self._opened, self._excluded, self._where = cache, opened, excluded, where
        self._reading, self._shuffle_buffer = reading, shuffle_buffer
        self._planned = sorted({shard.split for shard in run.plan.shards})

    @property
    def has_validation(self) -> bool:
        """Whether a validation split is configured, or the run has one under a usual name."""
        return self._names["val"] is not None or any(name in self._planned for name in _VALIDATION_SPLITS)

    def require(self, stage: str) -> None:
        """Check that the splits that a stage of the Trainer needs have committed samples.

        Args:
            stage: `fit`, `validate` or `test`.

        Raises:
            RunError: a split is not in the plan, or has no committed samples, or all are left out.
        """
        fit: tuple[Use, ...] = ("train", "val") if self.has_validation else ("train",)
        uses: dict[str, tuple[Use, ...]] = {"fit": fit, "validate": ("val",), "test": ("test",)}
        for use in uses[stage]:
            self._committed(use)

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
        batches, sampler = self._batches(use, shuffle)
        has_workers = self._num_workers > 0
        order: dict[str, Any] = {"seed": self._seed, "shuffle": shuffle, "reading": self._reading}
        if self._reading == "sequential":
            order["shuffle_buffer"] = self._shuffle_buffer
        return ResumableLoader(
            batches,
            sampler,
            {"samples": self._identity(use), "order": order},
            trainer,
            num_workers=self._num_workers,
            multiprocessing_context=fork_server([SampleBatches.__module__]) if has_workers else None,
            worker_init_fn=begin_worker if has_workers else None,
            persistent_workers=has_workers,
            pin_memory=self._pin_memory,
        )

    def source(self, use: Use) -> dict[str, Any]:
        """Return the settings that made the samples of a split, a digest of the corpus, and its name; JSON-able."""
        plan = self._run.plan
        return {"run": plan.fingerprint, "corpus": plan.listing, "split": self._split(use)}

    def _identity(self, use: Use) -> str:
        """Return the number of samples of a split, and a digest of what and where they are, in one line."""
        committed = self._committed(use)
        digest = hashlib.sha256(json.dumps(self.source(use), sort_keys=True).encode())
        digest.update(committed.digest())
        return f"{len(committed):,} (digest {digest.hexdigest()[:16]})"

    def _batches(self, use: Use, shuffle: bool) -> tuple[SampleBatches, EpochSampler]:
        committed, store = self._committed(use), self._run.store
        order = (self._batch_size, shuffle, self._seed)
        if shuffle and self._reading == "sequential":
            section = SequentialBatches(committed, self._samples, RemoteTars(store, committed.tars, self._cache))
            return section, SectionSampler(
                committed, self._batch_size, self._seed, self._num_workers, self._shuffle_buffer
            )
        if store.num_reads_at_once == 1:
            batches = SampleBatches(committed, self._samples)
            return batches, EpochSampler(batches, *order)
        tars = RemoteTars(store, committed.tars, self._cache)
        if self._cache and tars.num_bytes > self._cache.max_bytes:
            _log.warning(
                "the tars of the split %s have %s bytes, more than cache_bytes = %s. In a random order each is fetched "
                "again and again. Give more, or leave cache_dir out",
                *(self._split(use), f"{tars.num_bytes:,}", f"{self._cache.max_bytes:,}"),
            )
        batches = RemoteSampleBatches(committed, self._samples, tars, store.num_reads_at_once)
        return batches, ReadAheadSampler(batches, *order, self._num_workers)

    def _committed(self, use: Use) -> CommittedSamples:
        split = self._split(use)
        if split not in self._planned:
            raise RunError(
                f"{self._run.store} has no split {split!r}. Set {use}_split to one of {', '.join(self._planned)}"
            )
        if split not in self._opened:
            committed = CommittedSamples(self._run, split, self._excluded, self._where)
            if self._where and committed.num_undecided:
                _log.warning(
                    "where=%r leaves out %s samples of split %r in %s that lack a value which it compares",
                    *(self._where.text, f"{committed.num_undecided:,}", split, self._run.store),
                )
            if not len(committed):
                raise RunError(
                    f"{self._run.store} has no samples of split {split!r} "
                    "but those that exclude=… or where=… leaves out"
                )
            self._opened[split] = committed
            self._run.store.wait_longer()  # workers get the store as it is now
        return self._opened[split]

    def _split(self, use: Use) -> str:
        default = next((name for name in _VALIDATION_SPLITS if name in self._planned), _VALIDATION_SPLITS[0])
        return self._names[use] or default
