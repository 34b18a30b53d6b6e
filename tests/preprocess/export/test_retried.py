"""Exports of a run with retried failures equal those of a run without failures."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from preprocess.export.format import export
from support.keypoint_runs import REASON, MadeItems, make_run, retry_made

CORPUS = MadeItems({"train": 7, "dev": 3})
FAILED = ("train/v0", "train/v3", "train/v6", "dev/v1", "dev/v2")


@pytest.mark.parametrize("format", ["parquet", "phoenix-npz", "phoenix-pickle"])
def test_an_export_after_retries_has_the_bytes_of_one_without_failures(tmp_path: Path, format: str) -> None:
    make_run(tmp_path / "whole", CORPUS)
    make_run(tmp_path / "retried", CORPUS, failed=FAILED)
    retry_made(tmp_path / "retried", failed=("train/v3", "dev/v1"))
    retry_made(tmp_path / "retried")

    whole, retried = (export(tmp_path / name, format, tmp_path / f"{name}-out") for name in ("whole", "retried"))

    assert [path.name for path in retried] == [path.name for path in whole]
    assert [path.read_bytes() for path in retried] == [path.read_bytes() for path in whole]


def test_the_statistics_tell_of_what_failed_again_and_of_nothing_else(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS, failed=FAILED)
    retry_made(tmp_path / "run", failed=("train/v3",))

    train, dev = (
        json.loads(pq.read_metadata(path).metadata[b"statistics"])
        for path in export(tmp_path / "run", "parquet", tmp_path / "out")
    )

    outcome = ("planned", "committed", "failed", "not_done", "videos", "failures")
    assert [train[name] for name in outcome] == [7, 6, 1, 0, 6, [{"key": "train/v3", "reason": REASON}]]
    assert [dev[name] for name in outcome] == [3, 3, 0, 0, 3, []]
