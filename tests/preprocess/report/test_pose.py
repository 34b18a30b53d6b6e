"""Poses for people to look at: over their images, and as tables."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.run.folder import Run
from datamodules.samples.skeleton import JOINT_COLOURS
from preprocess.cli import main
from preprocess.report.view import view
from preprocess.terminal import Terminal
from support.caption_runs import caption_items
from support.pose_runs import make_pose_run

ITEMS = caption_items("a.png", "nobody.jpg", "sub/gone.png", "sub/d.png")


def make(folder: Path) -> Path:
    (folder / "images" / "sub").mkdir(parents=True)
    for name in ("a.png", "nobody.jpg", "sub/d.png"):
        Image.new("RGB", (96, 64), (120, 120, 120)).save(folder / "images" / name)
    make_pose_run(folder / "run", ITEMS, (1, 0, 2, 3), failed=("sub/d",), root=str(folder / "images"))
    return folder / "run"


def test_poses_are_drawn_over_their_image_and_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path)
    assert main(["visualize", str(run), "--dest", str(tmp_path / "out")]) == 0
    paths = [tmp_path / "out" / name for name in ("a.png", "nobody.png", "sub/gone.png")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in paths]
    pictures = [np.asarray(Image.open(path)) for path in paths]
    for picture, there in zip(pictures, (True, False, True), strict=True):
        colours = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
        assert (JOINT_COLOURS[0] in colours) == there
    assert (pictures[0] == 120).all(-1).mean() > 0.1  # the image
    assert (pictures[0] == 0).all(-1).mean() > 0.1  # the pose map


def test_a_table_tells_how_many_people_there_are_and_their_joints(tmp_path: Path) -> None:
    console = Terminal(record=True, width=300)
    view(Run(make(tmp_path)), None, console)
    text = console.export_text()
    assert "people   0 in 1, 1 in 1, 2 in 1" in text
    assert "nose 100 %" in text
    assert "right ankle 0 %" in text
    console = Terminal(record=True, width=200)
    view(Run(tmp_path / "run"), "nobody", console)
    text = console.export_text()
    assert "[0, 18, 3]" in text
    assert '"people": []' in text


def test_a_run_of_nobody_is_viewed(tmp_path: Path) -> None:
    run = make_pose_run(tmp_path / "run", ITEMS[:1], (0,))
    console = Terminal(record=True, width=200)
    view(run, None, console)
    assert "0 in 1" in console.export_text()
    assert "joints" not in console.export_text()
