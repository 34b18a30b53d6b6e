"""`export --exclude` and `--where`: samples that are left out of all formats, and counted."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from datamodules.errors import ConfigError
from preprocess.cli import main
from preprocess.export.format import export
from support.keypoint_runs import MadeItems, made_samples, make_run, retry_made

CORPUS = MadeItems({"train": 7, "dev": 3})
EXCLUDED = ("train/v0", "train/v3", "train/v6", "dev/v1")  # of which v3 failed, and v6 is of a retry


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    make_run(folder, CORPUS, failed=("train/v3", "train/v6"))
    retry_made(folder, failed=("train/v3",))
    return folder


@pytest.fixture
def flagged(tmp_path: Path) -> Path:
    path = tmp_path / "flagged.txt"
    path.write_text("\n".join(EXCLUDED))
    return path


def statistics_of(path: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(path.read_text())
    return described


def test_samples_of_a_list_are_left_out_and_counted(
    folder: Path, flagged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "out"
    assert main(["export", str(folder), "--format", "jsonl", "--exclude", str(flagged), "--dest", str(dest)]) == 0
    kept = {split: made_samples(CORPUS, split, failed=EXCLUDED) for split in ("train", "dev")}
    for split, samples in kept.items():
        lines = (dest / f"{split}.jsonl").read_text().splitlines()
        assert [json.loads(line)["key"] for line in lines] == [sample.key for sample in samples]
        described = statistics_of(dest / f"{split}_statistics.json")
        assert described["videos"] == len(samples)
        assert described["frames"] == sum(len(sample.keypoints) for sample in samples)
    counted = ("planned", "committed", "excluded", "failed", "not_done")
    described = statistics_of(dest / "train_statistics.json")
    assert [described[name] for name in counted] == [7, 6, 2, 1, 0]


@pytest.mark.parametrize("format", ["parquet", "phoenix-npz", "phoenix-pickle"])
@pytest.mark.parametrize(
    "selection", [{"exclude": EXCLUDED}, {"where": f"not key in {list(EXCLUDED)}"}], ids=["exclude", "where"]
)
def test_the_rest_is_what_a_run_without_these_items_exports(
    folder: Path, tmp_path: Path, selection: dict[str, Any], format: str
) -> None:
    make_run(tmp_path / "rest", CORPUS, failed=EXCLUDED)
    left_out = export(folder, format, tmp_path / "out", **selection)
    rest = export(tmp_path / "rest", format, tmp_path / "expected")
    assert [path.name for path in left_out] == [path.name for path in rest]
    for path, expected in zip(left_out, rest, strict=True):
        if path.suffix == ".parquet":
            assert pq.read_table(path).equals(pq.read_table(expected))
        elif path.suffix == ".npz":
            arrays, others = np.load(path, allow_pickle=False), np.load(expected, allow_pickle=False)
            assert arrays.files == others.files
            assert all(np.array_equal(arrays[name], others[name]) for name in arrays.files)
        elif path.suffix != ".json":
            assert path.read_bytes() == expected.read_bytes()


def test_samples_that_meet_a_condition_are_written_and_counted(
    folder: Path, flagged: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dest = tmp_path / "out"
    where = "num_frames > 2 or num_frames == 2 and decoder != 'pyav'"  # images have no decoder
    selection = ["--where", where, "--exclude", str(flagged)]
    with caplog.at_level(logging.WARNING):
        assert main(["export", str(folder), "--format", "jsonl", *selection, "--dest", str(dest)]) == 0
    assert caplog.messages == [f"where={where!r} leaves out 2 samples that lack a value which it compares"]
    lines = (dest / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["train/v2"]
    described = statistics_of(dest / "train_statistics.json")
    assert [described[name] for name in ("videos", "frames", "committed", "excluded")] == [1, 3, 6, 5]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("num_frame > 1", "names 'num_frame', which is not recorded. The columns are key, status, "),
        ("presence > 1", "the metrics of these samples are pose_rate, face_rate, "),
        ("num_frames >", "is not a condition: "),
    ],
)
def test_a_wrong_condition_is_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str, message: str
) -> None:
    dest = tmp_path / "out"
    assert main(["export", str(folder), "--format", "parquet", "--where", where, "--dest", str(dest)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not dest.exists()


def test_a_split_of_which_nothing_is_left_is_exported_empty(folder: Path, tmp_path: Path) -> None:
    [_, dev] = export(folder, "parquet", tmp_path / "out", [item.key for item in CORPUS.items() if item.split == "dev"])
    assert pq.read_table(dev).num_rows == 0
    described = json.loads(pq.read_metadata(dev).metadata[b"statistics"])
    assert [described[name] for name in ("videos", "frames", "excluded")] == [0, 0, 3]


def test_a_list_of_all_samples_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no samples but those that --exclude or --where leaves out"):
        export(folder, "parquet", tmp_path / "out", [item.key for item in CORPUS.items()])
    with pytest.raises(ConfigError, match="has no samples but those that --exclude or --where leaves out"):
        export(folder, "parquet", tmp_path / "out", where="num_frames > 4")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train/v99\n", "names a key that is not in"),
        ("\n", "is empty. Give a text file with one key per line"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_list_is_refused_in_one_line(
    folder: Path, flagged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    flagged.unlink() if content is None else flagged.write_text(content)
    dest = tmp_path / "out"
    assert main(["export", str(folder), "--format", "parquet", "--exclude", str(flagged), "--dest", str(dest)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert str(flagged) in line
    assert not dest.exists()


def test_a_list_in_a_bucket_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = ["export", str(folder), "--format", "parquet", "--exclude", "s3://b/flagged.txt", "--dest", str(tmp_path)]
    assert main(export) == 2
    assert "s3://b/flagged.txt is a URL. Give a path on this machine" in capsys.readouterr().err
