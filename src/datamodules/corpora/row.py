"""A row of a list, whatever the format of the list."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from datamodules.errors import CorpusError

MAX_DEPTH = 100  # of lists and objects in a value, because functions call themselves for each level
MAX_NAMED = 8  # columns that a message names


class Row(NamedTuple):
    """A row of a list.

    Attributes:
        where: location of the row, for messages: `list.csv, line 12`.
        values: by column.
        problem: why the row is malformed, where the rows after it can be read all the same. It has no values then.
    """

    where: str
    values: dict[str, Any]
    problem: str | None = None

    def require(self, *columns: str, hint: str = "") -> None:
        """Check that the row is well-formed and has `columns`.

        Args:
            columns: names.
            hint: end of the message about a missing column: what to do.

        Raises:
            CorpusError: the row is malformed or lacks a column.
        """
        if self.problem is not None:
            raise CorpusError(self.problem)
        for name in columns:
            if name not in self.values:
                raise CorpusError(f"it has no {name!r}, but {name_some(self.values)}{hint}")


Rows = Iterator[Row]
# yielded by the reader of a format: the location of a row, and its value or a CorpusError if only that row is malformed
RawRows = Iterator[tuple[str, Any]]


def name_some(names: Iterable[str]) -> str:
    """Return the first of `names`, quoted, for a message."""
    first = [f"{name!r:.80}" for name in islice(names, MAX_NAMED + 1)]
    return ", ".join([*first[:MAX_NAMED], *(["…"] if len(first) > MAX_NAMED else [])]) or "nothing"


def require_distinct(path: str, header: list[str]) -> None:
    """Raise CorpusError if two columns of the list `path` have the same name."""
    name, count = next(iter(Counter(header).most_common(1)), ("", 0))
    if count > 1:
        raise CorpusError(f"{path} has {count} columns {name!r:.80}: rename all but one")
