"""The JSON Lines export: one line per sample, of any kind."""

import json
from pathlib import Path

import pytest

from datamodules.corpus import Item
from datamodules.errors import ConfigError, RunError
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from preprocess.export.format import export
from support.caption_runs import caption_items, made_caption, make_caption_run
from support.clip_runs import REASON, ClipItems, made_clip, make_clip_run
from support.keypoint_runs import MadeItems, made_samples, make_run
from support.runs import make_run as make_bare_run

CORPUS = ClipItems({"train": 3, "dev": 2})


def lines(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_each_line_is_a_key_and_the_json_of_its_sample(tmp_path: Path) -> None:
    make_clip_run(tmp_path / "run", CORPUS)
    written = export(tmp_path / "run", "jsonl", tmp_path / "out")
    names = ["train.jsonl", "train_statistics.json", "dev.jsonl", "dev_statistics.json"]
    assert [path.name for path in written] == names
    for split in ("train", "dev"):
        items = [item for item in CORPUS.items() if item.split == split]
        expected = [{"key": item.key, **made_clip(item).meta} for item in items]
        assert lines(tmp_path / "out" / f"{split}.jsonl") == expected
    text = (tmp_path / "out" / "train.jsonl").read_text("utf-8")
    assert text.startswith('{"key": "train/v0", ')
    assert "train.é" in text


def test_samples_of_any_kind_have_their_lines(tmp_path: Path) -> None:
    corpus = MadeItems({"train": 3})
    make_run(tmp_path / "run", corpus)
    path, _ = export(tmp_path / "run", "jsonl", tmp_path / "out")
    assert lines(path) == [{"key": sample.key, **sample.meta} for sample in made_samples(corpus, "train")]


def test_failed_items_are_in_the_statistics_and_nowhere_else(tmp_path: Path) -> None:
    make_clip_run(tmp_path / "run", CORPUS, failed=("train/v1", "dev/v0", "dev/v1"))
    train, described, dev, _ = export(tmp_path / "run", "jsonl", tmp_path / "out")
    assert [line["key"] for line in lines(train)] == ["train/v0", "train/v2"]  # type: ignore[index]
    assert dev.read_text() == ""
    found = json.loads(described.read_text())
    assert [found[name] for name in ("planned", "committed", "failed", "not_done", "frames")] == [3, 2, 1, 0, 32]
    assert found["failures"] == [{"key": "train/v1", "reason": REASON}]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"txt": b"a"}, "train/a has no json, which this format needs: it has txt"),
        ({"json": b"{"}, "train/a.json is not a JSON object"),
        ({"json": b"[1]"}, "train/a.json is not a JSON object"),
    ],
)
def test_a_sample_without_a_json_object_fails(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with Rank(make_bare_run(tmp_path / "run", [Item("train/a", "train", "a.mp4")])) as rank:
        opened = rank.lease()
        assert opened is not None
        rank.add(opened.shard.number, Result(0, num_frames=1), members)
    with pytest.raises(RunError, match=message):
        export(tmp_path / "run", "jsonl", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_existing_file_fails(tmp_path: Path) -> None:
    make_clip_run(tmp_path / "run", CORPUS)
    export(tmp_path / "run", "jsonl", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"train\.jsonl exists, and is not replaced"):
        export(tmp_path / "run", "jsonl", tmp_path / "out")


def test_captions_have_lines_with_their_text(tmp_path: Path) -> None:
    [item] = caption_items("sub/a.jpg")
    make_caption_run(tmp_path / "run", [item])
    path, _ = export(tmp_path / "run", "jsonl", tmp_path / "out")
    made = made_caption(item)
    assert lines(path) == [{"key": "sub/a", "caption": made.caption, **made.meta}]


def test_a_lone_surrogate_in_a_json_becomes_a_question_mark(tmp_path: Path) -> None:
    with Rank(make_bare_run(tmp_path / "run", 1)) as rank:
        opened = rank.lease()
        assert opened is not None
        rank.add(opened.shard.number, Result(0), {"json": rb'{"a": "\ud800\n"}'})
    path, _ = export(tmp_path / "run", "jsonl", tmp_path / "out")
    assert path.read_text("utf-8") == f'{{"key": "{opened.items[0].key}", "a": "?\\n"}}\n'
