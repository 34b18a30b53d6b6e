"""The whole captions pipeline with tiny random models, from images to shards, and its retries."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.run.failures import failures
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from datamodules.run.reader import CommittedSamples
from datamodules.run.result import Result
from datamodules.samples.captions import CaptionSample, CaptionSamples
from preprocess.captioning.local import LocalModel
from preprocess.captioning.served import ServedModel
from preprocess.cli import main
from preprocess.integrity import verify
from preprocess.pipelines.captions import Captions
from support.caption_checkpoints import save_checkpoint
from support.fork_server import ForkServer
from support.runs import tars
from support.undeclared_fields import undeclared_fields

ROOT = Path(__file__).parents[3]
CONFIGS = {"captions": "smolvlm", "captions_idefics2": "idefics2", "captions_qwen2_5_vl": "qwen2_5_vl"} | {
    "captions_kosmos2": "kosmos2"
}


def write_images(folder: Path, count: int) -> Path:
    """Write images of noise, of many sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = rng.integers(20, 100, 2)
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {family: save_checkpoint(family, folder / family) for family in CONFIGS.values()}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images", 12)


def command(images: Path, output: Path, model: Path | str, *options: str, config: str = "captions") -> list[str]:
    where = ["--data.root", str(images), "--output.dir", str(output), "--model.backend.model", str(model)]
    small = ["--data.num_workers", "0", "--trainer.accelerator", "cpu", "--model.backend.max_new_tokens", "8"]
    precise = ["--model.backend.dtype", "fp32", "--output.shards.max_items", "6", "--output.shards.min_shards", "1"]
    return ["run", "--config", str(ROOT / "configs" / f"{config}.yaml"), *where, *small, *precise, *options]


def samples(folder: Path) -> list[CaptionSample]:
    return [CaptionSamples().decode(*files) for files in CommittedSamples(Run(folder))]


