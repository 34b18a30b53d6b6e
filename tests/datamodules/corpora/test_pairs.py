import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.corpora.pairs import Columns, Pairs, Split
from datamodules.corpus import Item
from datamodules.errors import ConfigError, CorpusError
from datamodules.run.plan import Plan, ShardSize
from datamodules.run.planning import write_plan
from datamodules.run.store import Folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b c.mp4", "sub/ü.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return tmp_path / "videos"


def row(name: Any, video: Any = "a.mp4", text: Any = "hello", **more: Any) -> dict[str, Any]:
    return {"id": name, "video": video, "text": text, **more}


def pairs(root: Path, rows: Any, **arguments: Any) -> Pairs:
    """Return the corpus of a JSON list of `rows` beside `root`."""
    path = root.parent / "pairs.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return Pairs(str(root), str(path), **arguments)


def fault(corpus: Pairs) -> tuple[Any, ...]:
    """Return (key, split, path, problem) of the corpus's last item; no other item may have a problem."""
    *good, bad = corpus.items()
    assert all(item.problem is None for item in good)
    return bad.key, bad.split, bad.path, bad.problem


def test_pairs_come_in_the_order_of_the_list_with_their_meta(root: Path) -> None:
    rows = [row("z", "b c.mp4", "grün", tags=["x", {"y": None}]), row("é/1.2", "sub/ü.mp4", "two")]
    items = list(pairs(root, rows).items())
    modified = [(root / name).stat().st_mtime for name in ("b c.mp4", "sub/ü.mp4")]
    assert items == [
        Item("z", "train", "b c.mp4", cost=7, modified=modified[0],
             meta={"text": "grün", "id": "z", "tags": ["x", {"y": None}]}),
        Item("é/1%2E2", "train", "sub/ü.mp4", cost=9, modified=modified[1],
             meta={"text": "two", "id": "é/1.2"}),
    ]  # fmt: skip
    assert items == list(pairs(root, rows).items())


def test_columns_are_found_by_their_configured_names(root: Path) -> None:
    (root.parent / "list.csv").write_text("clip,caption,key,from,to,x,y\na.mp4,hi,k,0.5,2,3,4\n")
    columns = Columns(video="clip", text="caption", id="key", start="from", stop="to", meta=["y", "to"])
    [item] = Pairs(str(root), str(root.parent / "list.csv"), columns).items()
    assert (item.key, item.path, item.start_seconds, item.stop_seconds) == ("k", "a.mp4", 0.5, 2.0)
    assert item.meta == {"text": "hi", "y": "4", "to": "2"}


def test_no_row_after_max_items_is_read(root: Path) -> None:
    rows = [row("a"), row("b"), "not reached"]
    assert [item.key for item in pairs(root, rows, max_items=2).items()] == ["a", "b"]


def test_a_whole_number_is_an_id(root: Path) -> None:
    assert [item.key for item in pairs(root, [row(12), row(0)]).items()] == ["12", "0"]


def test_without_ids_keys_are_the_numbers_of_the_rows(root: Path) -> None:
    corpus = pairs(
        root, [{"video": "a.mp4", "text": "one"}, {"video": "a.mp4", "text": "two"}], columns=Columns(id=None)
    )
    assert [(item.key, item.meta) for item in corpus.items()] == [
        ("00000001", {"text": "one"}), ("00000002", {"text": "two"})
    ]  # fmt: skip


def test_a_missing_video_is_listed_without_a_time(root: Path) -> None:
    items = list(pairs(root, [row("a"), row("gone", "gone.mp4"), row("in a file", "a.mp4/x.mp4")]).items())
    assert [(item.path, item.cost, item.modified) for item in items[1:]] == [
        ("gone.mp4", 0, None), ("a.mp4/x.mp4", 0, None)
    ]  # fmt: skip


