"""`preprocess view`: what a run holds, or one sample of it, as tables. Needs neither torch nor lightning.

| file of a sample | shown as                                                     |
|------------------|--------------------------------------------------------------|
| `*.npy`          | dtype, shape, least and greatest value                       |
| `*.json`         | the document; lists of many values shortened                 |
| `*.txt`          | the text, shortened                                          |
| anything else    | its size                                                     |
| `presence.npy`   | besides, for each part, in how many frames it was found      |

Of a run of captions besides: how long they are; of one of poses: how many people there are, and which joints they have;
of up to 1,000 that are read.
"""

import difflib
import io
import json
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.highlighter import JSONHighlighter
from rich.table import Table

from datamodules.errors import RunError
from datamodules.run.commit import OK
from datamodules.run.folder import Run, device_mix
from datamodules.run.plan import Shard
from datamodules.run.reader import CommittedSamples, open_sample
from datamodules.samples.arrays import read_array
from datamodules.samples.captions import CaptionSamples
from datamodules.samples.fields import read_json
from datamodules.samples.keypoint_layouts import PARTS
from datamodules.samples.pose import PoseSamples
from datamodules.samples.skeleton import JOINTS
from preprocess.export.reading import kind_of
from preprocess.terminal import Terminal, block, cell

_MAX_ROWS = 20
_MAX_READ = 1000
_MAX_LIST = 8  # values of a list in a JSON document
_MAX_TEXT = 2000  # characters
_MAX_COMPARED = 20_000  # keys held against a mistyped one: about a second
_STYLES = {"ok": "green", "failed": "red", "planned": "dim"}


def view(run: Run, key: str | None, console: Terminal) -> None:
    """Print what `run` holds, or, given the key of an item, what became of that item.

    Raises:
        RunError: no item has this key (the closest keys are named), or a record, table or tar is damaged.
    """
    console.print(_overview(run) if key is None else _item(run, key))


def find(run: Run, key: str) -> tuple[Shard, int]:
    """(shard, row) where the item with this key is planned. Reads the plan's keys alone.

    Raises:
        RunError: no item has this key; the closest keys are named.
    """
    for shard in run.plan.shards:
        keys = run.plan.keys(shard.number)
        if key in keys:
            return shard, keys.index(key)
    every = chain.from_iterable(run.plan.keys(shard.number) for shard in run.plan.shards)
    known = list(islice(every, _MAX_COMPARED))
    longer = [other for other in known if key in other]  # such as a name without its split
    close = longer[:3] or difflib.get_close_matches(key, known, n=3)
    hint = f"; closest: {', '.join(map(repr, close))}" if close else f"; the first is {known[0]!r}"
    raise RunError(f"{run.folder} has no item {key!r} among {run.plan.num_items:,}{hint}")


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
    parts: list[RenderableType] = [cell(str(run.folder), style="bold"), _totals(run), ""]
    done = run.outcome()
    if done.committed:
        parts += [_facts({"devices": device_mix(done.devices)}), ""]
    if kind_of(run) == CaptionSamples.__name__ and done.committed:
        parts += [_captions(run), ""]
    if kind_of(run) == PoseSamples.__name__ and done.committed:
        parts += [_poses(run), ""]
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
        found = (done.statuses.get(status, 0) for status in statuses)
        counts = (len(sizes), sum(sizes), *found, done.failed, open_items, done.num_frames)
        table.add_row(split, *(f"{count:,}" for count in counts))
    return table


def _captions(run: Run) -> Table:
    """Lengths of captions, evenly spaced over those that are committed."""
    samples = CommittedSamples(run)
    read = [CaptionSamples().decode(*samples[index]) for index in _spread(len(samples))]
    tokens = [sample.meta["num_tokens"] for sample in read if sample.meta.get("num_tokens") is not None]
    facts = {
        "captions": f"{len(read):,} of {len(samples):,} read",
        "characters": _lengths([len(sample.caption) for sample in read]),
    }
    return _facts({**facts, "tokens": _lengths(tokens)} if tokens else facts)


def _poses(run: Run) -> Table:
    """People, and how many of them have each joint, evenly spaced over the images that are committed."""
    samples = CommittedSamples(run)
    read = [PoseSamples().decode(*samples[index]) for index in _spread(len(samples))]
    counts = np.bincount([len(sample.scores) for sample in read])
    people = ", ".join(f"{number} in {count:,}" for number, count in enumerate(counts.tolist()) if count)
    facts = {"images": f"{len(read):,} of {len(samples):,} read", "people": people}
    if len(counts) > 1:
        seen = np.concatenate([sample.keypoints for sample in read])[..., 2] > 0
        rates = zip(JOINTS, (100 * seen.mean(0)).tolist(), strict=True)
        facts["joints"] = ", ".join(f"{joint.replace('_', ' ')} {rate:.0f} %" for joint, rate in rates)
    return _facts(facts)


def _spread(count: int) -> list[int]:
    """Up to `_MAX_READ` places, evenly spaced over `count`."""
    return [int(place) for place in np.unique(np.linspace(0, count - 1, _MAX_READ).round())]


def _lengths(lengths: list[int]) -> str:
    return f"{min(lengths):,} to {max(lengths):,}, the median {np.median(lengths):,.0f}"


def _rows(run: Run) -> Iterator[Mapping[str, Any]]:
    """The rows of all tables in planned order; in place of tables that are not there yet, the planned keys."""
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
    facts["frames"] = f"{row['num_frames']:,}"
    _, files = open_sample(run.tar_file(row["shard"]), row["tar_offset"], row["tar_bytes"], key=key)
    return Group(*parts, _facts(facts), "", *_files(key, files))


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
                if ending == "presence.npy" and values.shape[1:] == (len(PARTS),):
                    documents += ["", _detection_rates(values)]
            elif kind == "json":
                documents += ["", _highlighted(_shortened(read_json(file)))]
            elif kind == "txt":
                documents += ["", block(io.TextIOWrapper(file, "utf-8").read(_MAX_TEXT))]
        except ValueError as error:
            raise RunError(f"{key}.{ending} is damaged: {error}; run `preprocess verify`") from error
        table.add_row(ending, f"{size:,}", *described)
    yield table
    yield from documents


def _span(values: NDArray[Any]) -> tuple[str, str]:
    if not values.size or values.dtype.kind not in "biuf":
        return "–", "–"
    return f"{values.min():.6g}", f"{values.max():.6g}"


def _detection_rates(presence: NDArray[Any]) -> Table:
    """Of `presence` [T, parts], 1 where a part was found."""
    table = Table("part", "found in", "rate", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    for part, column in zip(PARTS, presence.T, strict=True):
        found, num_frames = int(np.count_nonzero(column)), len(column)
        table.add_row(part, f"{found:,} of {num_frames:,} frames", f"{100 * found / max(1, num_frames):.1f} %")
    return table


def _highlighted(document: Any) -> RenderableType:
    """`document` as JSON in colours."""
    text = block(json.dumps(document, indent=2, ensure_ascii=False))
    JSONHighlighter().highlight(text)
    text.no_wrap = True
    return text


def _shortened(document: Any) -> Any:
    """`document` with long lists cut, which say how many values they had."""
    if isinstance(document, dict):
        return {name: _shortened(value) for name, value in document.items()}
    if isinstance(document, list):
        shown = [_shortened(value) for value in document[:_MAX_LIST]]
        return shown if len(document) <= _MAX_LIST else [*shown, f"… {len(document):,} in all"]
    return document
