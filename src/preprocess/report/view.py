"""`preprocess view`: what a run holds, or one sample of it, as tables. Needs neither torch nor lightning.

| file of a sample | shown as                                                     |
|------------------|--------------------------------------------------------------|
| `*.npy`          | dtype, shape, least and greatest value                       |
| `*.json`         | the document; long lists shortened                           |
| `*.txt`          | the text, shortened                                          |
| anything else    | its size                                                     |

The kind of the samples adds what its `columns` summarize, such as detection rates or lengths of texts: for a sample its
own values, for a run those of up to 1,000 samples (64 MiB), evenly spaced.
"""

import io
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.highlighter import JSONHighlighter
from rich.table import Table

from datamodules.errors import ConfigError, RunError
from datamodules.run.folder import Run
from datamodules.run.kind import kind_of
from datamodules.run.outcome import device_mix
from datamodules.run.reader import CommittedSamples, open_sample
from datamodules.run.result import OK
from datamodules.samples.arrays import read_array
from datamodules.samples.fields import read_json
from preprocess.report.find import find
from preprocess.terminal import Terminal, block, cell

_MAX_ROWS = 20
_MAX_READ = 1000  # samples of a run
_MAX_READ_BYTES = 64 << 20  # read in a second from most disks
_MAX_LIST = 8  # values of a list in a JSON document
_MAX_TEXT = 2000  # characters
_STYLES = {"ok": "green", "failed": "red", "planned": "dim"}


def view(run: Run, key: str | None, console: Terminal) -> None:
    """Print what `run` holds; or, given the key of an item, its result.

    Raises:
        RunError: no item has this key (the message names the closest keys), or a record, table or tar is damaged.
    """
    console.print(_overview(run) if key is None else _item(run, key))


def _overview(run: Run) -> RenderableType:
    rows = Table("key", "status", "frames", "reason", box=None, pad_edge=False)
    rows.columns[0].overflow = rows.columns[3].overflow = "fold"
    rows.columns[2].justify = "right"
    for row in islice(_rows(run), _MAX_ROWS):
        status, reason = row["status"], row["reason"] or ""
        rows.add_row(
            cell(row["key"]), cell(status, _STYLES.get(status, "yellow")), f"{row['num_frames']:,}", cell(reason)
        )
    more = run.plan.num_items - rows.row_count
    parts: list[RenderableType] = [cell(str(run.store), style="bold"), _totals(run), ""]
    done = run.outcome()
    if done.committed:
        parts += [_facts({"devices": device_mix(done.devices)}), ""]
        parts += [_facts(_summary(run)), ""]
    parts.append(rows)
    if more:
        parts.append(cell(f"… and {more:,} more", style="dim"))
    return Group(*parts)


