"""The CLIP4MC export opens in CLIP4MC's own reader, whose arithmetic is written out here."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.errors import ConfigError, RunError
from preprocess.export.format import export
from support.clip_runs import REASON, ClipItems, made_clip, make_clip_run
from support.keypoint_runs import MadeItems, make_run
from support.runs import Listed

SIZES = [0.25, 0.5]
CORPUS = ClipItems({"train": 3, "dev": 2, "test": 1}, size=SIZES)


def as_their_reader_does(index: Path, split: str, number: int) -> tuple[Any, Any, Any]:
    """(tokens, sizes, [16, 3, H, W]) of `load_processed_data_new`, PKU-RL/CLIP4MC."""
    folder = Path(json.loads(index.read_text())[split][number])
    tokens = pickle.loads((folder / "text_input.pkl").read_bytes())["tokens"]
    chosen = np.array(pickle.loads((folder / "video_input.pkl").read_bytes())).transpose(0, 3, 1, 2)
    k = chosen.shape[0] // 16
    return tokens, json.loads((folder / "size.json").read_text()), chosen[::k, ::-1, :, :]


@pytest.mark.parametrize("num_frames", [16, 32])
def test_their_reader_gives_back_rgb_tokens_and_sizes_of_every_sample(
    tmp_path: Path, num_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_clip_run(tmp_path / "run", CORPUS, num_frames=num_frames)
    index, *_ = export(tmp_path / "run", "clip4mc", tmp_path / "out")
    monkeypatch.chdir("/")
    for split, named in (("train", "train"), ("dev", "val"), ("test", "test")):
        items = [item for item in CORPUS.items() if item.split == split]
        assert len(json.loads(index.read_text())[named]) == len(items)
        for number, item in enumerate(items):
            tokens, sizes, video = as_their_reader_does(index, named, number)
            sample = made_clip(item, num_frames)
            assert (tokens.dtype, tokens.shape, video.dtype, len(video)) == (np.int64, (77,), np.uint8, 16)
            assert sample.tokens is not None
            np.testing.assert_array_equal(tokens, sample.tokens)
            np.testing.assert_array_equal(video, sample.frames[:: num_frames // 16].transpose(0, 3, 1, 2))
            assert sizes == SIZES


def test_folders_are_numbered_over_all_splits_and_no_vid_leads_out_of_them(tmp_path: Path) -> None:
    make_clip_run(tmp_path / "run", CORPUS)
    index, names_only, statistics = export(tmp_path / "run", "clip4mc", tmp_path / "out")
    names = [
        f"sample_{idx:06d}_..%2F{split}.%C3%A9%2F{number}"
        for idx, (split, number) in enumerate(
            zip(["train"] * 3 + ["dev"] * 2 + ["test"], [0, 1, 2, 0, 1, 0], strict=True)
        )
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    assert sorted(path.name for path in index.parent.iterdir()) == sorted(
        [*names, index.name, names_only.name, statistics.name]
    )
    listed = json.loads(index.read_text())
    assert list(listed) == ["train", "val", "test"]
    assert [*listed["train"], *listed["val"], *listed["test"]] == [str(tmp_path / "out" / name) for name in names]
    assert json.loads(names_only.read_text()) == {"train": names[:3], "val": names[3:5], "test": names[5:]}


def test_pickles_open_with_any_numpy(tmp_path: Path) -> None:
    make_clip_run(tmp_path / "run", ClipItems({"train": 1}, size=SIZES))
    index, *_ = export(tmp_path / "run", "clip4mc", tmp_path / "out")
    for path in index.parent.rglob("*.pkl"):
        assert b"numpy._core" not in path.read_bytes()


def test_a_vid_that_is_missing_or_long_gives_a_name_that_file_systems_take(tmp_path: Path) -> None:
    for name, vid in (("long", "ü" * 300), ("none", None)):
        make_clip_run(tmp_path / name, ClipItems({"train": 1}, vid=vid, size=SIZES))
    long, none = (export(tmp_path / name, "clip4mc", tmp_path / f"{name}-out")[0] for name in ("long", "none"))
    assert len(Path(json.loads(long.read_text())["train"][0]).name) == len("sample_000000_") + 200
    assert Path(json.loads(none.read_text())["train"][0]).name == "sample_000000_train%2Fv0"


def test_failed_items_are_in_the_statistics_and_nowhere_else(tmp_path: Path) -> None:
    make_clip_run(tmp_path / "run", CORPUS, failed=("train/v1", "test/v0"))
    index, _, statistics = export(tmp_path / "run", "clip4mc", tmp_path / "out")
    assert {split: len(result) for split, result in json.loads(index.read_text()).items()} == {
        "train": 2, "val": 2, "test": 0,
    }  # fmt: skip
    assert json.loads(statistics.read_text())["train"] == {
        "split": "train", "frames": 32, "videos": 2, "planned": 3, "committed": 2, "excluded": 0, "failed": 1,
        "not_done": 0, "failures": [{"key": "train/v1", "reason": REASON}],
    }  # fmt: skip


@pytest.mark.parametrize("num_frames", [8, 24])
def test_a_number_of_frames_that_their_reader_does_not_take_fails(tmp_path: Path, num_frames: int) -> None:
    make_clip_run(tmp_path / "run", CORPUS, num_frames=num_frames)
    with pytest.raises(ConfigError, match=rf"train/v0 has {num_frames} frames, .*run the pipeline with num_frames 16"):
        export(tmp_path / "run", "clip4mc", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_without_tokens_fails(tmp_path: Path) -> None:
    make_clip_run(tmp_path / "run", CORPUS, with_tokens=False)
    with pytest.raises(ConfigError, match=r"train/v0 has no tokens, .*run the pipeline with a tokenizer"):
        export(tmp_path / "run", "clip4mc", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("sizes", [None, [], [0.25], [0.25, 0.5, 1.0]])
def test_sizes_that_are_missing_or_differ_in_number_fail_before_anything_is_written(
    tmp_path: Path, sizes: list[float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = list(CORPUS.items())
    items[4] = replace(items[4], meta={**items[4].meta, "size": sizes})
    make_clip_run(tmp_path / "run", Listed(items))
    monkeypatch.setattr("preprocess.export.formats.clip4mc._write", None)
    result = f"{len(sizes)} sizes, and train/v0 has 2" if sizes else "no sizes"
    with pytest.raises(ConfigError, match=f"^dev/v1 has {result}: CLIP4MC's training needs as many for every sample"):
        export(tmp_path / "run", "clip4mc", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_samples_of_another_kind_fail(tmp_path: Path) -> None:
    make_run(tmp_path / "run", MadeItems({"train": 1}))
    with pytest.raises(RunError, match="holds KeypointSamples, but --format clip4mc needs ClipSamples"):
        export(tmp_path / "run", "clip4mc", tmp_path / "out")


@pytest.mark.parametrize("format", ["phoenix-npz", "phoenix-pickle"])
def test_clips_in_formats_of_keypoints_fail(tmp_path: Path, format: str) -> None:
    make_clip_run(tmp_path / "run", CORPUS)
    with pytest.raises(RunError, match=rf"holds ClipSamples, but --format {format} needs KeypointSamples: choose"):
        export(tmp_path / "run", format, tmp_path / "out")


def test_nothing_that_exists_is_replaced(tmp_path: Path) -> None:
    make_clip_run(tmp_path / "run", ClipItems({"train": 1}, size=SIZES))
    (tmp_path / "empty").mkdir()
    index, *_ = export(tmp_path / "run", "clip4mc", tmp_path / "empty")
    index.write_text("mine")
    (tmp_path / "file").write_text("mine")
    for target in ("empty", "file"):
        with pytest.raises(ConfigError, match=rf"--dest .*{target} exists, and is not replaced"):
            export(tmp_path / "run", "clip4mc", tmp_path / target)
    assert (index.read_text(), (tmp_path / "file").read_text()) == ("mine", "mine")


def test_a_damaged_shard_fails_and_leaves_no_folder(tmp_path: Path) -> None:
    make_clip_run(tmp_path / "run", CORPUS)
    with open(tmp_path / "run" / "test-000000.tar", "r+b") as tar:
        tar.truncate(512)
    with pytest.raises(RunError, match=r"test-000000\.tar"):
        export(tmp_path / "run", "clip4mc", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
