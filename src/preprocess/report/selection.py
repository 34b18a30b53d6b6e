"""Which samples a report shows: the worst, samples with a status, failures, and random ones."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.run.result import OK
from datamodules.samples.metrics import Metric
from preprocess.report.rows import failed, numbers

FAILURE, RANDOM = "failure", "random"
_SHARES = {FAILURE: 0.2, "status": 0.1, "worst": 0.4}  # of all that are shown, at most; random ones fill up


class Chosen(NamedTuple):
    """A row that is shown.

    Attributes:
        shard: number of the shard in the run's plan.
        row: of the item in the shard.
        why: `failure`, `random`, `status`, or the name of the metric of which it has one of the worst values.
    """

    shard: int
    row: int
    why: str


class Selection:
    """Chooses rows for a report, which are added table by table. The same run always gives the same rows.

    Args:
        metrics: of the sample kind.
        num_samples: how many rows to choose, at most.
    """

    def __init__(self, metrics: Sequence[Metric], num_samples: int) -> None:
        self._num_samples = num_samples
        self._metrics = [metric for metric in metrics if metric.worst]
        self._random = np.random.default_rng(0)
        names = (FAILURE, "status", RANDOM, *(metric.name for metric in self._metrics))
        self._lists = {name: _Least(num_samples) for name in names}

    def add(self, shard: int, table: Any) -> None:
        """Consider the rows of a shard of the plan, as `rows.tables` yielded them."""
        is_failed = failed(table)
        order = self._random.random(table.num_rows)
        has_status = pc.not_equal(table["status"], OK).to_numpy()
        self._lists[FAILURE].add(shard, np.where(is_failed, order, np.nan))
        self._lists["status"].add(shard, np.where(has_status & ~is_failed, order, np.nan))
        self._lists[RANDOM].add(shard, order)
        for metric in self._metrics:
            values = numbers(table, metric)
            self._lists[metric.name].add(shard, values if metric.worst == "low" else -values)

    def chosen(self) -> list[Chosen]:
        """Return the chosen rows, the worst first."""
        chosen: dict[tuple[int, int], Chosen] = {}
        worst = _in_turn([list(self._lists[metric.name].rows(metric.name)) for metric in self._metrics])
        kinds = {
            "worst": worst,
            "status": list(self._lists["status"].rows("status")),
            FAILURE: list(self._lists[FAILURE].rows(FAILURE)),
        }
        for kind, rows in kinds.items():
            limit = len(chosen) + round(self._num_samples * _SHARES[kind])
            for row in rows:
                if len(chosen) < limit:
                    chosen.setdefault((row.shard, row.row), row)
        for row in self._lists[RANDOM].rows(RANDOM):
            if len(chosen) < self._num_samples:
                chosen.setdefault((row.shard, row.row), row)
        return list(chosen.values())


class _Least:
    """The rows with the least scores, up to `limit`; of equal scores the first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._scores: NDArray[np.float64] = np.zeros(0)
        self._places: NDArray[np.int64] = np.zeros((0, 2), np.int64)  # [N, 2]: shard, row

    def add(self, shard: int, scores: NDArray[np.float64]) -> None:
        """Consider the rows of a shard. A row whose score is nan is left out."""
        rows = np.flatnonzero(~np.isnan(scores))
        merged = np.concatenate([self._scores, scores[rows]])
        places = np.concatenate([self._places, np.stack([np.full_like(rows, shard), rows], 1)])
        kept = np.argsort(merged, kind="stable")[: self._limit]
        self._scores, self._places = merged[kept], places[kept]

    def rows(self, why: str) -> Iterator[Chosen]:
        return (Chosen(shard, row, why) for shard, row in self._places.tolist())


def _in_turn(lists: Sequence[Sequence[Chosen]]) -> list[Chosen]:
    """Return the first of each list, then the second of each, and so on."""
    longest = max(map(len, lists), default=0)
    return [rows[index] for index in range(longest) for rows in lists if index < len(rows)]
