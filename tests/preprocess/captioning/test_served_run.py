"""Runs with a caption server that works, stops, comes back under another URL, or never answers."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from datamodules.run.failures import failures
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from preprocess.cli import main
from preprocess.integrity import coverage, verify
from support.chat_server import MODEL, Ask, ChatServer, Reply, describe, refused, said
from support.fork_server import ForkServer

TESTS = Path(__file__).parents[2]
COUNT = 30


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gray images; image n has the brightness 8 * n."""
    root = tmp_path_factory.mktemp("corpus")
    for number in range(COUNT):
        Image.new("RGB", (20 + number, 30), (8 * number,) * 3).save(root / f"{number:03d}.png")
    return root


@pytest.fixture
def arguments(corpus: Path, tmp_path: Path) -> Callable[..., list[str]]:
    values = {
        "config": TESTS.parent / "configs" / "captions_server.yaml",
        "model.backend.model": MODEL,
        "model.prompt": "What is {image}?",
        "model.batch_size": 8,
        "data.root": corpus,
        "data.num_workers": 0,
        "output.dir": tmp_path / "run",
        "output.shards.min_shards": 3,
    }
    common = [f"--{name}={value}" for name, value in values.items()]
    return lambda server, *more: ["run", *common, "--model.backend.server.url", server.url, *more]


def captions(folder: Path) -> list[tuple[str, str]]:
    run = Run(folder)
    assert list(verify(run)) == []
    return [(key, files["txt"].decode()) for key, files in CommittedSamples(run)]


def expected() -> list[tuple[str, str]]:
    return [(f"{number:03d}", f"{8 * number}: What is {number:03d}.png?") for number in range(COUNT)]


def test_every_image_gets_its_own_caption(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    with ChatServer(lambda ask: replace(describe(ask), seconds=0.2)) as server:  # so that requests meet
        assert main(arguments(server, "--data.num_workers", "1")) == 0
        assert len(server.asks) == COUNT
        assert server.peak > 1
    assert captions(tmp_path / "run") == expected()


def test_an_image_that_the_server_refuses_fails_with_the_servers_message(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    with ChatServer(lambda ask: refused(400, "too dark") if ask.brightness == 0 else describe(ask)) as server:
        assert main(arguments(server)) == 0
    covered = coverage(Run(tmp_path / "run"))
    assert (covered.committed, covered.failed) == (COUNT - 1, 1)
    rows = Run(tmp_path / "run").table("train-000000").to_pylist()
    assert (rows[0]["reason_class"], rows[0]["reason"]) == ("extract", "the server refuses the request (400): too dark")


def test_a_run_whose_model_only_thinks_stops_after_too_many_failures(
    arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thoughts = said(None, "length", 128, message={"reasoning": "Let me see."})
    with ChatServer(lambda ask: thoughts if ask.brightness < 200 else describe(ask)) as server:
        assert main(arguments(server)) == 4
        assert "more items have failed than --output.max_failures 50% allows" in " ".join(
            capsys.readouterr().err.split()
        )
        assert {failed.reason_class for failed in failures(Run(tmp_path / "run"))} == {"extract"}
        assert len(captions(tmp_path / "run")) == COUNT - 25
        more = ("--model.backend.chat_template_kwargs", '{"enable_thinking": false}')
        assert main(arguments(server, *more)) == 2  # another fingerprint
        assert "chat_template_kwargs" in capsys.readouterr().err
        server.behave = describe
        assert main(["retry", str(tmp_path / "run"), "--model.backend.server.url", server.url, *more]) == 0
        assert server.asks[-1].body["chat_template_kwargs"] == {"enable_thinking": False}
    assert sorted(captions(tmp_path / "run")) == expected()


def test_a_variable_of_the_environment_that_cannot_be_used_is_one_line(
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ChatServer() as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
        assert main(arguments(server)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: the environment variable SSL_CERT_FILE cannot be used: ")
    assert not (tmp_path / "run").exists()


def test_an_image_that_is_too_long_for_a_jpeg_fails_at_the_first_attempt(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for name, height in (("long", 66_000), ("short", 600)):
        Image.new("RGB", (4, height), (9, 9, 9)).save(tmp_path / "images" / f"{name}.png")
    with ChatServer() as server:
        more = ("--output.max_failures", "100%", "--data.root", str(tmp_path / "images"), "--model.prompt", "What?")
        assert main(arguments(server, *more)) == 0
    (failed,) = failures(Run(tmp_path / "run"))
    assert (failed.item.key, failed.reason_class, failed.attempts) == ("long", "extract", 1)
    assert failed.reason.startswith("4x66000 px cannot be sent as JPEG")
    assert captions(tmp_path / "run") == [("short", "9: What?")]


def test_a_run_stops_when_the_server_is_gone_and_resumes_with_another_url(
    arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies_later(ask: Ask) -> Reply:
        return describe(ask) if len(server.asks) <= 12 else refused(503, "shutting down")

    with ChatServer(dies_later) as server:
        assert main(arguments(server, "--model.backend.server.max_retries", "0")) == 3
        message = " ".join(capsys.readouterr().err.split())
        reason = f"something is wrong with {server.url}: the server fails to answer (503): shutting down. Finished work"
        assert reason in message
    covered = coverage(Run(tmp_path / "run"))
    assert covered.failed == 0
    with ChatServer() as server:  # on another port
        assert main(arguments(server)) == 0
        assert len(server.asks) < COUNT  # the first batch was spooled
    assert captions(tmp_path / "run") == expected()
    tables = [Run(tmp_path / "run").table(shard.name).to_pylist() for shard in Run(tmp_path / "run").plan.shards]
    assert {row["attempts"] for rows in tables for row in rows} == {1}  # nobody was charged


def test_a_missing_server_or_model_is_an_error_before_the_run(
    arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatServer() as server:
        assert main(arguments(server, "--model.backend.model", "another")) == 2
        assert f"--model.backend.model another: {server.url} serves {MODEL}" in " ".join(
            capsys.readouterr().err.split()
        )
    assert main(arguments(server)) == 2
    assert f"no server answers at {server.url}" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_ctrl_c_ends_a_run_while_the_server_does_not_answer(
    arguments: Callable[..., list[str]], tmp_path: Path, fork_server: ForkServer
) -> None:
    with ChatServer(lambda ask: said("late", seconds=60)) as server:
        run = fork_server.start(arguments(server, "--output.grace_seconds", "0.2"), tmp_path / "log")
        deadline = time.monotonic() + 60
        while not server.asks:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        os.kill(run, signal.SIGINT)
        assert fork_server.wait(run, 20) == 130
    assert coverage(Run(tmp_path / "run")).failed == 0
