import time
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from preprocess.report import timeline
from preprocess.report.timeline import Bar, bars, figures_in, thinned
from support.runs import finish, make_run

FIGURES = {"cpu_percent": {"mean": 40.0, "peak": 90.0}, "rss_bytes": {"mean": 5.0, "peak": 6.0}, "gpu": {}}


def bar(rank: str, began: float, ended: float, **figures: float) -> Bar:
    phases = {"wait": 0.25, "compute": 0.5}
    return Bar(rank, began, ended, (f"s{began:g}", f"s{began:g}"), 1, 4, 1, 10, phases, 2, [], figures)


def test_a_bar_is_a_committed_shard_with_times_counts_and_figures(tmp_path: Path) -> None:
    run, before = make_run(tmp_path, 5, per_shard=3), time.time()
    with Rank(run, measure=lambda: {"cpu_percent": 40.0, "rss_bytes": 5, "gpu": {}}) as rank:
        while opened := rank.lease():
            rank.add_seconds(opened.shard.number, "compute", 0.5)
            finish(rank, opened)
    made = bars(Run(tmp_path).records())
    assert [(one.shards, one.num_shards, one.num_items, one.num_failed, one.num_frames) for one in made] == [
        (("train-000000", "train-000000"), 1, 3, 0, 3),
        (("train-000001", "train-000001"), 1, 2, 0, 2),
    ]
    assert before - 1 < made[0].began <= made[0].ended < time.time() + 1
    assert made[0].began <= made[1].began
    assert made[0].phases["compute"] == 0.5


@pytest.mark.parametrize(("began", "seconds"), [(0.0, 1.0), (1e300, 1.0), (1e9, 1e300), (-5.0, 1.0)])
def test_a_record_without_possible_times_has_no_bar(began: float, seconds: float, tmp_path: Path) -> None:
    run = make_run(tmp_path, 3, per_shard=3)
    with Rank(run) as rank:
        while opened := rank.lease():
            finish(rank, opened)
    [record] = run.records()
    assert len(bars([record])) == 1
    assert bars([replace(record, seconds=seconds, timing=replace(record.timing, began=began))]) == []


def test_a_joined_bar_has_the_sums_and_the_means_by_time() -> None:
    joined = bar("a", 0, 1, cpu=100.0, gpu=3.0).joined(bar("a", 2, 5, cpu=20.0))
    assert (joined.began, joined.ended, joined.shards) == (0, 5, ("s0", "s2"))
    assert (joined.num_shards, joined.num_items, joined.num_failed, joined.num_frames) == (2, 8, 2, 20)
    assert joined.phases["compute"] == 1.0
    assert joined.figures == {"cpu": 40.0}


def test_too_many_bars_are_joined_rank_by_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [bar(rank, began, began + 1) for rank in "ab" for began in range(5)]
    assert thinned(made) == made
    monkeypatch.setattr(timeline, "MAX_BARS", 4)
    assert [(one.rank, one.began, one.num_shards) for one in thinned(made)] == [
        ("a", 0, 3), ("a", 3, 2), ("b", 0, 3), ("b", 3, 2),
    ]  # fmt: skip


def test_only_figures_that_were_measured_can_be_chosen() -> None:
    assert figures_in([bar("a", 0, 1), bar("a", 1, 2, cpu_percent=3.0, gpu_power=200.0)]) == [
        {"name": "cpu_percent", "unit": "%"},
        {"name": "gpu_power", "unit": "W"},
    ]
