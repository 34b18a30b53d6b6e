"""The whole pose pipeline: from images to people and training batches, with each of the backends."""

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from datamodules import FramesDataModule
from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.run.failures import failures
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples.pose import PoseSample, PoseSamples
from datamodules.samples.skeleton import pose_map
from preprocess.cli import main
from preprocess.integrity import verify
from preprocess.pipelines.pose import Pose
from preprocess.pose.mediapipe import MediaPipe
from preprocess.pose.transform import PoseTransform, processed_size
from support.fork_server import ForkServer
from support.onnx_networks import make_simcc, make_yolox
from support.pose_checkpoints import make_openpose, make_rtdetr, make_vitpose
from support.runs import tars
from support.undeclared_fields import undeclared_fields

ROOT = Path(__file__).parents[3]
CONFIGS = ("pose", "pose_openpose", "pose_vitpose", "pose_dwpose")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return the options that each configuration needs besides."""
    folder = tmp_path_factory.mktemp("models")
    weights = make_openpose(folder / "openpose" / "body_pose_model.pth").parent
    detector, estimator = make_rtdetr(folder / "rtdetr"), make_vitpose(folder / "vitpose")
    vitpose = ["--model.backend.min_score", "0.3", "--model.backend.min_joint_score", "0.01"]
    return {
        "pose": [],
        "pose_openpose": ["--model.backend.weights", str(weights), "--model.backend.box_px", "184"],
        "pose_vitpose": [
            "--model.backend.detector", str(detector), "--model.backend.estimator", str(estimator), *vitpose,
        ],
        "pose_dwpose": [
            "--model.backend.detector", str(make_yolox(folder / "yolox_l.onnx")),
            "--model.backend.estimator", str(make_simcc(folder / "dw-ll_ucoco_384.onnx")),
            "--model.resize", "square", "--model.backend.min_score", "0.1", "--model.backend.min_joint_score", "0.01",
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def write_images(folder: Path, copies: int = 1) -> Path:
    """Write an astronaut in several sizes and formats, and two images without people, in two splits."""
    space = Image.fromarray(astronaut())
    nobody = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    for split in ("train", "test"):
        for number in range(copies):
            frames = folder / split / "frames"
            frames.mkdir(parents=True, exist_ok=True)
            space.save(frames / f"{number} a.v1.png")
            space.crop((0, 0, 400, 512)).save(frames / f"{number} a.jpg", quality=95)
            nobody.save(frames / f"{number} nobody.webp", lossless=True)
    return folder


def command(images: Path, output: Path, *options: str, config: str = "pose") -> list[str]:
    where = ["--data.root", str(images), "--data.split_glob", "*/frames", "--output.dir", str(output)]
    small = ["--data.num_workers", "0", "--trainer.accelerator", "cpu", "--output.shards.min_shards", "1"]
    return ["run", "--config", str(ROOT / "configs" / f"{config}.yaml"), *where, *small, *options]


def samples(folder: Path, split: str | None = None) -> list[PoseSample]:
    return [PoseSamples().decode(*files) for files in CommittedSamples(Run(folder), split)]


@pytest.mark.parametrize("config", CONFIGS)
def test_each_configuration_runs(config: str, images: Path, models: dict[str, list[str]], tmp_path: Path) -> None:
    stored = ["--model.store_pose_map", "true", "--model.store_images", "original"]
    assert main(command(images, tmp_path / "run", *models[config], *stored, config=config)) == 0
    assert list(verify(Run(tmp_path / "run"))) == []
    assert not undeclared_fields(tmp_path / "run")
    for split in ("train", "test"):
        found = samples(tmp_path / "run", split)
        names = ["0 a.jpg", "0 a.v1.png", "0 nobody.webp"]
        assert [sample.meta["image"] for sample in found] == [f"{split}/frames/{name}" for name in names]
        for sample in found:
            assert (sample.size(), sample.meta["resize"], sample.meta["caption"]) == ((256, 256), "square", None)
            with Image.open(images / sample.meta["image"]) as image:
                assert sample.size("original") == image.size[::-1]
            assert sample.image == (images / sample.meta["image"]).read_bytes()
            assert (sample.wholebody is not None) == (config == "pose_dwpose")
            assert sample.pose_map is not None
            with Image.open(io.BytesIO(sample.pose_map)) as drawn:
                expected = pose_map(sample.keypoints, (256, 256), sample.wholebody)
                np.testing.assert_array_equal(np.asarray(drawn), expected)
    statuses = Run(tmp_path / "run").table("train-000000", ["status"])["status"].to_pylist()
    assert statuses == ["ok" if len(sample.scores) else "empty" for sample in samples(tmp_path / "run", "train")]
    assert any(len(sample.scores) for sample in samples(tmp_path / "run"))


def test_mediapipe_finds_the_astronaut_at_the_same_place_in_the_original_whatever_the_resizing(
    images: Path, tmp_path: Path
) -> None:
    noses = []
    for resize, size in (("square", (256, 256)), ("longest_edge", (256, 200)), ("none", (512, 400))):
        run = tmp_path / resize
        assert main(command(images, run, "--model.resize", resize, "--data.max_items", "3")) == 0
        jpg, png, nobody = samples(run)
        assert jpg.size() == size
        assert (len(jpg.scores), len(png.scores), len(nobody.scores)) == (1, 1, 0)
        assert nobody.keypoints.shape == (0, 18, 3)
        told = json.loads(CommittedSamples(Run(run))[0][1]["json"])
        noses.append(told["people"][0]["original_keypoints"][0])
        np.testing.assert_allclose(jpg.keypoints_in("original")[0, 0], noses[-1], atol=1e-3)
        assert jpg.image is None
        assert jpg.pose_map is None
    assert np.abs(np.array(noses)[:, :2] - (222, 128)).max() < 8


def test_a_run_is_trained_from_with_flips(images: Path, tmp_path: Path) -> None:
    assert main(command(images, tmp_path / "run", "--model.store_images", "true")) == 0
    assert {sample.image_ending for sample in samples(tmp_path / "run")} == {"jpg"}  # of a JPEG, a PNG and a WebP
    kind = PoseSamples(size=(64, 64), flip=0.5)
    data = FramesDataModule(shards=tmp_path / "run", samples=kind, batch_size=3, num_workers=0, val_split="test")
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch["images"].shape == batch["pose_maps"].shape == (3, 3, 64, 64)
    assert batch["pose_maps"].flatten(1).any(1).sum() == 2


def test_captions_come_from_json_files_and_an_image_without_its_field_fails_alone_as_a_check_finds(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    jsons = tmp_path / "jsons" / "train" / "frames"
    jsons.mkdir(parents=True)
    for name in ("0 a.json", "0 a.v1.json"):
        (jsons / name).write_text(json.dumps({"text": f"an astronaut of {name}"}))
    options = ["--data.json_dirs", f"[{tmp_path / 'jsons'}]", "--model.caption", "{text}", "--data.split_glob"]
    run = tmp_path / "run"
    assert main(command(images, run, *options, "trai*/frames", "--max-failures", "100%")) == 0
    assert [sample.meta["caption"] for sample in samples(run)] == [
        "an astronaut of 0 a.json", "an astronaut of 0 a.v1.json"
    ]  # fmt: skip
    assert all("json_files" not in sample.meta for sample in samples(run))
    (failed,) = failures(Run(run))
    assert (failed.reason_class, failed.item.key) == ("extract", "train/frames/0%20nobody")
    assert "it has no field 'text'" in str(failed.reason)
    capfd.readouterr()
    assert main(["check", *command(images, tmp_path / "no run", *options, "trai*/frames", "--json")[1:]]) == 1
    (found,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert (found["key"], found["reason"]) == (failed.item.key, failed.reason)


def write_odd(folder: Path) -> Path:
    """Write unusual images; each shows one person, unless its name says otherwise."""
    folder.mkdir()
    space = Image.fromarray(astronaut())
    space.save(folder / "same.png")
    space.resize((256, 256)).save(folder / "same.jpg", quality=95)
    space.convert("L").save(folder / "gray.png")
    Image.fromarray(np.asarray(space.convert("L")).astype(np.uint16) * 257).save(folder / "gray 16.png")
    space.convert("LA").save(folder / "gray and alpha.png")
    with_alpha = space.convert("RGBA")
    with_alpha.putalpha(200)
    with_alpha.save(folder / "alpha.v2.final.png")
    space.quantize(64).save(folder / "palette.gif")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    space.rotate(90).save(folder / "turned.jpg", exif=exif, quality=95)
    space.resize((4000, 3000)).save(folder / "huge.jpg", quality=80)
    Image.new("RGB", (1, 1), "red").save(folder / "tiny nobody.png")
    Image.new("RGB", (3000, 2), "red").save(folder / "wide nobody.png")
    (folder / "damaged.jpg").write_bytes((folder / "same.jpg").read_bytes()[:300])
    (folder / "empty.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize("resize", ["square", "none"])
def test_unusual_images_are_processed_and_damaged_ones_fail_alone(resize: str, tmp_path: Path) -> None:
    folder = write_odd(tmp_path / "odd")
    options = ["--data.split_glob", "null", "--max-failures", "100%", "--model.resize", resize]
    assert main(command(folder, tmp_path / "run", *options)) == 0
    found = {sample.key: sample for sample in samples(tmp_path / "run")}
    assert {failure.item.key: failure.reason_class for failure in failures(Run(tmp_path / "run"))} == {
        "damaged": "decode", "empty": "decode"
    }  # fmt: skip
    people = {key: len(sample.scores) for key, sample in found.items()}
    assert people == {
        "alpha%2Ev2%2Efinal": 1, "gray": 1, "gray%2016": 1, "gray%20and%20alpha": 1, "huge": 1, "palette": 1,
        "same%2Ejpg": 1, "same%2Epng": 1, "tiny%20nobody": 0, "turned": 1, "wide%20nobody": 0,
    }  # fmt: skip
    nose = found["same%2Epng"].keypoints_in("original")[0, 0, :2]
    for key, sample in found.items():
        if people[key]:
            height, width = sample.size("original")
            apart = sample.keypoints_in("original")[0, 0, :2] * (512 / width, 512 / height) - nose
            assert np.abs(apart).max() < 12, key
    assert found["huge"].size() == ((256, 256) if resize == "square" else (3000, 4000))


@pytest.mark.parametrize("config", CONFIGS[1:])
def test_missing_models_stop_a_run_before_it_starts(
    config: str, images: Path, tmp_path: Path, offline_hub: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(images, tmp_path / "run", config=config)) == 2
    message = capsys.readouterr().err
    assert "--model.backend." in message
    assert "no network for " in message
    assert not (tmp_path / "run").exists()


def test_weights_of_another_network_stop_the_run_before_an_item_fails(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "body_pose_model.pth")
    weights = ["--model.backend.weights", str(tmp_path / "body_pose_model.pth")]
    assert main(command(images, tmp_path / "run", *weights, config="pose_openpose")) == 2
    assert "has the weights of another network: conv1_1.weight is missing in the file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists() or not Run(tmp_path / "run").committed()


@pytest.mark.slow  # processes; 20 s
def test_two_ranks_of_which_one_is_killed_end_with_the_poses_of_an_undisturbed_run(
    tmp_path: Path, fork_server: ForkServer
) -> None:
    images = write_images(tmp_path / "images", copies=12)
    small = ["--output.shards.max_items", "4", "--model.store_pose_map", "true"]
    assert main(command(images, tmp_path / "undisturbed", *small)) == 0
    run = command(images, tmp_path / "run", *small)
    fork_server.run_two_and_kill_one(run, tmp_path / "run")
    assert tars(tmp_path / "run") == tars(tmp_path / "undisturbed")


def test_workers_detect_what_the_rank_detects(images: Path, tmp_path: Path) -> None:
    assert main(command(images, tmp_path / "alone")) == 0
    assert main(command(images, tmp_path / "workers", "--data.num_workers", "1")) == 0
    assert tars(tmp_path / "workers") == tars(tmp_path / "alone")


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        ((300, 200), "none", (300, 200)),
        ((300, 200), "square", (64, 64)),
        ((300, 200), "longest_edge", (64, 43)),
        ((2, 3000), "longest_edge", (1, 64)),
        ((8, 16), "longest_edge", (32, 64)),
        ((300, 200), "shortest_edge", (128, 64)),
        ((31, 20), "shortest_edge", (128, 64)),
        ((64, 95), "shortest_edge", (64, 64)),
        ((64, 97), "shortest_edge", (64, 128)),
    ],
)
def test_processed_images_have_the_requested_size(
    size: tuple[int, int], resize: Any, expected: tuple[int, int]
) -> None:
    assert processed_size(size, resize, 64) == expected


def resize_image(image: np.ndarray[Any, Any], resolution: int) -> np.ndarray[Any, Any]:
    """Resize an RGB image [H, W, 3] as the function of this name in controlnet_aux 0.0.10."""
    height, width = image.shape[:2]
    factor = float(resolution) / min(height, width)
    size = [int(np.round(side * factor / 64.0)) * 64 for side in (float(width), float(height))]
    return cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4 if factor > 1 else cv2.INTER_AREA)


@pytest.mark.parametrize("shape", [(300, 200), (150, 333), (512, 512), (100, 90), (505, 800)])
@pytest.mark.parametrize("size_px", [128, 200, 512])
def test_shortest_edge_and_area_lanczos_are_those_of_controlnet_aux(shape: tuple[int, int], size_px: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    transform = PoseTransform("shortest_edge", size_px, "area_lanczos", None)
    found = transform(torch.from_numpy(image).permute(2, 0, 1))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), resize_image(image, size_px))


def test_resampling_changes_the_pixels_and_the_fingerprint(images: Path, tmp_path: Path) -> None:
    image = torch.from_numpy(astronaut()).permute(2, 0, 1)
    bilinear, by_opencv = (PoseTransform("square", 200, name, None)(image) for name in ("bilinear", "area_lanczos"))
    assert isinstance(bilinear, torch.Tensor)
    assert isinstance(by_opencv, torch.Tensor)
    assert bilinear.shape == by_opencv.shape == (3, 200, 200)
    assert 0 < (bilinear.float() - by_opencv.float()).abs().mean() < 3
    assert "opencv" in Pose(MediaPipe(), resampling="area_lanczos").provenance()


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (Item("a", "train", "a.mp4"), r"a\.mp4 is not a single image"),
        (Item("a", "train", ".", ("0.png",), meta={"people": 3}), "corpus field 'people' collides with a field"),
    ],
)
def test_items_that_are_not_images_are_refused(item: Item, reason: str) -> None:
    with pytest.raises(ExtractError, match=reason):
        Pose(MediaPipe()).validate(item)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "cube"}, "resize = 'cube': choose from none, square, longest_edge, shortest_edge"),
        ({"resampling": "cubic"}, "resampling = 'cubic': choose from bilinear, area_lanczos"),
        ({"size_px": 0}, "size_px = 0 and .* must be 1 or more"),
        ({"batch_size": 0}, "batch_size = 0 must be 1 or more"),
        ({"caption": "{"}, r"--model\.caption '{': the '{' at character 1 has no partner"),
    ],
)
def test_options_out_of_range_fail(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pose(MediaPipe(), **options)
