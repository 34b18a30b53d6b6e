"""`preprocess failures`: what failed, and is no sample of a retry either. Needs neither torch nor lightning.

| field        | type   | meaning                                                                              |
|--------------|--------|--------------------------------------------------------------------------------------|
| key          | string | of the item                                                                          |
| split        | string |                                                                                      |
| path         | string | of the video, image, or folder of frames; relative to the corpus root, or absolute   |
| reason_class | string | see `datamodules.errors`                                                             |
| reason       | string |                                                                                      |
| attempts     | int32  | how often the item was tried, by the run or retry that tried it last                 |
| shard        | string | whose table has the row                                                              |

On a terminal all but split and shard; as JSON (an object a line) or Parquet all of them. All three stream.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from datamodules.errors import ConfigError
from datamodules.printable import json_line
from datamodules.run.retries import Failure
from preprocess.export.destination import all_or_none
from preprocess.terminal import Terminal, cell, say

_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("key", "split", "path", "reason_class", "reason")]
    + [("attempts", pa.int32()), ("shard", pa.string())]
)
_COLUMNS = (("key", 3, None), ("path", 3, None), ("class", None, 7), ("attempts", None, 8), ("reason", 4, None))
_CHUNK_ROWS = 1000


def show(failures: Iterable[Failure], console: Terminal) -> None:
    """Print a table."""
    header = True
    for rows in _chunks(failures):
        table = Table(box=None, pad_edge=False, expand=True, show_header=header)  # all chunks are equally wide
        for name, ratio, width in _COLUMNS:
            table.add_column(name, ratio=ratio, width=width, overflow="fold")
        for row in rows:
            cells = (row["key"], row["path"], row["reason_class"], str(row["attempts"]), row["reason"])
            table.add_row(*map(cell, cells))
        console.print(table)
        header = False


def print_json(failures: Iterable[Failure]) -> None:
    """Print a JSON object for each, one a line."""
    for failure in failures:
        say(json_line(_row(failure)))


def write_parquet(failures: Iterable[Failure], path: Path) -> None:
    """Write `path`, which appears whole or not at all.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    try:
        with all_or_none([path], "--parquet") as [partial], pq.ParquetWriter(partial, _SCHEMA) as writer:
            for rows in _chunks(failures):
                writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
    except OSError as error:
        raise ConfigError(f"--parquet {path} cannot be written: {error}") from error


def summary(counts: Mapping[str, int]) -> str:
    """One line: how many failed, by class."""
    if not counts:
        return "nothing failed"
    return f"{sum(counts.values()):,} failed: " + ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _row(failure: Failure) -> dict[str, Any]:
    return {
        "key": failure.item.key,
        "split": failure.item.split,
        "path": failure.item.source,
        "reason_class": failure.reason_class,
        "reason": failure.reason,
        "attempts": failure.attempts,
        "shard": failure.shard,
    }


def _chunks(failures: Iterable[Failure]) -> Iterator[list[dict[str, Any]]]:
    rows = map(_row, failures)
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        yield chunk
