"""Prior results: what the items of a retry's shard were before, in the shard that it replaces."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import NamedTuple

from datamodules.errors import RunError
from datamodules.run.failures import _is_meant
from datamodules.run.files import sha256_of
from datamodules.run.folder import Run
from datamodules.run.plan import Shard
from datamodules.run.reader import read_sample
from datamodules.run.record import ShardFile, read_record
from datamodules.run.result import Result

_OF_RESULT = [field.name for field in fields(Result) if field.name != "row"]


class PriorResult(NamedTuple):
    """What became of an item of a retry's shard in the shard whose place that takes.

    Attributes:
        result: with the row that it has in the retry's shard.
        members: reads the files of its sample.
        is_tried: whether it is tried again.
    """

    result: Result
    members: Callable[[], dict[str, bytes]]
    is_tried: bool


def prior_results(run: Run, shard: Shard) -> Iterator[PriorResult]:
    """Of each item of a retry's `shard`, if that takes the place of another.

    Raises:
        RunError: that one's table or tar is missing, or not as its record says: it would be copied as if it were.
    """
    if shard.replaces is None:
        return
    tar = run.tar_file(shard.replaces)
    _require_sound(tar)
    classes = run.plan.fingerprint["retry"]["classes"]
    for number, row in enumerate(run.superseded(shard)):
        result = Result(number, **{name: row[name] for name in _OF_RESULT})
        yield PriorResult(
            result, partial(_members, tar, row["key"], row["tar_offset"], row["tar_bytes"]), _is_meant(row, classes)
        )


def _require_sound(tar: ShardFile) -> None:
    recorded = read_record(tar.folder, tar.shard).tar
    try:
        with tar.open() as file:
            if sha256_of(file) == recorded.sha256:
                return
        wrong = "has changed"
    except FileNotFoundError:
        wrong = "is missing"
    raise RunError(
        f"{tar.path} {wrong}, so its other samples cannot be kept: run `preprocess verify --repair`, then retry"
    )


def _members(tar: ShardFile, key: str, offset: int | None, size: int | None) -> dict[str, bytes]:
    return {} if offset is None or size is None else read_sample(tar, offset, size, key=key)[1]
