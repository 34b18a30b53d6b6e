"""A sixth pipeline, `examples/extending/depth.py`: run, retried, viewed, drawn, exported and trained from."""

import errno
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from datamodules import FramesDataModule
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from examples.extending import depth
from preprocess.cli import main
from preprocess.draw.video import VideoWriter

KIND = ["--kind", "examples.extending.depth.DepthSamples"]
GRAYS = {"near": 255, "far": 0, "between": 128}  # of the videos
METERS = {"near": 1.0, "far": 10.0, "between": 10 - 9 * 128 / 255}
NUM_FRAMES = 5


def write_video(path: Path, gray: int) -> None:
    with VideoWriter(path, (48, 64)) as video:
        for frame_idx in range(NUM_FRAMES):
            video.add(np.full((48, 64, 3), gray, np.uint8), frame_idx / 25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three videos, of which one was damaged and is committed by a retry."""
    folder = tmp_path_factory.mktemp("depth")
    for name in ("near", "far"):
        write_video(folder / "videos" / f"{name}.mp4", GRAYS[name])
    (folder / "videos" / "between.mp4").write_bytes(b"damaged")
    options = ["--data.corpus", "datamodules.corpora.videos.Videos", "--data.num_workers", "0"]
    root = ["--data.corpus.root", str(folder / "videos"), "--trainer.accelerator", "cpu"]
    run = ["run", "--model", "examples.extending.depth.Depth", "--model.batch_size", "2", *options, *root]
    assert main([*run, "--output.dir", str(folder / "run")]) == 0
    assert Run(folder / "run").outcome().failed == 1
    write_video(folder / "videos" / "between.mp4", GRAYS["between"])
    assert main(["retry", str(folder / "run"), "--model", "examples.extending.depth.Depth"]) == 0
    return folder / "run"


def test_a_run_and_its_retry_commit_one_map_per_frame(folder: Path) -> None:
    committed, kind = CommittedSamples(Run(folder)), depth.DepthSamples()

    samples = [committed.decode(index, kind) for index in range(len(committed))]

    assert {sample.key.rpartition("/")[2] for sample in samples} == set(GRAYS)
    for sample in samples:
        maps = sample.maps(0, len(sample))
        assert maps.dtype == np.float16
        assert maps.shape == (NUM_FRAMES, 48, 64)
        np.testing.assert_allclose(maps, METERS[sample.key.rpartition("/")[2]], atol=0.1)


def test_the_run_and_a_sample_are_viewed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(folder), *KIND]) == 0
    assert "mean depth  1 to 10, median 5.4" in " ".join(capsys.readouterr().out.split("\n"))
    key = Run(folder).plan.item(0, 0).key
    assert main(["view", str(folder), key, *KIND]) == 0
    shown = capsys.readouterr().out
    assert "depth.npy" in shown
    assert "mean depth" in shown


def test_a_sample_is_drawn_beside_its_frames(folder: Path, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    assert main(["visualize", str(folder), *KIND, "--samples", "1", "--dest", str(dest)]) == 0

    [path], [video] = dest.rglob("*.png"), dest.rglob("*.mp4")
    assert path.stem == video.stem
    with Image.open(path) as sheet:
        panel = np.asarray(sheet)[200, 40:590]
    assert np.abs(panel[[100, 400]].astype(int) - GRAYS[path.stem]).max() < 6  # the frame, and its depth


def test_samples_are_exported(folder: Path, tmp_path: Path) -> None:
    for name in ("jsonl", "parquet"):
        assert main(["export", str(folder), *KIND, "--format", name, "--dest", str(tmp_path / name)]) == 0

    [lines] = (tmp_path / "jsonl").glob("*.jsonl")
    documents = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(document["num_frames"], document["width"], document["height"]) for document in documents] == [
        (NUM_FRAMES, 64, 48)
    ] * 3
    [table] = (tmp_path / "parquet").glob("*.parquet")
    for row in pq.read_table(table).to_pylist():
        np.testing.assert_allclose(row["mean_depth"], [METERS[Path(row["path"]).stem]] * NUM_FRAMES, atol=0.1)


def test_batches_are_loaded_for_training(folder: Path) -> None:
    split = Run(folder).plan.shards[0].split
    kind = depth.DepthSamples(num_frames=2)
    data = FramesDataModule(shards=folder, samples=kind, batch_size=3, num_workers=0, train_split=split)
    data.setup("fit")

    [batch] = data.train_dataloader()

    assert [maps.shape for maps in batch["depth"]] == [(2, 48, 64)] * 3
    assert {maps.dtype for maps in batch["depth"]} == {torch.float16}


def test_a_full_disk_stops_the_run_and_fails_no_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(dir: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("datamodules.samples.npy_rows.TemporaryFile", refuse)
    write_video(tmp_path / "videos" / "near.mp4", GRAYS["near"])
    options = ["--data.corpus", "datamodules.corpora.videos.Videos", "--data.num_workers", "0"]
    options += ["--data.corpus.root", str(tmp_path / "videos"), "--output.dir", str(tmp_path / "run")]
    run = ["run", "--model", "examples.extending.depth.Depth", *options, "--trainer.accelerator", "cpu"]
    assert main(run) == 3
    assert "error: results cannot be written to disk: [Errno 28] No space" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(run) == 0
    assert (Run(tmp_path / "run").outcome().failed, Run(tmp_path / "run").outcome().committed) == (0, 1)


def test_a_class_that_is_not_named_is_not_imported(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("examples", "examples.extending", "examples.extending.depth"):
        monkeypatch.delitem(sys.modules, module)
    assert main(["visualize", str(folder), "--dest", str(tmp_path / "out")]) == 2
    assert "add --kind examples.extending.depth.DepthSamples" in capsys.readouterr().err
