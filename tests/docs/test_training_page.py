"""The lines of Python on the page about training run."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import FramesDataModule
from datamodules.samples.captions import CaptionSamples
from datamodules.samples.clips import ClipSamples
from datamodules.samples.keypoints import KeypointSamples
from support.caption_runs import caption_items, make_caption_run
from support.keypoint_runs import MadeItems, make_run

_PAGE = Path(__file__).parents[2] / "docs/training.md"
_SNIPPETS = [textwrap.dedent(lines) for lines in re.findall(r"```python\n(.*?)```", _PAGE.read_text(), re.DOTALL)]
_LOCAL = [lines for lines in _SNIPPETS if "s3://" not in lines]  # those of buckets need a server, and differ by the URL


class OneWeight(LightningModule):
    """Counts its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.num_batches = 0

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.num_batches += 1
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_run(folder / "keypoints", MadeItems({"train": 24}))
    make_run(folder / "gestures", MadeItems({"train": 5}, prefix="g"))
    make_caption_run(folder / "captions", caption_items("train/v0.png", "train/v2.png"))
    (folder / "flagged.txt").write_text("train/v3\n")
    return folder


@pytest.mark.filterwarnings("ignore:.*many workers", "ignore:.*LeafSpec:FutureWarning", "ignore:.*last checkpoint")
@pytest.mark.filterwarnings("ignore:.*tensorboardX", "ignore:.*log_every_n_steps", "ignore:.*exists and is not empty")
@pytest.mark.parametrize("lines", _LOCAL, ids=lambda lines: lines[:40])
def test_the_lines_run(lines: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    runs = {"/data/signs": "keypoints", "/data/keypoints": "keypoints", "/data/clips": "keypoints", "O": "keypoints"}
    for path, name in {**runs, "/data/gestures": "gestures", "/data/captions": "captions"}.items():
        lines = lines.replace(f'"{path}"', f'"{name}"')
    lines = (
        lines.replace("max_epochs=100", "max_epochs=1")
        .replace("num_workers=4", "num_workers=0")
        .replace(">= 16", ">= 2")
    )
    kinds = (FramesDataModule, KeypointSamples, CaptionSamples, ClipSamples, Trainer, ModelCheckpoint)
    names: dict[str, Any] = {kind.__name__: kind for kind in kinds}
    names |= {"__name__": "__main__", "model": OneWeight(), "data": None}
    if "data = " not in lines:
        names["data"] = FramesDataModule(shards="keypoints", samples=KeypointSamples(), num_workers=0)
    exec(lines, names)
    if names["data"] is not None:
        names["data"].setup("fit")
