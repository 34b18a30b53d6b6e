import subprocess
import sys
from itertools import chain
from pathlib import Path

from preprocess.early_start import _PRELOAD, _TRANSFORMS

PROGRAM = """
import os, signal, sys
from multiprocessing import forkserver
from preprocess.early_start import start_fork_server

folder = sys.argv[1]
for argv in (
    ["keypoints", "--data.num_workers", "0"],
    ["keypoints", "--help"],
    ["keypoints", "--model", "some.Other"],
    ["no-such-name"],
    [],
    ["captions"],  # the loader starts it, to share what the transform imports
    [f"--config={folder}/own.yaml"],
    [f"--config={folder}/no_workers.yaml"],
    ["--config", f"{folder}/missing.yaml"],
    ["--config", f"{folder}/wrong.yaml"],
    ["--config"],
):
    start_fork_server(argv)
    assert forkserver._forkserver._forkserver_pid is None, argv
start_fork_server([f"--config={folder}/like_ours.yaml", "--data.num_workers=1"])
os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
assert "torch" not in sys.modules
"""


def test_the_fork_server_is_started_early_only_if_it_is_known_what_workers_need(tmp_path: Path) -> None:
    data = "data: {num_workers: %s}\nmodel: {class_path: %s}\n"
    clips = "preprocess.pipelines.clips.Clips"
    (tmp_path / "own.yaml").write_text(data % (1, "own.Extractor"))
    (tmp_path / "no_workers.yaml").write_text(data % (0, clips))
    (tmp_path / "wrong.yaml").write_text("model: [")
    (tmp_path / "like_ours.yaml").write_text(data % (0, clips))
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_fork_server_imports_all_of_the_transforms_and_no_lightning() -> None:
    names = {*_PRELOAD, *chain.from_iterable(_TRANSFORMS.values())}
    program = f"import sys, {', '.join(sorted(names))}; print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
