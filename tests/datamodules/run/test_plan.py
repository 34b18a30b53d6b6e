import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.corpus import Item
from datamodules.errors import ConfigError, CorpusError, RunError
from datamodules.run.plan import Plan, ShardSize
from datamodules.run.planning import discard_unfinished, write_plan
from datamodules.run.store import Folder
from support.plans import ALL_IN_ONE, ONE_EACH, files_of, plan_of, reseal, rewrite, with_column
from support.runs import FINGERPRINT, some_items

FOUR_EACH = ShardSize(max_items=4, min_shards=1)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def sizes(plan: Plan) -> list[int]:
    return [shard.num_items for shard in plan.shards]


def test_a_plan_records_where_the_corpus_lay(tmp_path: Path) -> None:
    write_plan(some_items(1), Folder(tmp_path), {"corpus": {}}, ONE_EACH, roots=["/data"])
    assert Plan(Folder(tmp_path)).roots == ["/data"]


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
    plan = plan_of(tmp_path, items, ALL_IN_ONE)
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
        assert plan_of(tmp_path / folder, listed).corpus_types == {"n": "float64", "tags": "list<string>"}


def test_ten_items_make_ten_shards(tmp_path: Path) -> None:
    assert sizes(plan_of(tmp_path, some_items(10), ShardSize())) == [1] * 10


@pytest.mark.parametrize("count", [255, 256, 257, 300, 511, 512, 700])
def test_there_are_min_shards_where_there_are_that_many_items(tmp_path: Path, count: int) -> None:
    plan = plan_of(tmp_path, some_items(count), ShardSize())
    assert len(plan.shards) >= min(count, 256)
    assert plan.num_items == count


def test_max_items_bounds_a_shard(tmp_path: Path) -> None:
    assert sizes(plan_of(tmp_path, some_items(11), FOUR_EACH)) == [4, 4, 3]


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
    assert plan_of(tmp_path, some_items(3, "plan")).num_items == 3


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
    listed = {"a": some_items(5), "b": some_items(5), "c": some_items(5)[::-1]}
    plans = [plan_of(tmp_path / name, items) for name, items in listed.items()]
    contents = [[path.read_bytes() for path in files_of(plan)] for plan in plans]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    assert plans[0].listing == plans[1].listing != plans[2].listing


def test_two_items_of_one_key_are_refused_with_both_paths(tmp_path: Path) -> None:
    items = [Item("a", "train", "a.mp4"), Item("b", "train", "b.mp4"), Item("a", "dev", "a.mkv")]
    with pytest.raises(CorpusError, match=r"key 'a': 'a\.mp4' and 'a\.mkv'"):
        plan_of(tmp_path, items)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Item("a.v1", "train", "a.v1.mp4"), "cannot be a key"),
        (Item("a", "tr-ain", "a.mp4"), "cannot name a split"),
    ],
)
def test_an_item_that_cannot_be_serialized_is_refused(tmp_path: Path, item: Item, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        plan_of(tmp_path, [item])
    assert files_in(tmp_path) == []


def test_a_file_name_that_is_not_utf_8_fails_its_item_and_is_shown(tmp_path: Path) -> None:
    items = [
        Item("a", "train", "ü/x\udcfc.mp4"),
        Item("b", "train", "ü", ("1.png", "\udcfc.png")),
        Item("c", "train", "half an emoji \ud83d.mp4"),
        Item("d", "train", "\udcc3\udcbc.mp4"),  # `ü.mp4` as Python reads it in the locale C
        Item("e", "train", "e\udcfc.mp4", problem="e\udcfc.mp4 is reversed"),
        Item("f", "train", "ü.mp4"),
    ]
    items_read = plan_of(tmp_path, items, ALL_IN_ONE).items(0)
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
        plan_of(tmp_path, items)
    write_plan(items, Folder(tmp_path), {**FINGERPRINT, "retry": {"classes": None}}, ONE_EACH, retry=1)
    assert Plan(Folder(tmp_path), 1).num_items == 2


def test_a_corpus_without_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="lists no items"):
        plan_of(tmp_path, [])


def test_a_listing_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Item]:
        yield from some_items(3)
        raise CorpusError("the mount went away")

    with pytest.raises(CorpusError, match="the mount went away"):
        plan_of(tmp_path, broken())
    assert files_in(tmp_path) == []


