"""Exports of tracks, as the libraries of the formats read them, equal the shapes in the videos."""

import configparser
import io
import json
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from datamodules.errors import ConfigError, RunError
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.samples.track_lines import TrackLine, line_of, rle_of
from datamodules.samples.tracks import TrackSample, TrackSamples
from preprocess.export.format import export
from preprocess.export.statistics import counts
from support.clip_runs import ClipItems, make_clip_run
from support.plans import rewrite, with_column
from support.run_paths import folder_of
from support.track_runs import REASON, TRACKS, Shape, TrackItems, make_track_run, write_videos

FORMATS = ("tracks-jsonl", "grounded-sam2", "coco-video", "mot", "mots")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TrackItems:
    return write_videos(tmp_path_factory.mktemp("videos"), "train/a", "train/sub/b%2E1", "dev/c", fps=12.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: TrackItems) -> Run:
    return make_track_run(tmp_path_factory.mktemp("run"), corpus)


def truth(corpus: TrackItems, key: str) -> list[list[Shape]]:
    """The shapes in each frame taken of a video."""
    item = next(item for item in corpus.items() if item.key == key)
    return [corpus.videos[key].at(k) for k, _ in corpus.frames(item)]


def test_tracks_jsonl_has_an_object_a_video(run: Run, corpus: TrackItems, tmp_path: Path) -> None:
    written = export(folder_of(run), "tracks-jsonl", tmp_path / "out")
    names = ["train.jsonl", "train_statistics.json", "dev.jsonl", "dev_statistics.json"]
    assert [path.name for path in written] == names
    assert json.loads(written[1].read_text()) == counts(run, "train")
    videos = [json.loads(line) for path in written[::2] for line in path.read_text().splitlines()]
    for video, item in zip(videos, corpus.items(), strict=True):
        assert list(video) == ["video_path", "text_prompt", "video_info", "frames"]
        assert (video["video_path"], video["text_prompt"]) == (item.path, "car. person.")
        num_frames = corpus.videos[item.key].num_frames
        info = {"width": 96, "height": 64, "fps": 25.0, "num_frames": num_frames, "duration": num_frames / 25}
        assert video["video_info"] == info
        assert video["frames"] == corpus.lines(item)


def test_grounded_sam2_has_a_json_and_an_array_of_ids_for_each_frame(
    run: Run, corpus: TrackItems, tmp_path: Path
) -> None:
    assert export(folder_of(run), "grounded-sam2", tmp_path / "out") == [tmp_path / "out"]
    for key in corpus.videos:
        frames = truth(corpus, key)
        names = [f"mask_{frame_idx:05d}" for frame_idx in range(len(frames))]
        for data, ending in (("json_data", "json"), ("mask_data", "npy")):
            found = sorted(path.name for path in (tmp_path / "out" / key / data).iterdir())
            assert found == [f"{name}.{ending}" for name in names]
        for name, shapes in zip(names, frames, strict=True):
            ids = np.load(tmp_path / "out" / key / "mask_data" / f"{name}.npy")
            assert (ids.dtype, ids.shape) == (np.uint16, (64, 96))
            expected = np.zeros((64, 96), np.uint16)
            labels = {}
            for shape in shapes:
                expected[shape.mask] = shape.obj_id
                x1, y1, x2, y2 = shape.bbox
                labels[str(shape.obj_id)] = {
                    "instance_id": shape.obj_id, "class_name": shape.label, "x1": x1, "y1": y1, "x2": x2 - 1,
                    "y2": y2 - 1, "logit": shape.score,
                }  # fmt: skip
            np.testing.assert_array_equal(ids, expected)
            about = {"mask_height": 64, "mask_width": 96, "promote_type": "mask", "labels": labels}
            document = json.loads((tmp_path / "out" / key / "json_data" / f"{name}.json").read_text())
            assert document == {"mask_name": f"{name}.npy", **about}
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["dev"] == counts(run, "dev")


