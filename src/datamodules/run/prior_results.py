"""Prior results: the results of a retry's items in the shard that the retry replaces."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from typing import NamedTuple

from datamodules.errors import RunError
from datamodules.run.files import sha256_of
from datamodules.run.folder import Run
from datamodules.run.plan import Shard
from datamodules.run.reader import read_sample
from datamodules.run.record import ShardFile, read_record
from datamodules.run.result import Result

_RESULT_FIELDS = [field.name for field in fields(Result) if field.name != "row"]


class PriorResult(NamedTuple):
    """The result of an item in the shard that a retry's shard replaces.

    Attributes:
        result: the result, with the row of the item in the retry's shard.
        members: reads the files of its sample by ending; empty for a failure.
        is_tried: whether the retry tries the item again.
    """

    result: Result
    members: Callable[[], dict[str, bytes]]
    is_tried: bool


def prior_results(run: Run, shard: Shard) -> Iterator[PriorResult]:
    """Yield the prior results of a retry's shard in the order of its rows; nothing if it replaces no shard.

    Args:
        run: the retry.
        shard: of its plan.

    Raises:
        RunError: the table or the tar of the replaced shard is missing, or the tar is not as its record says. Its
            samples would be copied, so damage must not pass unnoticed.
    """
    if shard.replaces is None:
        return
    tar = run.tar_file(shard.replaces)
    _require_intact(tar)
    tried = run.plan.tried(shard.number).tolist()
    for number, (row, is_tried) in enumerate(zip(run.superseded(shard), tried, strict=True)):
        row["metrics"] = dict(row["metrics"] or ())
        result = Result(number, **{name: row[name] for name in _RESULT_FIELDS})
        members = partial(_members, tar, row["key"], row["tar_offset"], row["tar_bytes"])
        yield PriorResult(result, members, is_tried)


def _require_intact(tar: ShardFile) -> None:
    """Raise RunError unless `tar` has the sha256 that its record says."""
    recorded = read_record(tar.store, tar.shard).tar
    try:
        with tar.open() as file:
            if sha256_of(file) == recorded.sha256:
                return
        problem = "has changed"
    except FileNotFoundError:
        problem = "is missing"
    raise RunError(
        f"{tar.location} {problem}, so its other samples cannot be kept. Run `preprocess verify --repair`, then retry"
    )


def _members(tar: ShardFile, key: str, offset: int | None, size: int | None) -> dict[str, bytes]:
    return {} if offset is None or size is None else read_sample(tar, offset, size, key=key)[1]
