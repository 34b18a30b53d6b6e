"""Columns of a sample kind: what tables and `preprocess view` say of its samples, besides the fields of their json.

For example::

    columns = (
        Column("depths", "of all pixels", lambda sample: np.ravel(sample.depths), pa.list_(pa.float32()), unit="m"),
        Column("mean_depth", "of each frame", lambda sample: sample.depths.mean((1, 2)), summary=span, unit="m"),
    )

The first is in exported tables, the second in `view`; a column with both a `type` and a `summary` is in both.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Summary = Callable[[NDArray[Any]], str]  # of the values of many samples, flat and one after another, at least one


@dataclass(frozen=True)
class Column:
    """A column of a table with one row per sample.

    Attributes:
        name: of the column. A column with the name of a field of the json replaces that field.
        meaning: for people.
        value: returns the value for a sample: a text, a number, a list, a NumPy array of one dimension, or None. Arrays
            of more dimensions are flattened, because pandas reads a flat list as one array, and a nested list as an
            object for every point.
        type: of the value in Arrow; None: the column is not in tables.
        summary: describes the values of many samples, as `span`, `counts` or `rates(names)`; the values must then be
            numbers. None: `view` does not show the column.
        unit: of a number; empty: none.
    """

    name: str
    meaning: str
    value: Callable[[Any], Any]
    type: pa.DataType | None = None
    summary: Summary | None = None
    unit: str = ""


def row_of(sample: Any, columns: Iterable[Column]) -> dict[str, Any]:
    """Return the values of `sample` by name of the column, for those of `columns` that are in tables."""
    return {column.name: column.value(sample) for column in columns if column.type is not None}


def overview_of(samples: Iterable[Any], columns: Iterable[Column]) -> dict[str, str]:
    """Return what `view` says of `samples`: the summary of each column that has one and has values.

    Reads one sample at a time; only the values of the columns are kept.
    """
    shown = [column for column in columns if column.summary is not None]
    values: dict[str, list[NDArray[Any]]] = {column.name: [] for column in shown}
    for sample in samples:
        for column in shown:
            value = column.value(sample)
            if value is not None and np.size(value):
                values[column.name].append(np.ravel(value))
    return {
        column.name.replace("_", " "): _described(column, np.concatenate(values[column.name]))
        for column in shown
        if values[column.name]
    }


def _described(column: Column, values: NDArray[Any]) -> str:
    assert column.summary is not None
    text = column.summary(values)
    return f"{text} {column.unit}" if column.unit else text


def span(values: NDArray[Any]) -> str:
    """Describe numbers by the least, the greatest and the median: `3 to 1,204, median 57`; equal ones by one: `3`."""
    low, high, median = (_number(value) for value in (values.min(), values.max(), np.median(values)))
    return low if values.min() == values.max() else f"{low} to {high}, median {median}"


def counts(values: NDArray[Any]) -> str:
    """Describe whole numbers by how often each occurs: `0 in 3, 1 in 12`."""
    numbers, times = np.unique(values, return_counts=True)
    return ", ".join(f"{number:,} in {count:,}" for number, count in zip(numbers, times, strict=True))


def rates(names: Sequence[str]) -> Summary:
    """Return a summary of values [N, len(names)], zero or not: for each name the share that is not zero, in percent."""

    def describe(values: NDArray[Any]) -> str:
        shares = 100 * (values.reshape(-1, len(names)) != 0).mean(0)
        return ", ".join(f"{name.replace('_', ' ')} {share:.3g} %" for name, share in zip(names, shares, strict=True))

    return describe


def _number(value: Any) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