def test_quotes_in_a_tsv_are_text_by_default(root: Path) -> None:
    path = root.parent / "list.tsv"
    path.write_text('id\tvideo\ttext\na\ta.mp4\t"So there.\nb\ta.mp4\tThat ought to do it."\n')
    items = list(Pairs(str(root), str(path)).items())
    assert [item.meta["text"] for item in items] == ['"So there.', 'That ought to do it."']
    with pytest.raises(CorpusError, match="has a line break"):
        list(Pairs(str(root), str(path), quoting="csv").items())
    with pytest.raises(ConfigError, match=r"--data\.quoting excel: choose from auto, none, csv"):
        Pairs(str(root), str(path), quoting="excel")  # type: ignore[arg-type]


def test_an_absolute_path_below_the_root_becomes_relative(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    paths = [f"{root}/sub/ü.mp4", f"{link}/b c.mp4", f"{root}/sub/../a.mp4"]
    for folder in (root, link):
        corpus = pairs(root, [row(str(i), path) for i, path in enumerate(paths)])
        corpus.root = str(folder)
        assert [item.path for item in corpus.items()] == ["sub/ü.mp4", "b c.mp4", "a.mp4"]


@pytest.mark.parametrize("text", ["", None, float("nan"), "nan", "NaN"])
def test_a_row_without_text_is_listed_with_an_empty_text(root: Path, text: str | float | None) -> None:
    [item] = pairs(root, [row("a", text=text)]).items()
    assert item.meta["text"] == ""


@pytest.mark.parametrize(("value", "seconds"), [(1.5, 1.5), ("00:01:02.5", 62.5), (None, None)])
def test_a_time_is_a_number_or_a_clock_time_or_none(
    root: Path, value: float | str | None, seconds: float | None
) -> None:
    [item] = pairs(root, [row("a", start=value)], columns=Columns(start="start")).items()
    assert (item.start_seconds, item.stop_seconds) == (seconds, None)


@pytest.mark.parametrize("value", [-1, "1_5"])
def test_an_invalid_time_fails_its_row_alone(root: Path, value: int | str) -> None:
    result = fault(pairs(root, [row("a", start=0), row("b", start=value)], columns=Columns(start="start")))
    assert result[0] == "b"
    assert re.search(rf"pairs\.json, row 2: 'start' is {value!r}: give seconds from 0 on", result[3])


@pytest.mark.parametrize(("start", "stop"), [(2, 2), (2, "1.5"), (None, 0)])
def test_a_part_that_stops_before_it_starts_fails(root: Path, start: int | None, stop: int | str) -> None:
    corpus = pairs(root, [row("a", t=start, u=stop)], columns=Columns(start="t", stop="u"))
    key, split, path, problem = fault(corpus)
    assert (key, split, path) == ("a", "train", "a.mp4")
    assert re.fullmatch(r".*pairs\.json, row 1: u = .* is not after (t =|the start,) .*", problem)


BAD_ROWS = [
    ({"id": "b", "video": "a.mp4"}, r"it has no 'text', but 'id', 'video': see --data\.columns"),
    (row(None), "'id' is None: give text or a whole number"),
    (row(""), "'id' is ''"),
    (row(1.5), "'id' is 1.5"),
    (row(True), "'id' is True"),
    (row("../b"), "no key can be made from the path '../b'"),
    (row("b", text=["hello"]), r"'text' is \['hello'\], and not text"),
    (row("b", video=None), "'video' is None, and not text"),
    (row("b", video=""), "'' names no video"),
    (row("b", video="../videos/a.mp4"), "'../videos/a.mp4' leads out of the folder"),
    (row("b", video="..\\a.mp4"), "leads out of the folder"),
    (row("b", video="sub/../../a.mp4"), "leads out of the folder"),
    (row("b", video="/etc/passwd"), "'/etc/passwd' leads out of the folder"),
    (row("b", video="C:\\a.mp4"), "leads out of the folder"),
    (row("b", video="a\0.mp4"), r"'a\\x00\.mp4' cannot be used as a path: .*null (byte|character)"),
    (row("b", video="a\ud800.mp4"), "cannot be used as a path: .*surrogates not allowed"),
    (row("b", video="a" * 256), "cannot be read: File name too long"),
    (row("b", **{"x\ud83d": 1}), r"its field 'x\\ud83d' has a lone surrogate in its name: rename it"),
]


@pytest.mark.parametrize(("bad", "match"), BAD_ROWS)
def test_an_invalid_row_fails_with_its_number_and_value(root: Path, bad: dict[str, Any], match: str) -> None:
    key, split, path, problem = fault(pairs(root, [row("a"), bad]))
    assert re.search(rf"pairs\.json, row 2: .*{match}", problem)
    assert (key, split) == ("b" if bad.get("id") == "b" and "text" in bad else "%row-2", "train")
    assert path == (bad["video"] if isinstance(bad["video"], str) else "")


def test_an_id_that_comes_twice_fails_when_planned(root: Path, tmp_path: Path) -> None:
    corpus = pairs(root, [row("a"), row("b"), row("a", "b c.mp4")])
    with pytest.raises(CorpusError, match=r"two items have the key 'a': 'a\.mp4' and 'b c\.mp4'"):
        write_plan(corpus.items(), Folder(tmp_path / "run"), {}, ShardSize())


def test_a_folder_without_any_listed_video_fails(root: Path, tmp_path: Path) -> None:
    corpus = pairs(root, [row("a"), row("b")])
    corpus.root = str(tmp_path)
    with pytest.raises(CorpusError, match=r"none of the 2 files of .*pairs\.json is in --data\.root .*right folder"):
        list(corpus.items())


def test_a_missing_folder_or_list_fails(root: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"--data\.pairs .*nowhere\.json cannot be read: No such file"):
        Pairs(str(root), str(tmp_path / "nowhere.json"))
    corpus = pairs(root, [row("a")])
    corpus.root = str(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"--data\.root .*nowhere is not a folder"):
        list(corpus.items())


def test_all_pairs_belong_to_train_by_default(root: Path) -> None:
    assert [item.split for item in pairs(root, [row("a", split="test")]).items()] == ["train"]


def test_the_split_is_read_from_a_column(root: Path) -> None:
    rows = [row("a", split="test"), row("b", split="train"), row("c", split=2)]
    items = list(pairs(root, rows, split=Split("column")).items())
    assert [item.split for item in items] == ["test", "train", "2"]
    assert items[0].meta == {"text": "hello", "id": "a", "split": "test"}


def test_the_split_column_of_a_parquet_file_is_read_even_if_it_is_not_meta(root: Path) -> None:
    table = pa.Table.from_pylist([row("a", split="test", jpg=b"\xff")])
    pq.write_table(table, root.parent / "list.parquet")
    [item] = Pairs(str(root), str(root.parent / "list.parquet"), Columns(meta=[]), Split("column")).items()
    assert (item.split, item.meta) == ("test", {"text": "hello"})


@pytest.mark.parametrize(("split", "match"), [("a-b", "'a-b' cannot name a split"), (None, "'split' is None")])
def test_an_illegal_split_fails_with_its_row(root: Path, split: str | None, match: str) -> None:
    result = fault(pairs(root, [row("b", split="test"), row("a", split=split)], split=Split("column")))
    assert result[:3] == ("a", "unknown", "a.mp4")
    assert re.search(rf"pairs\.json, row 2: {match}", result[3])


def test_a_row_without_the_column_of_the_split_fails(root: Path) -> None:
    result = fault(pairs(root, [row("a")], split=Split("column", column="part")))
    assert result[:3] == ("%row-1", "unknown", "a.mp4")
    assert "row 1: it has no 'part', but 'id', 'video', 'text': see --data.columns" in result[3]


def test_fractions_are_met_and_the_split_depends_on_seed_and_key_alone(root: Path) -> None:
    split = Split("fraction", {"train": 0.8, "val": 0.15, "test": 0.05, "none": 0.0}, seed=3)
    splits = {f"k{number}": split.of(f"k{number}", {}) for number in range(20_000)}
    counts = Counter(splits.values())
    assert set(counts) == {"train", "val", "test"}
    assert [round(counts[name] / 20_000, 2) for name in ("train", "val", "test")] == [0.80, 0.15, 0.05]
    rows = [row(name) for name in reversed(list(splits)[:300])]
    corpus = pairs(root, rows, split=Split("fraction", {"test": 0.05, "train": 0.8, "val": 0.15}, seed=3))
    listed = {item.key: item.split for item in corpus.items()}
    assert listed == {f"k{number}": splits[f"k{number}"] for number in range(300)}
    other = Split("fraction", split.fractions, seed=4)
    assert sum(other.of(key, {}) != name for key, name in splits.items()) > 2_000


def test_a_draw_is_the_same_on_every_machine() -> None:
    split = Split("fraction", {"a": 0.5, "b": 0.5})
    assert "".join(split.of(str(number), {}) for number in range(16)) == "abbbababbaaaabaa"


def test_splits_that_interleave_are_planned_shard_by_shard(root: Path, tmp_path: Path) -> None:
    rows = [row(f"k{number}", split="ab"[number % 2]) for number in range(6)]
    write_plan(pairs(root, rows, split=Split("column")).items(), Folder(tmp_path / "p"), {}, ShardSize(min_shards=1))
    plan = Plan(Folder(tmp_path / "p"))
    assert [(shard.name, plan.keys(shard.number)) for shard in plan.shards] == [
        ("a-000000", ["k0", "k2", "k4"]), ("b-000000", ["k1", "k3", "k5"])
    ]  # fmt: skip


def test_an_unknown_split_mode_fails() -> None:
    with pytest.raises(ConfigError, match=r"--data\.split\.mode random: choose from all_train, fraction, column"):
        Split("random")  # type: ignore[arg-type]


@pytest.mark.parametrize("fractions", [{}, {"train": 0.9}, {"a": 1.5, "b": -0.5}, {"a": float("nan"), "b": 1.0}])
def test_fractions_that_do_not_sum_to_1_fail(fractions: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"--data\.split\.fractions .*: give shares from 0 to 1 whose sum is 1"):
        Split("fraction", fractions)


def test_a_fraction_of_an_illegal_split_fails() -> None:
    with pytest.raises(ConfigError, match=r"--data\.split\.fractions .*'a-b' cannot name a split"):
        Split("fraction", {"a-b": 1.0})


def public(corpus: Pairs) -> dict[str, Any]:
    """Return the part of the fingerprint that describes the corpus, as it is written."""
    public: dict[str, Any] = json.loads(json.dumps({n: value for n, value in vars(corpus).items() if n[0] != "_"}))
    return public


def test_the_fingerprint_has_the_hash_of_the_list_and_not_its_path(root: Path, tmp_path: Path) -> None:
    corpus = pairs(root, [row("a")], columns=Columns(meta=["x"]), split=Split(seed=1))
    (tmp_path / "copy.json").write_bytes((tmp_path / "pairs.json").read_bytes())
    copy = Pairs(str(root), str(tmp_path / "copy.json"), Columns(meta=["x"]), Split(seed=1))
    assert public(copy) == public(corpus)
    assert public(corpus)["columns"]["meta"] == ["x"]
    assert public(corpus)["split"]["seed"] == 1
    assert public(pairs(root, [row("b")], columns=Columns(meta=["x"]), split=Split(seed=1))) != public(copy)


def test_a_column_named_text_besides_the_text_fails_its_row(root: Path) -> None:
    problem = fault(pairs(root, [{**row("a"), "caption": "hello"}], columns=Columns(text="caption")))[-1]
    assert problem.endswith("row 1: it has a 'text' besides the text 'caption': leave it out of columns.meta")
