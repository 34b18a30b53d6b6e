"""A minimal contrastive training step on clips under DDP and bf16: `contrastive_training.py SHARDS DEST [WORKERS]`.

Each rank writes `{rank}.json` to DEST: the keys it was given in each epoch, its losses, and its weights at the end.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from datamodules import FramesDataModule
from datamodules.samples.clips import ClipSamples


class TinyClip(LightningModule):
    """Contrastive model: pulls video and text of a pair together and those of different pairs apart."""

    def __init__(self, dest: Path) -> None:
        super().__init__()
        self.dest, self.keys, self.losses = dest, [[]], []  # type: ignore[var-annotated]
        self.video, self.text = nn.Conv2d(3, 8, 8, stride=8), nn.Embedding(520, 8)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        clips, tokens = batch["frames"], batch["tokens"]
        videos = self.video(clips.flatten(0, 1)).mean((2, 3)).unflatten(0, clips.shape[:2]).mean(1)
        mask = (tokens > 0)[..., None]
        texts = (self.text(tokens) * mask).sum(1) / mask.sum(1)
        scores = nn.functional.normalize(videos, dim=-1) @ nn.functional.normalize(texts, dim=-1).T
        loss = nn.functional.cross_entropy(10 * scores.float(), torch.arange(len(scores)))
        self.keys[-1] += batch["key"]
        self.losses.append(loss.item())
        return loss

    def on_train_epoch_end(self) -> None:
        self.keys.append([])

    def on_train_end(self) -> None:
        report = {"keys": self.keys[:-1], "losses": self.losses, "weights": self.video.weight.flatten().tolist()}
        (self.dest / f"{self.global_rank}.json").write_text(json.dumps(report))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 3e-2)


if __name__ == "__main__":
    shards, dest, num_workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0
    warnings.filterwarnings("ignore")
    seed_everything(0)
    data = FramesDataModule(shards=shards, samples=ClipSamples("float32"), batch_size=4, num_workers=num_workers)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    Trainer(
        max_epochs=20,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        precision="bf16-mixed",
        **quiet,  # type: ignore[arg-type]
    ).fit(TinyClip(dest), datamodule=data)
