import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from preprocess import early_start
from preprocess.early_start import _PRELOAD, _TRANSFORMS, start_fork_server

CLIPS = "preprocess.pipelines.clips.Clips"
CONFIG = "data: {num_workers: %s}\nmodel: {class_path: %s}\n"


@pytest.fixture
def preloaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The modules of each fork server that would be started."""
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(early_start, "fork_server", started.append)
    return started


def test_the_fork_server_is_started_with_what_the_workers_of_a_pipeline_import(
    preloaded: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG % (0, CLIPS))
    file = f"{tmp_path}/config.yaml"
    for command, argv in (
        ("run", ["clips", "--data.root", "clips"]),
        ("check", ["--data.num_workers=1", "-c", file]),
        ("retry", ["--class", "io", str(tmp_path), "--data.num_workers", "3"]),
    ):
        start_fork_server(command, argv)
        assert preloaded.pop() == (*_PRELOAD, "preprocess.frame_transforms")


@pytest.mark.parametrize(
    "argv",
    [
        ["keypoints", "--data.num_workers", "0"],
        ["keypoints", "--help"],
        ["keypoints", "--model", "some.Other"],
        ["captions"],  # the loader starts it, to share what the transform imports
        ["no-such-name"],
        [],
        ["--config"],
        *(["--config", f"{name}.yaml"] for name in ("own", "no_workers", "wrong", "deep", "list", "pipe", "missing")),
    ],
)
def test_no_fork_server_is_started_unless_it_is_known_what_workers_need(
    argv: list[str], preloaded: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("own", CONFIG % (1, "own.Extractor")),
        ("no_workers", CONFIG % (0, CLIPS)),
        ("wrong", "model: ["),
        ("deep", "[" * 10_000),
        ("list", CONFIG % (1, f"[{CLIPS}]")),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
    os.mkfifo(tmp_path / "pipe.yaml")
    start_fork_server("run", argv)
    assert preloaded == []


def test_the_fork_server_imports_all_of_the_transforms_and_no_lightning() -> None:
    names = {*_PRELOAD, *chain.from_iterable(_TRANSFORMS.values())}
    program = f"import sys, {', '.join(sorted(names))}; print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_starting_it_imports_no_torch() -> None:
    program = "import sys, preprocess.early_start; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
