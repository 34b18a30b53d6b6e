import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from datamodules.corpus import Corpus, Item
from datamodules.errors import RunError
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from preprocess.report.find import find
from preprocess.report.view import view
from preprocess.terminal import Terminal
from support.clip_runs import ClipItems, made_clip, make_clip_run
from support.keypoint_runs import REASON, MadeItems, made_sample, make_run
from support.run_paths import folder_of
from support.spies import spied
from support.track_runs import make_track_run, write_videos


def shown(run: Run, key: str | None = None) -> list[list[str]]:
    """The words of each line that `view` prints."""
    console = Terminal(file=io.StringIO(), width=200)
    view(run, key, console)
    assert isinstance(console.file, io.StringIO)
    return [line.split() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Eight items in shards of two, of which the last is not committed; train/v1 failed."""
    return make_run(tmp_path / "run", MadeItems({"train": 5, "dev": 3}), failed=("train/v1",), max_shards=4)


class OneItem(Corpus):
    root = "/corpus"

    def items(self) -> Iterator[Item]:
        yield Item("train/a", "train", "a.mp4")


def run_of(folder: Path, members: dict[str, bytes]) -> Run:
    """A run of one sample that has these files."""
    run = open_or_plan(folder, OneItem(), {}, ShardSize())
    with Rank(run) as rank:
        opened = rank.lease()
        assert opened is not None
        rank.add(opened.shard.number, Result(0, num_frames=1), members)
    return run


def npy(values: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values), allow_pickle=False)
    return buffer.getvalue()


def test_run_shows_totals_of_each_split(run: Run) -> None:
    lines = shown(run)
    assert lines[1] == ["split", "shards", "items", "ok", "failed", "planned", "frames"]
    assert lines[2] == ["train", "3", "5", "4", "1", "0", str(1 + 3 + 4 + 1)]
    assert lines[3] == ["dev", "2", "3", "2", "0", "1", str(1 + 2)]


def test_run_shows_each_item_with_status_and_frames(run: Run) -> None:
    lines = shown(run)
    assert ["train/v0", "ok", "1"] in lines
    assert ["train/v1", "failed", "0", *REASON.split()] in lines
    assert ["dev/v2", "planned", "0"] in lines
    assert ["devices", "cpu", "(6", "samples)"] in lines
    assert ["num", "frames", "1", "to", "4,", "median", "1.5"] in lines
    assert len(lines) == 10 + 2 + 8  # nothing about more


def test_run_of_many_items_shows_twenty_and_how_many_more(tmp_path: Path) -> None:
    lines = shown(make_run(tmp_path / "run", MadeItems({"train": 1234}), max_shards=0))
    assert sum(line[1:2] == ["planned"] and line[0] != "split" for line in lines) == 20
    assert lines[-1] == ["…", "and", "1,214", "more"]


def test_key_shows_the_files_of_its_sample(run: Run) -> None:
    sample = made_sample(run.plan.item(*_place(run, "train/v3")))
    lines = shown(run, "train/v3")
    values = sample.keypoints
    assert ["frames", "4"] in lines
    assert ["source", "features/train/v3,", "4", "images"] in lines
    size = len(npy(values))
    span = [f"{values.min():.6g}", f"{values.max():.6g}"]
    assert ["keypoints.npy", f"{size:,}", "float32", "[4,", "143,", "3]", *span] in lines
    assert ['"glosses":', '"REGEN', 'MÖGLICH",'] in lines


def test_key_shows_the_detection_rate_of_each_part(run: Run) -> None:
    presence = made_sample(run.plan.item(*_place(run, "train/v3"))).presence
    [rates] = [" ".join(line) for line in shown(run, "train/v3") if line[:1] == ["presence"]]
    for part, column in zip(("pose", "face", "left_hand", "right_hand"), presence.T, strict=True):
        found = int(column.sum())
        assert f"{part.replace('_', ' ')} {25 * found} %" in rates


def test_key_of_a_failure_shows_its_reason(run: Run) -> None:
    lines = shown(run, "train/v1")
    assert ["status", "failed", "(decode)"] in lines
    assert ["reason", *REASON.split()] in lines


def test_key_of_an_open_shard_shows_that_it_is_planned(run: Run) -> None:
    assert ["status", "planned:", "its", "shard", "is", "not", "committed", "yet"] in shown(run, "dev/v2")


def test_files_of_any_kind_of_sample_are_shown(tmp_path: Path) -> None:
    document = {"boxes": list(range(30)), "few": [1, 2]}
    members = {
        "json": json.dumps(document).encode(),
        "jpg": b"123",
        "mask.npy": npy([[True], [False]]),
        "none.npy": npy(np.zeros((0, 4), np.int64)),
        "presence.npy": npy([1, 0]),
        "txt": b"a [bold]caption[/bold]",
    }
    lines = shown(run_of(tmp_path / "run", members), "train/a")
    assert ["jpg", "3"] in lines
    assert ["mask.npy", str(len(members["mask.npy"])), "bool", "[2,", "1]", "0", "1"] in lines
    assert ["none.npy", str(len(members["none.npy"])), "int64", "[0,", "4]", "–", "–"] in lines
    assert ["a", "[bold]caption[/bold]"] in lines
    assert ['"…', "30", "in", 'all"'] in lines
    assert [line[:2] for line in lines if "class" in line] == [["summary", "the"]]  # the plan names no kind


def test_key_of_a_clip_shows_its_frames_tokens_and_text(tmp_path: Path) -> None:
    run = make_clip_run(tmp_path / "run", ClipItems({"train": 2}))
    lines = shown(run, "train/v1")
    frames = made_clip(run.plan.item(0, 1)).frames
    size = ["uint8", "[16,", "16,", "24,", "3]", f"{frames.min()}", f"{frames.max()}"]
    assert ["frames.npy", f"{frames.nbytes + 128:,}", *size] in lines
    assert ["tokens.npy", "744", "int64", "[77]", "0", "518"] in lines
    assert ['"text":', '"milk', "the", "cow,", '1",'] in lines
    assert ['"…', "16", "in", 'all"'] in lines  # pts_seconds


def test_find_gives_shard_and_row(run: Run) -> None:
    assert [(find(run, key)[0].name, find(run, key)[1]) for key in ("train/v3", "dev/v2")] == [
        ("train-000001", 1),
        ("dev-000001", 0),
    ]


def test_unknown_key_fails_and_names_the_closest(run: Run) -> None:
    with pytest.raises(RunError, match=r"no item 'train/w3' among 8; closest: 'train/v3'"):
        view(run, "train/w3", Terminal())


def test_key_without_its_split_fails_and_names_those_that_contain_it(run: Run) -> None:
    with pytest.raises(RunError, match=r"no item 'v2' among 8; closest: 'train/v2', 'dev/v2'$"):
        view(run, "v2", Terminal())


def test_key_like_no_other_fails_and_names_one_of_the_run(run: Run) -> None:
    with pytest.raises(RunError, match=r"no item '%%%' among 8; closest: 'dev/v0'$"):
        view(run, "%%%", Terminal())


def test_sample_in_a_tar_cut_short_fails(run: Run) -> None:
    tar = folder_of(run) / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(RunError, match=r"train-000001.tar cannot be read at byte \d+: .*; run `preprocess verify`"):
        view(run, "train/v2", Terminal())


def test_a_run_with_a_damaged_sample_is_still_listed(run: Run) -> None:
    tar = folder_of(run) / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    lines = shown(run)
    assert [line for line in lines if line[:1] == ["summary"] and "train-000001.tar" in line[1]]
    assert ["train/v2", "ok", "3"] in lines


def test_damaged_table_fails(run: Run) -> None:
    (folder_of(run) / "tables" / "train-000000.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(RunError, match=r"train-000000.parquet cannot be read: .*; run `preprocess verify`"):
        view(run, None, Terminal())


@pytest.mark.parametrize("members", [{"a.npy": b"\x93NUMPY"}, {"a.npy": b""}, {"json": b"{"}, {"json": b"[" * 99_999}])
def test_damaged_file_of_a_sample_fails(tmp_path: Path, members: dict[str, bytes]) -> None:
    run = run_of(tmp_path / "run", members)
    with pytest.raises(RunError, match=r"train/a\.(a\.npy|json) is damaged: .*; run `preprocess verify`"):
        view(run, "train/a", Terminal())


def test_view_loads_neither_torch_nor_lightning() -> None:
    kinds = ", ".join(f"datamodules.samples.{kind}" for kind in ("keypoints", "clips", "captions", "pose", "tracks"))
    heavy = "{'torch', 'lightning', 'cv2', 'av', 'pandas', 'transformers'}"
    code = f"import sys, preprocess.report.view, {kinds}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _place(run: Run, key: str) -> tuple[int, int]:
    shard, row = find(run, key)
    return shard.number, row


def test_a_sample_of_tracks_is_shown_without_its_lines_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_videos(tmp_path / "videos", "train/a", num_frames=150)
    run = make_track_run(tmp_path / "run", corpus)
    [item] = corpus.items()
    files = corpus.sample(item).files
    sizes: list[int] = []
    monkeypatch.setattr(os, "pread", spied(os.pread, lambda _, num_bytes, *__: sizes.append(num_bytes)))
    lines = shown(run, "train/a")
    assert ["tracks.jsonl", f"{len(files['tracks.jsonl']):,}"] in lines  # type: ignore[arg-type]
    num_boxes = len(corpus.sample(item).array("obj_ids.npy"))
    assert ["obj_ids.npy", f"{128 + 4 * num_boxes:,}", "int32", f"[{num_boxes}]", "1", "2"] in lines
    assert 0 < sum(sizes) < len(files["tracks.jsonl"])  # type: ignore[arg-type]
