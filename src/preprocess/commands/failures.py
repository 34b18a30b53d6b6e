"""`preprocess failures`: the items that failed, unless a retry has turned them into samples; without torch.

| field        | type   | meaning                                                                              |
|--------------|--------|--------------------------------------------------------------------------------------|
| key          | string | of the item                                                                          |
| split        | string |                                                                                      |
| path         | string | of the video, image, or folder of frames; relative to the corpus root, or absolute   |
| reason_class | string | see `datamodules.errors`                                                             |
| reason       | string |                                                                                      |
| attempts     | int32  | number of attempts at the item in the run or retry that tried it last                |
| shard        | string | the shard whose table has the row                                                    |

A table on the terminal leaves out split and shard; JSON (one object per line) and Parquet have all. All three stream.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from datamodules.errors import ConfigError
from datamodules.printable import json_line
from datamodules.run.failures import Failure, count_failures, failures
from datamodules.run.folder import Run
from preprocess.commands.arguments import local_path, parser_of
from preprocess.export.destination import all_or_none
from preprocess.terminal import Parser, Terminal, cell, say

_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("key", "split", "path", "reason_class", "reason")]
    + [("attempts", pa.int32()), ("shard", pa.string())]
)
_COLUMNS = (("key", 3, None), ("path", 3, None), ("class", None, 7), ("attempts", None, 8), ("reason", 4, None))
_CHUNK_ROWS = 1000


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess failures` and return its exit status."""
    options = parser().parse_args(arguments)
    run = Run(options.folder)
    counts, failed = count_failures(run, options.classes), failures(run, options.classes)
    if options.json:
        print_json(failed)
        return 0
    if options.parquet:
        write_parquet(failed, options.parquet)
        say(str(options.parquet))
    else:
        show(failed, Terminal())
    say(summary(counts))
    return 0


def parser() -> Parser:
    """Return the parser of the command's options."""
    parser = parser_of(
        "failures",
        "List the items that failed, where and why. Items that a later `retry` turned into samples are not listed.",
    )
    parser.add_argument(
        "--class", dest="classes", metavar="C", action="append", default=[], help="list this class of failures only"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object per line instead of a table")
    form.add_argument("--parquet", metavar="FILE", type=local_path, help="write a Parquet file instead of a table")
    return parser


def show(failed: Iterable[Failure], console: Terminal) -> None:
    """Print failures as a table."""
    header = True
    for rows in _chunks(failed):
        table = Table(box=None, pad_edge=False, expand=True, show_header=header)  # equal widths in all chunks
        for name, ratio, width in _COLUMNS:
            table.add_column(name, ratio=ratio, width=width, overflow="fold")
        for row in rows:
            cells = (row["key"], row["path"], row["reason_class"], str(row["attempts"]), row["reason"])
            table.add_row(*map(cell, cells))
        console.print(table)
        header = False


def print_json(failed: Iterable[Failure]) -> None:
    """Print failures as JSON, one object per line."""
    for failure in failed:
        say(json_line(_row(failure)))


def write_parquet(failed: Iterable[Failure], path: Path) -> None:
    """Write failures to the Parquet file `path`, which appears whole or not at all.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    try:
        with all_or_none([path], "--parquet") as [partial], pq.ParquetWriter(partial, _SCHEMA) as writer:
            for rows in _chunks(failed):
                writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
    except OSError as error:
        raise ConfigError(f"--parquet {path} cannot be written: {error}") from error


def summary(counts: Mapping[str, int]) -> str:
    """Return one line with the number of failures by class."""
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


def _chunks(failed: Iterable[Failure]) -> Iterator[list[dict[str, Any]]]:
    rows = map(_row, failed)
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        yield chunk
