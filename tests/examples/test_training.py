"""The examples that train, as a user starts them: each ends with a number that is better than before."""

import io
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datamodules.samples.captions import CaptionSample, CaptionSamples
from datamodules.samples.clips import ClipSample, ClipSamples, raw_frames
from datamodules.samples.pose import PoseSample, PoseSamples
from datamodules.samples.skeleton import pose_map
from support.caption_runs import write_tokenizer
from support.example_runs import write_samples
from support.pose_runs import standing
from support.track_runs import make_track_run, write_videos

EXAMPLES = Path(__file__).parents[2] / "examples"
RGB = NDArray[np.uint8]


def colour(number: int) -> RGB:
    """One of 27 colours."""
    return np.array([120 * (number % 3), 120 * (number // 3 % 3), 120 * (number // 9 % 3)], np.uint8)


def png(pixels: RGB) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def clip(key: str, number: int) -> ClipSample:
    """16 frames of a colour, and a text of which one token tells the colour."""
    tokens = np.zeros(77, np.int64)
    tokens[:3] = 49406, 100 + number, 49407
    frames = raw_frames([np.full((16, 24, 3), colour(number), np.uint8)] * 16)
    return ClipSample(key, frames, tokens, {"text": f"colour {number}", "num_frames": 16})


def caption(key: str, number: int) -> CaptionSample:
    """A red, green or blue image, and a text of its own for each."""
    text = ("a red cow", "milk", "a cow drinks milk")[number % 3]
    image = png(np.full((32, 32, 3), 255 * np.eye(3)[number % 3], np.uint8))
    return CaptionSample(key, text, {"image": f"{key}.png", "status": "ok"}, image, "png")


def pose(key: str, number: int) -> PoseSample:
    """A person on gray, who is drawn as the pose map is."""
    people = standing(6 + 3 * number, 1, 28)[None]
    image = np.maximum(pose_map(people, (32, 32)), 90)
    meta = {"image": f"{key}.png", "width": 32, "height": 32, "original_width": 32, "original_height": 32}
    return PoseSample(key, people, np.ones(1, np.float32), meta, None, png(image), "png")


def clip_options(folder: Path) -> list[str]:
    return ["--shards", str(write_samples(folder / "run", ClipSamples(), 16, clip)), "--picture", f"{folder}/p.png"]


def caption_options(folder: Path) -> list[str]:
    run = write_samples(folder / "run", CaptionSamples(), 12, caption)
    return ["--shards", str(run), "--tokenizer", str(write_tokenizer(folder / "tokenizer"))]


def pose_options(folder: Path) -> list[str]:
    run = write_samples(folder / "run", PoseSamples(), 8, pose)
    return ["--shards", str(run), "--size", "32", "--picture", f"{folder}/p.png"]


def track_options(folder: Path) -> list[str]:
    corpus = write_videos(folder / "videos", *(f"train/{number}" for number in range(4)))
    make_track_run(folder / "run", corpus)
    size = ["--size", "64", "96"]
    return ["--shards", str(folder / "run"), "--root", corpus.root, *size, "--picture", f"{folder}/p.png"]


EXAMPLE = pytest.mark.parametrize(
    ("name", "options", "epochs", "is_better"),
    [
        ("train_clips", clip_options, 40, lambda before, after: before < 0.5 and after >= 0.9),
        ("train_captions", caption_options, 40, lambda before, after: before < 0.6 and after >= 0.95),
        pytest.param(
            *("train_poses", pose_options, 120, lambda before, after: after < 0.6 * before), marks=pytest.mark.slow
        ),
        ("train_tracks", track_options, 40, lambda before, after: after > before + 0.2),
    ],
)


def numbers_in(output: str) -> tuple[float, float]:
    """Return the number before and after training."""
    found = re.search(r"(\d+\.\d+) before training, (\d+\.\d+) after", output)
    assert found is not None, output
    return float(found[1]), float(found[2])


@pytest.mark.filterwarnings("ignore")  # Lightning warns of few workers, and of what torch will change
@EXAMPLE
def test_an_example_learns(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    options: Callable[[Path], list[str]],
    epochs: int,
    is_better: Callable[[float, float], bool],
) -> None:
    arguments = [*options(tmp_path), "--epochs", str(epochs), "--workers", "0"]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert is_better(*numbers_in(output)), numbers_in(output)
    if "--picture" in arguments:
        with Image.open(tmp_path / "p.png") as picture:
            assert len(np.unique(np.array(picture))) > 10
    if name == "train_captions":
        assert re.search(r"^'(a red cow|milk|a cow drinks milk)' for '\1'$", output, re.MULTILINE)


@pytest.mark.slow
@EXAMPLE
def test_an_example_learns_on_two_ranks(
    tmp_path: Path,
    name: str,
    options: Callable[[Path], list[str]],
    epochs: int,
    is_better: Callable[[float, float], bool],
) -> None:
    more = ["--epochs", str(epochs), "--devices", "2", "--workers", "0"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *options(tmp_path), *more],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert is_better(*numbers_in(done.stdout)), done.stdout
