"""A training by DDP that saves a checkpoint at each step: `resumable_training.py OPTIONS DEST NUM_RANKS [CHECKPOINT]`.

OPTIONS are those of `FramesDataModule` as JSON, without `samples`. Each rank appends a line of JSON to
`{rank}.jsonl` in DEST for each of its batches: [epoch, keys].
"""

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from datamodules import FramesDataModule
from datamodules.samples.keypoints import KeypointSamples


class Recording(LightningModule):
    """Writes down the keys of its batches."""

    def __init__(self, dest: Path) -> None:
        super().__init__()
        self.dest, self.weight = dest, torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        with open(self.dest / f"{self.global_rank}.jsonl", "a") as file:
            print(json.dumps([self.current_epoch, batch["key"]]), file=file)
        time.sleep(0.1)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


if __name__ == "__main__":
    options, dest, num_ranks, *checkpoint = sys.argv[1:]
    warnings.filterwarnings("ignore")
    saving = ModelCheckpoint(dest, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu",
        devices=int(num_ranks),
        strategy="ddp",
        max_epochs=2,
        callbacks=[saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    shards: Any = json.loads(options)["shards"]
    samples: Any = dict.fromkeys(shards, KeypointSamples()) if isinstance(shards, dict) else KeypointSamples()
    data = FramesDataModule(**json.loads(options), samples=samples, batch_size=2, num_workers=1)
    trainer.fit(Recording(Path(dest)), datamodule=data, ckpt_path=checkpoint[0] if checkpoint else None)
