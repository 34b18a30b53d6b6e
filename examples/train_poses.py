"""Train a small image model that is conditioned on poses, on a pose run that stores its images.

    python examples/train_poses.py --shards /data/poses --picture people.png
    python examples/train_poses.py --shards /data/poses --devices 8 --epochs 200

The model learns by flow matching to turn noise into the image of a pose map. It prints the error of its velocities
before and after training. The picture has a column for each sample: pose map, generated image, true image.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torchvision.utils import save_image

from datamodules import FramesDataModule
from datamodules.samples.pose import PoseSamples

PRECISION: Any = "bf16-mixed" if torch.cuda.is_available() else "32-true"  # bf16 is slower than float32 on most CPUs


class PoseToImage(LightningModule):
    """A convolutional network for the velocity from noise to image, given a pose map.

    Args:
        learning_rate: peak learning rate.
        picture: image file of the first test batch; None: no picture.
    """

    def __init__(self, learning_rate: float = 2e-3, picture: Path | None = None) -> None:
        super().__init__()
        self.learning_rate, self.picture, width = learning_rate, picture, 48
        layers = [nn.Conv2d(7, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 4, stride=2, padding=1)]
        self.down = nn.Sequential(*layers, nn.SiLU())
        self.middle = nn.Sequential(
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1), nn.SiLU(),
        )  # fmt: skip
        self.up = nn.Sequential(nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1), nn.SiLU())
        self.last = nn.Conv2d(width + 7, 3, 3, padding=1)

    def forward(self, noisy: Tensor, pose_maps: Tensor, times: Tensor) -> Tensor:
        """Return the velocity of `noisy` [B, 3, H, W] at `times` [B], from 0 (noise) to 1 (image)."""
        given = torch.cat([noisy, pose_maps, times[:, None, None, None].expand_as(noisy[:, :1])], 1)
        coarse = self.down(given)
        return self.last(torch.cat([self.up(torch.cat([coarse, self.middle(coarse)], 1)), given], 1))  # type: ignore[no-any-return]

    def loss(self, batch: dict[str, Any], seed: int | None = None) -> Tensor:
        """Return the mean squared error of the velocity at random times; the same ones for the same seed."""
        images, pose_maps = _scaled(batch["images"]), _scaled(batch["pose_maps"])
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        noise = torch.randn(images.shape, generator=generator, device=self.device)
        times = torch.rand(len(images), generator=generator, device=self.device)
        noisy = torch.lerp(noise, images, times[:, None, None, None])
        return nn.functional.mse_loss(self(noisy, pose_maps, times).float(), images - noise)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        return self.loss(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the error for fixed noise; draw the first batch."""
        self.log("error", self.loss(batch, seed=batch_idx), batch_size=len(batch["key"]), sync_dist=True)
        if self.picture and batch_idx == 0 and self.trainer.is_global_zero:
            pose_maps, images = (_scaled(batch[name][:8]) for name in ("pose_maps", "images"))
            rows = torch.cat([pose_maps, self.generate(pose_maps), images])
            save_image(rows / 2 + 0.5, self.picture, nrow=len(images))

    def generate(self, pose_maps: Tensor, steps: int = 20) -> Tensor:
        """Return images for pose maps, both float [B, 3, H, W] from -1 to 1, by Euler's method."""
        images = torch.randn_like(pose_maps)
        for step in range(steps):
            images = images + self(images, pose_maps, torch.full_like(images[:, 0, 0, 0], step / steps)) / steps
        return images.clamp(-1, 1)

    def configure_optimizers(self) -> Any:
        """Return AdamW with a one-cycle schedule: warm-up and decay over the whole training."""
        optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate, weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1  # sent as uint8, a quarter of the bytes; converted on the GPU


def main() -> None:
    """Train, and print the error before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, help="folder or URL of a pose run with stored images")
    parser.add_argument("--devices", type=int, default=1, help="ranks, under DDP if more than one")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--size", type=int, default=64, help="of the images, px; a multiple of 4")
    parser.add_argument("--workers", type=int, default=4, help="of each rank, to read and decode")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    seed_everything(0)
    samples = PoseSamples(size=(options.size, options.size), flip=0.5)  # a flip swaps left and right joints
    data = FramesDataModule(  # batches for a GPU come in pinned memory, so that copies overlap with computation
        shards=options.shards, samples=samples, num_workers=options.workers, test_split="train"
    )
    trainer = Trainer(
        max_epochs=options.epochs, devices=options.devices, strategy="ddp" if options.devices > 1 else "auto",
        precision=PRECISION, gradient_clip_val=1.0, accumulate_grad_batches=2, logger=False, enable_checkpointing=False,
    )  # fmt: skip
    model = PoseToImage(picture=options.picture)
    [before] = trainer.test(model, datamodule=data, verbose=False)
    trainer.fit(model, datamodule=data)
    [after] = trainer.test(model, datamodule=data, verbose=False)
    model.print(f"error: {before['error']:.3f} before training, {after['error']:.3f} after")


if __name__ == "__main__":
    main()