def test_ids_that_uint16_cannot_hold_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: TrackItems) -> None:
    lines = TrackItems.lines
    monkeypatch.setattr(TrackItems, "lines", lambda self, item: raised(lines(self, item)))
    make_track_run(tmp_path / "run", corpus)
    with pytest.raises(ConfigError, match=r"train/a has the object 65536: this format cannot hold ids above 65535"):
        export(tmp_path / "run", "grounded-sam2", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def raised(lines: list[TrackLine]) -> list[TrackLine]:
    for line in lines:
        for each in line["objects"]:
            each["obj_id"] += 65535
    return lines


# The fields and their types as https://competitions.codalab.org/competitions/20128#participate-get-data has them.
YOUTUBE_VIS: dict[str, dict[str, Any]] = {
    "videos": {"id": int, "width": int, "height": int, "length": int, "file_names": list},
    "annotations": {
        "id": int, "video_id": int, "category_id": int, "segmentations": list, "areas": list, "bboxes": list,
        "iscrowd": int,
    },
    "categories": {"id": int, "name": str, "supercategory": str},
}  # fmt: skip


def test_coco_video_has_every_field_of_youtube_vis_and_pycocotools_reads_its_masks(
    run: Run, corpus: TrackItems, tmp_path: Path
) -> None:
    written = export(folder_of(run), "coco-video", tmp_path / "out")
    assert [path.name for path in written] == [
        "train.json", "train_statistics.json", "dev.json", "dev_statistics.json"
    ]  # fmt: skip
    assert json.loads(written[3].read_text()) == counts(run, "dev")
    found = []
    for path in written[::2]:
        document = json.loads(path.read_text())
        assert {*document} == {"info", "licenses", *YOUTUBE_VIS}
        for name, fields in YOUTUBE_VIS.items():
            for entry in document[name]:
                assert {field: type(entry[field]) for field in fields} == fields
        labels = {category["id"]: category["name"] for category in document["categories"]}
        assert labels == {1: "car", 2: "person"}
        for video in document["videos"]:
            tracks = [each for each in document["annotations"] if each["video_id"] == video["id"]]
            expect_tracks(video, tracks, labels, truth(corpus, video["key"]))
            found.append((video["id"], video["key"], [each["id"] for each in tracks]))
    assert found == [(1, "train/a", [1, 2]), (2, "train/sub/b%2E1", [3, 4]), (3, "dev/c", [5, 6])]


def expect_tracks(video: Any, tracks: Any, labels: dict[int, str], frames: list[list[Shape]]) -> None:
    """See that a video's annotations are its shapes."""
    assert (video["width"], video["height"], video["length"], len(tracks)) == (96, 64, len(frames), 2)
    assert video["file_names"] == [f"{video['key']}/{place:05d}.jpg" for place in range(len(frames))]
    for track in tracks:
        scores = []
        values = zip(track["segmentations"], track["bboxes"], track["areas"], frames, strict=True)
        for segmentation, bbox, area, shapes in values:
            shape = next((shape for shape in shapes if shape.label == labels[track["category_id"]]), None)
            if shape is None:
                assert segmentation is bbox is area is None
                continue
            scores.append(shape.score)
            assert (shape.obj_id, track["iscrowd"]) == (track["obj_id"], 0)
            np.testing.assert_array_equal(coco.decode(segmentation), shape.mask)
            assert (bbox, area) == (coco.toBbox(segmentation).tolist(), shape.mask.sum())
        assert track["score"] == pytest.approx(np.mean(scores), abs=1e-4)
        assert 0 < len(scores) <= len(frames)


def test_mot_has_boxes_from_1_as_its_readers_take_them(run: Run, corpus: TrackItems, tmp_path: Path) -> None:
    export(folder_of(run), "mot", tmp_path / "out")
    for key in corpus.videos:
        frames = truth(corpus, key)
        folder = tmp_path / "out" / key.partition("/")[0] / key
        gt, det = (np.loadtxt(folder / name / f"{name}.txt", delimiter=",", ndmin=2) for name in ("gt", "det"))
        expected = [
            (place, s.obj_id, s.bbox[0] + 1, s.bbox[1] + 1, s.bbox[2] - s.bbox[0], s.bbox[3] - s.bbox[1], s.score)
            for place, shapes in enumerate(frames, 1)
            for s in shapes
        ]
        np.testing.assert_allclose(det, [(*row, -1, -1, -1) for row in expected])
        np.testing.assert_allclose(gt, [(*row[:-1], 1, 1, 1) for row in expected])
        assert (gt[:, 6].astype(int) != 0).all()  # what TrackEval keeps of a ground truth
        info = configparser.ConfigParser()
        info.read(folder / "seqinfo.ini")
        assert dict(info["Sequence"]) == {
            "name": key, "imdir": "img1", "framerate": "12.5", "seqlength": str(len(frames)), "imwidth": "96",
            "imheight": "64", "imext": ".jpg",
        }  # fmt: skip
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train", "dev", "statistics.json"}


def test_mot_takes_the_rate_of_the_video_where_all_frames_have_one_time(tmp_path: Path) -> None:
    class OneTime(TrackItems):
        def lines(self, item: Any) -> list[TrackLine]:
            return [{**line, "timestamp": 0.0} for line in super().lines(item)]

    videos = write_videos(tmp_path / "videos", "train/a")
    make_track_run(tmp_path / "run", OneTime(videos.root, videos.videos))
    export(tmp_path / "run", "mot", tmp_path / "out")
    info = configparser.ConfigParser()
    info.read(tmp_path / "out" / "train" / "train" / "a" / "seqinfo.ini")
    assert (info["Sequence"]["framerate"], info["Sequence"]["seqlength"]) == ("25", "12")


def test_mots_has_masks_as_png_and_as_text_that_pycocotools_reads(run: Run, corpus: TrackItems, tmp_path: Path) -> None:
    assert export(folder_of(run), "mots", tmp_path / "out") == [tmp_path / "out"]
    for key in corpus.videos:
        frames, folder = truth(corpus, key), tmp_path / "out" / key.partition("/")[0] / key
        lines = [line.split(" ") for line in (folder / "gt" / "gt.txt").read_text().splitlines()]
        names = [path.name for path in sorted((folder / "instances").iterdir())]
        assert names == [f"{number:06d}.png" for number in range(1, 1 + len(frames))]
        for number, (name, shapes) in enumerate(zip(names, frames, strict=True), 1):
            expected = np.zeros((64, 96), np.uint16)
            for shape in sorted(shapes, key=lambda shape: shape.score):
                expected[shape.mask] = {"car": 1000, "person": 2000}[shape.label] + shape.obj_id
            with Image.open(folder / "instances" / name) as image:
                assert image.mode == "I;16"
                np.testing.assert_array_equal(np.array(image), expected)
            from_text = np.zeros((64, 96), int)
            for frame, obj_id, class_id, height, width, run_lengths in lines:
                if int(frame) == number:
                    assert int(obj_id) // 1000 == int(class_id)
                    rle = {"size": [int(height), int(width)], "counts": run_lengths}
                    from_text += int(obj_id) * coco.decode(rle).astype(int)  # MOTS refuses masks that overlap
            np.testing.assert_array_equal(from_text, expected)
        info = configparser.ConfigParser()
        info.read(folder / "seqinfo.ini")
        assert (info["Sequence"]["framerate"], info["Sequence"]["seqlength"]) == ("12.5", str(len(frames)))
    classes = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert classes == {"car": 1, "pedestrian": 2, "person": 2}


def test_mots_numbers_other_labels_from_3_and_leaves_out_what_is_covered(tmp_path: Path, corpus: TrackItems) -> None:
    class Covered(TrackItems):
        def lines(self, item: Any) -> list[TrackLine]:
            return [{**line, "objects": self.objects(line)} for line in super().lines(item)]

        def objects(self, line: TrackLine) -> Any:
            car = next(entry for entry in line["objects"] if entry["label"] == "car")
            number = line["frame_idx"]
            below = {"obj_id": 20 + number, "label": f"toy {number}", "score": 0.1}
            left = rle_of(np.arange(96 * 64).reshape(64, 96) % 96 < 4)
            return [{**car, **below}, {**car, **below, "obj_id": 50, "mask": left}]

    videos = {"train/a": corpus.videos["train/a"]}
    make_track_run(tmp_path / "run", Covered(corpus.root, videos))
    export(tmp_path / "run", "mots", tmp_path / "out")
    classes = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert [classes[f"toy {number}"] for number in range(9)] == [3, 4, 5, 6, 7, 8, 9, 11, 12]  # 10 is ignored in MOTS
    with Image.open(tmp_path / "out" / "train" / "train" / "a" / "instances" / "000001.png") as image:
        assert set(np.unique(np.array(image))) == {0, 3020, 3050}


@pytest.mark.parametrize(
    ("obj_id", "num_classes", "message"),
    [
        (1000, 1, r"train/a has the object 1000: MOTS cannot hold ids above 999"),
        (1, 65, r"train/a has one class too many, 'toy 61': MOTS holds 64"),
    ],
)
def test_mots_refuses_what_16_bits_cannot_hold(
    tmp_path: Path, corpus: TrackItems, obj_id: int, num_classes: int, message: str
) -> None:
    class Toys(TrackItems):
        def lines(self, item: Any) -> list[TrackLine]:
            [first, *_] = super().lines(item)
            toys = [
                {**first["objects"][0], "obj_id": obj_id + n, "label": f"toy {n}", "score": 0.5}
                for n in range(num_classes)
            ]
            return [{**first, "objects": toys}]  # type: ignore[typeddict-item]

    make_track_run(tmp_path / "run", Toys(corpus.root, {"train/a": corpus.videos["train/a"]}))
    with pytest.raises(ConfigError, match=message):
        export(tmp_path / "run", "mots", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("format", FORMATS)
def test_statistics_count_failed_items_and_videos_without_objects(
    tmp_path: Path, format: str, corpus: TrackItems
) -> None:
    class Nothing(TrackItems):
        def lines(self, item: Any) -> list[TrackLine]:
            return [{**line, "objects": []} for line in super().lines(item)]

    run = make_track_run(tmp_path / "run", Nothing(corpus.root, corpus.videos), failed=("dev/c", "train/a"))
    out = tmp_path / "out"
    export(folder_of(run), format, out)
    statistics = [json.loads(path.read_text()) for path in out.rglob("*statistics.json")]
    told = {split["split"]: split for each in statistics for split in ([each] if "split" in each else each.values())}
    assert told == {split: counts(run, split) for split in ("train", "dev")}
    assert told["dev"]["failures"] == [{"key": "dev/c", "reason": REASON}]
    if format == "coco-video":
        documents = [json.loads((out / f"{split}.json").read_text()) for split in ("train", "dev")]
        assert [[len(d[name]) for name in YOUTUBE_VIS] for d in documents] == [[1, 0, 0], [0, 0, 0]]
    elif format in ("mot", "mots"):
        assert [path.stat().st_size for path in out.rglob("gt.txt")] == [0]
    elif format == "grounded-sam2":
        assert {int(np.load(path).max()) for path in out.rglob("*.npy")} == {0}
    else:
        assert [len((out / f"{split}.jsonl").read_text().splitlines()) for split in ("train", "dev")] == [1, 0]


@pytest.mark.parametrize("format", ["tracks-jsonl", "coco-video", "mot"])
def test_memory_does_not_grow_with_the_video(tmp_path: Path, format: str, corpus: TrackItems) -> None:
    peaks = []
    for num_frames in (200, 2000):
        run = long_run(tmp_path / f"{num_frames}", corpus, num_frames)
        tracemalloc.start()
        export(folder_of(run), format, tmp_path / f"{num_frames}-out")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        tar_bytes = (folder_of(run) / "train-000000.tar").stat().st_size
    assert peaks[1] - peaks[0] < tar_bytes / 8


def long_run(folder: Path, corpus: TrackItems, num_frames: int) -> Run:
    """A run of one video, whose lines are of 6 kB each."""
    item = next(corpus.items())
    [line] = corpus.lines(item)[:1]
    line["objects"][0]["mask"]["counts"] += "0" * 6000
    files = {
        "tracks.jsonl": b"".join(
            line_of({**line, "frame_idx": number, "timestamp": number / 25}) for number in range(num_frames)
        ),
        "boxes.npy": npy(np.zeros((num_frames, 4), np.float32)),
        "obj_ids.npy": npy(np.ones(num_frames, np.int32)),
        "frame_idx.npy": npy(np.arange(num_frames, dtype=np.int32)),
        "json": json.dumps(corpus.sample(item).meta).encode(),
    }
    told = {"samples": {"class_path": TRACKS}}
    run = open_or_plan(folder, TrackItems(corpus.root, {"train/a": corpus.videos["train/a"]}), told, ShardSize())
    with Rank(run) as rank:
        opened = rank.lease()
        assert opened is not None
        rank.add(opened.shard.number, Result(0, num_frames=num_frames), files)
    return run


def npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_samples_of_another_kind_fail(tmp_path: Path, format: str) -> None:
    make_clip_run(tmp_path / "run", ClipItems({"train": 1}))
    with pytest.raises(RunError, match=rf"holds ClipSamples, but --format {format} needs TrackSamples"):
        export(tmp_path / "run", format, tmp_path / "out")
    assert not any((tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_that_exists_is_replaced(run: Run, tmp_path: Path, format: str) -> None:
    export(folder_of(run), format, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="exists, and is not replaced"):
        export(folder_of(run), format, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_arrays_that_do_not_fit_the_lines_fail(tmp_path: Path, corpus: TrackItems) -> None:
    run = make_track_run(tmp_path / "run", corpus)
    tar = folder_of(run) / "train-000000.tar"
    content = tar.read_bytes()
    place = content.index(b'"obj_id":2')
    tar.write_bytes(content[:place] + b'"obj_id":7' + content[place + 10 :])
    with pytest.raises(RunError, match=r"frame 1 of train/a has no object 2, as its obj_ids\.npy says"):
        export(folder_of(run), "coco-video", tmp_path / "out")
    assert not any((tmp_path / "out").rglob("*"))


def test_jsonl_takes_tracks(run: Run, corpus: TrackItems, tmp_path: Path) -> None:
    written = export(folder_of(run), "jsonl", tmp_path / "out")
    lines = [json.loads(line) for path in written[::2] for line in path.read_text().splitlines()]
    assert [(line["key"], line["num_objects"]) for line in lines] == [(key, 2) for key in corpus.videos]


@pytest.mark.parametrize("frame_idx", [(1 << 31) - 1, -1])
def test_frames_that_a_video_does_not_have_fail_before_nulls_are_written_for_them(
    tmp_path: Path, corpus: TrackItems, frame_idx: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_frame(self: TrackSamples, key: str, members: Any) -> TrackSample:
        sample = decode(self, key, members)
        idx = sample.array("frame_idx.npy").copy()
        idx[-1] = frame_idx
        buffer = io.BytesIO()
        np.save(buffer, idx)
        return TrackSample(key, sample.meta, {**sample.files, "frame_idx.npy": buffer.getvalue()})

    run, decode = make_track_run(tmp_path / "run", corpus), TrackSamples.decode
    monkeypatch.setattr(TrackSamples, "decode", with_frame)
    with pytest.raises(RunError, match=r"train/a\.frame_idx\.npy is damaged: its frames are not in order"):
        export(folder_of(run), "coco-video", tmp_path / "out")


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("format", ["grounded-sam2", "mot", "mots", "coco-video", "parquet", "jsonl"])
def test_a_tar_or_a_plan_whose_keys_lead_out_of_dest_writes_nothing(
    tmp_path: Path, corpus: TrackItems, format: str
) -> None:
    run = make_track_run(tmp_path / "run", corpus)
    tar, moved = folder_of(run) / "train-000000.tar", tmp_path / "moved.tar"
    with tarfile.open(tar) as old, tarfile.open(moved, "w", format=tarfile.PAX_FORMAT) as new:
        for member in old:
            member.name = member.name.replace("train/", "../../")
            new.addfile(member, old.extractfile(member))
    tar.write_bytes(moved.read_bytes())
    before = files_in(tmp_path)
    with pytest.raises(RunError, match=r"train-000000\.tar cannot be read at byte 0: '\.\./\.\./a' cannot be a key"):
        export(folder_of(run), format, tmp_path / "dest" / "out")
    assert files_in(tmp_path) == before
    keys = ["/tmp/xa", *run.plan.keys(0)[1:]]
    rewrite(
        run.plan, [with_column(run.plan.batch(0), "key", keys), *map(run.plan.batch, range(1, len(run.plan.shards)))]
    )
    before = files_in(tmp_path)
    with pytest.raises(RunError, match=r"\.zst is damaged: shard 0: '/tmp/xa' cannot be a key"):
        export(folder_of(run), format, tmp_path / "dest" / "out")
    assert files_in(tmp_path) == before
