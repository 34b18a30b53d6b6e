import io
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.datamodule import FramesDataModule
from datamodules.errors import ConfigError, RunError
from datamodules.media.decoding import Decoding
from datamodules.run.reader import CommittedSamples
from datamodules.samples.track_lines import LineObject, TrackLine
from datamodules.samples.tracks import TrackSample, TrackSamples
from support.run_paths import folder_of
from support.spies import spied
from support.track_runs import Shapes, TrackItems, gray_of, made_sample, make_track_run, write_videos
from support.video_files import Kind, write


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TrackItems:
    return write_videos(tmp_path_factory.mktemp("videos"), "train/a", "train/b")


def with_objects(line: TrackLine, objects: list[LineObject]) -> TrackLine:
    return {"frame_idx": line["frame_idx"], "timestamp": line["timestamp"], "objects": objects}


def samples_of(corpus: Any) -> list[Any]:
    return [corpus.sample(item) for item in corpus.items()]


def places(frames: Any) -> list[int]:
    """Which frame of the video each of uint8 [T, 3, H, W] is, by its corner."""
    grays = np.array([gray_of(k) for k in range(40)])
    return [int(np.abs(grays - frame[:, -1, 0].float().mean().item()).argmin()) for frame in frames]


def expect(clip: Any, shapes: Any, ks: Any) -> None:
    """See that what a batch has of one clip is the truth of the frames `ks`."""
    assert places(clip["frames"]) == list(ks)
    for row, k in enumerate(ks):
        truth = {shape.obj_id: shape for shape in shapes.at(k)}
        for column, obj_id in enumerate(clip["obj_ids"].tolist()):
            there = truth.get(obj_id)
            assert bool(clip["present"][row, column]) == (there is not None)
            mask = np.zeros(shapes.size, bool) if there is None else there.mask
            np.testing.assert_array_equal(clip["masks"][row, column].numpy(), mask)
            assert clip["boxes"][row, column].tolist() == ([0.0] * 4 if there is None else there.bbox)
            assert clip["scores"][row, column].item() == pytest.approx(there.score if there else 0.0)


def clip_of(batch: dict[str, Any], place: int) -> dict[str, Any]:
    names = ("frames", "obj_ids", "present", "masks", "boxes", "scores")
    return {name: batch[name][place] for name in names}


def test_what_is_decoded_is_what_was_encoded(corpus: TrackItems) -> None:
    for sample in samples_of(corpus):
        files = TrackSamples().encode(sample)
        assert list(files) == ["tracks.jsonl", "boxes.npy", "obj_ids.npy", "frame_idx.npy", "json"]
        found = TrackSamples().decode(sample.key, {**files, "extra.txt": b"ignored"})
        assert found == sample
        assert TrackSamples().encode(found) == files


def test_files_that_are_open_are_passed_on_unread(corpus: TrackItems) -> None:
    [sample, _] = samples_of(corpus)
    opened = {name: io.BytesIO(content) for name, content in sample.files.items() if isinstance(content, bytes)}
    files = TrackSamples().encode(TrackSample("a", sample.meta, dict(opened)))
    assert all(files[name] is file and file.tell() == 0 for name, file in opened.items())
    assert files["json"] == json.dumps(sample.meta, sort_keys=True).encode()


def test_arrays_tell_what_the_lines_tell(corpus: TrackItems) -> None:
    for sample in samples_of(corpus):
        told = [(line["frame_idx"], o["obj_id"], o["bbox"]) for line in sample.lines for o in line["objects"]]
        arrays = [sample.array(f"{name}.npy") for name in ("frame_idx", "obj_ids", "boxes")]
        assert [array.dtype for array in arrays] == [np.int32, np.int32, np.float32]
        assert list(zip(*(array.tolist() for array in arrays), strict=True)) == told


def test_a_clip_has_frames_boxes_masks_and_ids_of_the_video(corpus: TrackItems) -> None:
    samples = TrackSamples(num_frames=5, root=corpus.root, start="first")
    batch = samples.collate(samples_of(corpus))
    assert (batch["frames"].shape, batch["frames"].dtype) == ((2, 5, 3, 64, 96), torch.uint8)
    assert (batch["masks"].shape, batch["masks"].dtype) == ((2, 5, 2, 64, 96), torch.bool)
    assert (batch["boxes"].shape, batch["boxes"].dtype) == ((2, 5, 2, 4), torch.float32)
    assert batch["obj_ids"].tolist() == [[1, 2], [1, 2]]
    assert batch["labels"] == [["car", "person"]] * 2
    assert batch["timestamps"].tolist() == [[0, 0.04, 0.08, 0.12, 0.16]] * 2
    assert (batch["frames_mask"].all(), batch["objects_mask"].all()) == (True, True)
    assert (batch["key"], batch["meta"][1]["path"]) == (["train/a", "train/b"], "train/b.mp4")
    for place, shapes in enumerate(corpus.videos.values()):
        expect(clip_of(batch, place), shapes, range(5))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0, 2, 4, 6]),
        ({"fps": 12.5}, [0, 4, 8, 12]),
        ({"start_seconds": 0.12, "stop_seconds": 0.45}, [3, 5, 7, 9]),
        ({"times": lambda k: 33 * k + (k * k) % 23}, [0, 2, 4, 6]),
    ],
)
def test_frames_are_those_of_the_lines_whatever_was_taken_of_the_video(
    tmp_path: Path, options: dict[str, Any], wanted: list[int]
) -> None:
    corpus = write_videos(tmp_path, "train/a", num_frames=14, **options)
    samples = TrackSamples(num_frames=4, step=2, root=tmp_path, start="first")
    batch = samples.collate(samples_of(corpus))
    expect(clip_of(batch, 0), corpus.videos["train/a"], wanted)


