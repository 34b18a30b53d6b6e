"""A row of a list, whatever the format of the list."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from datamodules.errors import CorpusError

MAX_DEPTH = 100  # of lists and objects in a value: Python's own functions call themselves for each
MAX_NAMED = 8


class Row(NamedTuple):
    """A row of a list.

    Attributes:
        where: it stands, as in `list.csv, line 12`.
        values: by column.
        problem: why the row is malformed, where the rows after it can be read all the same; it has no values then.
    """

    where: str
    values: dict[str, Any]
    problem: str | None = None

    def require(self, *columns: str, hint: str = "") -> None:
        """Raise CorpusError if the row is malformed or lacks one of `columns`; `hint` ends the latter message."""
        if self.problem is not None:
            raise CorpusError(self.problem)
        for name in columns:
            if name not in self.values:
                raise CorpusError(f"it has no {name!r}, but {name_some(self.values)}{hint}")


Rows = Iterator[Row]
RawRows = Iterator[tuple[str, Any]]  # where a row stands, and its value, or CorpusError if only the row is malformed


def name_some(names: Iterable[str]) -> str:
    """Return the first of `names` for a message."""
    first = [f"{name!r:.80}" for name in islice(names, MAX_NAMED + 1)]
    return ", ".join([*first[:MAX_NAMED], *(["…"] if len(first) > MAX_NAMED else [])]) or "nothing"


def require_distinct(path: str, header: list[str]) -> None:
    name, count = next(iter(Counter(header).most_common(1)), ("", 0))
    if count > 1:
        raise CorpusError(f"{path} has several columns {name!r:.80}: rename all but one")
