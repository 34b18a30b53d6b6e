import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpora.videos import Videos
from datamodules.corpus import Corpus
from datamodules.errors import ConfigError, CorpusError, MissingError
from datamodules.loading.reading import frames_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MKV", "sub.v1/c d.webm", "sub.v1/notes.txt", ".hidden/e.mp4", "._a.mp4", "ü.mov"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return tmp_path / "videos"


def keys(corpus: Corpus) -> list[str]:
    return [item.key for item in corpus.items()]


def test_videos_of_a_folder_are_listed_by_name_with_their_size(root: Path) -> None:
    items = list(Videos(str(root), split="dev", fps=5.0).items())
    assert [item.key for item in items] == ["a", "b", "sub%2Ev1/c%20d", "ü"]
    assert [item.path for item in items] == ["a.MKV", "b.mp4", "sub.v1/c d.webm", "ü.mov"]
    assert [item.cost for item in items] == [5, 5, 15, 5]
    assert {(item.split, item.fps, item.frames) for item in items} == {("dev", 5.0, ())}
    assert items == list(Videos(str(root), split="dev", fps=5.0).items())


def test_max_items_limits_the_listing(root: Path) -> None:
    assert keys(Videos(str(root), max_items=2)) == ["a", "b"]


def test_links_to_videos_are_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.mp4").write_bytes(b"xyz")
    os.symlink(tmp_path / "elsewhere.mp4", root / "z.mp4")
    assert keys(Videos(str(root)))[-2:] == ["z", "ü"]


def test_listed_videos_come_in_the_order_of_the_list(root: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"ü.mov\n\n# b.mp4\n  ./b.mp4 \n{root}/a.MKV\n", encoding="utf-8")
    items = list(Videos(str(root), video_list=str(tmp_path / "list")).items())
    assert [item.path for item in items] == ["ü.mov", "b.mp4", "a.MKV"]
    assert [item.key for item in items] == ["ü", "b", "a"]


def test_an_absolute_path_elsewhere_stays_absolute(root: Path, tmp_path: Path) -> None:
    (tmp_path / "c.mp4").write_bytes(b"xyz")
    (tmp_path / "list").write_text(f"{tmp_path}/c.mp4\n")
    [item] = Videos(str(root), video_list=str(tmp_path / "list")).items()
    assert (item.path, item.key) == (f"{tmp_path}/c.mp4", f"{str(tmp_path).lstrip('/')}/c")


def test_a_list_with_a_byte_order_mark_is_read(root: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("b.mp4\n", encoding="utf-8-sig")
    assert keys(Videos(str(root), video_list=str(tmp_path / "list"))) == ["b"]


def test_a_missing_root_fails(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is not a folder"):
        keys(Videos(str(tmp_path / "nowhere")))


def test_an_empty_root_has_no_videos(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"has no videos, which are files .* \.3gp, .*\.wmv; skipped: nothing"):
        keys(Videos(str(tmp_path)))


def test_a_missing_list_fails(root: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"--data\.video_list .*nowhere cannot be read"):
        keys(Videos(str(root), video_list=str(tmp_path / "nowhere")))


def test_a_listed_name_that_is_not_utf8_is_listed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes("b.mp4\nü.mov".encode("latin-1"))
    assert keys(Videos(str(root), video_list=str(tmp_path / "list"))) == ["b", "%FC"]


@pytest.mark.parametrize("line", ["missing.mp4", "b.mp4/c.mp4"])
def test_a_listed_video_that_is_missing_is_an_item_that_fails_alone(root: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "list").write_text(f"{line}\nb.mp4\n")
    missing, existing = Videos(str(root), video_list=str(tmp_path / "list")).items()
    assert (missing.path, missing.cost, missing.modified) == (line, 0, None)
    assert (existing.path, existing.cost, existing.modified is None) == ("b.mp4", 5, False)
    with pytest.raises(MissingError, match=r"(missing|c)\.mp4 is missing"):
        next(frames_of(missing, str(root)))


@pytest.mark.parametrize("max_items", [None, 2])
def test_a_list_whose_videos_are_all_missing_fails(root: Path, tmp_path: Path, max_items: int | None) -> None:
    (tmp_path / "list").write_text("x.mp4\ny.mp4\nb.mp4\n"[: None if max_items else 12])
    corpus = Videos(str(root), video_list=str(tmp_path / "list"), max_items=max_items)
    with pytest.raises(CorpusError, match=r"none of the 2 files of .*list is in --data\.root .*right folder"):
        keys(corpus)


@pytest.mark.parametrize("again", ["b.mp4", "./b.mp4"])
def test_a_path_that_is_listed_twice_fails_with_both_lines(root: Path, tmp_path: Path, again: str) -> None:
    (tmp_path / "list").write_text(f"b.mp4\n\n# and again\n{again}\n")
    name = again.removeprefix("./")
    message = (
        rf"list, line 4: {name} has the key 'b%2Emp4', as .*line 1 has\. Remove one, or give each row a 'key', in a"
    )
    with pytest.raises(CorpusError, match=message):
        keys(Videos(str(root), video_list=str(tmp_path / "list")))


def test_a_listed_video_above_the_root_fails_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"x")
    (tmp_path / "list").write_text("../x.mp4\nb.mp4\n")
    bad, good = Videos(str(root), video_list=str(tmp_path / "list")).items()
    assert (bad.key, bad.path, good.key, good.problem) == ("%line-1", "../x.mp4", "b", None)
    assert "list, line 1: no key can be made" in (bad.problem or "")


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_an_invalid_rate_fails(root: Path, fps: float) -> None:
    with pytest.raises(ConfigError, match=r"--data\.fps .*: give a rate above 0"):
        Videos(str(root), fps=fps)


def test_an_illegal_split_fails(root: Path) -> None:
    with pytest.raises(CorpusError, match="cannot name a split"):
        keys(Videos(str(root), split="a-b"))


def listed(tmp_path: Path, *rows: Any, **options: Any) -> Videos:
    """Return a corpus over `list.jsonl` with these rows, and a blank line in front."""
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(["", *(row if isinstance(row, str) else json.dumps(row) for row in rows)]))
    return Videos(str(tmp_path / "videos"), video_list=str(path), **options)


