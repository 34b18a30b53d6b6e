"""`preprocess estimate` runs a sample of the items, and shows what the pipeline suggests."""

from pathlib import Path

import pytest
import torch

from preprocess.cli import main
from preprocess.commands.sample import make_sample_corpus
from support.brightness import Brightness
from support.image_files import image_bytes

ROOT = Path(__file__).parents[3]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Arguments that estimate a run over four images."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").write_bytes(image_bytes(20 * number))
    (tmp_path / "config.yaml").write_text(
        "model: {class_path: support.brightness.Brightness}\n"
        "data: {num_workers: 0, corpus: {class_path: datamodules.corpora.images.Images, init_args: {root: _}}}\n"
        "trainer: {accelerator: cpu}\n"
    )
    where = ["--data.root", str(tmp_path / "images"), "--output.dir", str(tmp_path / "run")]
    return ["estimate", "--config", str(tmp_path / "config.yaml"), *where]


def test_a_pipeline_may_propose_options(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    plain = capsys.readouterr().out
    assert "items        4 (4 of them run, 0 of these failed)" in plain
    assert "proposed" not in plain
    monkeypatch.setattr(Brightness, "suggest_options", lambda self: "--model.batch_size 16; of all:\n  16")
    assert main(command) == 0
    assert "proposed     --model.batch_size 16; of all:\n               16\n" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_sample_of_which_every_item_fails_is_reported(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"")
    assert main(command) == 2
    assert capsys.readouterr().err == (
        "error: all 4 sampled items failed. The first: 0.png is empty (0 bytes). Run `preprocess check` to list them\n"
    )


def test_output_only_does_not_limit_the_sample_of_an_estimate(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--output.only", "3/4", "--output.shards.min_shards", "1"]) == 0
    assert "items        4 (4 of them run, 0 of these failed)" in capsys.readouterr().out


def test_a_price_adds_the_cost_of_the_whole_corpus(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocess.commands.estimate._Stopwatch.frames_per_second", 4 / 7200)  # two hours
    assert main([*command, "--price-per-hour", "1.53"]) == 0
    assert "cost         3.06 at 1.53 an hour for each rank; about the same with more ranks" in capsys.readouterr().out
    assert main(command) == 0
    assert "cost" not in capsys.readouterr().out


@pytest.mark.parametrize("price", ["-1", "nan", "inf", "cheap"])
def test_a_price_that_is_none_is_refused(command: list[str], price: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--price-per-hour", price])
    assert f"{price!r} is not a price" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.timeout(580)
def test_keypoints_on_a_gpu_propose_a_micro_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert torch.cuda.is_available(), "there is no GPU: leave out `-m gpu`"
    corpus = make_sample_corpus(tmp_path / "corpus", num_frames=4)
    config = str(ROOT / "configs" / "keypoints_gpu.yaml")
    options = ["--config", config, "--data.root", str(corpus), "--output.dir", str(tmp_path / "run")]
    assert main(["estimate", *options, "--data.num_workers", "1"]) == 0
    result = capsys.readouterr().out.partition("proposed     --model.batch_size ")[2].splitlines()
    assert int(result[0].split(";")[0]) in (16, 32, 64, 128, 256)
    assert len(result) >= 5
