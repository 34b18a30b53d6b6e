"""`preprocess run` in real processes, with faults of corpora, models, machines and users."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from preprocess.cli import main
from preprocess.integrity import coverage, verify
from support.fork_server import ForkServer
from support.runs import tars, wait_for

NUM_IMAGES, NUM_VIDEOS = 20, 5


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """20 images of 20 values, and 5 sequences of 10 frames; image 7 has the value 7, as has frame 3 of sequence 2."""
    root = tmp_path / "corpus"
    root.mkdir()
    for image in range(NUM_IMAGES):
        _gray(root / f"image{image:02d}.png", image)
    for video in range(NUM_VIDEOS):
        (root / f"v{video}").mkdir()
        for frame in range(10):
            _gray(root / f"v{video}" / f"{frame}.png", 7 if (video, frame) == (2, 3) else 100 + frame)
    return root


def _gray(path: Path, value: int) -> None:
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


@pytest.fixture
def arguments(corpus: Path, tmp_path: Path) -> Callable[..., list[str]]:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {class_path: support.brightness.Brightness}\n"
        "data: {num_workers: 0, corpus: {class_path: support.brightness.ImageFolders, "
        f"init_args: {{root: {corpus}}}}}}}\n"
        "output: {shards: {min_shards: 5}}\n"
        "trainer: {accelerator: cpu}\n"
    )
    return lambda *more: ["run", "--config", str(config), "--output.dir", str(tmp_path / "run"), *more]


def deadly(what: str) -> list[str]:
    return ["--model.class_path", "support.crashing_extractors.Deadly", "--model.poison", "7", "--model.what", what]


def rows_of(folder: Path) -> dict[str, Any]:
    run = Run(folder)
    return {row["key"]: row for shard in run.plan.shards for row in run.table(shard.name).to_pylist()}


def until_done(fork_server: ForkServer, arguments: Any, log: Path, most: int) -> list[int]:
    """Run the command until it succeeds, at most `most` times. Returns the exit statuses."""
    statuses: list[int] = []
    while not statuses or (statuses[-1] != 0 and len(statuses) < most):
        statuses.append(fork_server.run(arguments, log))
    return statuses


def undisturbed_tars(fork_server: ForkServer, arguments: Any, tmp_path: Path) -> dict[str, bytes]:
    """The tars of a run in which the items with the value 7 fail at once, and no process dies."""
    elsewhere = "--output.dir", str(tmp_path / "undisturbed")
    assert fork_server.run(arguments("--model.poison", "7", *elsewhere), tmp_path / "log") == 0
    return tars(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("what", "more", "reason", "reason_class", "status"),
    [
        ("segfault", [], "crashed: SIGSEGV", "crash", -signal.SIGSEGV),
        ("hang", ["--output.extract_timeout_seconds", "1"], "timed out after 1 s", "timeout", 1),
        ("hang in native code", ["--output.extract_timeout_seconds", "1"], "timed out after 1 s", "timeout", 1),
        ("break", [], "crashed: ZeroDivisionError: division by zero", "crash", 1),
        ("break assembling", [], "crashed: ZeroDivisionError: division by zero", "crash", 1),
        ("lose the device", [], "crashed: AcceleratorError: CUDA error: device-side assert triggered", "crash", 3),
    ],
)
def test_an_item_that_kills_the_rank_fails_alone_after_its_attempts(
    fork_server: ForkServer,
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    what: str,
    more: list[str],
    reason: str,
    reason_class: str,
    status: int,
) -> None:
    options = [*deadly(what), *more, "--output.max_attempts", "2"]
    statuses = until_done(fork_server, arguments(*options), tmp_path / "log", most=5)
    assert statuses == [status] * 4 + [0], (tmp_path / "log").read_text()  # two items, two attempts
    rows = rows_of(tmp_path / "run")
    failed = {key: (row["reason"], row["reason_class"], row["attempts"]) for key, row in rows.items() if row["reason"]}
    assert failed == dict.fromkeys(("train/image07", "train/v2"), (reason, reason_class, 2))
    assert len(rows) == NUM_IMAGES + NUM_VIDEOS
    suspected = {key for key, row in rows.items() if row["split_to"] == 1 and row["status"] == "ok"}
    assert bool(suspected) == (what != "break assembling")  # which is of one item
    assert all(key.startswith("train/image") for key in suspected)
    assert list(verify(Run(tmp_path / "run"))) == []
    assert not list((tmp_path / "run" / "work" / "ranks").iterdir())
    if what == "segfault":  # one of them suffices: the tars do not tell that neighbours crashed
        assert tars(tmp_path / "run") == undisturbed_tars(fork_server, arguments, tmp_path)


def test_an_item_that_exhausts_memory_fails_alone_and_the_split_is_recorded(
    fork_server: ForkServer, arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert fork_server.run(arguments(*deadly("exhaust memory")), tmp_path / "log") == 0, (tmp_path / "log").read_text()
    rows = rows_of(tmp_path / "run")
    failed = {key: (row["reason"], row["reason_class"], row["attempts"]) for key, row in rows.items() if row["reason"]}
    assert failed == dict.fromkeys(("train/image07", "train/v2"), ("out of memory", "memory", 3))
    neighbours = {key: row["split_to"] for key, row in rows.items() if row["split_to"]}
    assert neighbours
    assert set(neighbours.values()) <= {1, 2, 4}


def spooled(folder: Path) -> bool:
    spool = folder / "work" / "spool"
    return spool.exists() and any(path.stat().st_size for path in spool.iterdir())


def test_a_second_signal_stops_a_hanging_run_at_once_and_charges_no_item(
    fork_server: ForkServer, arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    pid = fork_server.start(arguments(*deadly("hang")), tmp_path / "log")
    wait_for(lambda: spooled(tmp_path / "run"), 30)
    time.sleep(1)
    os.kill(pid, signal.SIGTERM)
    time.sleep(1.2)
    assert fork_server.poll(pid) is None
    os.kill(pid, signal.SIGTERM)
    assert fork_server.wait(pid, 5) == 143
    assert "a second SIGTERM. Stopped at once" in (tmp_path / "log").read_text()
    with Rank(Run(tmp_path / "run")) as successor:
        while opened := successor.lease():
            assert opened.spool.failed_attempts == {}


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_in_flight_items_get_the_grace_period_after_a_signal_and_no_more(
    fork_server: ForkServer, arguments: Callable[..., list[str]], tmp_path: Path, number: signal.Signals
) -> None:
    pid = fork_server.start(arguments(*deadly("hang"), "--output.grace_seconds", "1"), tmp_path / "log")
    wait_for(lambda: spooled(tmp_path / "run"), 30)
    time.sleep(1)
    os.kill(pid, number)
    assert fork_server.wait(pid, 10) == 128 + number
    assert "the batches in progress took longer than 1 s. Stopped at once" in (tmp_path / "log").read_text()


def test_in_flight_items_are_finished_after_a_signal(
    fork_server: ForkServer, arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    pid = fork_server.start(arguments("--model.seconds_per_frame", "0.05"), tmp_path / "log")
    wait_for(lambda: spooled(tmp_path / "run"), 30)
    os.kill(pid, signal.SIGUSR1)
    assert fork_server.wait(pid, 20) == 138
    assert "stopped by SIGUSR1. Finished work is safe" in (tmp_path / "log").read_text()
    assert fork_server.run(arguments(), tmp_path / "log") == 0
    assert list(verify(Run(tmp_path / "run"))) == []


def test_a_missing_corpus_fails_no_item_and_the_run_resumes_when_it_is_back(
    fork_server: ForkServer, arguments: Callable[..., list[str]], corpus: Path, tmp_path: Path
) -> None:
    pid = fork_server.start(arguments("--model.seconds_per_frame", "0.05"), tmp_path / "log")
    wait_for(lambda: spooled(tmp_path / "run"), 30)
    corpus.rename(tmp_path / "elsewhere")
    corpus.mkdir()  # an unmounted folder exists and is empty
    assert fork_server.wait(pid) == 3
    assert "is gone, or empty. Finished work is safe" in (tmp_path / "log").read_text()
    corpus.rmdir()
    (tmp_path / "elsewhere").rename(corpus)
    assert fork_server.run(arguments(), tmp_path / "log") == 0
    assert {row["status"] for row in rows_of(tmp_path / "run").values()} == {"ok"}


def test_files_that_vanish_or_change_after_planning_fail_with_that_reason(
    fork_server: ForkServer, arguments: Callable[..., list[str]], corpus: Path, tmp_path: Path
) -> None:
    pid = fork_server.start(arguments("--model.seconds_per_frame", "0.2"), tmp_path / "log")
    wait_for(lambda: (tmp_path / "run" / "plan.arrow").exists(), 30)
    os.kill(pid, signal.SIGKILL)
    fork_server.wait(pid)
    os.utime(corpus / "v4" / "9.png", (1, 1e10))
    shutil.rmtree(corpus / "v3")
    (corpus / "image19.png").unlink()
    with open(corpus / "image18.png", "ab") as file:
        file.write(b"longer")
    assert fork_server.run(arguments(), tmp_path / "log") == 0
    failed = {key: row for key, row in rows_of(tmp_path / "run").items() if row["reason"]}
    assert {key: row["reason_class"] for key, row in failed.items()} == {
        "train/v4": "changed", "train/v3": "missing", "train/image19": "missing", "train/image18": "changed",
    }  # fmt: skip
    assert "was written 2286" in failed["train/v4"]["reason"]
    assert "bytes, but had" in failed["train/image18"]["reason"]


def test_a_run_with_too_many_failures_stops_and_resumes_with_a_higher_limit(
    fork_server: ForkServer, arguments: Callable[..., list[str]], corpus: Path, tmp_path: Path
) -> None:
    for image in range(120):
        (corpus / f"image{image:03d}.png").write_bytes(b"no image")
    assert fork_server.run(arguments(), tmp_path / "log") == 4
    assert "items done have failed, more than --output.max_failures 50%" in (tmp_path / "log").read_text()
    assert fork_server.run(arguments("--max-failures", "100%"), tmp_path / "log") == 0
    covered = coverage(Run(tmp_path / "run"))
    assert (covered.planned, covered.committed, covered.failed) == (145, 25, 120)


def test_a_short_run_with_too_many_failures_completes_with_exit_status_4(
    fork_server: ForkServer, arguments: Callable[..., list[str]], corpus: Path, tmp_path: Path
) -> None:
    for image in range(NUM_IMAGES):
        (corpus / f"image{image:02d}.png").write_bytes(b"no image")
    assert fork_server.run(arguments(), tmp_path / "log") == 4
    assert "25 planned = 5 committed + 20 failed + 0 missing" in (tmp_path / "log").read_text()
    assert "more items have failed than --output.max_failures 50% allows" in (tmp_path / "log").read_text()
    assert fork_server.run(arguments("--max-failures", "100%"), tmp_path / "log") == 0
    own = ["--model", "support.brightness.Brightness", "--data.corpus", "support.brightness.ImageFolders"]
    retried = ["retry", str(tmp_path / "run"), *own, "--trainer.accelerator", "cpu", "--output.max_failures", "50%"]
    assert fork_server.run(retried, tmp_path / "log") == 0


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--data.batch_size", "64", "batch_size has no effect in preprocessing. Leave it out"),
        ("--data.worker_timeout_seconds", "0", "worker_timeout_seconds = 0.0 must be above 0"),
        ("--output.extract_timeout_seconds", "-1", "extract_timeout_seconds = -1.0: it must be above 0"),
        ("--grace-seconds", "-5", "grace_seconds = -5.0 must be 0 or more"),
        ("--max-attempts", "0", "max_attempts = 0: it must be 1 or more"),
        ("--max-failures", "most", "max_failures 'most': give a number of items"),
    ],
)
def test_an_invalid_limit_is_refused_before_the_run(
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    option: str,
    value: str,
    message: str,
) -> None:
    assert main(arguments(option, value)) == 2
    assert message in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "run").exists()
