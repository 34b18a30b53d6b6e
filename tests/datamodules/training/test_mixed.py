"""Mixed runs: samples of several runs of one kind in one batch."""

import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules import FramesDataModule
from datamodules.errors import ConfigError, RunError
from datamodules.samples.keypoints import KeypointSamples
from support.keypoint_runs import MadeItems, make_run


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("mixed")
    make_run(folder / "a", MadeItems({"train": 15, "dev": 2}, prefix="a"), failed=("train/a3",), per_shard=4)
    make_run(folder / "b", MadeItems({"train": 6}, prefix="b"))
    return [folder / "a", folder / "b"]


def data_of(shards: Any, **options: Any) -> FramesDataModule:
    return FramesDataModule(shards=shards, samples=KeypointSamples(), **{"num_workers": 0, "batch_size": 4, **options})


def epoch_of(data: FramesDataModule, epoch: int = 0) -> list[list[str]]:
    loader: Any = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [batch["key"] for batch in loader]


def flat(batches: list[list[str]]) -> list[str]:
    return [key for batch in batches for key in batch]


def test_without_weights_every_sample_of_all_runs_comes_once_an_epoch(shards: list[Path]) -> None:
    expected = [f"train/a{number}" for number in range(15) if number != 3] + [f"train/b{number}" for number in range(6)]
    keys = flat(epoch_of(data_of(shards)))
    assert sorted(keys) == sorted(expected)
    assert keys != expected


def test_samples_keep_their_places_in_a_batch(shards: list[Path]) -> None:
    [batch] = data_of(shards, batch_size=99).train_dataloader()
    assert batch["lengths"].tolist() == [1 + int(key[len("train/a") :]) % 4 for key in batch["key"]]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_each_run_has_its_share_of_an_epoch(
    shards: list[Path], ranks: Callable[[int, int], None], num_ranks: int
) -> None:
    by_rank = []
    for rank in range(num_ranks):
        ranks(rank, num_ranks)
        by_rank.append(epoch_of(data_of(shards, weights=[3, 7], batch_size=2)))
    assert len({len(batches) for batches in by_rank}) == 1
    counts = Counter(key for batches in by_rank for key in flat(batches))
    assert sum(count for key, count in counts.items() if "/a" in key) == 6  # 0.3 of 20
    assert {count for key, count in counts.items() if "/b" in key} == {2, 3}  # 14 of 6 samples


def test_over_the_epochs_all_samples_of_a_run_occur_equally_often(shards: list[Path]) -> None:
    data = data_of(shards, weights=[0.25, 0.75])
    epochs = [flat(epoch_of(data, epoch)) for epoch in range(7)]
    counts = Counter(key for keys in epochs for key in keys)
    assert Counter(counts[f"train/a{number}"] for number in range(15) if number != 3) == {2: 7, 3: 7}  # 35 of 14
    assert Counter(counts[f"train/b{number}"] for number in range(6)) == {17: 3, 18: 3}  # 105 of 6
    assert epochs[1] == flat(epoch_of(data_of(shards, weights=[1, 3]), 1))
    assert len({str(keys) for keys in epochs}) == 7


def test_a_mixed_training_resumes_within_an_epoch(shards: list[Path]) -> None:
    whole = epoch_of(data_of(shards, weights=[1, 1]))
    loader = data_of(shards, weights=[1, 1]).train_dataloader()
    batches = iter(loader)
    taken = [next(batches)["key"] for _ in range(2)]
    rest = data_of(shards, weights=[1, 1]).train_dataloader()
    rest.load_state_dict(loader.state_dict())
    assert taken + [batch["key"] for batch in rest] == whole
    with pytest.raises(RunError, match="other data"):
        data_of(shards, weights=[1, 2]).train_dataloader().load_state_dict(loader.state_dict())


def test_a_run_without_validation_split_has_no_part_in_it(shards: list[Path]) -> None:
    data = data_of(shards, weights=[1, 1])
    data.setup("fit")
    assert [batch["key"] for batch in data.val_dataloader()] == [["dev/a0", "dev/a1"]]
    with pytest.raises(RunError, match=r"/b has no split 'dev'\. Set train_split to one of train"):
        data_of(shards, train_split="dev").setup("fit")
    with pytest.raises(RunError, match=r"no run has a split 'test'\. Set test_split to one of dev, train"):
        data.setup("test")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2, 3], r"weights has 3 numbers, but shards has 2 runs\. Give one for each"),
        ([1, 0], r"weights = \[1, 0\] must be above 0"),
        ([1, float("nan")], "must be above 0"),
        ({"a": 1, "c": 2}, r"weights = {'a': 1, 'c': 2} is not a list of numbers\. Give one for each run in shards"),
        (0.3, r"weights = 0\.3 is not a list of numbers"),
    ],
)
def test_weights_that_do_not_fit_the_runs_are_refused(shards: list[Path], weights: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        data_of(shards, weights=weights).setup("fit")


def test_a_run_that_is_still_being_written_gives_what_is_committed_and_says_so_once(
    tmp_path: Path, shards: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path, MadeItems({"train": 6}, prefix="c"), max_shards=2)
    data = data_of([tmp_path, shards[1]])
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):  # which a command of ours may have silenced
        data.setup("fit")
        keys = flat(epoch_of(data))
    assert sorted(keys) == [f"train/{name}{number}" for name, count in (("b", 6), ("c", 4)) for number in range(count)]
    assert [message for message in caplog.messages if "committed" in message] == [
        f"{tmp_path} is not complete: 2 of 3 shards are committed. The training uses what is committed now"
    ]


RANK = """
import os
import sys

import torch
from lightning.pytorch import LightningModule, Trainer

from datamodules import FramesDataModule
from datamodules.samples.keypoints import KeypointSamples


class Model(LightningModule):
    def training_step(self, batch, batch_idx):
        raise AssertionError("the training has begun")

    def configure_optimizers(self):
        return None


if __name__ == "__main__":
    excluded = ["train/b1"] if os.environ.get("LOCAL_RANK") == "1" else ["train/b2"]
    data = FramesDataModule(shards=sys.argv[1:], samples=KeypointSamples(), num_workers=0, exclude=excluded)
    Trainer(devices=2, strategy="ddp", accelerator="cpu", logger=False).fit(Model(), datamodule=data)
"""


@pytest.mark.slow
def test_ranks_that_do_not_have_the_same_samples_do_not_train(tmp_path: Path, shards: list[Path]) -> None:
    script = tmp_path / "train.py"
    script.write_text(RANK)
    ended = subprocess.run([sys.executable, script, *shards], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ended.returncode != 0
    assert "the ranks do not have the same samples" in ended.stderr
    assert "the training has begun" not in ended.stderr