def test_clips_begin_anywhere_by_torchs_generator(corpus: TrackItems) -> None:
    samples, [sample, _] = TrackSamples(num_frames=3, step=3, root=corpus.root), samples_of(corpus)
    torch.manual_seed(0)
    starts = [places(samples.collate([sample])["frames"][0]) for _ in range(30)]
    assert {tuple(found) for found in starts} == {(k, k + 3, k + 6) for k in range(6)}
    torch.manual_seed(0)
    assert [places(samples.collate([sample])["frames"][0]) for _ in range(4)] == starts[:4]


def test_of_a_short_video_the_last_frame_comes_again_and_is_masked(tmp_path: Path) -> None:
    corpus = write_videos(tmp_path, "train/a", "train/b", num_frames=4)
    batch = TrackSamples(num_frames=5, step=2, root=tmp_path).collate(samples_of(corpus))
    assert batch["frames_mask"].tolist() == [[True, True, False, False, False], [True, True, True, False, False]]
    for place, ks in enumerate(([0, 2, 2, 2, 2], [0, 2, 4, 4, 4])):
        expect(clip_of(batch, place), list(corpus.videos.values())[place], ks)


def test_a_clip_with_fewer_objects_is_padded_and_masked(corpus: TrackItems) -> None:
    [whole, other] = samples_of(corpus)
    alone = [with_objects(line, [each for each in line["objects"] if each["obj_id"] == 2]) for line in other.lines]
    nothing = made_sample("c", [with_objects(line, []) for line in other.lines], other.meta)
    samples = TrackSamples(num_frames=12, root=corpus.root, start="first")
    batch = samples.collate([whole, made_sample("b", alone, other.meta), nothing])
    assert batch["obj_ids"].tolist() == [[1, 2], [2, 0], [0, 0]]
    assert batch["objects_mask"].tolist() == [[True, True], [True, False], [False, False]]
    assert batch["labels"] == [["car", "person"], ["person"], []]
    assert not batch["present"][1, :, 1].any()
    assert not batch["masks"][1, :, 1].any()
    assert samples.collate([nothing])["masks"].shape == (1, 12, 0, 64, 96)


def test_sizes_that_differ_give_lists_unless_they_are_resized(tmp_path: Path) -> None:
    corpus = write_videos(tmp_path, "train/a")
    wide = write_videos(tmp_path, "train/wide", size=(32, 128))
    both = [*samples_of(corpus), *samples_of(wide)]
    batch = TrackSamples(num_frames=2, root=tmp_path).collate(both)
    assert [tuple(frames.shape) for frames in batch["frames"]] == [(2, 3, 64, 96), (2, 3, 32, 128)]
    assert [tuple(masks.shape[2:]) for masks in batch["masks"]] == [(64, 96), (32, 128)]
    resized = TrackSamples(num_frames=2, root=tmp_path, size=(32, 48), start="first").collate(both)
    assert (resized["frames"].shape, resized["masks"].shape[2:]) == ((2, 2, 3, 32, 48), (1, 32, 48))
    [car] = corpus.videos["train/a"].at(0)
    assert resized["boxes"][0, 0, 0].tolist() == [value / 2 for value in car.bbox]
    np.testing.assert_array_equal(resized["masks"][0, 0, 0].numpy(), car.mask[1::2, 1::2])


def test_batches_of_a_run_come_from_its_shards_and_the_source_videos(corpus: TrackItems, tmp_path: Path) -> None:
    make_track_run(tmp_path / "run", corpus)
    kind = TrackSamples(num_frames=4, root=corpus.root)
    data = FramesDataModule(shards=tmp_path / "run", samples=kind, batch_size=2, num_workers=0)
    [batch] = data.train_dataloader()
    for place, key in enumerate(batch["key"]):
        clip = clip_of(batch, place)
        expect(clip, corpus.videos[key], places(clip["frames"]))