def test_an_existing_plan_is_not_replaced(tmp_path: Path) -> None:
    before = plan_of(tmp_path, some_items(3))
    with pytest.raises(FileExistsError):
        plan_of(tmp_path, some_items(4))
    assert "plan.arrow" in files_in(tmp_path)
    assert Plan(Folder(tmp_path)).listing == before.listing
    assert Plan(Folder(tmp_path)).keys(2) == before.keys(2)


def test_what_a_plan_left_that_was_not_created_is_discarded_once_it_exists(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, some_items(3))
    used = files_in(tmp_path)
    with pytest.raises(FileExistsError):
        plan_of(tmp_path, some_items(4))
    for folder, names in (
        ("", ("plan.0123456789abcdef.zst", "plan-001.0123456789abcdef.zst", "plan.backup.zst")),
        ("work/staging", ("plan.0123456789abcdef.zst", "plan-001.0123456789abcdef.zst", "train-000000.rank.tar")),
        ("work/planning/plan.arrow.ab", ("train",)),
        ("work/planning/plan-001.arrow.ab", ("train",)),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in names:
            (tmp_path / folder / name).write_text("left")
    discard_unfinished([plan])
    assert files_in(tmp_path) == sorted(
        [
            *used,
            *("plan-001.0123456789abcdef.zst", "plan.backup.zst", "work/planning/plan-001.arrow.ab/train"),
            *("work/staging/plan-001.0123456789abcdef.zst", "work/staging/train-000000.rank.tar"),
        ]
    )
    assert [key for number in range(3) for key in plan.keys(number)] == [item.key for item in some_items(3)]


def test_opening_a_plan_and_its_shards_touches_no_rows(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, some_items(6), FOUR_EACH)
    files_of(plan)[1].unlink()
    opened = Plan(Folder(tmp_path))
    assert ([shard.num_items for shard in opened.shards], opened.num_items) == ([4, 2], 6)
    assert [opened.place(position) for position in (0, 3, 4, 5)] == [(0, 0), (0, 3), (1, 0), (1, 1)]
    with pytest.raises(RunError, match=r"plan\.[0-9a-f]{16}\.zst cannot be read: No such file"):
        opened.keys(0)


def test_a_shard_is_read_though_the_others_are_damaged(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, some_items(3))
    path = files_of(plan)[1]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    assert [plan.keys(number) for number in (0, 1)] == [["train/item000"], ["train/item001"]]
    with pytest.raises(RunError, match=r"the content of shard 2 has changed \(sha256 differs\)"):
        plan.keys(2)


def test_a_plan_is_read_in_another_process(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, some_items(3))
    assert len(plan.shards) == plan.num_items == len(plan.keys(0) + plan.keys(1) + plan.keys(2))
    copy = pickle.loads(pickle.dumps(plan))
    assert (copy.fingerprint, copy.shards) == (plan.fingerprint, plan.shards)
    assert copy.items(1) == plan.items(1) == [some_items(3)[1]]


def test_items_with_many_frames_are_spread_over_more_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.run.listing._CHUNK_BYTES", 4_000)
    monkeypatch.setattr("datamodules.run.listing._FULL_BYTES", 20_000)
    items = [Item(f"k{i}", "train", "p", tuple(f"{number:04d}.png" for number in range(300))) for i in range(9)]
    plan = plan_of(tmp_path, items, ALL_IN_ONE)
    assert [item for shard in plan.shards for item in plan.items(shard.number)] == items
    assert all(plan.batch(shard.number).nbytes <= 20_000 for shard in plan.shards)
    assert len(plan.shards) < 9


def test_an_item_that_no_plan_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.run.plan_rows.MAX_SEGMENT_BYTES", 1000)
    frames = tuple(f"{number:04d}.png" for number in range(300))
    with pytest.raises(CorpusError, match=r"the item b has too many frames, or too much metadata: .*limit is 1,000"):
        plan_of(tmp_path, [Item("a", "train", "a.mp4"), Item("b", "train", "b", frames)])
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"text", lambda b: b[:100], lambda b: b[:-10]])
def test_a_damaged_plan_fails(tmp_path: Path, damage: Callable[..., Any]) -> None:
    for path in files_of(plan_of(tmp_path, some_items(3))):
        content = path.read_bytes()
        path.write_bytes(damage(content))
        with pytest.raises(RunError, match=r"damaged: .*has changed \(sha256 differs\)"):
            Plan(Folder(tmp_path)).require_intact()
        path.write_bytes(content)


