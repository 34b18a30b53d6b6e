import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.corpus import Item
from datamodules.errors import ConfigError, CorpusError, RunError
from datamodules.run.plan import Plan, ShardSize
from datamodules.run.planning import write_plan
from support.runs import FINGERPRINT, some_items

ONE_EACH = ShardSize(max_items=1, min_shards=1)


def plan_of(folder: Path, items: Any, size: Any) -> Plan:
    write_plan(items, folder / "plan.arrow", FINGERPRINT, size)
    return Plan(folder / "plan.arrow")


def sizes(plan: Plan) -> list[int]:
    return [shard.num_items for shard in plan.shards]


def test_a_plan_records_where_the_corpus_lay_and_older_ones_had_it_in_their_fingerprint(tmp_path: Path) -> None:
    write_plan(some_items(1), tmp_path / "new", {"corpus": {}}, ONE_EACH, roots=["/data"])
    assert Plan(tmp_path / "new").roots == ["/data"]
    merged = {"merged": [{"init_args": {"root": "/a"}}, {"init_args": {"root": "/b"}}]}
    for corpus, roots in (({"init_args": {"root": "/a"}}, ["/a"]), (merged, ["/a", "/b"]), ({}, [])):
        plan_of(tmp_path, some_items(1), ONE_EACH)
        path = tmp_path / "plan.arrow"
        plan = pa.ipc.open_file(str(path)).read_all()
        kept = {k: v for k, v in plan.schema.metadata.items() if k != b"roots"}
        schema = plan.schema.with_metadata({**kept, b"fingerprint": json.dumps({"corpus": corpus})})
        with pa.ipc.new_file(str(tmp_path / "old"), schema) as writer:
            writer.write_table(plan)
        path.unlink()
        assert Plan(tmp_path / "old").roots == roots


def test_a_plan_reads_back_the_listed_items(tmp_path: Path) -> None:
    items = [
        Item(
            "train/a",
            "train",
            "videos/ä b.mp4",
            fps=12.5,
            cost=7,
            version='"e"',
            meta={"text": "Übermorgen 'x'", "n": [1, None]},
        ),
        Item("train/b", "train", "b", ("1.png", "2.png"), cost=1 << 40, meta={}, problem="it is reversed"),
    ]
    plan = plan_of(tmp_path, items, ShardSize(max_bytes=1 << 50, min_shards=1))
    assert plan.items(0) == items
    assert [plan.item(0, row) for row in (1, 0)] == [items[1], items[0]]
    assert plan.keys(0) == ["train/a", "train/b"]
    assert plan.fingerprint == FINGERPRINT
    [shard] = plan.shards
    assert (shard.name, shard.num_items, shard.num_frames, shard.cost) == ("train-000000", 2, 2, (1 << 40) + 7)


def test_the_fields_of_the_corpus_get_one_type_for_all_splits_whatever_the_order(tmp_path: Path) -> None:
    metas: list[dict[str, Any]] = [
        {"n": 1},
        {"n": 0.5, "tags": ["a"]},
        {"tags": [], "json_files": [["a.json", None, None]]},
    ]
    items = [Item(str(k), f"split{k}", "a", meta=meta) for k, meta in enumerate(metas)]
    for folder, listed in (("a", items), ("b", items[::-1])):
        assert plan_of(tmp_path / folder, listed, ONE_EACH).corpus_types == {"n": "float64", "tags": "list<string>"}


def test_ten_items_make_ten_shards(tmp_path: Path) -> None:
    assert sizes(plan_of(tmp_path, some_items(10), ShardSize())) == [1] * 10


@pytest.mark.parametrize("count", [255, 256, 257, 300, 511, 512, 700])
def test_there_are_min_shards_where_there_are_that_many_items(tmp_path: Path, count: int) -> None:
    plan = plan_of(tmp_path, some_items(count), ShardSize())
    assert len(plan.shards) >= min(count, 256)
    assert plan.num_items == count


def test_max_items_bounds_a_shard(tmp_path: Path) -> None:
    assert sizes(plan_of(tmp_path, some_items(11), ShardSize(max_items=4, min_shards=1))) == [4, 4, 3]


