"""Train a small captioner on a captions run that stores its images.

    python examples/train_captions.py --shards /data/captions --tokenizer gpt2
    python examples/train_captions.py --shards /data/captions --tokenizer gpt2 --devices 8 --epochs 50

It prints the share of tokens that are predicted correctly from the image and the tokens before them, before and after
training, and some captions beside the true ones.
"""

import argparse
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from datamodules import FramesDataModule
from datamodules.samples.captions import CaptionSamples

PRECISION: Any = "bf16-mixed" if torch.cuda.is_available() else "32-true"  # bf16 is slower than float32 on most CPUs


class Captioner(LightningModule):
    """Convolutions over the image, and a transformer decoder that attends to them.

    Args:
        num_tokens: size V of the tokenizer's vocabulary. The token V, which no text has, begins and ends captions.
        learning_rate: peak learning rate.
        max_tokens: maximum length of a caption, with its end.
        width: of the embeddings.
    """

    def __init__(self, num_tokens: int, learning_rate: float = 2e-3, max_tokens: int = 129, width: int = 96) -> None:
        super().__init__()
        self.edge, self.learning_rate = num_tokens, learning_rate
        layers = [nn.Conv2d(3, 32, 8, stride=8), nn.GELU(), nn.Conv2d(32, width, 3, stride=2, padding=1)]
        self.image = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(2))
        self.tokens = nn.Embedding(num_tokens + 1, width)
        self.positions = nn.Parameter(torch.randn(max_tokens, width) / width)
        self.cells = nn.Parameter(torch.randn(16, width) / width)
        layer = nn.TransformerDecoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.decoder, self.logits = nn.TransformerDecoder(layer, 2), nn.Linear(width, num_tokens + 1)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Return the logits of the token after each of `tokens`, int64 [B, L], as float32 [B, L, V + 1]."""
        pixels = images.float() / 127.5 - 1  # sent as uint8, a quarter of the bytes; converted here
        memory = self.image(pixels).transpose(1, 2) + self.cells
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        texts = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        return self.logits(self.decoder(texts, memory, mask, tgt_is_causal=True)).float()  # type: ignore[no-any-return]

    def predicted(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the logits of all tokens of a batch [N, V + 1] and the tokens [N], without padding."""
        tokens, mask = batch["tokens"], batch["tokens_mask"]
        edge = torch.full_like(tokens[:, :1], self.edge)
        before = torch.cat([edge, tokens.where(mask, self.edge)], 1)
        targets = torch.cat([tokens.where(mask, self.edge), edge], 1)  # the first edge after a text is its end
        counted = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        return self(batch["images"], before)[counted], targets[counted]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the cross-entropy of the tokens."""
        loss = nn.functional.cross_entropy(*self.predicted(batch))
        self.log("loss", loss, prog_bar=True, batch_size=len(batch["key"]))
        return loss

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the share of tokens that are predicted correctly."""
        logits, tokens = self.predicted(batch)
        self.log("accuracy", (logits.argmax(-1) == tokens).float().mean(), batch_size=len(tokens), sync_dist=True)

    @torch.inference_mode()
    def write(self, images: Tensor) -> list[list[int]]:
        """Return the most likely tokens of each image, one after another."""
        tokens = torch.full((len(images), 1), self.edge, device=images.device)
        while tokens.shape[1] < len(self.positions):
            tokens = torch.cat([tokens, self(images, tokens)[:, -1:].argmax(-1)], 1)
        texts = [row[1:] for row in tokens.tolist()]
        return [text[: text.index(self.edge)] if self.edge in text else text for text in texts]

    def configure_optimizers(self) -> Any:
        """Return AdamW with a one-cycle schedule: warm-up and decay over the whole training."""
        optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate, weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    """Train, print the accuracy before and after, and some captions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, help="folder or URL of a captions run with stored images")
    parser.add_argument("--tokenizer", default="gpt2", help="name on the Hugging Face hub, or a folder")
    parser.add_argument("--devices", type=int, default=1, help="ranks, under DDP if more than one")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4, help="of each rank, to read and decode")
    options = parser.parse_args()
    seed_everything(0)
    samples = CaptionSamples(tokenizer=options.tokenizer, size=(128, 128))
    data = FramesDataModule(  # batches for a GPU come in pinned memory, so that copies overlap with computation
        shards=options.shards, samples=samples, num_workers=options.workers, test_split="train"
    )
    trainer = Trainer(
        max_epochs=options.epochs, devices=options.devices, strategy="ddp" if options.devices > 1 else "auto",
        precision=PRECISION, gradient_clip_val=1.0, accumulate_grad_batches=2, logger=False, enable_checkpointing=False,
    )  # fmt: skip
    model = Captioner(len(samples.tokenizer))  # type: ignore[arg-type]
    [before] = trainer.test(model, datamodule=data, verbose=False)
    trainer.fit(model, datamodule=data)
    [after] = trainer.test(model, datamodule=data, verbose=False)
    model.print(f"accuracy: {before['accuracy']:.3f} before training, {after['accuracy']:.3f} after")
    batch = next(iter(data.test_dataloader()))
    for text, tokens in zip(batch["text"], model.eval().write(batch["images"][:4]), strict=False):
        model.print(f"{samples.tokenizer.decode(tokens)!r} for {text!r}")  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
