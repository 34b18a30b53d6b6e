"""Train a small tracking head on a tracking run: given the boxes of a clip's first frame, it finds them in the others.

    python examples/train_tracks.py --shards /data/tracks --root /data/videos --picture boxes.png

It prints the mean overlap (IoU) of its boxes with those of the run, before and after training. The picture shows the
frames of a clip, with the run's boxes in green and the predicted ones in red.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torchvision.ops import box_iou, complete_box_iou_loss
from torchvision.utils import draw_bounding_boxes, save_image

from datamodules import FramesDataModule
from datamodules.samples.tracks import TrackSamples

STRIDE = 4  # px for a cell of the features
PRECISION: Any = "bf16-mixed" if torch.cuda.is_available() else "32-true"  # bf16 is slower than float32 on most CPUs


class TrackingHead(LightningModule):
    """Finds each object where the features look like those in its first box.

    Args:
        learning_rate: peak learning rate.
        picture: PNG of the first clip of the test; None: no picture.
    """

    def __init__(self, learning_rate: float = 3e-3, picture: Path | None = None) -> None:
        super().__init__()
        self.learning_rate, self.picture, width = learning_rate, picture, 32
        layers = [nn.Conv2d(3, width, STRIDE, stride=STRIDE), nn.GELU(), nn.Conv2d(width, width, 3, padding=1)]
        self.features = nn.Sequential(*layers, nn.GELU(), nn.Conv2d(width, width, 3, padding=1))
        self.template, self.box = nn.Linear(width, width), nn.Linear(2 * width, 4)  # the latter corrects the box

    def forward(self, frames: Tensor, boxes: Tensor) -> Tensor:
        """Return boxes [B, T, N, 4] for uint8 frames [B, T, 3, H, W] and `boxes` [B, N, 4] of the first, in px."""
        pixels = frames.flatten(0, 1).float() / 127.5 - 1  # sent as uint8, a quarter of the bytes; converted here
        features = self.features(pixels).float().unflatten(0, frames.shape[:2])  # [B, T, C, h, w]
        y, x = (STRIDE * (torch.arange(side, device=self.device) + 0.5) for side in features.shape[-2:])
        inside = (x >= boxes[..., 0, None]) & (x < boxes[..., 2, None])  # [B, N, w]
        inside = inside[:, :, None] & ((y >= boxes[..., 1, None]) & (y < boxes[..., 3, None]))[..., None]
        weights = inside / inside.sum((-2, -1), keepdim=True).clamp(min=1)
        first = torch.einsum("bchw,bnhw->bnc", features[:, 0], weights)
        scores = torch.einsum("btchw,bnc->btnhw", features, self.template(first).float())
        weights = scores.flatten(-2).softmax(-1).view_as(scores)
        centre = torch.stack([(weights.sum(-2) * x).sum(-1), (weights.sum(-1) * y).sum(-1)], -1)
        found = torch.einsum("btchw,btnhw->btnc", features, weights)
        size = (boxes[..., 2:] - boxes[..., :2])[:, None]
        change = self.box(torch.cat([found, first[:, None].expand_as(found)], -1)).float()
        centre, size = centre + size * change[..., :2], size * change[..., 2:].clamp(-2, 2).exp()
        return torch.cat([centre - size / 2, centre + size / 2], -1)

    def compared(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return predicted and true boxes [M, 4], of the later frames that show an object of the first."""
        counted = batch["present"] & batch["present"][:, :1] & batch["frames_mask"][..., None]
        counted[:, 0] = False
        return self(batch["frames"], batch["boxes"][:, 0])[counted], batch["boxes"][counted]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of the boxes; zero if no object stays in its clip."""
        predicted, true = self.compared(batch)
        return complete_box_iou_loss(predicted, true, "sum") / max(len(true), 1)  # type: ignore[no-any-return]

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the mean IoU; draw the first clip."""
        predicted, true = self.compared(batch)
        overlap = box_iou(predicted, true).diagonal().sum() / max(len(true), 1)
        self.log("iou", overlap, batch_size=len(true), sync_dist=True)
        if self.picture and batch_idx == 0 and self.trainer.is_global_zero:
            found, drawn = self(batch["frames"][:1], batch["boxes"][:1, 0])[0], []
            shown = batch["present"][0] & batch["present"][0, 0]
            for frame, true, predicted, seen in zip(batch["frames"][0], batch["boxes"][0], found, shown, strict=True):
                colours = [colour for colour in ("lime", "red") for _ in range(int(seen.sum()))]
                drawn.append(draw_bounding_boxes(frame, torch.cat([true[seen], predicted[seen]]), colors=colours))
            save_image(torch.stack(drawn) / 255, self.picture)

    def configure_optimizers(self) -> Any:
        """Return AdamW with a one-cycle schedule: warm-up and decay over the whole training."""
        optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate, weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    """Train, and print the overlap before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, help="folder or URL of a tracking run")
    parser.add_argument("--root", required=True, help="of its videos, a folder or URL")
    parser.add_argument("--devices", type=int, default=1, help="ranks, under DDP if more than one")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 192), help="height and width of the frames, px")
    parser.add_argument("--workers", type=int, default=4, help="of each rank, to read and decode")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    seed_everything(0)
    samples = TrackSamples(num_frames=8, root=options.root, size=tuple(options.size))
    data = FramesDataModule(  # batches for a GPU come in pinned memory, so that copies overlap with computation
        shards=options.shards, samples=samples, batch_size=4, num_workers=options.workers, test_split="train"
    )
    trainer = Trainer(
        max_epochs=options.epochs, devices=options.devices, strategy="ddp" if options.devices > 1 else "auto",
        precision=PRECISION, gradient_clip_val=1.0, accumulate_grad_batches=2, logger=False, enable_checkpointing=False,
    )  # fmt: skip
    model = TrackingHead(picture=options.picture)
    [before] = trainer.test(model, datamodule=data, verbose=False)
    trainer.fit(model, datamodule=data)
    [after] = trainer.test(model, datamodule=data, verbose=False)
    model.print(f"iou: {before['iou']:.3f} before training, {after['iou']:.3f} after")


if __name__ == "__main__":
    main()