def _totals(run: Run) -> Table:
    splits = list(dict.fromkeys(shard.split for shard in run.plan.shards))
    outcomes = {split: run.outcome(split) for split in splits}
    statuses = [OK, *sorted({status for done in outcomes.values() for status in done.statuses} - {OK})]
    table = Table("split", "shards", "items", *statuses, "failed", "planned", "frames", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for split, done in outcomes.items():
        sizes = [shard.num_items for shard in run.plan.shards if shard.split == split]
        open_items = sum(sizes) - done.committed - done.failed
        by_status = (done.statuses.get(status, 0) for status in statuses)
        counts = (len(sizes), sum(sizes), *by_status, done.failed, open_items, done.num_frames)
        table.add_row(split, *(f"{count:,}" for count in counts))
    return table


def _summary(run: Run) -> dict[str, str]:
    """Return what the kind of the samples says of some of them, evenly spaced over the committed ones."""
    try:
        kind, samples = kind_of(run), CommittedSamples(run)
        if not any(column.summary for column in kind.columns):
            return {}
        num_read = max(1, min(_MAX_READ, len(samples), _MAX_READ_BYTES * len(samples) // samples.num_bytes))
        chosen = np.unique(np.linspace(0, len(samples) - 1, num_read).round().astype(int)).tolist()
        overview = kind.overview(samples.decode(index, kind) for index in chosen)
    except (ConfigError, RunError) as error:  # the tables below can still be shown
        return {"summary": str(error)}
    return {"samples": f"{len(chosen):,} of {len(samples):,} read", **overview}


def _summary_of_sample(run: Run, key: str, files: Mapping[str, BinaryIO]) -> dict[str, str]:
    """Return what the kind of the samples says of the sample that has these files."""
    for file in files.values():
        file.seek(0)
    try:
        kind = kind_of(run)
        members = files if kind.opens_files else {ending: file.read() for ending, file in files.items()}
        return kind.overview([kind.decode(key, members)])
    except (ConfigError, RunError) as error:
        return {"summary": str(error)}


def _rows(run: Run) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of all tables in planned order, and the planned keys of shards that are not committed yet."""
    committed = run.committed()
    for shard in run.plan.shards:
        if shard.name in committed:
            yield from run.rows(shard.name).to_pylist()
        else:
            for key in run.plan.keys(shard.number):
                yield {"key": key, "status": "planned", "num_frames": 0, "reason": None}


def _item(run: Run, key: str) -> RenderableType:
    shard, number = find(run, key)
    item = run.plan.item(shard.number, number)
    facts = {"split": item.split, "shard": f"{shard.name}, row {number}", "source": item.source}
    if len(item.frames) > 1:
        facts["source"] += f", {len(item.frames):,} images"
    parts: list[RenderableType] = [cell(key, style="bold")]
    if not run.is_committed(shard.name):
        facts["status"] = "planned: its shard is not committed yet"
        return Group(*parts, _facts(facts))
    row = run.rows(shard.name).slice(number, 1).to_pylist()[0]
    if row["shard"] != shard.name:
        facts["retried"] = row["shard"]
    facts["status"] = row["status"] + (f" ({row['reason_class']})" if row["reason_class"] else "")
    facts |= {"attempts": f"{row['attempts']}", "seconds": f"{row['seconds']:.2f}"}
    facts |= {"device": row["device"]} if row["device"] else {}
    if row["reason"] is not None:
        return Group(*parts, _facts({**facts, "reason": row["reason"]}))
    _, files = open_sample(run.tar_file(row["shard"]), row["tar_offset"], row["tar_bytes"], key=key)
    described = list(_files(key, files))
    facts |= {"frames": f"{row['num_frames']:,}"} | _summary_of_sample(run, key, files)
    return Group(*parts, _facts(facts), "", *described)


def _facts(facts: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(cell(name, style="dim"), cell(value, _STYLES.get(value.partition(" ")[0], "")))
    return table


def _files(key: str, files: Mapping[str, BinaryIO]) -> Iterator[RenderableType]:
    table = Table("file", "bytes", "dtype", "shape", "min", "max", box=None, pad_edge=False)
    for column in (table.columns[1], *table.columns[4:]):
        column.justify = "right"
    documents: list[RenderableType] = []
    for ending, file in files.items():
        kind = ending.rpartition(".")[2]
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        described: tuple[str, ...] = ()
        try:
            if kind == "npy":
                values = read_array(file)
                described = (str(values.dtype), str(list(values.shape)), *_span(values))
            elif kind == "json":
                documents += ["", _highlighted(_shortened(read_json(file)))]
            elif kind == "txt":
                reader = io.TextIOWrapper(file, "utf-8")
                documents += ["", block(reader.read(_MAX_TEXT))]
                reader.detach()  # else it would close the file
        except ValueError as error:
            raise RunError(f"{key}.{ending} is damaged: {error}; run `preprocess verify`") from error
        table.add_row(ending, f"{size:,}", *described)
    yield table
    yield from documents


def _span(values: NDArray[Any]) -> tuple[str, str]:
    if not values.size or values.dtype.kind not in "biuf":
        return "–", "–"
    return f"{values.min():.6g}", f"{values.max():.6g}"


def _highlighted(document: Any) -> RenderableType:
    """Return `document` as JSON in colours."""
    text = block(json.dumps(document, indent=2, ensure_ascii=False))
    JSONHighlighter().highlight(text)
    text.no_wrap = True
    return text


def _shortened(document: Any) -> Any:
    """Return `document` with long lists shortened; they end with their number of values."""
    if isinstance(document, dict):
        return {name: _shortened(value) for name, value in document.items()}
    if isinstance(document, list):
        shown = [_shortened(value) for value in document[:_MAX_LIST]]
        return shown if len(document) <= _MAX_LIST else [*shown, f"… {len(document):,} in all"]
    return document
