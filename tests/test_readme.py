"""What the README tells users to type works."""

import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.card import write_card
from making import MadeItems, make_run

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
