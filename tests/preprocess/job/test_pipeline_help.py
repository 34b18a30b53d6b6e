"""`run NAME --help`: the options of the pipeline first, by their short names, in under 120 lines."""

import re
from pathlib import Path

import pytest
import yaml

from preprocess.cli import main
from preprocess.commands.run import parser as run_parser
from preprocess.configurations import find_configuration, summaries
from preprocess.job.pipeline_cli import parse_pipeline
from preprocess.job.pipeline_help import pipeline_help


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", summaries())
def test_the_help_of_every_configuration_has_under_120_lines_of_80_columns(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    config = yaml.safe_load(find_configuration(name).read_text())
    lines = pipeline_help(run_parser(), config, everything=False).splitlines()
    assert len(lines) < 120
    assert max(map(len, lines)) <= 80
    options = [line.split()[0] for line in lines if line.startswith("  --")]
    sections = [option.partition(".")[0] for option in options if "." in option]
    first_output = sections.index("--output")
    assert set(sections[:first_output]) == {"--model", "--data"}
    assert sections[-1] == "--trainer"
    arguments = [f"--model.{name}" for name in config["model"]["init_args"] if name != "backend"]
    assert [name for name in arguments if name not in options] == []


def test_values_are_those_of_the_configuration_and_of_options_before_help(capsys: pytest.CaptureFixture[str]) -> None:
    help_text = " ".join(shown(capsys, "run", "pose_openpose", "--model.size_px", "64", "--help").split())
    assert "--model preprocess.pipelines.pose.Pose:" in help_text
    assert "--model.backend preprocess.pose.openpose.OpenPose:" in help_text
    assert "--data.corpus datamodules.corpora.images.Images:" in help_text
    assert "--model.size_px N see `resize` (64)" in help_text
    assert "relative paths of a list are below it (images)" in help_text
    assert "height that an image is resized to at scale 1 (368)" in help_text
    assert (
        "--output.shards.min_shards N number of shards of a split, at least, if it has that many items (32)"
        in help_text
    )
    assert "--output.log {items,jsonl} `items`: a line on standard error" in help_text
    assert "--output.stale_seconds" not in help_text
    assert "--data.batch_size" not in help_text


def test_a_class_of_another_configuration_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    backend = "preprocess.pose.vitpose.VitPose"
    help_text = shown(capsys, "check", "pose", "--model.backend", backend, "--help")
    assert help_text.startswith(
        "usage: preprocess check NAME [options]\n       preprocess check --config FILE [options]\n"
    )
    assert "  --full " in help_text
    assert f"--model.backend {backend}:" in help_text
    assert "--model.backend.people_at_once N" in help_text


def test_help_without_a_name_lists_the_configurations(capsys: pytest.CaptureFixture[str]) -> None:
    help_text = shown(capsys, "run", "--help")
    assert len(help_text.splitlines()) < 120
    assert all(f"  {name} " in help_text and summary in help_text for name, summary in summaries().items())
    assert "\n  --output.dir TEXT " in help_text


def test_help_all_shows_every_option_and_all_about_it(capsys: pytest.CaptureFixture[str]) -> None:
    help_text = shown(capsys, "run", "keypoints", "--help-all")
    names = set(re.findall(r"^  (--[\w.]+)", help_text, re.MULTILINE))
    assert {
        "--trainer.limit_predict_batches",
        "--output.stale_seconds",
        "--data.fetching.images",
        "--model.mode",
    } <= names
    assert "553: these and the irises" in " ".join(help_text.split())


def test_help_has_no_control_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--help", "--help-all"):
        help_text = shown(capsys, "run", "tracking", option)
        assert re.findall(r"[^\n -~…×–µ]|\\x", help_text) == []


def test_the_short_names_of_the_help_are_parsed(tmp_path: Path) -> None:
    options = [
        "--data.splits",
        "[dev]",
        "--model.layout",
        "75",
        "--data.num_workers",
        "3",
        "--output.dir",
        str(tmp_path),
    ]
    job = parse_pipeline(["keypoints", *options]).job()
    assert vars(job.corpus)["splits"] == ["dev"]
    assert (job.extractor.hparams["layout"], job.data.num_workers) == (75, 3)
