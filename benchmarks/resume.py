"""Seconds from `Trainer.fit(ckpt_path=…)` to the first batch in the middle of an epoch, and peak memory.

    python benchmarks/resume.py
    python benchmarks/resume.py --samples 100000 --workers 0

The run has samples of one frame, 1,000 a shard. A first process trains some steps and saves a checkpoint; a second one
resumes it, once for each reading. Imports are not counted in the seconds, but in the memory of the process, without
that of its workers.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer

from datamodules import FramesDataModule
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from datamodules.training.splits import Reading
from measuring import in_fresh_process, print_machine, print_table, print_verdict
from readback_corpus import Sentences

_MOST_SECONDS = 5.0
_NUM_STEPS = 10  # before the checkpoint
_READINGS: tuple[Reading, ...] = ("random", "sequential")


class Noticing(LightningModule):
    """A model that notes when its first batch arrives, and its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.arrived, self.keys = 0.0, list[str]()

    def training_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
        """Return a loss that depends on no sample."""
        self.arrived = self.arrived or time.perf_counter()
        self.keys += batch["key"]
        return self.weight.square()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return plain gradient descent."""
        return torch.optim.SGD(self.parameters(), 0.1)


def main() -> None:
    """Make the run, and print how long its trainings take to resume."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000, help="of the run (default: 1000000)")
    parser.add_argument("--workers", type=int, default=2, help="of the training (default: 2)")
    options = parser.parse_args()
    print_machine("torch", "lightning", "webdataset")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch, "run")
        started = time.perf_counter()
        make_run(run, options.samples)
        print(f"{options.samples:,} samples written in {time.perf_counter() - started:.0f} s", flush=True)
        for reading in _READINGS:
            checkpoint = Path(scratch, f"{reading}.ckpt")
            _, keys = in_fresh_process(train, run, options.workers, reading, checkpoint, _NUM_STEPS).value
            resumed = in_fresh_process(train, run, options.workers, reading, checkpoint, _NUM_STEPS + 1)
            seconds, next_keys = resumed.value
            assert not set(next_keys) & set(keys), "a sample came again"
            rows.append((reading, f"{seconds:.2f}", f"{resumed.peak_mb:.0f} MB"))
            target = f"{reading}, {options.samples:,} samples, < {_MOST_SECONDS:.0f} s"
            print_verdict(target, f"{seconds:.2f} s", seconds < _MOST_SECONDS)
    print_table(("reading", "seconds to the first batch", "peak memory"), rows)


def make_run(folder: Path, num_samples: int) -> None:
    """Commit that many samples of one frame, all of the same content."""
    arrays = np.zeros((1, 75, 3), np.float32), np.ones((1, 4), np.uint8), np.zeros((1, 33), np.float32)
    members = KeypointSamples().encode(KeypointSample("any", *arrays, {"layout": 75, "width": 210, "height": 260}))
    run = open_or_plan(folder, Sentences(num_samples, 2), {}, ShardSize(max_items=1000, min_shards=1))
    with Rank(run) as rank:
        while (opened := rank.lease()) is not None:
            for row in range(len(opened.items)):
                rank.add(opened.shard.number, Result(row, num_frames=1), members)


def train(run: Path, num_workers: int, reading: Reading, checkpoint: Path, max_steps: int) -> tuple[float, list[str]]:
    """Train up to a step, from a checkpoint if it exists, and save it else.

    Returns:
        (seconds from `fit` to the first batch, keys of the samples).
    """
    data = FramesDataModule(
        shards=run, samples=KeypointSamples(), batch_size=16, num_workers=num_workers, reading=reading
    )
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_steps=max_steps, accelerator="cpu", enable_checkpointing=False, **options)
    model, resumes = Noticing(), checkpoint.exists()
    started = time.perf_counter()
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint if resumes else None)
    if not resumes:
        trainer.save_checkpoint(checkpoint)
    return model.arrived - started, model.keys


if __name__ == "__main__":
    main()
