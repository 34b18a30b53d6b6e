"""One DataModule for both ends: frames of a corpus for `predict`, batches of committed samples for training."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader

from datamodules.corpus import Corpus
from datamodules.errors import ConfigError
from datamodules.loading.frames import Batch, FrameRequest
from datamodules.loading.loader import FrameLoader
from datamodules.loading.prefetch import CopiedAhead, SideStream
from datamodules.media.decoding import Decoding
from datamodules.media.jpeg import require_nvjpeg
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from datamodules.samples import SampleKind
from datamodules.training.splits import TrainingSplits

_DECODING = Decoding()


class FramesDataModule(LightningDataModule):
    """Streams a corpus to an extractor; and loads what became of it for training.

    Args:
        corpus: what is to be preprocessed; not needed for training.
        shards: the folder of a run (its `--output.dir`); not needed for preprocessing.
        samples: the kind of the samples in `shards`, for example `datamodules.samples.keypoints.KeypointSamples()`.
        num_workers: DataLoader workers of each rank; 0: none, the rank reads by itself.
        batch_size: samples in a training batch, of each rank.
        seed: of the order in which `train_dataloader` shuffles; each epoch has its own order.
        train_split: the split of `train_dataloader`.
        val_split: the split of `val_dataloader`; None: `dev`, or else `val`, if the run has one.
        test_split: the split of `test_dataloader`.
        pin_memory: put batches into page-locked memory; None: where they go to a GPU.
        worker_timeout_seconds: a worker that makes no progress for this long is killed, and its item has used up one of
            its 3 attempts.
        decoding: how videos and images are decoded.
    """

    def __init__(
        self,
        corpus: Corpus | None = None,
        shards: str | Path | None = None,
        samples: SampleKind[Any] | None = None,
        num_workers: int = 2,
        batch_size: int = 16,
        seed: int = 0,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str = "test",
        pin_memory: bool | None = None,
        worker_timeout_seconds: float = 120.0,
        decoding: Decoding = _DECODING,
    ) -> None:
        super().__init__()
        if num_workers < 0 or batch_size < 1:
            raise ConfigError(f"{num_workers = } must be 0 or more, and {batch_size = } 1 or more")
        if not worker_timeout_seconds > 0:
            raise ConfigError(f"{worker_timeout_seconds = } must be above 0")
        self.corpus, self.shards, self.samples = corpus, shards, samples
        self.num_workers, self.batch_size, self.seed = num_workers, batch_size, seed
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split
        self.pin_memory, self.worker_timeout_seconds, self.decoding = pin_memory, worker_timeout_seconds, decoding
        self.rank: Rank | None = None  # set by the writer of a run before it starts

    def setup(self, stage: str) -> None:
        """Look that there is something to load, and that it can be decoded as asked for.

        Raises:
            ConfigError: they cannot.
            RunError: `shards` is no run, or has nothing committed of a split that `stage` needs.
        """
        if stage == "predict":
            self._request().decoding.require()
        else:
            self._training().require(stage)

    def predict_dataloader(self) -> Iterable[Batch]:
        """Batches of frames of the shards that this rank gets to lease; where it has a GPU, on their way to it.

        Raises:
            ConfigError: there is no corpus, or no run to lease from (see `preprocess.job.writer.ShardWriter`).
        """
        if self.corpus is None or self.rank is None:
            raise ConfigError("predict needs a corpus, and a ShardWriter among the Trainer's callbacks")
        pins_memory = self._pins_memory()
        batches = FrameLoader(
            self.rank, self.corpus.root, self._request(), self.num_workers, pins_memory, self.worker_timeout_seconds
        )
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        return CopiedAhead(batches, SideStream(device)) if pins_memory and device.type == "cuda" else batches

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Training batches go to the device; frames stay, as its memory may suffice for parts of a batch only."""
        if self.trainer is not None and self.trainer.predicting:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Shuffled batches of the training split, every sample once an epoch over all ranks and workers.

        With Lightning's `overfit_batches` they come in planned order, as it takes the first few in every epoch.
        """
        overfits = self.trainer is not None and self.trainer.overfit_batches  # type: ignore[attr-defined]
        return self._training().dataloader("train", shuffle=not overfits)

    @property
    def val_dataloader(self) -> Callable[[], DataLoader[dict[str, Any]] | list[Any]]:
        """Batches of the validation split in planned order; an empty list if none is named, and the run has none.

        While a model without `validation_step` trains, this is Lightning's own hook: Lightning would warn of another.
        """
        trainer = self.trainer
        if trainer is not None and trainer.training and not is_overridden("validation_step", trainer.lightning_module):
            return super().val_dataloader
        return self._val_dataloader

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches of the test split in planned order."""
        return self._training().dataloader("test")

    def _val_dataloader(self) -> DataLoader[dict[str, Any]] | list[Any]:
        training = self._training()
        if training.has_validation:
            return training.dataloader("val")
        # Lightning takes an empty list for "no validation", and warns of it nonetheless
        warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
        return []

    def _request(self) -> FrameRequest:
        """What the extractor wants, decoded as configured; on this rank's GPU if either says so."""
        assert self.trainer is not None
        wanted: FrameRequest = self.trainer.lightning_module.frames  # type: ignore[assignment]
        device = self.trainer.strategy.root_device
        if self.decoding.images == "nvjpeg":
            if wanted.transform:
                raise ConfigError(
                    "--data.decoding.images nvjpeg leaves images to the GPU, and here the workers use them: set pillow"
                )
            require_nvjpeg(device)
        if wanted.decoding.device == self.decoding.device == "cpu":
            return wanted._replace(decoding=self.decoding)
        if device.type != "cuda":
            raise ConfigError("decoding with NVDEC needs a GPU: --trainer.accelerator gpu, or decode on the cpu")
        return wanted._replace(decoding=replace(self.decoding, backend="torchcodec", device=str(device)))

    def _pins_memory(self) -> bool:
        if self.pin_memory is None:
            return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return self.pin_memory

    def _training(self) -> TrainingSplits:
        if self.shards is None:
            raise ConfigError("training needs shards=…, the folder of a run")
        if self.samples is None:
            raise ConfigError("training needs samples=…, the kind of the samples in the shards")
        return TrainingSplits(
            Run(self.shards),
            self.samples,
            {"train": self.train_split, "val": self.val_split, "test": self.test_split},
            self.batch_size,
            self.seed,
            self.num_workers,
            self._pins_memory(),
        )