def test_a_clip_of_a_run_reads_no_more_than_it_needs(
    corpus: TrackItems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = TrackItems(corpus.root, {"train/a": Shapes(12)})
    [item] = long.items()
    short = long.lines(item)
    lines: list[TrackLine] = [{**short[number % 12], "frame_idx": number} for number in range(4000)]
    monkeypatch.setattr(TrackItems, "lines", lambda self, item: lines)
    run = make_track_run(tmp_path / "run", long)
    kind = TrackSamples(num_frames=2, root=corpus.root)
    sizes: list[int] = []
    monkeypatch.setattr(os, "pread", spied(os.pread, lambda _, num_bytes, *__: sizes.append(num_bytes)))
    kind.collate([kind.decode(*CommittedSamples(run).open(0))])
    assert 0 < sum(sizes) < (folder_of(run) / "train-000000.tar").stat().st_size / 2


@pytest.mark.parametrize("missing", ["tracks.jsonl", "boxes.npy", "json"])
def test_a_sample_with_a_missing_file_fails(corpus: TrackItems, missing: str) -> None:
    files = TrackSamples().encode(samples_of(corpus)[0])
    del files[missing]
    with pytest.raises(RunError, match=rf"train/a is no track sample: .*{missing}.*preprocess verify"):
        TrackSamples().decode("train/a", files)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY"])
def test_a_sample_with_damaged_files_fails(corpus: TrackItems, content: bytes) -> None:
    files = TrackSamples().encode(samples_of(corpus)[0])
    with pytest.raises(RunError, match=r"a is no track sample: .*preprocess verify"):
        TrackSamples().decode("a", {**files, "json": b"{"})
    damaged = TrackSamples().decode("a", {**files, "boxes.npy": content})
    with pytest.raises(RunError, match=r"a\.boxes\.npy is damaged: .*preprocess verify"):
        damaged.array("boxes.npy")
    with pytest.raises(RunError, match=r"a is no track sample: its tracks\.jsonl has no frames"):
        TrackSamples().decode("a", {**files, "tracks.jsonl": b""})


def test_frames_of_training_come_from_an_object_store(corpus: TrackItems) -> None:
    pytest.importorskip("obstore")
    samples = samples_of(corpus)
    of_folder = TrackSamples(num_frames=3, root=corpus.root, start="first").collate(samples)
    of_store = TrackSamples(num_frames=3, root=f"file://{corpus.root}", start="first").collate(samples)
    assert torch.equal(of_store["frames"], of_folder["frames"])


def test_training_without_a_root_fails(corpus: TrackItems) -> None:
    with pytest.raises(ConfigError, match=r"the run's --data\.root, as TrackSamples\(root=…\)"):
        TrackSamples().collate(samples_of(corpus))


def test_a_video_that_is_gone_fails(corpus: TrackItems, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the frames of train/a cannot be read from .*train/a\.mp4: a\.mp4 is missing"):
        TrackSamples(root=tmp_path).collate(samples_of(corpus))


def test_another_video_in_its_place_fails(corpus: TrackItems, tmp_path: Path) -> None:
    shutil.copytree(corpus.root, tmp_path / "videos")
    [sample, _] = samples_of(corpus)
    samples = TrackSamples(num_frames=12, root=tmp_path / "videos")
    Shapes(12, times=lambda k: 50 * k).write(tmp_path / "videos/train/a.mp4")
    with pytest.raises(RunError, match=r"cannot be read from .*: it has no frame at 0\.040 s\. Set root"):
        samples.collate([sample])
    Shapes(12, (48, 96)).write(tmp_path / "videos/train/a.mp4")
    with pytest.raises(RunError, match="has frames of 96x48 px, but train/a was tracked in frames of 96x64 px"):
        samples.collate([sample])


def test_frames_are_read_in_the_shape_that_they_were_tracked_in(tmp_path: Path) -> None:
    write(tmp_path / "a", Kind(pixel_aspect_ratio=Fraction(64, 45)), 3)
    lines: list[TrackLine] = [{"frame_idx": k, "timestamp": 0.04 * k, "objects": []} for k in range(3)]
    for width, decoding in ((182, None), (128, Decoding(square_pixels=False))):
        info = {"width": width, "height": 96, "fps": 25.0, "num_frames": 3, "duration": 0.12}
        sample = made_sample("a", lines, {"path": "a.mp4", "prompt": "car", "video_info": info})
        batch = TrackSamples(num_frames=3, root=tmp_path, decoding=decoding).collate([sample])
        assert batch["frames"].shape == (1, 3, 3, 96, width)
    with pytest.raises(RunError, match=r"in frames of 128x96 px\. Give TrackSamples the decoding of the run"):
        TrackSamples(num_frames=3, root=tmp_path).collate([sample])


@pytest.mark.parametrize("options", [{"num_frames": 0}, {"step": 0}, {"size": (0, 3)}, {"start": "last"}])
def test_options_that_are_none_fail(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TrackSamples(**options)
