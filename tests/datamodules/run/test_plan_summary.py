from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datamodules.errors import RunError
from datamodules.run.plan import Plan
from datamodules.run.planning import write_batches
from datamodules.run.store import Folder
from support.plans import files_of, plan_of, reseal
from support.runs import FINGERPRINT, some_items


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"columns": "key string"}, "it has other columns than the plans of this version"),
        ({"fingerprint": "{"}, "Expecting property name"),
        ({"fingerprint": "[1]"}, "its fingerprint is not an object"),
        ({"fingerprint": "[" * 100_000}, "nested too deeply"),
        ({"fingerprint": '{"a": ' + "[" * 900 + "]" * 900 + "}"}, "nested more than 200"),
        ({"fingerprint": '{"samples": [1]}'}, "samples of its fingerprint is not an object"),
        ({"fingerprint": '{"samples": {"class_path": 1}}'}, "where texts are required"),
        ({"fingerprint": '{"corpus": {"merged": 5}}'}, "merged of its fingerprint is not a list"),
        ({"fingerprint": b"\xff"}, "can't decode"),
        ({"fingerprint": None}, "has no 'fingerprint' in its metadata"),
        ({"listing": None}, "no 'listing' in its metadata"),
        ({"retry": "one"}, "invalid literal"),
        ({"retry": "1"}, r"does not say what it tries again \(retry.classes\)"),
        ({"retry": "1", "fingerprint": '{"retry": {}}'}, r"does not say what it tries again \(retry.classes\)"),
        ({"roots": "[1]"}, "where texts are required"),
        ({"roots": "{}"}, "where texts are required"),
        ({"corpus_types": '{"a": "list<list<int64>>"}'}, "is not the type of a field"),
        ({"digest": "../../../etc/pass"}, "is not the digest of a file"),
        ({"tried": "AAA="}, "it says of 16 items whether they are tried again, and has 1"),
        ({"tried": "?"}, "base64"),
    ],
)
def test_invalid_metadata_is_refused(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    reseal(plan_of(tmp_path, some_items(1)), **metadata)
    with pytest.raises(RunError, match=rf"plan\.arrow is no plan, or damaged: .*{message}.*\. Restore it from a copy"):
        Plan(Folder(tmp_path))


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ({"split": ["/tmp/x", "b"]}, "'/tmp/x' cannot name a split"),
        ({"split": [None, "b"]}, "split is null"),
        ({"num_items": [0, 1]}, "num_items of a shard is 0"),
        ({"num_items": [None, 1]}, "num_items is null"),
        ({"num_frames": [-1, 1]}, "num_frames of a shard is -1"),
        ({"cost": [-1, 1]}, "cost of a shard is -1"),
        ({"bytes": [0, 1]}, "bytes of a shard is 0"),
        ({"bytes": [1 << 60, 1]}, "bytes of a shard is 1,152,921,504,606,846,976"),
        ({"raw_bytes": [1 << 40, 1]}, "raw_bytes of a shard is 1,099,511,627,776"),
        ({"replaces": ["../../x", "train-000000"]}, ".* is not the name of a shard"),
        ({"replaces": ["train-000000", None]}, "it has 2 shards, which replace 1"),
        ({"replaces": ["train-000000", "train-000000"]}, "it has 2 shards, which replace 1"),
        ({"cost": pa.array(["a", "b"])}, "it has other columns than the plans of this version"),
        ({"extra": pa.array([1, 2])}, "it has other columns than the plans of this version"),
    ],
)
def test_shards_that_no_plan_has_are_refused(tmp_path: Path, shards: dict[str, Any], message: str) -> None:
    reseal(plan_of(tmp_path, some_items(2)), shards)
    with pytest.raises(RunError, match=rf"plan\.arrow is no plan, or damaged: {message}"):
        Plan(Folder(tmp_path))


def test_the_shards_of_a_split_follow_one_another(tmp_path: Path) -> None:
    reseal(plan_of(tmp_path, some_items(3)), {"split": ["a", "b", "a"]})
    with pytest.raises(RunError, match="the shards of the split a do not follow one another"):
        Plan(Folder(tmp_path))


def test_a_summary_without_shards_is_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, some_items(1))
    reseal(plan, {name: [] for name in pa.ipc.open_stream(files_of(plan)[0].read_bytes()).schema.names})
    with pytest.raises(RunError, match="it has no shards"):
        Plan(Folder(tmp_path))


def test_a_compressed_summary_is_refused_as_it_may_be_of_any_size(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, some_items(400))
    reseal(plan, {"sha256": [bytes(32)] * 400}, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    with pytest.raises(RunError, match="it is compressed"):
        Plan(Folder(tmp_path))


def test_a_summary_larger_than_any_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "plan.arrow", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RunError, match="it has 1,099,511,627,776 bytes; the limit is 268,435,456"):
        Plan(Folder(tmp_path))


def test_a_shard_takes_less_than_120_bytes_of_the_summary(tmp_path: Path) -> None:
    few, many = (files_of(plan_of(tmp_path / str(count), some_items(count)))[0] for count in (8, 208))
    assert many.stat().st_size - few.stat().st_size < 120 * 200


def test_the_shards_of_a_retry_name_those_that_they_replace(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, some_items(2))
    assert (plan.replaces, [shard.replaces for shard in plan.shards]) == ([], [None, None])
    write_batches(
        Folder(tmp_path),
        [plan.batch(0), plan.batch(1)],
        {**FINGERPRINT, "retry": {"classes": None}},
        "",
        retry=1,
        replaces=["train-000001", "train-000000"],
    )
    retry = Plan(Folder(tmp_path), 1)
    assert [shard.name for shard in retry.shards] == ["train-retry001-000000", "train-retry001-000001"]
    assert retry.replaces == [shard.replaces for shard in retry.shards] == ["train-000001", "train-000000"]
