"""Distributions over all rows of a run: of the numbers in every table, and of the metrics of its sample kind."""

from collections.abc import Sequence
from typing import Any

from datamodules.samples.metrics import Metric
from preprocess.report.histogram import Histogram
from preprocess.report.rows import TABLE_NUMBERS, TableNumber, failed, numbers


class Distributions:
    """Histograms of the numbers of all rows, which are added table by table.

    Args:
        metrics: of the sample kind.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._columns: list[TableNumber | Metric] = [*metrics, *TABLE_NUMBERS]
        self._histograms = [
            Histogram(whole=isinstance(column, TableNumber) and column.whole) for column in self._columns
        ]

    def add(self, table: Any) -> None:
        """Count the rows of a table that `rows.tables` yielded."""
        is_sample = ~failed(table)
        for column, histogram in zip(self._columns, self._histograms, strict=True):
            values = numbers(table, column)
            of_all = isinstance(column, TableNumber) and column.of_failures
            histogram.add(values if of_all else values[is_sample])

    def to_json(self) -> list[dict[str, Any]]:
        """Return for each number its name, meaning, unit and histogram; see `Histogram.to_json`."""
        return [
            {"name": column.name, "meaning": column.meaning, "unit": column.unit, **histogram.to_json()}
            for column, histogram in zip(self._columns, self._histograms, strict=True)
        ]
