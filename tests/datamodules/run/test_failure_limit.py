from pathlib import Path

import pytest

from datamodules.corpus import Item
from datamodules.errors import ConfigError, TooManyFailures
from datamodules.run.failure_limit import FailureLimit, Tolerance
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from support.runs import finish, lease, make_run, some_items, work


def test_a_number_and_a_percentage_are_read() -> None:
    assert FailureLimit.parse("20") == FailureLimit(count=20)
    assert FailureLimit.parse("0") == FailureLimit(count=0)
    assert FailureLimit.parse(" 12.5% ") == FailureLimit(share=0.125)


@pytest.mark.parametrize("text", ["", "many", "-1", "101%", "-3%", "1.5", "%", "nan%"])
def test_a_limit_that_is_neither_a_number_nor_a_percentage_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="give a number of items, or a percentage"):
        FailureLimit.parse(text)


@pytest.mark.parametrize(
    ("limit", "failed", "done", "planned", "exceeded"),
    [
        ("50%", 50, 100, 1000, False),
        ("50%", 51, 100, 1000, True),
        ("50%", 99, 99, 1000, False),  # too early to tell
        ("50%", 900, 999, 100_000, False),  # likewise: not 1 % is done
        ("50%", 501, 1000, 100_000, True),
        ("50%", 20, 20, 20, False),
        ("100%", 1000, 1000, 1000, False),
        ("3", 3, 3, 1000, False),
        ("3", 4, 4, 1000, True),
        ("0%", 1, 100, 100, True),
    ],
)
def test_a_limit_is_exceeded_when_more_have_failed(
    limit: str, failed: int, done: int, planned: int, exceeded: bool
) -> None:
    assert FailureLimit.parse(limit).is_exceeded(failed, done, planned) is exceeded


@pytest.mark.parametrize(
    ("limit", "failed", "planned", "exceeded"),
    [("50%", 10, 20, False), ("50%", 11, 20, True), ("100%", 20, 20, False), ("3", 3, 20, False), ("3", 4, 20, True)],
)
def test_a_limit_can_be_exceeded_by_the_whole_of_a_short_run(
    limit: str, failed: int, planned: int, exceeded: bool
) -> None:
    assert FailureLimit.parse(limit).is_exceeded_in_all(failed, planned) is exceeded


def mixed_items(good: int, bad: int) -> list[Item]:
    return some_items(good) + [Item(f"train/bad{i:03d}", "train", "x", ("x.png",)) for i in range(bad)]


def test_failures_of_all_ranks_together_stop_a_rank_and_a_higher_limit_resumes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.run.failure_limit._READING_SHARE", 1e9)
    run = make_run(tmp_path, mixed_items(2, 8), per_shard=2)
    with Rank(run) as one, Rank(run, tolerance=Tolerance(limit=FailureLimit(count=3))) as other:
        finish(one, lease(one))
        finish(one, lease(one))
        finish(other, lease(other), rows=[0])
        expected = r"4 of 6 items done have failed, more than --output\.max_failures 3; the last one: it is bad"
        with pytest.raises(TooManyFailures, match=expected):
            finish(other, next(iter(other.open.values())))
    work(tmp_path)
    assert sum(record.failed for record in run.records()) == 8


def test_the_default_limit_allows_a_third_and_stops_a_run_that_fails_entirely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.run.failure_limit._READING_SHARE", 1e9)
    default = Tolerance(limit=FailureLimit.parse("50%"))
    for bad, planned in ((60, 200), (200, 200)):
        run = make_run(tmp_path / str(bad), 200, per_shard=50)
        with Rank(run, tolerance=default) as rank:
            done = 0
            try:
                while opened := rank.lease():
                    for row in opened.missing:
                        reason = "x" if row % 50 < 50 * bad // planned else None
                        rank.add(opened.shard.number, Result(row, reason=reason, reason_class=reason and "decode"), {})
                        done += 1
            except TooManyFailures:
                pass
            assert done == (200 if bad == 60 else 99)
