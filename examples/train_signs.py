"""Train a model on a keypoints run: it predicts the glosses of signed sentences from keypoints, with CTC.

    python examples/train_signs.py --shards /data/keypoints
    python examples/train_signs.py --shards /data/keypoints --devices 2 --epochs 120

`FramesDataModule`, which read the frames in preprocessing, reads the shards here. The model is a small stack of
convolutions over time; its inputs are positions and movements of the keypoints relative to the frame's size.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from datamodules import FramesDataModule
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples.keypoints import KeypointSamples


class GlossModel(LightningModule):
    """Predicts glosses with CTC; class 0 is CTC's blank.

    Args:
        glosses: the vocabulary; its entries are the classes 1, 2, ….
        num_keypoints: number of keypoints K of the shards' layout.
        learning_rate: peak learning rate.
    """

    def __init__(self, glosses: list[str], num_keypoints: int = 143, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.glosses, self.learning_rate = glosses, learning_rate
        self.layers = nn.Sequential(
            nn.Conv1d(4 * num_keypoints, 128, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(128, 128, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(128, len(glosses) + 1, 1),
        )

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Return log-probabilities, float32 [T, B, 1 + number of glosses]."""
        size = torch.tensor([[meta["width"], meta["height"]] for meta in batch["meta"]], device=self.device)
        positions = batch["keypoints"][..., :2] / size[:, None, None]
        movements = 20 * torch.diff(positions, dim=1, prepend=positions[:, :1])
        features = torch.cat([positions, movements], dim=-1) * batch["mask"][..., None, None]
        return self.layers(features.flatten(2).transpose(1, 2)).permute(2, 0, 1).float().log_softmax(-1)  # type: ignore[no-any-return]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the CTC loss of one batch."""
        sentences = [meta["glosses"].split() for meta in batch["meta"]]
        targets = torch.tensor([1 + self.glosses.index(gloss) for sentence in sentences for gloss in sentence])
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        loss = nn.functional.ctc_loss(self(batch), targets, batch["lengths"].cpu(), lengths, zero_infinity=True)
        self.log("loss", loss, prog_bar=True, batch_size=len(sentences))
        return loss

    def on_train_epoch_end(self) -> None:
        """Print the loss of the last batch, every tenth epoch."""
        if (self.current_epoch + 1) % 10 == 0:
            self.print(f"epoch {self.current_epoch + 1}: loss {self.trainer.callback_metrics['loss']:.3f}")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the share of sentences whose glosses are all predicted correctly, decoded along the best path."""
        matches = [
            glosses == meta["glosses"].split() for glosses, meta in zip(self.read(batch), batch["meta"], strict=True)
        ]
        self.log("accuracy", sum(matches) / len(matches), batch_size=len(matches), sync_dist=True)

    def read(self, batch: dict[str, Any]) -> list[list[str]]:
        """Return the predicted glosses of each sample."""
        best = self(batch).argmax(-1).T
        paths = [torch.unique_consecutive(row[:length]) for row, length in zip(best, batch["lengths"], strict=True)]
        return [[self.glosses[label - 1] for label in path.tolist() if label] for path in paths]

    def configure_optimizers(self) -> Any:
        """Return AdamW with a one-cycle schedule: warm-up and decay over the whole training."""
        optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def vocabulary(shards: Path, split: str = "train") -> list[str]:
    """Return the glosses of a split, sorted."""
    decode = KeypointSamples().decode
    samples = (decode(*files) for files in CommittedSamples(Run(shards), split))
    return sorted({gloss for sample in samples for gloss in sample.meta["glosses"].split()})


def main() -> None:
    """Train, and print the share of training sentences that the model reads correctly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True, help="folder of a keypoints run")
    parser.add_argument("--devices", type=int, default=1, help="ranks, under DDP if more than one")
    parser.add_argument("--epochs", type=int, default=80)
    options = parser.parse_args()
    seed_everything(0)
    data = FramesDataModule(shards=options.shards, samples=KeypointSamples(), batch_size=2, test_split="train")
    trainer = Trainer(
        max_epochs=options.epochs,
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        precision="bf16-mixed",
        accumulate_grad_batches=2 if options.devices == 1 else 1,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
    )
    model = GlossModel(vocabulary(options.shards))
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data)


if __name__ == "__main__":
    main()
