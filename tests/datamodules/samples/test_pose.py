"""Pose samples: their files, and batches for training."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from datamodules import FramesDataModule
from datamodules.errors import ConfigError, RunError
from datamodules.samples.pose import PoseSample, PoseSamples
from datamodules.samples.skeleton import mirrored, pose_map
from datamodules.samples.wholebody import MIRRORED, POINTS
from support.caption_runs import caption_items
from support.pose_runs import made_pose, make_pose_run

ITEMS = caption_items("a.png", "sub/b.jpg", "c.webp")


@pytest.mark.parametrize("num_people", [0, 1, 3])
def test_samples_come_back_as_they_were(num_people: int) -> None:
    sample = made_pose(ITEMS[0], num_people)
    files = PoseSamples().encode(sample)
    assert sorted(files) == ["json", "keypoints.npy", "png", "pose.png"]
    assert files == PoseSamples().encode(sample)
    found = PoseSamples().decode("a", files)
    assert found.keypoints.shape == (num_people, 18, 3)
    np.testing.assert_array_equal(found.keypoints, sample.keypoints)
    np.testing.assert_array_equal(found.scores, sample.scores)
    assert (found.meta, found.pose_map, found.image) == (sample.meta, sample.pose_map, sample.image)
    assert found.image_ending == "png"


def test_the_json_has_people_in_the_processed_and_in_the_original_image() -> None:
    sample = made_pose(ITEMS[0], 2, store_images=False)
    told = json.loads(PoseSamples().encode(sample)["json"])
    assert [person["score"] for person in told["people"]] == [pytest.approx(0.9), 0.5]
    for person, keypoints in zip(told["people"], sample.keypoints, strict=True):
        np.testing.assert_allclose(person["keypoints"], keypoints, atol=1e-3)
        assert person["original_keypoints"][0][0] == pytest.approx((keypoints[0, 0] + 0.5) * 1.5 - 0.5, abs=1e-3)
        assert person["original_keypoints"][0][1] == pytest.approx(keypoints[0, 1], abs=1e-3)
        assert person["keypoints"][10] == person["original_keypoints"][10] == [0, 0, 0]


@pytest.mark.parametrize("name", ["json", "keypoints.npy"])
def test_damaged_files_fail(name: str) -> None:
    files = PoseSamples().encode(made_pose(ITEMS[0]))
    for damaged in (b"", files[name][:20], PoseSamples().encode(made_pose(ITEMS[0], 2))[name]):
        with pytest.raises(RunError, match=r"a is no pose sample: .*; run `preprocess verify`"):
            PoseSamples().decode("a", {**files, name: damaged})


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_readers_read_them(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, content in PoseSamples().encode(made_pose(ITEMS[0])).items():
            member = tarfile.TarInfo(f"a.{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (read,) = webdataset.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False).decode("rgb8")
    assert read["keypoints.npy"].shape == (1, 18, 3)
    assert read["pose.png"].shape == (64, 64, 3)
    assert read["png"].shape == (64, 96, 3)
    assert len(read["json"]["people"]) == 1


def test_batches_have_images_pose_maps_and_captions() -> None:
    samples = [made_pose(item, number) for number, item in enumerate(ITEMS)]
    batch = PoseSamples().collate(samples)
    assert batch["images"].shape == batch["pose_maps"].shape == (3, 3, 64, 64)
    assert batch["images"].dtype == batch["pose_maps"].dtype == torch.uint8
    assert batch["text"] == ["a <dancer> in a", "a <dancer> in sub/b", "a <dancer> in c"]
    assert not batch["flipped"].any()
    assert not batch["pose_maps"][0].any()
    for drawn, sample in zip(batch["pose_maps"], samples, strict=True):
        np.testing.assert_array_equal(drawn.permute(1, 2, 0).numpy(), pose_map(sample.keypoints, (64, 64)))


def test_batches_of_keypoints_are_padded_to_the_most_people() -> None:
    samples = [made_pose(item, number, store_images=False) for number, item in enumerate(ITEMS)]
    batch = PoseSamples("keypoints", size=(64, 128)).collate(samples)
    assert "images" not in batch
    assert batch["keypoints"].shape == (3, 2, 18, 3)
    assert batch["people_mask"].tolist() == [[False, False], [True, False], [True, True]]
    assert not batch["keypoints"][~batch["people_mask"]].any()
    expected = (samples[1].keypoints[0, 0, 0] + 0.5) * 2 - 0.5
    assert batch["keypoints"][1, 0, 0, 0] == pytest.approx(expected, abs=1e-4)
    assert PoseSamples("keypoints").collate(samples[:1])["keypoints"].shape == (1, 0, 18, 3)


def test_flips_mirror_the_image_and_swap_left_and_right_joints() -> None:
    sample = made_pose(ITEMS[0])
    sample.image = half_white()
    plain = PoseSamples(size=(32, 48)).collate([sample])
    flipped = PoseSamples(size=(32, 48), flip=1.0).collate([sample])
    assert flipped["flipped"].tolist() == [True]
    assert torch.equal(flipped["images"], plain["images"].flip(3))
    assert not torch.equal(plain["images"], plain["images"].flip(3))
    keypoints = PoseSamples("keypoints", flip=1.0).collate([sample])["keypoints"][0].numpy()
    np.testing.assert_allclose(keypoints, mirrored(sample.keypoints, 64), atol=1e-4)
    assert keypoints[0, 13].tolist() == [0, 0, 0]  # the right ankle was missing


def with_wholebody(num_people: int) -> PoseSample:
    """Return a pose sample of an image of 96x64 px, processed as one of 64x64, with points from 1 to 60 px."""
    sample = made_pose(ITEMS[0], num_people, store_images=False)
    points = np.random.default_rng(num_people).uniform(1, 60, (num_people, 133, 3))
    sample.wholebody = points.astype(np.float32)
    sample.wholebody[:, 100] = 0
    return sample


@pytest.mark.parametrize("num_people", [0, 2])
def test_whole_body_points_are_stored_and_are_in_both_images(num_people: int) -> None:
    sample = with_wholebody(num_people)
    files = PoseSamples().encode(sample)
    found = PoseSamples().decode("a", files)
    original = found.wholebody_in("original")
    assert found.wholebody is not None
    assert sample.wholebody is not None
    assert original is not None
    np.testing.assert_array_equal(found.wholebody, sample.wholebody)
    np.testing.assert_allclose(original[:, :100, 0], (sample.wholebody[:, :100, 0] + 0.5) * 1.5 - 0.5, rtol=1e-5)
    assert not original[:, 100].any()
    files["wholebody.npy"] = PoseSamples().encode(with_wholebody(3))["wholebody.npy"]
    with pytest.raises(
        RunError, match=r"wholebody\.npy is float32 \[3, 133, 3\], where float32 \[P, 133, 3\] is needed"
    ):
        PoseSamples().decode("a", files)


def test_pose_maps_have_the_hands_and_faces_of_whole_bodies() -> None:
    samples = [with_wholebody(2), made_pose(ITEMS[1], 1, store_images=False)]
    for flip, points in ((0.0, samples[0].wholebody), (1.0, mirrored(np.asarray(samples[0].wholebody), 64, MIRRORED))):
        (drawn, skeleton) = PoseSamples(flip=flip).collate(samples)["pose_maps"]
        keypoints = [mirrored(sample.keypoints, 64) if flip else sample.keypoints for sample in samples]
        np.testing.assert_array_equal(drawn.permute(1, 2, 0), pose_map(keypoints[0], (64, 64), points))
        np.testing.assert_array_equal(skeleton.permute(1, 2, 0), pose_map(keypoints[1], (64, 64)))


def test_batches_have_whole_bodies_if_all_samples_do() -> None:
    samples = [with_wholebody(number) for number in (2, 1)]
    batch = PoseSamples("keypoints").collate(samples)
    assert batch["wholebody"].shape == (2, 2, 133, 3)
    assert batch["people_mask"].tolist() == [[True, True], [True, False]]
    flipped = PoseSamples("keypoints", flip=1.0).collate(samples)["wholebody"]
    left, right = POINTS.index("left_thumb4"), POINTS.index("right_thumb4")
    np.testing.assert_allclose(flipped[0, :, right, 0], 63 - batch["wholebody"][0, :, left, 0], rtol=1e-5)
    assert not flipped[1, 1].any()
    assert "wholebody" not in PoseSamples("keypoints").collate([*samples, made_pose(ITEMS[0], 1)])


def half_white() -> bytes:
    from PIL import Image

    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, :48] = 255
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


def test_about_as_many_are_flipped_as_asked_for_by_torchs_generator() -> None:
    samples = [made_pose(ITEMS[0], 0, store_images=False)] * 400
    torch.manual_seed(1)
    first = PoseSamples("keypoints", flip=0.25).collate(samples)["flipped"]
    torch.manual_seed(1)
    assert torch.equal(first, PoseSamples("keypoints", flip=0.25).collate(samples)["flipped"])
    assert 70 <= int(first.sum()) <= 130


def test_images_of_several_sizes_come_in_lists() -> None:
    samples = [made_pose(ITEMS[0]), made_pose(ITEMS[1], width=32, height=16)]
    batch = PoseSamples().collate(samples)
    assert [tuple(image.shape) for image in batch["images"]] == [(3, 64, 64), (3, 16, 32)]
    assert [tuple(drawn.shape) for drawn in batch["pose_maps"]] == [(3, 64, 64), (3, 16, 32)]


def test_a_damaged_image_fails() -> None:
    sample: PoseSample = made_pose(ITEMS[0])
    sample.image = b"no image"
    with pytest.raises(RunError, match=r"a\.png cannot be decoded .*; run `preprocess verify`"):
        PoseSamples().collate([sample])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition": "depth"}, "condition = 'depth': choose from pose_map, keypoints"),
        ({"size": (0, 4)}, r"size = \(0, 4\) must be 1 or more"),
        ({"flip": 1.5}, r"flip = 1\.5 from 0 to 1"),
    ],
)
def test_options_that_make_no_sense_fail(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PoseSamples(**options)  # type: ignore[arg-type]


def test_a_run_is_trained_from(tmp_path: Path) -> None:
    make_pose_run(tmp_path / "run", ITEMS, (1, 0, 2))
    data = FramesDataModule(shards=tmp_path / "run", samples=PoseSamples(size=(32, 32)), batch_size=2, num_workers=0)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert sorted(key for batch in batches for key in batch["key"]) == ["a", "c", "sub/b"]
    assert all(batch["images"].shape[1:] == batch["pose_maps"].shape[1:] == (3, 32, 32) for batch in batches)
