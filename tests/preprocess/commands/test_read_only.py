"""Commands that only read a run do not change its folder, also if a rank died before it moved its files."""

import json
import os
from pathlib import Path

import pytest

from datamodules import FramesDataModule
from datamodules.card import write_card
from datamodules.run.folder import Run
from datamodules.samples.keypoints import KeypointSamples
from preprocess.cli import main
from support.keypoint_runs import REASON, MadeItems, make_run
from support.run_paths import folder_of, path_of

CORPUS = MadeItems({"train": 3, "dev": 1})
KIND = {"samples": {"class_path": "datamodules.samples.keypoints.KeypointSamples"}}


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Each file and folder: inode, modification time in ns, size."""
    result = {str(path): path.lstat() for path in (folder, *folder.rglob("*"))}
    return {name: (status.st_ino, status.st_mtime_ns, status.st_size) for name, status in result.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of which one shard is committed, and its files are not in place."""
    run = make_run(tmp_path / "run", CORPUS, failed=("train/v1",), fingerprint=KIND)
    write_card(run)
    record = run.record("train-000000")
    for file in (run.tar_file(record.shard), run.table_file(record.shard)):
        os.rename(path_of(file), run.store.locate(file.staged(record.rank)))
    return folder_of(run)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "{}"], "3 of 3 shards"),
        (["view", "{}"], REASON),
        (["view", "{}", "train/v0"], "keypoints.npy"),
        (["failures", "{}"], "train/v1"),
        (["export", "{}", "--format", "jsonl", "--dest", "{}-out"], "train.jsonl"),
        (["visualize", "{}", "--samples", "1", "--dest", "{}-out"], "train/v0.png"),
        (["report", "{}", "--dest", "{}-out"], "index.html"),
        (["verify", "{}"], "train-000000.tar: complete, but not at its final name yet"),
    ],
    ids=["status", "view", "view-item", "failures", "export", "visualize", "report", "verify"],
)
def test_a_command_that_only_reads_changes_nothing(
    folder: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(folder)
    status = main([argument.format(folder) for argument in arguments])
    assert status == (arguments[0] == "verify")
    assert said in capsys.readouterr().out
    assert snapshot(folder) == before


def test_training_changes_nothing_and_reads_every_sample(folder: Path) -> None:
    before = snapshot(folder)
    data = FramesDataModule(shards=folder, samples=KeypointSamples(), batch_size=4, num_workers=0)
    data.setup("fit")
    keys = [key for batch in data.train_dataloader() for key in batch["key"]]
    assert sorted(keys) == ["train/v0", "train/v2"]
    assert snapshot(folder) == before


def test_failures_of_a_run_whose_files_are_not_at_their_final_names_are_those_of_its_table(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["failures", str(folder), "--json"])
    [failure] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (failure["key"], failure["reason"]) == ("train/v1", REASON)
    assert Run(folder).outcome().failed == 1
