"""Metrics of a sample kind: numbers of each sample that are kept in the table of its shard.

So the distribution of a metric over all samples of a run is read from the tables, without opening a tar. `preprocess
report` draws it, and shows the samples with the worst values first. For example::

    metrics = (
        Metric("mean_depth", "of all pixels", lambda sample: sample.depths.mean(), unit="m"),
        Metric("valid_share", "of pixels with a depth", lambda sample: (sample.depths > 0).mean(), worst="low"),
    )
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Metric:
    """A number of each sample of a kind.

    Attributes:
        name: letters, digits and underscores; not that of a column of the tables (`run/table.py`).
        meaning: for people.
        value: returns the number for a sample; None, or a number that is not finite: unknown.
        unit: empty: none.
        worst: which samples a person should look at first: those with `low` or with `high` values; None: neither.
    """

    name: str
    meaning: str
    value: Callable[[Any], float | None]
    unit: str = ""
    worst: Literal["low", "high"] | None = None


def metrics_of(sample: Any, metrics: Iterable[Metric]) -> dict[str, float]:
    """Return the metrics of `sample` by name, without those that are unknown."""
    values = ((metric.name, metric.value(sample)) for metric in metrics)
    return {name: float(value) for name, value in values if value is not None and math.isfinite(value)}


def mean(values: Sequence[float] | NDArray[Any]) -> float | None:
    """Return the mean of numbers; None of none."""
    return float(np.mean(values)) if len(values) else None
