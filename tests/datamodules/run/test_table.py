import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.lib import Table

from datamodules.run.table import TABLE_SCHEMA, read_table

ROW = {
    "key": "a", "status": "ok", "attempts": 1, "num_frames": 2, "seconds": 0.5, "tar_offset": 0, "tar_bytes": 2048,
    "metrics": [("face_rate", 0.5), ("pose_rate", 1.0)],
}  # fmt: skip
KEYS = pa.array(["a", "b"])
TABLE = pa.Table.from_pylist([ROW, ROW | {"key": "b", "tar_offset": 2048}], TABLE_SCHEMA)


def written(table: pa.Table, **options: Any) -> Any:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file


def changed(name: str, values: Any) -> pa.Table:
    kind = TABLE_SCHEMA.field(name).type if name == "metrics" else None
    return TABLE.set_column(TABLE.schema.get_field_index(name), name, pa.array(values, kind))


def test_a_table_is_read_whole_or_in_columns_and_old_ones_have_no_device_and_no_metrics() -> None:
    assert read_table(written(TABLE), KEYS).equals(TABLE)
    assert read_table(written(TABLE), KEYS, ["status", "tar_bytes"]).equals(TABLE.select(["status", "tar_bytes"]))
    old = read_table(written(TABLE.drop_columns(["device", "metrics"])), KEYS, ["metrics", "device", "key"])
    assert old.to_pylist() == [
        {"metrics": None, "device": None, "key": "a"},
        {"metrics": None, "device": None, "key": "b"},
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed("key", ["../x", "b"]), "its keys are not those of the plan"),
        (changed("key", ["b", "a"]), "its keys are not those of the plan"),
        (changed("key", [None, "b"]), "its keys are not those of the plan"),
        (changed("key", [1, 2]), "column key is missing, or is not of string"),
        (TABLE.slice(0, 1), "it has 1 rows, but the plan has 2"),
        (TABLE.drop_columns("status"), "column status is missing"),
        (changed("status", [None, "ok"]), "column status has nulls"),
        (changed("tar_offset", [-1, 0]), "column tar_offset has a negative number"),
        (changed("tar_offset", ["0", "1"]), "column tar_offset is missing, or is not of int64"),
        (changed("num_frames", [None, 1]), "column num_frames has nulls"),
        (changed("seconds", [float("nan"), 1.0]), "column seconds has a number that is not finite"),
        (changed("metrics", [[("x", float("inf"))], []]), "column metrics has a number that is not finite"),
        (changed("supersedes", ["../x", None]), "is not the name of a shard"),
        (changed("reason", ["x" * (4 << 20), None]), "the limit is 1,048,576 per row"),
    ],
)
def test_an_invalid_table_is_refused(table: Table, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(written(table), KEYS)


def test_bytes_that_are_not_parquet_are_refused() -> None:
    content = written(TABLE).getvalue()
    for damaged in (b"", b"PAR1", content[:-10], content[:200] + bytes(100) + content[300:]):
        with pytest.raises(ValueError, match=r"\w"):
            read_table(io.BytesIO(damaged), KEYS)
