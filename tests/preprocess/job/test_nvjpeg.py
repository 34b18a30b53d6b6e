"""Runs whose JPEGs the rank decodes: with nvJPEG on a GPU, and with torchvision on the CPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.run.failures import failures
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from preprocess.cli import main
from support.brightness import BrightnessSamples
from support.image_files import image_bytes

NVJPEG = ["--data.decoding.images", "nvjpeg"]


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Twelve JPEGs in slices of 5, one of them truncated, and a PNG."""
    (tmp_path / "images").mkdir()
    for number in range(12):
        (tmp_path / "images" / f"{number:02d}.jpg").write_bytes(image_bytes(20 * number, "jpg", (40, 30 + number % 2)))
    (tmp_path / "images" / "05.jpg").write_bytes(image_bytes(100, "jpg", (40, 30))[:-8])
    (tmp_path / "images" / "12.png").write_bytes(image_bytes(9))
    (tmp_path / "config.yaml").write_text(
        "model: {class_path: support.brightness.Brightness, init_args: {batch_size: 5}}\n"
        "data: {num_workers: 0, corpus: {class_path: datamodules.corpora.images.Images, init_args: {root: images}}}\n"
    )
    config = ["--config", str(tmp_path / "config.yaml"), "--data.root", str(tmp_path / "images")]
    return [*config, "--max-failures", "100%", "--trainer.accelerator", "auto"]


def brightness(folder: Path) -> dict[str, float]:
    samples = (BrightnessSamples().decode(*files) for files in CommittedSamples(Run(folder)))
    return {sample.key: float(sample.brightness[0]) for sample in samples}


def compare(options: list[str], folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *options, "--output.dir", str(folder / "pillow")]) == 0
    assert main(["run", *options, "--output.dir", str(folder / "nvjpeg"), *NVJPEG]) == 0
    by_pillow, by_nvjpeg = brightness(folder / "pillow"), brightness(folder / "nvjpeg")
    assert by_nvjpeg.keys() == by_pillow.keys() - {"12"}
    assert len(by_nvjpeg) == 11
    np.testing.assert_allclose(list(by_nvjpeg.values()), [by_pillow[key] for key in by_nvjpeg], atol=1)
    failed = {failure.item.key: failure for failure in failures(Run(folder / "nvjpeg"))}
    assert {failure.reason_class for failure in failed.values()} == {"decode"}
    assert failed["05"].reason.endswith("it is cut off")
    assert failed["12"].reason.endswith("--data.decoding.images pillow takes it")
    capfd.readouterr()
    assert main(["check", *options, "--output.dir", str(folder / "check"), *NVJPEG, "--json"]) == 1
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {line["key"]: line["reason"] for line in lines} == {key: row.reason for key, row in failed.items()}
    assert main(["run", *options, "--output.dir", str(folder / "nvjpeg")]) == 2
    assert "pillow" in " ".join(capfd.readouterr().err.split())


def test_jpegs_decoded_by_the_rank_make_the_same_samples(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("datamodules.loading.request.require_nvjpeg", lambda device: None)
    compare(options, tmp_path, capfd)


@pytest.mark.gpu
def test_jpegs_decoded_by_the_gpu_make_the_same_samples(
    options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert torch.cuda.is_available(), "there is no GPU: leave out `-m gpu`"
    compare(options, tmp_path, capfd)


def test_nvjpeg_is_refused_where_it_cannot_be_used(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = ["--output.dir", str(tmp_path / "run"), *NVJPEG, "--trainer.accelerator", "cpu"]
    assert main(["run", *options, *into]) == 2
    assert "needs a GPU: --trainer.accelerator gpu, or set pillow" in " ".join(capsys.readouterr().err.split())
    assert main(["run", *options, *into, "--model.in_workers", "true"]) == 2
    assert "but this pipeline needs them in the workers. Set it to pillow" in " ".join(capsys.readouterr().err.split())
