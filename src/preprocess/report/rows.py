"""The rows of all tables of a run, part by part, and the numbers in them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.run.folder import Run
from datamodules.run.parallel_reads import read_each
from datamodules.run.plan import Shard
from datamodules.samples.metrics import Metric

COLUMNS = ("status", "reason_class", "num_frames", "seconds", "attempts", "tar_bytes", "metrics")


class TableNumber(NamedTuple):
    """A number that every table has, whatever the kind of its samples.

    Attributes:
        name: of the column.
        meaning, unit: see `Metric`.
        whole: whether it is a whole number.
        of_failures: whether failed items have it too.
    """

    name: str
    meaning: str
    unit: str = ""
    whole: bool = True
    of_failures: bool = False


TABLE_NUMBERS = (
    TableNumber("num_frames", "frames in the sample"),
    TableNumber("seconds", "spent on reading and computing the item", "s", whole=False, of_failures=True),
    TableNumber("attempts", "at the item", of_failures=True),
    TableNumber("tar_bytes", "of the sample in its tar", "bytes"),
)


def tables(run: Run) -> Iterator[tuple[Shard, Any]]:
    """Yield each committed shard of `run`, in planned order, with its valid rows as a pyarrow Table of `COLUMNS`.

    Raises:
        RunError: a table is missing or damaged.
    """
    committed = run.committed()
    shards = [shard for shard in run.plan.shards if shard.name in committed]

    def read(shard: Shard) -> tuple[Shard, Any]:
        return shard, run.rows(shard.name, COLUMNS)

    yield from read_each(run.store, read, shards)


def failed(table: Any) -> NDArray[np.bool_]:
    """Return bool [N]: whether each row is a failure."""
    is_failed: NDArray[np.bool_] = pc.is_valid(table["reason_class"]).to_numpy()
    return is_failed


def numbers(table: Any, column: TableNumber | Metric) -> NDArray[np.float64]:
    """Return a number of each row.

    Returns:
        float64 [N]; nan where it is unknown: of failures, and of samples whose kind had no such metric.
    """
    if isinstance(column, Metric):
        values = pc.map_lookup(table["metrics"].combine_chunks(), pa.scalar(column.name), "first")
    else:
        values = table[column.name]
    known: NDArray[np.float64] = np.array(pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    if isinstance(column, TableNumber) and not column.of_failures:
        known[failed(table)] = np.nan
    return known