def test_max_bytes_bounds_a_shard_unless_one_item_alone_is_more(tmp_path: Path) -> None:
    costs = [5, 5, 5, 40, 1, 1, 9, 1]
    items = [Item(f"k{i}", "train", f"{i}.mp4", cost=cost) for i, cost in enumerate(costs)]
    plan = plan_of(tmp_path, items, ShardSize(max_bytes=10, min_shards=1))
    assert sizes(plan) == [2, 1, 1, 2, 2]
    assert [shard.cost for shard in plan.shards] == [10, 5, 40, 2, 10]


def test_items_of_no_known_cost_are_sized_by_count(tmp_path: Path) -> None:
    items = [Item(f"k{i}", "train", f"{i}.mp4") for i in range(5)]
    assert sizes(plan_of(tmp_path, items, ShardSize(max_items=3, min_shards=1))) == [3, 2]


def test_splits_that_come_interleaved_are_laid_out_one_after_another(tmp_path: Path) -> None:
    both = [item for pair in zip(some_items(5, "dev"), some_items(5, "train"), strict=True) for item in pair]
    plan = plan_of(tmp_path, iter(both), ShardSize(max_items=3, min_shards=1))
    names = ["dev-000000", "dev-000001", "train-000000", "train-000001"]
    assert [shard.name for shard in plan.shards] == names
    assert [shard.number for shard in plan.shards] == [0, 1, 2, 3]
    assert [key for number in range(4) for key in plan.keys(number)] == [
        item.key for item in some_items(5, "dev") + some_items(5, "train")
    ]


def test_a_split_may_be_named_plan(tmp_path: Path) -> None:
    assert plan_of(tmp_path, some_items(3, "plan"), ONE_EACH).num_items == 3


def test_listings_longer_than_what_is_buffered_keep_their_order(tmp_path: Path) -> None:
    items = [Item(f"k{i}", "train", f"{i}.mp4", cost=i % 7) for i in range(9000)]
    plan = plan_of(tmp_path, items, ShardSize(max_items=1000, min_shards=1))
    assert [key for shard in plan.shards for key in plan.keys(shard.number)] == [item.key for item in items]
    assert sum(shard.cost for shard in plan.shards) == sum(item.cost for item in items)


@settings(max_examples=25, deadline=None)
@given(
    costs=st.lists(st.integers(0, 50), min_size=1, max_size=60),
    size=st.builds(ShardSize, max_items=st.integers(1, 9), max_bytes=st.integers(1, 99), min_shards=st.integers(1, 20)),
)
def test_every_item_is_in_one_shard_and_no_shard_is_too_large(
    tmp_path_factory: pytest.TempPathFactory, costs: list[int], size: ShardSize
) -> None:
    items = [Item(f"k{i}", "train", f"{i}.mp4", cost=cost) for i, cost in enumerate(costs)]
    plan = plan_of(tmp_path_factory.mktemp("plan"), items, size)
    assert [key for shard in plan.shards for key in plan.keys(shard.number)] == [item.key for item in items]
    for shard in plan.shards:
        assert 1 <= shard.num_items <= size.max_items
        assert shard.num_items == 1 or shard.cost <= size.max_bytes
    assert len(plan.shards) >= min(size.min_shards, len(items))


def test_equal_listings_give_equal_plans_and_another_order_another(tmp_path: Path) -> None:
    plans = [tmp_path / name for name in ("a", "b", "c")]
    for path, items in zip(plans, (some_items(5), some_items(5), some_items(5)[::-1]), strict=True):
        write_plan(items, path, FINGERPRINT, ONE_EACH)
    assert plans[0].read_bytes() == plans[1].read_bytes()
    assert Plan(plans[0]).listing == Plan(plans[1]).listing != Plan(plans[2]).listing