def test_rows_have_prompts_keys_parts_and_meta(root: Path, tmp_path: Path) -> None:
    first = {"video": "./b.mp4", "prompt": "car. person.", "camera": {"id": 3}}
    part = {"video": "ü.mov", "key": "sub.v1/part 1", "start_seconds": 1.5, "stop_seconds": 2}
    items = list(listed(tmp_path, first, part, {**part, "key": 2, "stop_seconds": None}, fps=5.0).items())
    assert [item.key for item in items] == ["b", "sub%2Ev1/part%201", "2"]
    assert [item.path for item in items] == ["b.mp4", "ü.mov", "ü.mov"]
    assert [(item.start_seconds, item.stop_seconds) for item in items] == [(None, None), (1.5, 2.0), (1.5, None)]
    assert [item.meta for item in items] == [{"prompt": "car. person.", "camera": {"id": 3}}, {}, {}]
    assert {(item.fps, item.split) for item in items} == {(5.0, "train")}


def test_a_row_overrides_the_part_of_the_corpus(root: Path, tmp_path: Path) -> None:
    rows = [{"video": "b.mp4"}, {"video": "a.MKV", "start_seconds": 0, "stop_seconds": 3}]
    corpus = listed(tmp_path, *rows, start_seconds=1.0, stop_seconds=2.5)
    assert [(item.start_seconds, item.stop_seconds) for item in corpus.items()] == [(1.0, 2.5), (0.0, 3.0)]
    in_folder = Videos(str(root), start_seconds=1.0).items()
    assert {(item.start_seconds, item.stop_seconds) for item in in_folder} == {(1.0, None)}


BAD_ROWS = [
    ({"path": "b.mp4"}, "it has no 'video', but 'path'"),
    ({"video": 3}, "'video' is 3, and not text"),
    ({"video": ""}, "no key can be made"),
    ({"video": "../b.mp4"}, "no key can be made from the path '../b'"),
    ({"video": "b.mp4", "key": "../b"}, "no key can be made from the path '../b'"),
    ({"video": "b.mp4", "key": 1.5}, "'key' is 1.5: give text or a whole number"),
    ({"video": "b.mp4", "prompt": ["car"]}, r"'prompt' is \['car'\], and not text"),
    ({"video": "b.mp4", "start_seconds": -1}, "'start_seconds' is -1: give seconds from 0 on"),
    ({"video": "b.mp4", "start_seconds": 2, "stop_seconds": 2}, "stop_seconds = 2 is not after start_seconds = 2"),
    ({"video": "b.mp4", "stop_seconds": 0.5}, "stop_seconds = 0.5 is not after start_seconds = 1"),
    ('{"video": "b.mp4"', "malformed JSON"),
    ("b.mp4", "malformed JSON"),
]


@pytest.mark.parametrize(("bad", "match"), BAD_ROWS)
def test_an_invalid_row_fails_alone(root: Path, tmp_path: Path, bad: str | dict[str, Any], match: str) -> None:
    before, item, after = listed(tmp_path, {"video": "a.MKV"}, bad, {"video": "ü.mov"}, start_seconds=1.0).items()
    assert (before.problem, after.problem) == (None, None)
    assert re.search(rf"list\.jsonl, line 3: {match}", item.problem or "")
    assert item.key == ("b" if "'prompt'" in match or "_seconds" in match else "%line-3")


@pytest.mark.parametrize("keyed", [{}, {"key": "x"}])
def test_rows_with_the_same_key_fail_with_both_lines(root: Path, tmp_path: Path, keyed: dict[str, str]) -> None:
    rows = [{"video": "b.mp4", "prompt": prompt, **keyed} for prompt in ("car", "dog")]
    with pytest.raises(
        CorpusError, match=r"line 3: b\.mp4 has the key '(b%2Emp4|x)', as .* line 2 has\. .* or give each row a 'key'"
    ):
        keys(listed(tmp_path, *rows))


@pytest.mark.parametrize(
    ("part", "match"),
    [
        ({"start_seconds": -1.0}, r"--data\.start_seconds -1\.0: give seconds from 0 on"),
        ({"stop_seconds": float("nan")}, r"--data\.stop_seconds nan: give seconds from 0 on"),
        ({"stop_seconds": 0.0}, r"--data\.stop_seconds 0 is not after the start, 0"),
        ({"start_seconds": 3.0, "stop_seconds": 2.5}, r"--data\.stop_seconds 2\.5 is not after the start, 3"),
    ],
)
def test_an_invalid_part_fails(root: Path, part: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Videos(str(root), **part)
