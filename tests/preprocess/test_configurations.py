"""Configurations by name: each command that takes `--config FILE` takes the name of an installed one as well."""

from pathlib import Path

import pytest
import yaml

from datamodules.errors import ConfigError
from preprocess.cli import main
from preprocess.configurations import find_configuration, summaries, with_config

CONFIGS = Path(__file__).parents[2] / "configs"


def test_a_bare_first_word_is_the_name_of_a_configuration() -> None:
    file = str(CONFIGS / "keypoints.yaml")
    assert with_config(["keypoints", "--data.root", "R"]) == ["--config", file, "--data.root", "R"]
    assert with_config(["--config", "my.yaml", "pose"]) == ["--config", "my.yaml", "pose"]
    assert with_config(["--model", "my.Extractor"]) == ["--model", "my.Extractor"]


@pytest.mark.parametrize("arguments", [[], ["--data.root", "R", "keypoints"]])
def test_without_a_name_in_the_first_place_the_message_says_where_it_goes(arguments: list[str]) -> None:
    with pytest.raises(
        ConfigError, match=r"no pipeline is named\. Write the name of a configuration first, such as `run "
    ):
        with_config(arguments)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("keypoint", r"there is no configuration 'keypoint'\. Did you mean keypoints\? Known: captions, .*pose, "),
        (
            "zzz",
            r"there is no configuration 'zzz'\. Known: captions, .*, tracking_sam3\. For a file, write --config",
        ),
        ("k" * 5000, "there is no configuration 'kkk"),
        ("../configs/pose", r"there is no configuration '\.\./configs/pose'"),
    ],
)
def test_an_unknown_name_lists_the_known_ones_and_suggests_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_configuration(name)


def test_a_file_in_place_of_a_name_is_explained(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").touch()
    with pytest.raises(ConfigError, match=r"my\.yaml is a file, not the name of a configuration\. Write --config /"):
        find_configuration(str(tmp_path / "my.yaml"))


@pytest.mark.parametrize(
    "command", [["run"], ["estimate"], ["check", "--full"], ["sbatch", "run"], ["ray", "--address", "local", "run"]]
)
def test_every_command_that_starts_a_pipeline_takes_a_name(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "keypoint"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no configuration 'keypoint'. Did you mean keypoints?")


def test_a_name_takes_options_as_a_file_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["run", "pose_openpose", "--data.root", "/data", "--model.size_px", "64", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["init_args"]["backend"]["class_path"] == "preprocess.pose.openpose.OpenPose"
    assert (shown["model"]["init_args"]["size_px"], shown["data"]["corpus"]["init_args"]["root"]) == (64, "/data")


def test_configs_lists_every_configuration_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    assert lines[7].split(maxsplit=1) == ["keypoints", "Keypoints of PHOENIX-2014-T by MediaPipe Holistic"]


def test_configs_prints_one_as_it_is_in_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "tracking"]) == 0
    assert capsys.readouterr().out == (CONFIGS / "tracking.yaml").read_text()
    assert main(["configs", "trackin"]) == 2
    assert "Did you mean tracking?" in capsys.readouterr().err


@pytest.mark.parametrize("name", summaries())
def test_the_header_of_a_configuration_is_a_line_and_the_command_that_runs_it(name: str) -> None:
    summary, *lines = (CONFIGS / f"{name}.yaml").read_text().partition("model:\n")[0].splitlines()
    assert 20 < len(summary) < 100
    assert not summary.endswith((".", ":"))
    assert f" run {name} --data." in lines[0]
    assert lines[-1] == f"# All options: preprocess run {name} --help"
