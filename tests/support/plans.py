"""Plans for tests, also such as no planner writes, whose digests are right."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from datamodules.corpus import Item
from datamodules.run.plan import Plan, ShardSize
from datamodules.run.plan_part import rows_name
from datamodules.run.plan_rows import pack
from datamodules.run.planning import write_plan
from datamodules.run.store import Folder
from support.runs import FINGERPRINT

ONE_EACH = ShardSize(max_items=1, min_shards=1)
ALL_IN_ONE = ShardSize(max_bytes=1 << 50, min_shards=1)


def plan_of(folder: Path, items: Iterable[Item], size: ShardSize = ONE_EACH) -> Plan:
    """Plan `items` in a new run folder."""
    write_plan(items, Folder(folder), FINGERPRINT, size)
    return Plan(Folder(folder))


def files_of(plan: Plan) -> tuple[Path, Path]:
    """Return the paths of a plan's summary and of its rows."""
    return Path(plan.location), Path(plan.store.locate(plan.rows_name))


def with_column(batch: Any, name: str, values: Sequence[Any]) -> Any:
    """Return a record batch with other values in the column `name`."""
    return batch.set_column(batch.schema.get_field_index(name), name, pa.array(values, batch[name].type))


def rewrite(plan: Plan, batches: Sequence[Any]) -> None:
    """Replace the files of `plan` by those of a plan whose shards have the rows `batches`."""
    packed = [pack(batch) for batch in batches]
    rows = b"".join(segment for segment, _ in packed)
    files_of(plan)[1].unlink()
    digest = hashlib.sha256(rows).hexdigest()[:16]
    Path(plan.store.locate(rows_name(plan.name, digest))).write_bytes(rows)
    shards = {
        "split": [batch["split"][0].as_py() for batch in batches],
        "num_items": [len(batch) for batch in batches],
        "num_frames": [len(batch["frames"].flatten()) for batch in batches],
        "cost": [sum(cost or 0 for cost in batch["cost"].to_pylist()) for batch in batches],
        "replaces": [None] * len(batches),
        "bytes": [len(segment) for segment, _ in packed],
        "raw_bytes": [raw_bytes for _, raw_bytes in packed],
        "sha256": [hashlib.sha256(segment).digest() for segment, _ in packed],
    }
    reseal(plan, shards, digest=digest)


def reseal(plan: Plan, shards: Mapping[str, Any] | None = None, options: Any = None, **metadata: Any) -> None:
    """Give the summary of `plan` other `shards` (columns by name) and `metadata` (None: none), and the right sha256."""
    path, _ = files_of(plan)
    batch = pa.ipc.open_stream(path.read_bytes()).read_next_batch()
    kept = {name.decode(): value for name, value in batch.schema.metadata.items()} | metadata
    arrays = {name: batch[name] for name in batch.schema.names} | dict(shards or {})
    types = {field.name: field.type for field in batch.schema}
    columns = {n: pa.array(values, types[n]) if isinstance(values, list) else values for n, values in arrays.items()}
    metadata = {name: value for name, value in kept.items() if value is not None}
    batch = pa.RecordBatch.from_pydict(columns).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    stream = sink.getvalue().to_pybytes()
    path.write_bytes(stream + hashlib.sha256(stream).digest())