def test_bytes_after_the_rows_are_damage(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, some_items(3))
    plan.require_intact()
    with open(files_of(plan)[1], "ab") as file:
        file.write(b"more")
    with pytest.raises(RunError, match="is damaged: 4 bytes follow its shards"):
        Plan(Folder(tmp_path)).require_intact()


def test_a_missing_plan_fails(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"plan\.arrow cannot be read: No such file"):
        Plan(Folder(tmp_path))


@pytest.mark.parametrize("limit", ["max_items", "max_bytes", "min_shards"])
def test_a_shard_size_below_one_fails(limit: str) -> None:
    with pytest.raises(ConfigError, match=f"shard size {limit} = 0: it must be 1 or more"):
        ShardSize(**{limit: 0})


def test_invalid_rows_are_refused_by_every_reader(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, some_items(2), ALL_IN_ONE)
    rewrite(plan, [with_column(plan.batch(0), "key", ["../x", "b"])])
    reads: list[Callable[[Plan], object]] = [
        lambda plan: plan.keys(0),
        lambda plan: plan.items(0),
        lambda plan: plan.item(0, 1),
        lambda plan: plan.batch(0),
    ]
    for read in reads:
        with pytest.raises(RunError, match=r"\.zst is damaged: shard 0: '\.\./x' cannot be a key"):
            read(Plan(Folder(tmp_path)))


@pytest.mark.parametrize("column", ["num_frames", "cost", "split"])
def test_rows_that_contradict_the_summary_are_refused(tmp_path: Path, column: str) -> None:
    plan = plan_of(tmp_path, some_items(2), ALL_IN_ONE)
    reseal(plan, {column: ["dev" if column == "split" else 7]})
    with pytest.raises(RunError, match=r"shard 0: it has 2 frames and 2 bytes of train, unlike in plan\.arrow"):
        Plan(Folder(tmp_path)).keys(0)


def test_items_whose_meta_is_no_json_object_are_refused(tmp_path: Path) -> None:
    for meta, message in (
        ("[1]", "its meta is not an object"),
        ("{", "Expecting"),
        ("[" * 100_000, "nested too deeply"),
        ('{"json_files": 5}', "its meta has the json_files 5"),
        ('{"json_files": [["a", null]]}', "its meta has the json_files"),
        ('{"json_files": [["a", -1, 2]]}', "its meta has the json_files"),
    ):
        plan = plan_of(tmp_path / str(len(os.listdir(tmp_path))), some_items(2), ALL_IN_ONE)
        rewrite(plan, [with_column(plan.batch(0), "meta", ["{}", meta])])
        assert Plan(plan.store).item(0, 0).meta == {}
        with pytest.raises(RunError, match=rf"item train/item001: .*{message}"):
            Plan(plan.store).items(0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_plan_with_any_other_bytes_is_read_or_refused(tmp_path: Path, changes: list[tuple[float, int]]) -> None:
    folder = Folder(tmp_path)
    plan = Plan(folder) if (tmp_path / "plan.arrow").exists() else plan_of(tmp_path, some_items(8), FOUR_EACH)
    for path in files_of(plan):
        content = path.read_bytes()
        changed = bytearray(content)
        for position, byte in changes:
            changed[int(position * len(changed))] = byte
        path.write_bytes(changed)
        with suppress(RunError) if changed != content else nullcontext():
            assert [item for number in (0, 1) for item in Plan(folder).items(number)] == some_items(8)
            assert changed == content
        path.write_bytes(content)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_summary_with_any_other_bytes_and_the_right_sha256_is_read_or_refused(
    tmp_path: Path, changes: list[tuple[float, int]]
) -> None:
    folder = Folder(tmp_path)
    plan = Plan(folder) if (tmp_path / "plan.arrow").exists() else plan_of(tmp_path, some_items(8), FOUR_EACH)
    path, _ = files_of(plan)
    content = path.read_bytes()
    changed = bytearray(content[:-32])
    for position, byte in changes:
        changed[int(position * len(changed))] = byte
    path.write_bytes(changed + hashlib.sha256(changed).digest())
    with suppress(RunError):
        opened = Plan(folder)
        assert all(opened.items(shard.number) for shard in opened.shards)
    path.write_bytes(content)
