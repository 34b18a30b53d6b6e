"""`preprocess estimate` runs a sample, and tells what its pipeline proposes."""

from pathlib import Path

import pytest
import torch

from brightness import Brightness
from image_making import image_bytes
from preprocess.cli import main
from preprocess.sample import make_sample_corpus

ROOT = Path(__file__).parents[2]


def test_a_pipeline_may_propose_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").write_bytes(image_bytes(20 * number))
    (tmp_path / "config.yaml").write_text(
        "model: {class_path: brightness.Brightness}\n"
        "data: {num_workers: 0, corpus: {class_path: datamodules.corpora.images.Images, init_args: {root: _}}}\n"
        "trainer: {accelerator: cpu}\n"
    )
    command = ["estimate", "--config", str(tmp_path / "config.yaml"), "--data.root", str(tmp_path / "images")]
    assert main([*command, "--output.dir", str(tmp_path / "run")]) == 0
    plain = capsys.readouterr().out
    assert "items        4 (4 of them run, 0 of these failed)" in plain
    assert "proposed" not in plain
    monkeypatch.setattr(Brightness, "propose", lambda self: "--model.slice_frames 16; of all:\n  16")
    assert main([*command, "--output.dir", str(tmp_path / "run")]) == 0
    assert "proposed     --model.slice_frames 16; of all:\n               16\n" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.timeout(580)
def test_keypoints_on_a_gpu_propose_a_micro_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert torch.cuda.is_available(), "there is no GPU: leave out `-m gpu`"
    corpus = make_sample_corpus(tmp_path / "corpus", num_frames=4)
    config = str(ROOT / "configs" / "keypoints_gpu.yaml")
    options = ["--config", config, "--data.root", str(corpus), "--output.dir", str(tmp_path / "run")]
    assert main(["estimate", *options, "--data.num_workers", "1"]) == 0
    found = capsys.readouterr().out.partition("proposed     --model.slice_frames ")[2].splitlines()
    assert int(found[0].split(";")[0]) in (16, 32, 64, 128, 256)
    assert len(found) >= 5