def test_two_items_of_one_key_are_refused_with_both_paths(tmp_path: Path) -> None:
    items = [Item("a", "train", "a.mp4"), Item("b", "train", "b.mp4"), Item("a", "dev", "a.mkv")]
    with pytest.raises(CorpusError, match=r"key 'a': 'a\.mp4' and 'a\.mkv'"):
        plan_of(tmp_path, items, ONE_EACH)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Item("a.v1", "train", "a.v1.mp4"), "cannot be a key"),
        (Item("a", "tr-ain", "a.mp4"), "cannot name a split"),
    ],
)
def test_an_item_that_cannot_be_serialized_is_refused(tmp_path: Path, item: Item, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        plan_of(tmp_path, [item], ONE_EACH)
    assert os.listdir(tmp_path) == []


def test_a_file_name_that_is_not_utf_8_fails_its_item_and_is_shown(tmp_path: Path) -> None:
    items = [
        Item("a", "train", "ü/x\udcfc.mp4"),
        Item("b", "train", "ü", ("1.png", "\udcfc.png")),
        Item("c", "train", "half an emoji \ud83d.mp4"),
        Item("d", "train", "\udcc3\udcbc.mp4"),  # `ü.mp4` as Python reads it in the locale C
        Item("e", "train", "e\udcfc.mp4", problem="e\udcfc.mp4 is reversed"),
        Item("f", "train", "ü.mp4"),
    ]
    items_read = plan_of(tmp_path, items, ShardSize(min_shards=1)).items(0)
    rename = "is not UTF-8: rename the file"
    locale = f"in this locale, whose encoding is {sys.getfilesystemencoding()}: set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
    assert [(item.path, item.problem) for item in items_read] == [
        (r"ü/x\xfc.mp4", rf"the file name ü/x\xfc.mp4 {rename}"),
        ("ü", rf"the file name \xfc.png {rename}"),
        (r"half an emoji \ud83d.mp4", rf"the file name half an emoji \ud83d.mp4 {rename}"),
        ("ü.mp4", f"the file name ü.mp4 cannot be used {locale}"),
        (r"e\xfc.mp4", r"e\xfc.mp4 is reversed"),
        ("ü.mp4", None),
    ]
    assert items_read[1].frames == ("1.png", r"\xfc.png")


def test_a_corpus_without_usable_items_is_refused_except_in_a_retry(tmp_path: Path) -> None:
    items = [Item(key, "train", "a.mp4", problem=f"{key} is reversed") for key in "ab"]
    with pytest.raises(CorpusError, match="none of the 2 items of the corpus can be used; the first: a is reversed"):
        plan_of(tmp_path, items, ONE_EACH)
    write_plan(items, tmp_path / "plan-001.arrow", {**FINGERPRINT, "retry": {"classes": None}}, ONE_EACH, retry=1)
    assert Plan(tmp_path / "plan-001.arrow").num_items == 2


def test_a_corpus_without_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="lists no items"):
        plan_of(tmp_path, [], ONE_EACH)


def test_a_listing_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Item]:
        yield from some_items(3)
        raise CorpusError("the mount went away")

    with pytest.raises(CorpusError, match="the mount went away"):
        plan_of(tmp_path, broken(), ONE_EACH)
    assert os.listdir(tmp_path) == []


def test_an_existing_plan_is_not_replaced(tmp_path: Path) -> None:
    before = plan_of(tmp_path, some_items(3), ONE_EACH).listing
    with pytest.raises(FileExistsError):
        plan_of(tmp_path, some_items(4), ONE_EACH)
    assert os.listdir(tmp_path) == ["plan.arrow"]
    assert Plan(tmp_path / "plan.arrow").listing == before


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"text", lambda b: b[:100], lambda b: b[:-10]])
def test_a_damaged_plan_fails(tmp_path: Path, damage: Callable[..., Any]) -> None:
    write_plan(some_items(3), tmp_path / "plan.arrow", FINGERPRINT, ONE_EACH)
    (tmp_path / "cut").write_bytes(damage((tmp_path / "plan.arrow").read_bytes()))
    with pytest.raises(RunError, match="is no plan, or damaged"):
        Plan(tmp_path / "cut")


def test_a_missing_plan_fails(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"plan\.arrow is no plan"):
        Plan(tmp_path / "plan.arrow")


@pytest.mark.parametrize("limit", ["max_items", "max_bytes", "min_shards"])
def test_a_shard_size_below_one_fails(limit: str) -> None:
    with pytest.raises(ConfigError, match=f"shard size {limit} = 0: it must be 1 or more"):
        ShardSize(**{limit: 0})


