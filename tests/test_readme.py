"""What the README tells users to type works."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from datamodules.card import write_card
from support.caption_runs import caption_items, make_caption_run
from support.keypoint_runs import MadeItems, make_run

README = Path(__file__).parents[1] / "README.md"
KEYPOINTS = {"samples": {"class_path": "datamodules.samples.keypoints.KeypointSamples"}}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_readers_read_a_run_as_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    [lines] = re.findall(r"```python\n(from glob import glob.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    monkeypatch.chdir(tmp_path)
    corpus = MadeItems({"train": 3, "dev": 2})
    write_card(make_run(Path("O"), corpus, failed=("train/v1",), fingerprint=KEYPOINTS, per_shard=1))
    names: dict[str, Any] = {}
    exec(lines, names)
    keys = {"train": ["train/v0", "train/v2"], "dev": ["dev/v0", "dev/v1"]}
    assert [sample["__key__"] for sample in names["samples"]] == keys["dev"] + keys["train"]
    for loaded in (names["dataset"], names["stream"]):
        assert {split: [row["__key__"] for row in rows] for split, rows in loaded.items()} == keys


class OneWeight(LightningModule):
    """Counts its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.shapes: list[tuple[int, ...]] = []  # of the keypoints of a frame

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        assert batch["keypoints"]["key"] == batch["captions"]["key"] == batch["key"]
        self.shapes.append(tuple(batch["keypoints"]["keypoints"].shape[2:]))
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:.*many workers", "ignore:.*LeafSpec:FutureWarning", "ignore:.*tensorboardX")
def test_the_training_snippet_trains_when_run_and_starts_nothing_when_a_worker_imports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [lines] = re.findall(r"```python\n(from lightning.pytorch import Trainer.*?)```", README.read_text(), re.DOTALL)
    make_run(tmp_path / "keypoints", MadeItems({"train": 3}))
    make_caption_run(tmp_path / "captions", caption_items("train/v0.png", "train/v2.png"))
    here = lines.replace("/data", str(tmp_path)).replace("samples=kinds", "samples=kinds, num_workers=0")
    monkeypatch.chdir(tmp_path)
    model = OneWeight()
    exec(here, {"__name__": "__mp_main__", "model": model})
    assert model.shapes == []
    exec(here.replace("max_epochs=100", "max_epochs=2, log_every_n_steps=1"), {"__name__": "__main__", "model": model})
    assert model.shapes == [(143, 3)] * 2