@pytest.mark.parametrize(("config", "family"), CONFIGS.items())
def test_each_configuration_runs(
    config: str, family: str, images: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    room = ("--model.backend.max_new_tokens", "32")  # in which each of these models gives some text
    assert main(command(images, tmp_path / "run", models[family], *room, config=config)) == 0
    found = samples(tmp_path / "run")
    assert [sample.meta["image"] for sample in found] == [f"{number:03d}.png" for number in range(12)]
    statuses = Run(tmp_path / "run").table("train-000000", ["status"])["status"].to_pylist()
    assert statuses == [sample.meta["status"] for sample in found[:6]]
    for sample in found:
        with Image.open(images / sample.meta["image"]) as image:
            width, height = image.size
        assert sample.meta["model"] == str(models[family])
        assert (sample.meta["width"], sample.meta["height"], sample.image) == (width, height, None)
        assert sample.meta["prompt"].endswith(("Describe this image.", "An image of"))
        assert ("entities" in sample.meta) == (family == "kosmos2")
        assert (sample.meta["num_tokens"] == 32) == (sample.meta["status"] == "truncated")
    assert len({sample.caption for sample in found}) > 1


@pytest.mark.parametrize("config", CONFIGS)
def test_each_configuration_fails_only_because_its_model_cannot_be_downloaded(
    config: str, images: Path, tmp_path: Path, offline_hub: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data.root", str(images), "--output.dir", str(tmp_path / "run")]
    assert main(["run", "--config", str(ROOT / "configs" / f"{config}.yaml"), *options]) == 2
    message = capsys.readouterr().err
    assert "--model.backend.model " in message
    assert "no network for " in message
    assert not (tmp_path / "run").exists()


def test_original_images_are_stored_unchanged(images: Path, models: dict[str, Path], tmp_path: Path) -> None:
    assert main(command(images, tmp_path / "run", models["smolvlm"], "--model.store_images", "original")) == 0
    assert not undeclared_fields(tmp_path / "run")
    for sample in samples(tmp_path / "run"):
        assert sample.image == (images / sample.meta["image"]).read_bytes()
        assert sample.image_ending == "png"


def test_a_field_that_is_missing_fails_its_image_alone(models: dict[str, Path], tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 4)
    for number, name in enumerate(("cow", "", None)):
        (tmp_path / "jsons").mkdir(exist_ok=True)
        (tmp_path / "jsons" / f"{number:03d}.json").write_text(json.dumps({"name": name}))
    options = ["--data.json_dirs", f"[{tmp_path / 'jsons'}]", "--model.prompt", "Describe the {name}."]
    failed = ["--max-failures", "100%"]
    run = tmp_path / "run"
    assert main(command(images, run, models["smolvlm"], *options, *failed)) == 0
    (sample,) = samples(tmp_path / "run")
    assert sample.meta["prompt"] == "Describe the cow."
    assert "json_files" not in sample.meta
    assert {
        failure.item.key: (failure.reason, failure.reason_class) for failure in failures(Run(tmp_path / "run"))
    } == {
        "001": (f"its field 'name' is empty (in {tmp_path}/jsons/001.json)", "extract"),
        "002": (f"its field 'name' is null (in {tmp_path}/jsons/002.json)", "extract"),
        "003": (f"it has no field 'name'; its fields: image; searched in {tmp_path}/jsons/003.json", "extract"),
    }
    (tmp_path / "jsons" / "003.json").write_text(json.dumps({"name": "sheep"}))  # that come later are seen
    assert main(["retry", str(run), "--max-failures", "100%"]) == 0
    assert [sample.meta["prompt"] for sample in samples(run)] == ["Describe the cow.", "Describe the sheep."]


def test_a_check_finds_the_images_whose_prompts_lack_a_field(
    models: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images", 3)
    (tmp_path / "jsons").mkdir()
    for number, fields in enumerate(({"name": "cow"}, {"title": "cow"}, {"name": ["a", None]})):
        (tmp_path / "jsons" / f"{number:03d}.json").write_text(json.dumps(fields))
    options = ["--data.json_dirs", f"[{tmp_path / 'jsons'}]", "--model.prompt", "Describe the {name}.", "--json"]
    assert main(["check", *command(images, tmp_path / "run", models["smolvlm"], *options)[1:]]) == 1
    assert {line["key"]: line["reason"] for line in map(json.loads, capfd.readouterr().out.splitlines())} == {
        "001": f"it has no field 'name'; its fields: image, title; searched in {tmp_path}/jsons/001.json",
        "002": f"its field 'name' is a list with null (in {tmp_path}/jsons/002.json)",
    }


def test_a_retry_with_more_tokens_replaces_captions_that_were_cut_off(
    images: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    assert main(command(images, tmp_path / "run", models["qwen2_5_vl"], config="captions_qwen2_5_vl")) == 0
    before = {sample.key: sample for sample in samples(tmp_path / "run")}
    cut = {key for key, sample in before.items() if sample.meta["status"] == "truncated"}
    assert 0 < len(cut) < len(before)
    assert main(["retry", str(tmp_path / "run"), "--class", "truncated", "--model.backend.max_new_tokens", "30"]) == 0
    for sample in samples(tmp_path / "run"):
        if sample.key in cut:
            assert sample.meta["num_tokens"] > 8
        else:
            assert sample == before[sample.key]


def test_finished_images_of_a_window_are_kept_when_it_is_repeated(
    images: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    model, small = models["smolvlm"], ["--model.batch_size", "2"]
    assert main(command(images, tmp_path / "whole", model, *small)) == 0
    assert main(command(images, tmp_path / "run", model, *small, "--output.only", "1/2")) == 0
    with Rank(Run(tmp_path / "run")) as rank:
        opened = rank.lease()
        assert opened is not None
        first = CaptionSample(opened.items[1].key, "from before", {"status": "ok"})
        rank.add(opened.shard.number, Result(1, num_frames=1), CaptionSamples().encode(first))
    assert main(command(images, tmp_path / "run", model, *small)) == 0
    expected = {sample.key: sample.caption for sample in samples(tmp_path / "whole")} | {first.key: "from before"}
    assert {sample.key: sample.caption for sample in samples(tmp_path / "run")} == expected


def test_a_run_with_a_killed_rank_gives_the_captions_of_an_undisturbed_run(
    models: dict[str, Path], tmp_path: Path, fork_server: ForkServer
) -> None:
    images = write_images(tmp_path / "images", 48)
    assert main(command(images, tmp_path / "undisturbed", models["smolvlm"])) == 0
    run = command(images, tmp_path / "run", models["smolvlm"])
    fork_server.run_two_and_kill_one(run, tmp_path / "run")
    assert tars(tmp_path / "run") == tars(tmp_path / "undisturbed")
    assert list(verify(Run(tmp_path / "run"))) == []


@pytest.mark.slow  # torchrun and workers; 30 s
def test_torchrun_with_a_killed_rank_gives_the_captions_of_an_undisturbed_run(
    models: dict[str, Path], tmp_path: Path
) -> None:
    images = write_images(tmp_path / "images", 96)
    assert main(command(images, tmp_path / "undisturbed", models["smolvlm"])) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3"]
    run = command(images, tmp_path / "run", models["smolvlm"], "--data.num_workers", "1")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
    with open(tmp_path / "log", "w") as log:
        agent = psutil.Popen([*launcher, "-m", "preprocess", *run], env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + 100
    while not list((tmp_path / "run").glob("*.tar")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    agent.children()[0].kill()
    assert agent.wait(150) == 0, (tmp_path / "log").read_text()
    assert tars(tmp_path / "run") == tars(tmp_path / "undisturbed")
    assert list(verify(Run(tmp_path / "run"))) == []


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (Item("a", "train", "a.mp4"), r"a\.mp4 is not a single image"),
        (Item("a", "train", "a", ("0.png", "1.png")), "a is not a single image"),
        (Item("a", "train", ".", ("0.png",), meta={"status": 3}), "corpus field 'status' collides with a field"),
    ],
)
def test_items_that_are_not_single_images_are_refused(item: Item, reason: str, models: dict[str, Path]) -> None:
    with pytest.raises(ExtractError, match=reason):
        Captions(LocalModel(str(models["smolvlm"]))).validate(item)


def test_a_window_is_no_smaller_than_a_batch(models: dict[str, Path]) -> None:
    backend = LocalModel(str(models["smolvlm"]))
    for batch_size, window in ((8, 32), (33, 33)):
        extractor = Captions(backend, batch_size=batch_size, batch_window=32, max_batch_pixels=10**6)
        assert extractor.frames.batching is not None
        assert (extractor.frames.slice_frames, extractor.frames.batching.window) == (batch_size, window)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0, .* must be 1 or more"),
        ({"max_batch_pixels": 0}, "max_batch_pixels = 0 must be 1 or more"),
        ({"prompt": "a {"}, "has no partner"),
        ({"max_batch_pixels": 10**6}, "no effect with ServedModel, which makes its own batches"),
        ({"max_batch_tokens": 100}, "no effect with ServedModel, which makes its own batches"),
    ],
)
def test_options_out_of_range_or_without_effect_fail(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Captions(ServedModel("a-model"), **options)
