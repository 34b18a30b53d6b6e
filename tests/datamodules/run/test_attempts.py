import subprocess
import sys
import time
from pathlib import Path

import pytest

from datamodules.run.attempts import FaultFile, cause_of_death
from datamodules.run.rank import Rank
from support.runs import lease, make_run

DYING = """
import ctypes, os, signal, sys, time
from pathlib import Path
from datamodules.run.attempts import FaultFile
fault = FaultFile(Path(sys.argv[1]), 0.5)
fault.arm()
{}
"""


@pytest.mark.parametrize(
    ("how", "reason", "reason_class"),
    [
        ("ctypes.string_at(0)", "crashed: SIGSEGV", "crash"),
        ("os.abort()", "crashed: SIGABRT", "crash"),
        ("time.sleep(60)", "timed out after 0.5 s", "timeout"),
        ("ctypes.PyDLL(None).sleep(60)", "timed out after 0.5 s", "timeout"),  # holds the GIL, as a stuck decoder does
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "its process was killed (SIGKILL: out of memory?), or its machine lost",
            "crash",
        ),
    ],
)
def test_a_dead_process_has_reported_its_cause(tmp_path: Path, how: str, reason: str, reason_class: str) -> None:
    path = tmp_path / "rank.fault"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", DYING.format(how), str(path)], capture_output=True, check=False)
    assert done.returncode != 0
    assert time.monotonic() - started < 20
    assert cause_of_death(path) == (reason, reason_class)


def test_a_process_that_ends_in_time_leaves_no_report(tmp_path: Path) -> None:
    fault = FaultFile(tmp_path / "rank.fault", 0.2)
    fault.arm()
    fault.disarm()
    time.sleep(0.3)
    fault.close()
    assert list(tmp_path.iterdir()) == []


def test_a_reported_cause_is_found(tmp_path: Path) -> None:
    fault = FaultFile(tmp_path / "rank.fault", 60)
    fault.arm()
    fault.disarm()
    fault.write("CUDA error: out of luck in caf\udce9.png")
    fault.close()
    assert cause_of_death(tmp_path / "rank.fault") == (r"crashed: CUDA error: out of luck in caf\udce9.png", "crash")


def test_foreign_reports_are_read_up_to_a_limit_and_their_invalid_times_ignored(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("x" * 100_000)
    assert cause_of_death(tmp_path / "long") == (f"crashed: {'x' * 1000}", "crash")
    (tmp_path / "absurd").write_text(f"Timeout (1:00:{'9' * 400})!")
    assert cause_of_death(tmp_path / "absurd")[1] == "crash"


def test_a_report_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "rank.fault").symlink_to("letter")
    with pytest.raises(FileExistsError):
        FaultFile(tmp_path / "rank.fault", 60).arm()
    assert not (tmp_path / "letter").exists()


def test_a_timeout_of_hours_is_reported_in_seconds(tmp_path: Path) -> None:
    (tmp_path / "fault").write_text("Timeout (1:01:05.500000)!\nThread 0x1 (most recent call first):\n")
    assert cause_of_death(tmp_path / "fault") == ("timed out after 3665.5 s", "timeout")


def test_failed_attempts_survive_the_rank_that_recorded_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    with Rank(run) as rank:
        rank.lease()
        assert rank.add_failed_attempt(0, 2, "crashed: SIGSEGV", "crash")
    with Rank(run) as successor:
        opened = lease(successor)
        assert [attempt.reason for attempt in opened.spool.failed_attempts[2]] == ["crashed: SIGSEGV"]
        assert successor.add_failed_attempt(0, 2, "crashed: SIGSEGV", "crash")
        assert not successor.add_failed_attempt(0, 2, "timed out after 9 s", "timeout")
        result = opened.spool.results[2]
        assert (result.reason, result.reason_class, result.attempts) == ("timed out after 9 s", "timeout", 3)
