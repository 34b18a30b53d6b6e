"""DataLoaders of the splits of a run: for training, validation and test."""

from collections.abc import Mapping
from typing import Any, Literal

from torch.utils.data import DataLoader

from datamodules.errors import RunError
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples import SampleKind
from datamodules.training.batches import SampleBatches
from datamodules.training.sampler import EpochSampler
from datamodules.worker_process import begin_worker, fork_server

Use = Literal["train", "val", "test"]
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
    ) -> None:
        self._run, self._samples, self._names = run, samples, names
        self._batch_size, self._seed = batch_size, seed
        self._num_workers, self._pin_memory = num_workers, pin_memory
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
            RunError: a split is not in the plan, or has no committed samples.
        """
        fit: tuple[Use, ...] = ("train", "val") if self.has_validation else ("train",)
        uses: dict[str, tuple[Use, ...]] = {"fit": fit, "validate": ("val",), "test": ("test",)}
        for use in uses[stage]:
            self._committed(use)

    def dataloader(self, use: Use, shuffle: bool = False) -> DataLoader[dict[str, Any]]:
        """Return a DataLoader of the batches of this rank.

        Args:
            use: what the split is for.
            shuffle: use a new order each epoch; False: planned order.

        Raises:
            ConfigError: the split has fewer samples than there are ranks.
            RunError: see `require`.
        """
        batches = SampleBatches(self._committed(use), self._samples)
        has_workers = self._num_workers > 0
        return DataLoader(
            batches,
            batch_size=None,  # the sampler yields whole batches
            sampler=EpochSampler(batches, self._batch_size, shuffle, self._seed),
            num_workers=self._num_workers,
            multiprocessing_context=fork_server([SampleBatches.__module__]) if has_workers else None,
            worker_init_fn=begin_worker if has_workers else None,
            persistent_workers=has_workers,
            pin_memory=self._pin_memory,
        )

    def _committed(self, use: Use) -> CommittedSamples:
        split = self._split(use)
        if split not in self._planned:
            raise RunError(
                f"{self._run.store} has no split {split!r}. Set {use}_split to one of {', '.join(self._planned)}"
            )
        return CommittedSamples(self._run, split)

    def _split(self, use: Use) -> str:
        default = next((name for name in _VALIDATION_SPLITS if name in self._planned), _VALIDATION_SPLITS[0])
        return self._names[use] or default
