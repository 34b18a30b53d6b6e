"""Train a small CLIP on a clips run: videos and their texts get similar embeddings.

    python examples/train_clips.py --shards /data/clips
    python examples/train_clips.py --shards /data/clips --devices 8 --batch-size 64 --picture similarity.png

It prints the share of clips whose own text is the most similar one in their batch, before and after training. The
picture shows the similarities of a batch: clips are rows, texts are columns.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from datamodules import FramesDataModule
from datamodules.samples.clips import ClipSamples

PRECISION: Any = "bf16-mixed" if torch.cuda.is_available() else "32-true"  # bf16 is slower than float32 on most CPUs


class ClipModel(LightningModule):
    """Embeds clips and token sequences in one space.

    Args:
        learning_rate: peak learning rate.
        picture: PNG of the similarities of the first test batch; None: no picture.
        num_tokens: size of the vocabulary, CLIP's unless given.
        width: of the embeddings.
    """

    def __init__(
        self, learning_rate: float = 1e-3, picture: Path | None = None, num_tokens: int = 49408, width: int = 64
    ) -> None:
        super().__init__()
        self.learning_rate, self.picture = learning_rate, picture
        self.frames = nn.Sequential(
            nn.Conv2d(3, 32, 8, stride=8),
            nn.GELU(),
            nn.Conv2d(32, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.video, self.text = nn.Linear(width, width), nn.Linear(width, width)
        self.tokens = nn.Embedding(num_tokens, width)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Return the scaled similarity of each clip to each text, float32 [B, B]."""
        frames, tokens = batch["frames"], batch["tokens"]
        pixels = frames.flatten(0, 1).float() / 127.5 - 1  # sent as uint8, a quarter of the bytes; converted here
        videos = self.video(self.frames(pixels).unflatten(0, frames.shape[:2]).mean(1))
        mask = (tokens > 0)[..., None]  # 0 is padding
        texts = self.text((self.tokens(tokens) * mask).sum(1) / mask.sum(1).clamp(min=1))
        # in float32, and bounded, as in CLIP: bf16 has too few digits for a softmax over large logits
        scale = self.log_scale.clamp(max=4.6).exp()
        return scale * normalize(videos.float(), dim=-1) @ normalize(texts.float(), dim=-1).T

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return CLIP's symmetric loss over the pairs of this rank's batch."""
        scores = self(batch)
        pairs = torch.arange(len(scores), device=self.device)
        loss = (cross_entropy(scores, pairs) + cross_entropy(scores.T, pairs)) / 2
        self.log("loss", loss, prog_bar=True, batch_size=len(scores))
        return loss

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the share of clips whose own text is the most similar; draw the similarities of the first batch."""
        scores = self(batch)
        accuracy = (scores.argmax(1) == torch.arange(len(scores), device=self.device)).float().mean()
        self.log("accuracy", accuracy, batch_size=len(scores), sync_dist=True)
        if self.picture and batch_idx == 0 and self.trainer.is_global_zero:
            pixels = (255 * scores.softmax(1)).byte().cpu().numpy()
            Image.fromarray(pixels).resize((512, 512), Image.Resampling.NEAREST).save(self.picture)

    def configure_optimizers(self) -> Any:
        """Return AdamW with a one-cycle schedule: warm-up and decay over the whole training."""
        optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate, weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    """Train, and print the accuracy before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, help="folder or URL of a clips run")
    parser.add_argument("--devices", type=int, default=1, help="ranks, under DDP if more than one")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16, help="per rank: a clip is compared with so many texts")
    parser.add_argument("--workers", type=int, default=4, help="of each rank, to read and decode")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    seed_everything(0)
    data = FramesDataModule(  # batches for a GPU come in pinned memory, so that copies overlap with computation
        shards=options.shards,
        samples=ClipSamples(dtype="uint8"),
        batch_size=options.batch_size,
        num_workers=options.workers,
        test_split="train",
    )
    trainer = Trainer(
        max_epochs=options.epochs, devices=options.devices, strategy="ddp" if options.devices > 1 else "auto",
        precision=PRECISION, gradient_clip_val=1.0, logger=False, enable_checkpointing=False,
    )  # fmt: skip  # no accumulate_grad_batches: it adds no negatives, as a larger batch does
    model = ClipModel(picture=options.picture)
    [before] = trainer.test(model, datamodule=data, verbose=False)
    trainer.fit(model, datamodule=data)
    [after] = trainer.test(model, datamodule=data, verbose=False)
    model.print(f"accuracy: {before['accuracy']:.3f} before training, {after['accuracy']:.3f} after")


if __name__ == "__main__":
    main()
