from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.run.table import TABLE_SCHEMA
from datamodules.samples.metrics import Metric
from preprocess.report.rows import COLUMNS
from preprocess.report.selection import Selection

METRICS = (
    Metric("rate", "", lambda sample: None, worst="low"),
    Metric("error", "", lambda sample: None, worst="high"),
    Metric("length", "", lambda sample: None),
)


def table(rows: list[dict[str, Any]]) -> Any:
    """A table of samples with these values of columns; `metrics` as a dict."""
    made = [
        {
            "key": str(number), "status": "ok", "attempts": 1, "num_frames": 1, "seconds": 0.1, "tar_bytes": 10,
            **row, "metrics": list(row.get("metrics", {}).items()),
        }
        for number, row in enumerate(rows)
    ]  # fmt: skip
    return pa.Table.from_pylist(made, TABLE_SCHEMA).select(COLUMNS)


def failure() -> dict[str, Any]:
    return {"status": "failed", "reason": "cut", "reason_class": "decode"}


def choose(num_samples: int, *tables: Any) -> list[tuple[int, int, str]]:
    selection = Selection(METRICS, num_samples)
    for shard, part in enumerate(tables):
        selection.add(shard, part)
    return [(chosen.shard, chosen.row, chosen.why) for chosen in selection.chosen()]


def test_the_worst_of_each_metric_come_first_in_turn() -> None:
    rates = [{"metrics": {"rate": rate, "error": 1 - abs(rate - 0.5)}} for rate in (0.9, 0.1, 0.5, 0.3)]
    chosen = choose(10, table(rates[:2]), table(rates[2:]))
    # 4 of 10 are the worst: by rate 0.1, by error that of rate 0.5; then 0.3 by rate and by error
    assert chosen[:3] == [(0, 1, "rate"), (1, 0, "error"), (1, 1, "rate")]
    assert {(shard, row) for shard, row, _ in chosen} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_samples_without_a_metric_are_never_the_worst_of_it() -> None:
    chosen = choose(10, table([{"metrics": {}}, {"metrics": {"rate": 1.0}}]))
    assert (0, 1, "rate") in chosen
    assert (0, 0, "random") in chosen


def test_failures_and_statuses_have_a_share_and_random_rows_fill_up() -> None:
    rows = [failure() for _ in range(50)] + [{"status": "truncated"} for _ in range(50)] + [{} for _ in range(900)]
    chosen = choose(100, *(table(rows[first : first + 100]) for first in range(0, 1000, 100)))
    why = [reason for _, _, reason in chosen]
    assert (why.count("failure"), why.count("status"), why.count("random")) == (20, 10, 70)
    assert len({(shard, row) for shard, row, _ in chosen}) == 100


def test_the_same_tables_give_the_same_rows_and_no_row_twice() -> None:
    tables = [table([{"metrics": {"rate": float(value)}} for value in np.arange(20) % 7]) for _ in range(5)]
    assert choose(30, *tables) == choose(30, *tables)
    assert len(choose(1000, *tables)) == 100
    assert choose(0, *tables) == []
