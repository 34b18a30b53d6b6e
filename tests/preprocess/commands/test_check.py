"""`preprocess check` reports the items that a run would fail, and no others."""

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.errors import ConfigError
from datamodules.media.decoding import Decoding
from datamodules.media.sampling import Every
from datamodules.run.failures import failures
from datamodules.run.folder import Run
from preprocess.cli import main
from preprocess.commands.check import _Check
from preprocess.pipelines.keypoints import Keypoints
from support.video_files import KINDS, Kind, write

ROOT = Path(__file__).parents[3]


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Nine pairs, seven of them with a bad video or text."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("sound", "naïve name – 2", "silent"):
        write(clips / name, KINDS["b-frames"], 30)
    write(clips / "garbage", KINDS["gop 1"], 16)
    write(clips / "short", KINDS["b-frames"], 12)
    write(clips / "cut", Kind(container_options={"movflags": "faststart"}), 30)
    content = (clips / "cut.mp4").read_bytes()
    (clips / "cut.mp4").write_bytes(content[: len(content) // 2])
    content = (clips / "garbage.mp4").read_bytes()
    middle = (content.index(b"mdat") + content.index(b"moov")) // 2
    noise = np.random.default_rng(1).bytes(2000)
    (clips / "garbage.mp4").write_bytes(content[:middle] + noise + content[middle + 2000 :])
    names = ("sound", "naïve name – 2", "garbage", "silent", "short", "cut", "missing")
    pairs: list[dict[str, Any]] = [
        {"vid": f"v{number}", "clip_path": f"C:\\clips\\{name}.mp4", "transcript": "" if name == "silent" else name}
        for number, name in enumerate(names)
    ]
    pairs.append({"vid": "v7", "clip_path": "sound.mp4", "transcript": "half an emoji \ud83d"})
    pairs.append({"vid": "v8", "clip_path": "sound.mp4", "transcript": 3})
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    return [
        *("--config", str(ROOT / "configs" / "clips.yaml"), "--data.pairs", str(tmp_path / "pairs.json")),
        *("--data.clips_dir", str(clips), "--data.num_workers", "0", "--model.tokenizer", "null"),
        *("--output.dir", str(tmp_path / "run"), "--max-failures", "100%"),
    ]


def reported_failures(capfd: pytest.CaptureFixture[str]) -> dict[str, str]:
    lines = map(json.loads, capfd.readouterr().out.splitlines())
    return {line["key"]: line["reason"] for line in lines}


def test_check_reports_the_items_that_a_run_fails(
    options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *options, "--json"]) == 1
    quick = reported_failures(capfd)
    assert {key: reason[:60] for key, reason in quick.items()} == {
        "v3": "its text is empty",
        "v4": "short.mp4: it has 12 frames, and 16 are requested",
        "v5": quick["v5"][:60],
        "v6": "missing.mp4 is missing",
        "v7": "its text has a lone surrogate, which UTF-8 cannot store"[:60],
        "v8": f"{tmp_path}/pairs.json, row 9: 'transcript' is 3, and not text"[:60],
    }
    assert "of the 30 frames that it promises: it was cut off" in quick["v5"]
    assert main(["check", *options, "--json", "--full"]) == 1
    full = reported_failures(capfd)
    assert full.keys() == {"v2", *quick}
    assert not (tmp_path / "run").exists()

    assert main(["run", *options]) == 0
    assert {failure.item.key: failure.reason for failure in failures(Run(tmp_path / "run"))} == full
    assert main(["retry", str(tmp_path / "run"), "--class", "listing"]) == 0
    assert {failure.item.key: failure.reason for failure in failures(Run(tmp_path / "run"))} == full


def test_a_sound_corpus_is_reported_as_sound(options: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *options, "--data.max_items", "2"]) == 0
    assert capfd.readouterr().out == "2 items checked; nothing failed\n"


@pytest.mark.parametrize(
    ("square_pixels", "what"),
    [
        ("true", "resized to the shape that players show"),
        ("false", "stay as stored (--data.decoding.square_pixels false)"),
    ],
)
def test_items_with_non_square_pixels_are_counted(
    square_pixels: str, what: str, options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "clips" / "sound", Kind(pixel_aspect_ratio=Fraction(64, 45)), 16)
    assert main(["check", *options, "--data.max_items", "2", "--data.decoding.square_pixels", square_pixels]) == 0
    assert re.search(
        rf"nothing failed\n1 with non-square pixels, which (are )?{re.escape(what)}\n$", capfd.readouterr().out
    )


def test_the_table_ends_with_the_counts(options: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *options]) == 1
    assert (
        capfd.readouterr().out.splitlines()[-1]
        == "9 items checked; 6 failed: decode 2, extract 2, listing 1, missing 1"
    )


def test_a_wrong_option_fails(options: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *options, "--ful"]) == 2
    assert "--ful" in capfd.readouterr().err


def test_the_device_of_the_run_decides_the_backend_that_is_checked() -> None:
    checked = _Check(Keypoints(precision="fp16"), full=True, decoding=Decoding())
    with pytest.raises(ConfigError, match=r"--model\.precision fp16"):  # MediaPipe's own, on a CPU
        checked.place(torch.device("cpu"))
    checked.place(torch.device("cuda"))
    assert checked.frames.selection == Every()