def rewritten(path: Path, table: pa.Table = None, **metadata: Any) -> Path:
    """Replace the plan at `path` by one with `table` as its only shard, and with other values in its metadata."""
    plan = pa.ipc.open_file(str(path)).read_all()
    table = plan if table is None else table
    kept = {name.decode(): value for name, value in plan.schema.metadata.items()} | metadata
    schema = table.schema.with_metadata({name: value for name, value in kept.items() if value is not None})
    path.unlink()
    with pa.ipc.new_file(str(path), schema) as writer:
        for batch in table.cast(schema).combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema)]:
            writer.write_batch(batch)
    return path


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("key", ["../x", "b"], r"'\.\./x' cannot be a key"),
        ("key", ["/home/x/photo", "b"], "cannot be a key"),
        ("key", ["a/../../ü", "b"], "cannot be a key"),
        ("key", ["a\n", "b"], "cannot be a key"),
        ("key", ["", "b"], "cannot be a key"),
        ("key", [None, "b"], "key is null"),
        ("key", [1, 2], "column 'key' of int64"),
        ("split", ["/tmp/x", "/tmp/x"], "'/tmp/x' cannot name a split"),
        ("split", ["train", "dev"], "several splits"),
        ("path", [None, "b"], "path is null"),
        ("path", ["a\0", "b"], "the path of a file has a null character"),
        ("frames", [["a.png"], ["b", "c\0.png"]], "the path of a file has a null character"),
        ("frames", [["a.png"], None], "frames is null"),
        ("frames", [["a.png"], [None]], "a frame is null"),
        ("frames", ["a.png", "b.png"], "column 'frames' of string"),
        ("cost", [-1, 2], "negative number of bytes"),
        ("start_byte", [-1, None], "negative number of bytes"),
        ("fps", [float("nan"), None], "not finite"),
    ],
)
def test_invalid_rows_are_refused_by_every_reader(tmp_path: Path, column: str, values: list[Any], message: str) -> None:
    path = plan_of(tmp_path, some_items(2), ShardSize(min_shards=1)).path
    rewritten(path, with_column(pa.ipc.open_file(str(path)).read_all(), column, values))
    reads: list[Callable[[Plan], object]] = [
        lambda plan: plan.shards,
        lambda plan: plan.keys(0),
        lambda plan: plan.items(0),
        lambda plan: plan.batch(0),
    ]
    for read in reads:
        with pytest.raises(RunError, match=rf"plan\.arrow is .*damaged: .*{message}"):
            read(Plan(path))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"fingerprint": "{"}, "Expecting property name"),
        ({"fingerprint": "[1]"}, "its fingerprint is not an object"),
        ({"fingerprint": "[" * 100_000}, "nested too deeply"),
        ({"fingerprint": '{"a": ' + "[" * 900 + "]" * 900 + "}"}, "nested more than 200"),
        ({"fingerprint": '{"samples": [1]}'}, "samples of its fingerprint is not an object"),
        ({"fingerprint": '{"samples": {"class_path": 1}}'}, "where texts are required"),
        ({"fingerprint": '{"corpus": {"merged": 5}}'}, "merged of its fingerprint is not a list"),
        ({"fingerprint": '{"corpus": {"init_args": {"root": 5}}}', "roots": None}, "where texts are required"),
        ({"fingerprint": b"\xff"}, "can't decode"),
        ({"fingerprint": None}, "has no fingerprint"),
        ({"listing": None}, "no 'listing' in its metadata"),
        ({"retry": "one"}, "invalid literal"),
        ({"retry": "1"}, r"does not say what it tries again \(retry.classes\)"),
        ({"retry": "1", "fingerprint": '{"retry": {}}'}, r"does not say what it tries again \(retry.classes\)"),
        ({"replaces": '["../../x"]'}, "is not the name of a shard"),
        ({"replaces": "{}"}, "where texts are required"),
        ({"roots": "[1]"}, "where texts are required"),
        ({"corpus_types": '{"a": "list<list<int64>>"}'}, "is not the type of a field"),
    ],
)
def test_invalid_metadata_is_refused(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    path = rewritten(plan_of(tmp_path, some_items(1), ONE_EACH).path, **metadata)
    with pytest.raises(RunError, match=rf"plan\.arrow is no plan, or damaged: .*{message}"):
        Plan(path)


@pytest.mark.parametrize("replaces", ['["train-000000"]', '["train-000000", "train-000000"]'])
def test_a_plan_whose_shards_do_not_replace_one_each_is_refused(tmp_path: Path, replaces: str) -> None:
    path = plan_of(tmp_path, some_items(2), ONE_EACH).path
    batches = [pa.ipc.open_file(str(path)).get_batch(number) for number in (0, 1)]
    metadata = pa.ipc.open_file(str(path)).schema.metadata | {b"replaces": replaces.encode()}
    path.unlink()
    with pa.ipc.new_file(str(path), batches[0].schema.with_metadata(metadata)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    with pytest.raises(RunError, match="it has 2 shards, which replace 1"):
        _ = Plan(path).shards


def test_a_plan_with_an_empty_shard_or_the_same_shard_twice_is_refused(tmp_path: Path) -> None:
    path = plan_of(tmp_path, some_items(1), ONE_EACH).path
    empty = pa.ipc.open_file(str(path)).read_all().slice(0, 0)
    with pytest.raises(RunError, match="shard 0: it has no items"):
        _ = Plan(rewritten(path, empty)).shards
    apart = [*some_items(1, "a"), *some_items(1, "b")]
    write_plan(apart, tmp_path / "apart", FINGERPRINT, ONE_EACH)
    file = pa.ipc.open_file(str(tmp_path / "apart"))
    with pa.ipc.new_file(str(tmp_path / "mixed"), file.schema) as writer:
        for number in (0, 1, 0):
            writer.write_batch(file.get_batch(number))
    with pytest.raises(RunError, match="shards of the split a do not follow one another"):
        _ = Plan(tmp_path / "mixed").shards


def test_an_item_with_a_problem_may_have_a_path_that_no_file_has(tmp_path: Path) -> None:
    items = [*some_items(1), Item("a%00", "train", "a\0.mp4", problem="it cannot be used as a path")]
    assert [item.path for item in plan_of(tmp_path, items, ShardSize(min_shards=1)).items(0)][1] == "a\0.mp4"


def test_items_whose_meta_is_no_json_object_are_refused(tmp_path: Path) -> None:
    path = plan_of(tmp_path, some_items(2), ShardSize(min_shards=1)).path
    for meta, message in (
        ("[1]", "its meta is not an object"),
        ("{", "Expecting"),
        ("[" * 100_000, "nested too deeply"),
        ('{"json_files": 5}', "its meta has the json_files 5"),
        ('{"json_files": [["a", null]]}', "its meta has the json_files"),
        ('{"json_files": [["a", -1, 2]]}', "its meta has the json_files"),
    ):
        rewritten(path, with_column(pa.ipc.open_file(str(path)).read_all(), "meta", ["{}", meta]))
        assert Plan(path).item(0, 0).meta == {}
        with pytest.raises(RunError, match=rf"item train/item001: .*{message}"):
            Plan(path).items(0)


def test_plans_that_are_compressed_are_refused_as_they_may_be_of_any_size(tmp_path: Path) -> None:
    path = plan_of(tmp_path, [Item("a", "train", "a" * 100_000)], ONE_EACH).path
    plan = pa.ipc.open_file(str(path)).read_all()
    path.unlink()
    with pa.ipc.new_file(str(path), plan.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(plan)
    with pytest.raises(RunError, match="overlap or are compressed"):
        _ = Plan(path).shards


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_plan_with_any_other_bytes_is_read_or_refused(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    path = tmp_path / "plan.arrow"
    if not path.exists():
        write_plan(some_items(8), path, FINGERPRINT, ShardSize(max_items=4, min_shards=1))
    content = bytearray(path.read_bytes())
    for position, byte in changes:
        content[int(position * len(content))] = byte
    (tmp_path / "changed").write_bytes(content)
    with suppress(RunError):
        plan = Plan(tmp_path / "changed")
        assert [key for shard in plan.shards for key in plan.keys(shard.number)]
        assert [plan.items(shard.number) for shard in plan.shards]
