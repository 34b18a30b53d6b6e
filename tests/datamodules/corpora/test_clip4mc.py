import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpora.clip4mc import Clip4MC
from datamodules.corpora.pairs import Split
from datamodules.corpus import Item
from datamodules.errors import CorpusError

NEWER = ("transcript", "begin_time", "end_time")
OLDER = ("transcript clip", "begin position", "end position")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    for name in ("v1.mp4", "v 2.mp4", "ü.mp4"):
        (tmp_path / "clips" / name).write_bytes(b"x" * len(name))
    return tmp_path / "clips"


def row(
    vid: Any = "v1",
    clip_path: Any = "/data/elsewhere/v1.mp4",
    spelling: Any = NEWER,
    transcript: Any = "dig down",
    begin: Any = 12.0,
    end: Any = 20.5,
) -> dict[str, Any]:
    texts = dict(zip(spelling, (transcript, begin, end), strict=True))
    return {"vid": vid, "clip_path": clip_path, **texts, "duration": 8.5, "size": [0.1, 0.25], "noise": 1}


def corpus(clips: Path, rows: Any, **arguments: Any) -> Clip4MC:
    path = clips.parent / "train_pairs.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return Clip4MC(str(path), str(clips), **arguments)


def problem(items: Iterable[Item]) -> str:
    """Return the problem of the last of `items`; no other item may have one."""
    *good, bad = items
    assert all(item.problem is None for item in good)
    assert bad.problem is not None
    return bad.problem


@pytest.mark.parametrize("spelling", [NEWER, OLDER])
def test_older_and_newer_keys_give_the_same_items(clips: Path, spelling: tuple[str, str, str]) -> None:
    [item] = corpus(clips, [row(spelling=spelling)]).items()
    assert (item.key, item.split, item.path, item.cost) == ("v1", "train", "v1.mp4", 6)
    assert (item.start_seconds, item.stop_seconds) == (None, None)
    assert item.meta == {
        "vid": "v1", "text": "dig down", "begin_time": 12.0, "end_time": 20.5, "duration": 8.5,
        "size": [0.1, 0.25],
    }  # fmt: skip


def test_rows_may_mix_older_and_newer_keys_and_the_newer_wins(clips: Path) -> None:
    rows = [row(), row("v2", spelling=OLDER), {**row("v3"), "transcript clip": "older"}]
    assert [item.meta["text"] for item in corpus(clips, rows).items()] == ["dig down"] * 3


def test_fields_that_a_row_lacks_are_null(clips: Path) -> None:
    [item] = corpus(clips, [{"vid": 7, "clip_path": "v1.mp4", "transcript": "x"}]).items()
    assert item.meta == {
        "vid": "7", "text": "x", "begin_time": None, "end_time": None, "duration": None, "size": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("clip_path", "path"),
    [
        ("v1.mp4", "v1.mp4"),
        ("../../v 2.mp4", "v 2.mp4"),
        ("D:\\clips\\ü.mp4", "ü.mp4"),
        ("D:\\clips/v1.mp4", "v1.mp4"),
        ("/data/a\\v 2.mp4", "v 2.mp4"),
    ],
)
def test_only_the_file_name_of_a_clip_path_is_used(clips: Path, clip_path: str, path: str) -> None:
    [item] = corpus(clips, [row(clip_path=clip_path)]).items()
    assert item.path == path
    assert item.cost == (clips / path).stat().st_size


@pytest.mark.parametrize("clip_path", ["clips/", "clips\\", "a/.."])
def test_a_clip_path_without_a_file_name_fails(clips: Path, clip_path: str) -> None:
    assert re.search(
        r"train_pairs\.json, row 1: '(\.\.)?' (names no video|leads out)",
        problem(corpus(clips, [row(clip_path=clip_path)]).items()),
    )


@pytest.mark.parametrize("spelling", [NEWER, OLDER])
def test_of_whole_videos_the_part_is_taken(clips: Path, spelling: tuple[str, str, str]) -> None:
    [item] = corpus(clips, [row(spelling=spelling)], whole_videos=True).items()
    assert (item.start_seconds, item.stop_seconds) == (12.0, 20.5)


def test_times_are_checked_only_for_whole_videos(clips: Path) -> None:
    rows = [row(begin=5, end=5)]
    assert [item.meta["end_time"] for item in corpus(clips, rows).items()] == [5]
    assert re.search(
        "row 1: end_time = 5 is not after begin_time = 5", problem(corpus(clips, rows, whole_videos=True).items())
    )


def test_numbered_rows_may_share_a_vid(clips: Path) -> None:
    items = list(corpus(clips, [row(), row()], numbered=True).items())
    assert [(item.key, item.meta["vid"]) for item in items] == [("00000001", "v1"), ("00000002", "v1")]


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("vid", [None, "", 1.5, ["v1"]])
def test_a_vid_that_is_neither_text_nor_a_whole_number_fails(
    clips: Path, vid: str | float | list[str] | None, numbered: bool
) -> None:
    assert re.search(
        r"train_pairs\.json, row 2: 'vid' is .*: give text or a whole number",
        problem(corpus(clips, [row(), row(vid)], numbered=numbered).items()),
    )


def test_numbered_rows_need_a_vid_too(clips: Path) -> None:
    assert re.search(
        r"train_pairs\.json, row 1: 'vid' is None",
        problem(corpus(clips, [{"clip_path": "v1.mp4", "transcript": "x"}], numbered=True).items()),
    )


@pytest.mark.parametrize("key", ["vid", "clip_path", "transcript"])
def test_a_row_without_a_required_key_fails(clips: Path, key: str) -> None:
    incomplete = {name: value for name, value in row().items() if name != key}
    assert re.search(
        rf"train_pairs\.json, row 2: it has no '{key}', but ", problem(corpus(clips, [row(), incomplete]).items())
    )


def test_a_split_is_drawn_by_vid(clips: Path) -> None:
    split = Split("fraction", {"train": 0.5, "test": 0.5}, seed=1)
    items = corpus(clips, [row(f"v{number}") for number in range(50)], split=split).items()
    assert all(item.split == split.of(item.key, {}) for item in items)


def test_a_missing_folder_is_named_by_its_option(clips: Path, tmp_path: Path) -> None:
    clip_corpus = corpus(clips, [row()])
    clip_corpus.root = str(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"--data\.clips_dir .*nowhere is not a folder"):
        list(clip_corpus.items())
    clip_corpus.root = str(tmp_path)
    with pytest.raises(CorpusError, match=r"none of the 1 files of .*is in --data\.clips_dir"):
        list(clip_corpus.items())
