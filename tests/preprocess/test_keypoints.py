"""The keypoints pipeline, whole: real pictures of people in, samples and training batches out."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import FramesDataModule
from datamodules.errors import ConfigError
from datamodules.line.reader import CommittedSamples
from datamodules.line.run import Run
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from making import PART_SLICES
from preprocess.cli import main
from preprocess.pipelines.keypoints import Keypoints
from preprocess.sample import make_sample_corpus
from preprocess.verify import coverage

ROOT = Path(__file__).parents[2]
SIGNS = ROOT.parent / "shared" / "media" / "signs"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample_corpus(tmp_path_factory.mktemp("sample") / "corpus", num_frames=4)


@pytest.fixture(scope="module")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the configuration that users start, with two workers."""
    folder = tmp_path_factory.mktemp("keypoints") / "run"
    config = str(ROOT / "configs" / "keypoints.yaml")
    assert main(["run", "--config", config, "--data.root", str(corpus), "--output.dir", str(folder)]) == 0
    return folder


def samples(folder: Path) -> list[KeypointSample]:
    return [KeypointSamples().decode(*files) for files in CommittedSamples(Run(folder))]


def test_each_sentence_becomes_a_sample_with_what_the_corpus_knows(shards: Path) -> None:
    found = samples(shards)
    assert len(found) == 10
    first = found[0]
    assert first.key == "train/demo_hopper_train-1"
    assert (first.keypoints.shape, first.keypoints.dtype) == ((4, 143, 3), np.float32)
    assert (first.presence.shape, first.presence.dtype) == ((4, 4), np.uint8)
    assert (first.visibility.shape, first.visibility.dtype) == ((4, 33), np.float32)
    assert first.meta["glosses"] == "WEST NORD"
    assert first.meta["signer"] == "Signer01"
    assert (first.meta["width"], first.meta["height"], first.meta["fps"]) == (210, 260, None)
    assert first.meta["frames"] == [f"images{index:04d}.png" for index in range(1, 5)]


def test_a_face_and_a_pose_are_found_in_every_frame_and_absent_parts_are_zeros(shards: Path) -> None:
    for sample in samples(shards):
        assert sample.presence[:, :2].all()
        for column, part in enumerate(("pose", "face", "left_hand", "right_hand")):
            absent = sample.presence[:, column] == 0
            assert (sample.keypoints[absent, PART_SLICES[143][part]] == 0).all()
        noses = sample.keypoints[:, PART_SLICES[143]["face"]][:, 30, :2]
        assert ((noses > 0) & (noses < (210, 260))).all()


def test_samples_equal_mediapipe_made_fresh_for_each_frame(shards: Path, corpus: Path) -> None:
    import mediapipe as mp
    from PIL import Image

    from preprocess.holistic.layouts import FACE_68

    sample = samples(shards)[1]
    for index, name in enumerate(sample.meta["frames"]):
        with mp.solutions.holistic.Holistic(static_image_mode=True, model_complexity=1) as fresh:
            found: Any = fresh.process(np.asarray(Image.open(corpus / sample.meta["path"] / name).convert("RGB")))
        face = np.array([(p.x * 210, p.y * 260, p.z * 210) for p in found.face_landmarks.landmark], np.float32)
        pose = np.array([(p.x * 210, p.y * 260, p.z * 210) for p in found.pose_landmarks.landmark], np.float32)
        np.testing.assert_allclose(sample.keypoints[index, :68], face[list(FACE_68)], atol=1e-4)
        np.testing.assert_allclose(sample.keypoints[index, 110:], pose, atol=1e-4)


def test_a_training_batch_is_padded_and_masked(shards: Path) -> None:
    data = FramesDataModule(shards=shards, samples=KeypointSamples(), batch_size=6, num_workers=0)
    data.setup("fit")
    (batch,) = list(data.train_dataloader())
    assert batch["keypoints"].shape == (6, 4, 143, 3)
    assert batch["mask"].all()
    assert batch["lengths"].tolist() == [4] * 6
    assert len(list(data.val_dataloader())) == 1
    assert torch.isfinite(batch["keypoints"]).all()


def test_npz_export_holds_the_samples_frames(shards: Path, tmp_path: Path) -> None:
    assert main(["export", str(shards), "--format", "phoenix-npz", "--dest", str(tmp_path / "npz")]) == 0
    with np.load(tmp_path / "npz" / "dev_keypoints.npz") as exported:
        assert exported["keypoints"].shape == (8, 143, 3)
        expected = np.concatenate([s.keypoints for s in samples(shards) if s.key.startswith("dev/")])
        np.testing.assert_array_equal(exported["keypoints"], expected)
    statistics = json.loads((tmp_path / "npz" / "dev_statistics.json").read_text())
    assert statistics["frames"] == 8


@pytest.mark.parametrize(("layout", "num_keypoints"), [(75, 75), (543, 543)])
def test_other_layouts_and_video_mode(corpus: Path, tmp_path: Path, layout: int, num_keypoints: int) -> None:
    config = str(ROOT / "configs" / "keypoints.yaml")
    options = ["--model.layout", str(layout), "--model.mode", "video", "--data.max_items", "1"]
    folder = tmp_path / "run"
    assert main(["run", "--config", config, "--data.root", str(corpus), "--output.dir", str(folder), *options]) == 0
    assert [sample.keypoints.shape for sample in samples(folder)] == [(4, num_keypoints, 3)] * 3


def test_a_model_complexity_without_weights_in_the_wheel_fails() -> None:
    with pytest.raises(
        ConfigError, match="model_complexity = 0: use 1; the weights of 0 and 2 are not in mediapipe's wheel"
    ):
        Keypoints(model_complexity=0)


def test_decoding_what_is_no_keypoint_sample_fails() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    with pytest.raises(Exception, match="a is no keypoint sample"):
        KeypointSamples().decode("a", {"keypoints.npy": buffer.getvalue(), "json": b"{}"})


@pytest.mark.slow
@pytest.mark.skipif(not SIGNS.is_dir(), reason=f"{SIGNS} is not there")
def test_real_signers_have_pose_and_face_in_every_frame_and_hands_in_most(tmp_path: Path) -> None:
    config = str(ROOT / "configs" / "keypoints_videos.yaml")
    assert main(["run", "--config", config, "--data.root", str(SIGNS), "--output.dir", str(tmp_path / "run")]) == 0
    assert coverage(Run(tmp_path / "run")).committed == 8
    presence = np.concatenate([sample.presence for sample in samples(tmp_path / "run")])
    assert presence[:, :2].all()
    assert presence[:, 2:].any(axis=1).mean() > 0.5
