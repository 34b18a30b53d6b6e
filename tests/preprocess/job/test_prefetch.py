"""A run copies a batch to the device before the previous one is extracted, and results stay the same."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import FramesDataModule
from datamodules.loading.batch import Batch
from datamodules.loading.prefetch import PrefetchedBatches
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from preprocess.cli import main
from support.brightness import Brightness, BrightnessSamples
from support.image_files import image_bytes


def run(folder: Path, name: str, *options: str) -> list[float]:
    if not (folder / "images").is_dir():
        (folder / "images").mkdir()
        for number in range(12):
            (folder / "images" / f"{number:02d}.png").write_bytes(image_bytes(20 * number))
        (folder / "config.yaml").write_text(
            "model: {class_path: support.brightness.Brightness, init_args: {batch_size: 4}}\n"
            "data: {num_workers: 0, corpus: {class_path: datamodules.corpora.images.Images, init_args: {root: _}}}\n"
        )
    config = ["--config", str(folder / "config.yaml"), "--data.root", str(folder / "images"), *options]
    assert main(["run", *config, "--output.dir", str(folder / name)]) == 0
    samples = (BrightnessSamples().decode(*files) for files in CommittedSamples(Run(folder / name)))
    return [float(sample.brightness[0]) for sample in samples]


class StartedCopy:
    def __init__(self, frames: Any) -> None:
        self._frames = frames

    def take(self) -> Any:
        return self._frames


def test_a_copy_starts_before_the_previous_batch_is_extracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, int]] = []

    def begin(frames: Any) -> StartedCopy:
        done.append(("begin", int(frames[0][0, 0, 0])))
        return StartedCopy(frames)

    def extract(self: Brightness, batch: Batch) -> list[Any]:
        done.append(("extract", int(batch["frames"][0][0, 0, 0])))
        return as_it_is(self, batch)

    without = run(tmp_path, "without", "--trainer.accelerator", "cpu")
    load, as_it_is = FramesDataModule.frames, Brightness.extract
    monkeypatch.setattr(FramesDataModule, "frames", lambda *given: PrefetchedBatches(load(*given), begin))
    monkeypatch.setattr(Brightness, "extract", extract)
    assert run(tmp_path, "ahead", "--trainer.accelerator", "cpu") == without
    begun, extracted = ([first for kind, first in done if kind == what] for what in ("begin", "extract"))
    assert begun == extracted
    assert len(begun) > 2
    assert all(done.index(("begin", later)) < done.index(("extract", now)) for now, later in pairwise(begun))


@pytest.mark.gpu
def test_on_a_gpu_prefetching_changes_no_result(tmp_path: Path) -> None:
    assert torch.cuda.is_available(), "there is no GPU: leave out `-m gpu`"
    on_gpu = ["--trainer.accelerator", "gpu"]
    without = run(tmp_path, "without", *on_gpu, "--data.pin_memory", "false")
    assert run(tmp_path, "ahead", *on_gpu) == without
