"""The tracking pipeline with real models, tiny ones with random weights, through the configurations that users have."""

from pathlib import Path

import cv2
import pytest

from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples.tracks import TrackSample, TrackSamples
from preprocess.cli import main
from preprocess.integrity import verify
from support.fork_server import ForkServer
from support.runs import tars
from support.track_runs import write_videos
from support.tracking_checkpoints import make_edgetam, make_grounding_dino, make_sam2, make_sam3

ROOT = Path(__file__).parents[3]
MEDIA = ROOT.parent / "shared" / "media"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_grounding_dino(folder / "dino")
    make_sam2(folder / "sam2")
    make_edgetam(folder / "edgetam")
    make_sam3(folder / "sam3")
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder, "a", "b", num_frames=5)
    return folder


def grounded(models: Path, root: Path, output: Path, *options: str) -> list[str]:
    config = ["--config", str(ROOT / "configs" / "tracking.yaml"), "--trainer.accelerator", "cpu"]
    backend = ["--model.backend.detector", str(models / "dino"), "--model.backend.segmenter", str(models / "sam2")]
    where = ["--data.root", str(root), "--output.dir", str(output), "--data.num_workers", "0"]
    return ["run", *config, *backend, *where, "--output.shards.max_items", "1", *options]


def samples(folder: Path) -> list[TrackSample]:
    return [TrackSamples().decode(*files) for files in CommittedSamples(Run(folder))]


@pytest.mark.slow  # 40 s of processor time; the default tests kill ranks of clips, and of runs of images
def test_two_ranks_of_which_one_is_killed_end_with_the_tracks_of_an_undisturbed_run(
    models: Path, tmp_path: Path, fork_server: ForkServer
) -> None:
    write_videos(tmp_path / "videos", *(f"v{number}" for number in range(5)), num_frames=6)
    few = ["--model.backend.identity.max_objects", "2"]
    assert main(grounded(models, tmp_path / "videos", tmp_path / "undisturbed", *few)) == 0
    run = grounded(models, tmp_path / "videos", tmp_path / "run", *few)
    fork_server.run_two_and_kill_one(run, tmp_path / "run")
    assert tars(tmp_path / "run") == tars(tmp_path / "undisturbed")
    assert list(verify(Run(tmp_path / "run"))) == []
    assert sum(sample.meta["num_objects"] for sample in samples(tmp_path / "run")) >= 8
    assert len({sample.array("boxes.npy").tobytes() for sample in samples(tmp_path / "run")}) > 1


def test_sam_3_runs_by_its_configuration(models: Path, videos: Path, tmp_path: Path) -> None:
    config = ["--config", str(ROOT / "configs" / "tracking_sam3.yaml"), "--trainer.accelerator", "cpu"]
    where = ["--data.root", str(videos), "--output.dir", str(tmp_path / "run"), "--data.num_workers", "0"]
    backend = ["--model.backend.checkpoint", str(models / "sam3"), "--model.backend.max_objects", "3"]
    assert main(["run", *config, *where, *backend]) == 0
    assert [(sample.key, len(sample.lines)) for sample in samples(tmp_path / "run")] == [("a", 5), ("b", 6)]
    for sample in samples(tmp_path / "run"):
        assert {each["label"] for line in sample.lines for each in line["objects"]} <= {"car", "person"}
        assert max(len(line["objects"]) for line in sample.lines) <= 3
        assert sample.meta["backend"] == "Sam3"
    assert sum(sample.meta["num_objects"] for sample in samples(tmp_path / "run")) > 0


def test_edgetam_is_a_segmenter_too(models: Path, videos: Path, tmp_path: Path) -> None:
    options = ["--model.backend.segmenter", str(models / "edgetam"), "--model.backend.identity.max_objects", "2"]
    assert main(grounded(models, videos, tmp_path / "run", *options)) == 0
    assert sum(sample.meta["num_objects"] for sample in samples(tmp_path / "run")) > 0


@pytest.mark.parametrize(
    ("config", "option"), [("tracking", "backend.detector"), ("tracking_sam3", "backend.checkpoint")]
)
def test_each_configuration_is_right_but_for_models_that_are_not_here(
    config: str,
    option: str,
    videos: Path,
    tmp_path: Path,
    offline_hub: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--data.root", str(videos), "--output.dir", str(tmp_path / "run")]
    assert main(["run", "--config", str(ROOT / "configs" / f"{config}.yaml"), *where]) == 2
    message = capsys.readouterr().err
    assert f"--model.{option} " in message
    assert "no network for " in message
    assert not (tmp_path / "run").exists()


def test_weights_of_another_model_are_refused(
    models: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model.backend.segmenter", str(models / "dino")]
    assert main(grounded(models, videos, tmp_path / "run", *options)) == 2
    assert "is a grounding-dino model. Use one of type sam2_video or edgetam_video" in capsys.readouterr().err


def test_other_settings_in_the_same_folder_are_refused(
    models: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--model.backend.identity.max_objects", "2"]
    assert main(grounded(models, videos, tmp_path / "run", *few)) == 0
    assert main(grounded(models, videos, tmp_path / "run", *few)) == 0
    others = ["--model.backend.identity.max_objects", "3"]
    assert main(grounded(models, videos, tmp_path / "run", *others)) == 2
    assert "max_objects" in capsys.readouterr().err


@pytest.mark.slow  # a minute
@pytest.mark.skipif(not MEDIA.is_dir(), reason="shared media is not beside this clone")
def test_real_videos_on_two_ranks_of_which_one_is_killed_are_tracked_as_undisturbed_and_drawn(
    models: Path, tmp_path: Path, fork_server: ForkServer
) -> None:
    part = ["--data.stop_seconds", "0.5", "--model.backend.identity.max_objects", "3"]
    assert main(grounded(models, MEDIA / "videos", tmp_path / "undisturbed", *part)) == 0
    run = grounded(models, MEDIA / "videos", tmp_path / "run", *part, "--output.videos", "true")
    fork_server.run_two_and_kill_one(run, tmp_path / "run")
    assert tars(tmp_path / "run") == tars(tmp_path / "undisturbed")
    found = samples(tmp_path / "run")
    assert not [*(tmp_path / "run" / "videos").rglob(".*"), *(tmp_path / "run" / "work" / "scratch").iterdir()]
    assert [sample.key for sample in found] == ["01_dog", "car-detection", "flipping_a_pancake", "multistream_nasa"]
    for sample in found:
        film = cv2.VideoCapture(str(tmp_path / "run" / "videos" / f"{sample.key}.mp4"))
        assert film.get(cv2.CAP_PROP_FRAME_COUNT) == len(sample.lines) > 5
        assert film.read()[0]
        film.release()
