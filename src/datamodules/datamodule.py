"""The DataModule of both preprocessing and training: frames of a corpus, and batches of committed samples."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader

from datamodules.corpus import Corpus
from datamodules.errors import ConfigError
from datamodules.loading.fetching import Fetching
from datamodules.loading.loader import FrameLoader
from datamodules.loading.prefetch import CopyStream, Loader, PrefetchedBatches
from datamodules.loading.request import FrameRequest
from datamodules.media.decoding import Decoding
from datamodules.run.keys import planned_keys
from datamodules.run.rank import Rank
from datamodules.run.tar_cache import TarCache
from datamodules.samples import SampleKind
from datamodules.training.resume import ResumableLoader, require_same
from datamodules.training.runs import Shards, open_runs, splits_of
from datamodules.training.splits import Reading, TrainingSplits
from datamodules.training.workers import start_server

_DECODING, _FETCHING = Decoding(), Fetching()
_PREPROCESSING_OPTIONS = ("corpus", "worker_timeout_seconds", "decoding", "fetching")
TRAINING_OPTIONS = (
    *("shards", "samples", "batch_size", "seed", "train_split", "val_split", "test_split"),
    *("exclude", "where", "weights", "on", "join", "reading", "shuffle_buffer", "cache_dir", "cache_bytes"),
)
_CACHE_BYTES = 64 << 30
_SHUFFLE_BUFFER = 1000


class FramesDataModule(LightningDataModule):
    """Streams the frames of a corpus to an extractor, and loads the samples of a run for training.

    Preprocessing needs `corpus`; training needs `shards` and `samples`. An option of the other
    use is refused unless it has its default value.

    Args:
        corpus: lists the items to preprocess. Preprocessing only.
        shards: folder or URL of a run (its `--output.dir`). A list of runs: batches have samples of all of them. Runs
            by name, `{"keypoints": A, "captions": B}`: their samples of the same item are joined in a batch. Training
            only.
        samples: kind of the samples in `shards`, for example `datamodules.samples.keypoints.KeypointSamples()`; by
            name if `shards` are. Training only.
        num_workers: number of DataLoader workers of each rank; 0: the rank's own process reads.
        batch_size: number of samples in a training batch of one rank. Training only.
        seed: seed of the sample order of `train_dataloader`, which differs from epoch to epoch. Training only.
        train_split: split of `train_dataloader`. Training only.
        val_split: split of `val_dataloader`; None: `dev` if the run has it, else `val`. Training only.
        test_split: split of `test_dataloader`. Training only.
        exclude: file with the keys of samples to leave out, one per line, or the keys; the same on all ranks. Training
            only.
        where: only samples that meet this condition on the tables, for example
            `status == 'ok' and num_frames >= 16 and left_hand_rate > 0.5`; see `datamodules.run.condition`. Of joined
            runs: one for all, or by name. Training only.
        weights: share of each run of a list in the training batches, in any unit; None: every sample once an epoch.
            Training only.
        on: what samples of joined runs have in common: `key`, or a field of their corpora. Training only.
        join: `inner`: only what all runs have; `outer`: also what some lack, with masks in `present`. Training only.
        reading: how `train_dataloader` reads. `random`: each sample by itself, in a random order of all. `sequential`:
            whole shards, one after another, for disks that seek slowly and data larger than memory; not for joined
            runs. Training only.
        shuffle_buffer: number of samples that `sequential` shuffles together, which each worker holds in memory.
            Training only.
        cache_dir: folder on a local disk that keeps whole tars of a run in a bucket; all processes of the machine may
            share it. None: every sample is requested from the bucket. Training only.
        cache_bytes: of the tars in `cache_dir`, at most; the least recently used ones are removed. Training only.
        pin_memory: put batches into page-locked memory; None: only if they go to a GPU.
        worker_timeout_seconds: a worker that makes no progress for this long is killed, and its item has one attempt
            less (see `Output.max_attempts`). Preprocessing only.
        decoding: how videos and images are decoded. Preprocessing only.
        fetching: how much of a corpus in an object store is fetched ahead of need. Preprocessing only.
    """

    def __init__(
        self,
        corpus: Corpus | None = None,
        shards: Shards | None = None,
        samples: SampleKind[Any] | Mapping[str, SampleKind[Any]] | None = None,
        num_workers: int = 2,
        batch_size: int = 16,
        seed: int = 0,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str = "test",
        exclude: str | Path | Sequence[str] | None = None,
        where: str | Mapping[str, str] | None = None,
        weights: Sequence[float] | None = None,
        on: str = "key",
        join: Literal["inner", "outer"] = "inner",
        reading: Reading = "random",
        shuffle_buffer: int = _SHUFFLE_BUFFER,
        cache_dir: str | Path | None = None,
        cache_bytes: int = _CACHE_BYTES,
        pin_memory: bool | None = None,
        worker_timeout_seconds: float = 120.0,
        decoding: Decoding = _DECODING,
        fetching: Fetching = _FETCHING,
    ) -> None:
        super().__init__()
        if num_workers < 0 or batch_size < 1:
            raise ConfigError(f"{num_workers = } must be 0 or more, and {batch_size = } 1 or more")
        if not worker_timeout_seconds > 0:
            raise ConfigError(f"{worker_timeout_seconds = } must be above 0")
        self.corpus, self.worker_timeout_seconds = corpus, worker_timeout_seconds
        self.decoding, self.fetching = decoding, fetching
        self.shards, self.samples = shards, samples
        self.weights, self.on, self.join = weights, on, join
        self.exclude, self.where = exclude, where
        self.batch_size, self.seed = batch_size, seed
        self.reading, self.shuffle_buffer = reading, shuffle_buffer
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split
        self.cache_dir, self.cache_bytes = cache_dir, cache_bytes
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self._opened: dict[str, dict[str, Any]] = {}  # by name of the run and by split
        self._excluded: frozenset[str] | None = None
        self._source: dict[str, Any] = {}  # of the training split, once a training is set up

    def setup(self, stage: str) -> None:
        """Check that the shards have samples for a stage of the Trainer.

        Args:
            stage: `fit`, `validate` or `test`; `predict` is refused, see `predict_dataloader`.

        Raises:
            ConfigError: an option is missing, or has no effect in training; or `exclude` cannot be read, or names keys
                that the run does not have; or `where` is no condition on its tables.
            RunError: `shards` is not a run, or has no committed samples of a split that the stage needs; or the ranks
                do not have the same samples.
        """
        if stage == "predict":
            self.predict_dataloader()
        self._opened.clear()  # the run may have more samples since the last stage
        self._excluded = None
        training = self._training()
        training.require(stage, self.trainer)
        if stage == "fit":
            self._source = training.source("train")

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the settings of the run, and the training split.

        The position in the epoch is in the state of `train_dataloader()`, which Lightning saves, too.
        """
        return self._source

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a training resumes on the data of its checkpoint.

        Raises:
            RunError: the checkpoint is of another run or split. The message names what differs.
        """
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:  # else it may test on another run
            require_same(state_dict, self._source)

    def frames(self, rank: Rank, root: str, request: FrameRequest, device: torch.device) -> Loader:
        """Return the loader of the shards that `rank` leases. For a GPU, frames are copied to it ahead of use.

        Args:
            rank: leases shards for this process.
            root: folder or URL to which the items' paths are relative.
            request: the request that the method `request` returned.
            device: the device of the extractor's models.
        """
        is_cuda = device.type == "cuda"
        pins_memory = is_cuda if self.pin_memory is None else self.pin_memory
        batches = FrameLoader(
            rank, root, request, self.num_workers, pins_memory, self.worker_timeout_seconds, self.fetching
        )
        return PrefetchedBatches(batches, CopyStream(device)) if pins_memory and is_cuda else batches

    def predict_dataloader(self) -> Any:
        """Refuse `Trainer.predict(datamodule=…)`: only a rank, which a `Session` opens, can lease frames.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "Trainer.predict cannot lease frames by itself: use preprocess.job.session.Session, or `preprocess run`"
        )

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled batches of the training split. Over all ranks, every sample occurs once an epoch.

        The loader has `state_dict` and `load_state_dict`, by which a training resumes within an epoch.

        With Lightning's `overfit_batches`, which takes the first batches of an epoch, they are in planned order.
        """
        overfits = self.trainer is not None and self.trainer.overfit_batches  # type: ignore[attr-defined]
        return self._training().dataloader("train", not overfits, self.trainer)

    @property
    def val_dataloader(self) -> Callable[[], DataLoader[dict[str, Any]] | list[Any]]:
        """Function that returns batches of the validation split in planned order, or an empty list without a split.

        While a model without `validation_step` trains, this is Lightning's own hook: an overridden one makes Lightning
        warn.
        """
        trainer = self.trainer
        if trainer is not None and trainer.training and not is_overridden("validation_step", trainer.lightning_module):
            return super().val_dataloader
        return self._val_dataloader

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return batches of the test split in planned order."""
        return self._training().dataloader("test")

    def _val_dataloader(self) -> DataLoader[dict[str, Any]] | list[Any]:
        training = self._training()
        if training.has_validation:
            return training.dataloader("val")
        # to Lightning, an empty list means "no validation", but it warns about the list
        warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
        return []

    def request(self, extractor_request: FrameRequest, device: torch.device) -> FrameRequest:
        """Return the extractor's request, completed with the configured decoding.

        Args:
            extractor_request: frames that the extractor asks for.
            device: the device of the extractor's models; decodes if the request or the configuration says so.

        Raises:
            ConfigError: an option has no effect in preprocessing, or this machine lacks the requested decoder.
        """
        self._refuse(TRAINING_OPTIONS, "preprocessing")
        request = extractor_request.resolve(self.decoding, device)
        request.decoding.require()
        return request

    def _training(self) -> TrainingSplits:
        self._refuse(_PREPROCESSING_OPTIONS, "training")
        if self.shards is None:
            raise ConfigError("training needs shards=…, the folder or URL of a run")
        if self.samples is None:
            raise ConfigError("training needs samples=…, the kind of the samples in the shards")
        if self.cache_bytes < 1 or (self.cache_dir is None and self.cache_bytes != _CACHE_BYTES):
            raise ConfigError(f"cache_bytes = {self.cache_bytes} must be 1 or more, and needs cache_dir=…")
        if self.shuffle_buffer < 1 or (self.reading == "random" and self.shuffle_buffer != _SHUFFLE_BUFFER):
            raise ConfigError(
                f"shuffle_buffer = {self.shuffle_buffer} must be 1 or more, and needs reading='sequential'"
            )
        if self.num_workers:
            start_server(self.samples)  # imports torch while this process reads the tables
        runs = open_runs(self.shards)
        if self._excluded is None:
            self._excluded = planned_keys(self.exclude or (), *runs.values())
        return splits_of(
            *(runs, self.shards, self.samples, self.weights, self.on, self.join, self.where, self._excluded),
            None if self.cache_dir is None else TarCache(self.cache_dir, self.cache_bytes),
            self._opened,
            {
                "names": {"train": self.train_split, "val": self.val_split, "test": self.test_split},
                "batch_size": self.batch_size,
                "seed": self.seed,
                "num_workers": self.num_workers,
                "pin_memory": self._pins_memory(),
                "reading": self.reading,
                "shuffle_buffer": self.shuffle_buffer,
            },
        )

    def _pins_memory(self) -> bool:
        if self.pin_memory is None:
            return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return self.pin_memory

    def _refuse(self, options: Sequence[str], purpose: str) -> None:
        """Raise ConfigError if one of `options`, which have no effect in `purpose`, is set."""
        parameters = inspect.signature(FramesDataModule.__init__).parameters
        if option := next((name for name in options if getattr(self, name) != parameters[name].default), None):
            raise ConfigError(f"{option} has no effect in {purpose}. Leave it out")
