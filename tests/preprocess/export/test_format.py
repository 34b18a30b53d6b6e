"""Export formats: their names, options and help, and what the export of any of them refuses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.errors import ConfigError, RunError
from preprocess.cli import main
from preprocess.export.format import export, format_names
from support.keypoint_runs import MadeItems, make_run

CORPUS = MadeItems({"train": 2, "dev": 1})


def test_an_unknown_format_fails_and_lists_the_known(tmp_path: Path) -> None:
    known = [
        "captions-json", "clip4mc", "coco-keypoints", "coco-video", "coco-wholebody", "controlnet", "grounded-sam2",
        "imagefolder", "jsonl", "llava", "mot", "mots", "openpose-json", "openpose-txt", "parquet", "phoenix-npz",
        "phoenix-pickle", "pose-format", "tracks-jsonl", "yolo-pose",
    ]  # fmt: skip
    assert format_names() == known
    with pytest.raises(ConfigError, match=rf"--format csv: .*choose from {', '.join(known)}$"):
        export(tmp_path, "csv", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--format statistics"):
        export(tmp_path, "statistics", tmp_path / "out")


def test_a_run_with_nothing_committed_fails(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS, max_shards=0)

    with pytest.raises(RunError, match=r"no shard is committed in .*run yet: run it first"):
        export(tmp_path / "run", "phoenix-npz", tmp_path / "out")


def test_a_folder_that_is_not_a_run_fails(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is no run"):
        export(tmp_path, "phoenix-npz", tmp_path / "out")


def test_a_module_of_the_user_is_a_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "listing.py").write_text(_LISTING)
    monkeypatch.syspath_prepend(tmp_path)
    make_run(tmp_path / "run", CORPUS)
    options = ["--format", "mine.listing", "--dest", str(tmp_path / "out"), "--upper", "true"]

    assert main(["export", str(tmp_path / "run"), *options]) == 0

    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'train.txt'}\n{tmp_path / 'out' / 'dev.txt'}\n"
    assert (tmp_path / "out" / "train.txt").read_text() == "TRAIN/V0 1\nTRAIN/V1 2\n"
    with pytest.raises(SystemExit, match="0"):
        main(["export", "O", "--format", "mine.listing", "--help"])
    shown = capsys.readouterr().out
    assert "The key and number of frames of each sample\n" in shown
    assert "whether keys are in capitals (type: bool, default: False)" in " ".join(shown.split())


_LISTING = '''"""The key and number of frames of each sample.

More about it.
"""

from pathlib import Path

from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from preprocess.export.destination import all_or_none
from preprocess.export.source import Source

SAMPLES = KeypointSamples


def export(source: Source[KeypointSample], dest: Path, upper: bool = False) -> list[Path]:
    """Write a text for each split.

    Args:
        source: a run of keypoints.
        dest: folder to write to.
        upper: whether keys are in capitals
    """
    paths = [dest / f"{split}.txt" for split in source.splits]
    with all_or_none(paths) as partials:
        for split, partial in zip(source.splits, partials, strict=True):
            with open(partial, "w") as file:
                for sample in source.samples(split):
                    print(sample.key.upper() if upper else sample.key, len(sample.keypoints), file=file)
    return paths
'''


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("json.tool", "--format json.tool: this module has no function `export`"),
        ("nowhere.format", "--format nowhere.format: this module cannot be imported: No module named 'nowhere'"),
    ],
)
def test_a_module_that_is_not_a_format_fails(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export(tmp_path, name, tmp_path / "out")


def test_help_lists_the_formats_with_their_samples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["export", "--help"])
    shown = capsys.readouterr().out
    assert all(f"\n    {name} " in shown for name in format_names())
    assert "\n  ClipSamples\n    clip4mc          Clips in the folders that CLIP4MC's training code opens" in shown


def test_help_of_a_format_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["export", "--format", "openpose-txt", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--missing MISSING value of x and y of a missing joint. (type: float, default: -1.0)" in shown


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("openpose-txt", ["--coordinates", "both"], "--format openpose-txt: .*coordinates.*processed"),
        ("openpose-txt", ["--missing", "none"], "--format openpose-txt: .*missing"),
        ("openpose-json", ["--people", "all"], "--format openpose-json: .*people"),
        ("jsonl", ["--coordinates", "original"], "--format jsonl: .*coordinates"),
        ("nonsense", [], "--format nonsense: there is no such format"),
        ("jsonl", ["--dest"], "--format jsonl: .*dest"),
    ],
)
def test_options_of_formats_that_make_no_sense_fail(
    format: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "O", "--dest", "d", "--format", format, *options]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_a_command_without_a_format_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", "O", "--dest", "d"])
    assert "the following arguments are required: --format" in capsys.readouterr().err


def test_importing_export_and_merge_needs_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, preprocess.commands.merge; from preprocess.export.format import all_formats; list(all_formats()); "
        "print([name for name in ('torch', 'lightning') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"
