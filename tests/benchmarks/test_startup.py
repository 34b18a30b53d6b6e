"""What `benchmarks/startup.py` takes from the files of its probe, and how it judges it."""

from pathlib import Path

import pytest

from support.keypoint_runs import MadeItems, make_run

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_steps_are_those_of_the_rank_the_fork_server_and_the_first_worker(tmp_path: Path) -> None:
    from startup import times

    run = make_run(tmp_path / "run", MadeItems({"train": 2}))
    ours = ("python", "cli", "torch", "lightning", "loader", "command", "parsed", "opened", "sample")
    processes: tuple[dict[str, int], ...] = (
        {step: index for index, step in enumerate(ours)},
        {"python": 20, "cv2": 22, "loader": 21},
        {"worker": 32, "transform": 33, "frame": 34},
        {"worker": 31, "transform": 36, "frame": 37},
        {"python": 50},  # the resource tracker
    )
    (tmp_path / "steps").mkdir()
    for number, process in enumerate(processes):
        lines = [f"{step} {at}\n" for step, at in process.items()]
        (tmp_path / "steps" / str(number)).write_text("".join(lines))
    steps = times(tmp_path / "steps", run)
    committed = [run.committed_at(shard) for shard in run.committed()]
    assert (steps.pop("commit"), steps.pop("last")) == (min(committed), max(committed))
    assert steps == {
        **{step: index for index, step in enumerate(ours) if step != "loader"},
        **{"server": 22, "worker": 31, "transform": 33, "frame": 34},
    }


def test_verdicts_are_on_the_medians_of_the_turns(capsys: pytest.CaptureFixture[str]) -> None:
    from startup import STEPS, print_steps

    print_steps([dict.fromkeys(STEPS, seconds) for seconds in (3.0, 5.0, 100.0)])
    *_, frame, commit = capsys.readouterr().out.splitlines()
    assert frame == "target first frame <= 4 s; measured 5.00 s: NO"
    assert commit == "target first committed sample <= 6 s; measured 5.00 s: yes"
