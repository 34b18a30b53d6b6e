"""`preprocess demo`, as someone types it first: real commands, which end at the first that fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from preprocess.cli import main


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").touch()
    for place in (tmp_path, tmp_path / "mine"):
        assert main(["demo", str(place)]) == 2
        assert capsys.readouterr().err == f"error: {place} is not empty: name a folder that is new or empty\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_first_step_that_fails_ends_the_demo(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "/proc/demo"]) == 2
    output = capfd.readouterr()
    assert output.out.strip() == "$ preprocess sample /proc/demo/corpus"
    assert "/proc/demo/corpus cannot be made" in output.err


@pytest.mark.slow
def test_the_demo_makes_preprocesses_checks_and_exports_a_corpus_and_opens_its_report(tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > opened\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "preprocess", "demo"]
    environment = {**os.environ, "BROWSER": f"{browser} %s"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "10 planned = 10 committed + 0 failed + 0 missing; everything is as it should be" in done.stdout
    assert "keypoints: float32 [3, 24, 143, 3]" in done.stdout
    assert done.stdout.splitlines()[-1] == "demo/report/index.html"
    assert (tmp_path / "opened").read_text().strip() == (tmp_path / "demo" / "report" / "index.html").as_uri()
    assert len(list((tmp_path / "demo" / "shards").glob("*.tar"))) == 10
