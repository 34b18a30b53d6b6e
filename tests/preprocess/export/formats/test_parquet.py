"""The Parquet export, as pandas and pyarrow read it: one row per sample, flat arrays with their shape."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.errors import ConfigError
from datamodules.samples.columns import Column
from datamodules.samples.keypoints import KeypointSamples
from preprocess.export.format import export
from preprocess.export.formats import parquet
from support.caption_runs import caption_items, make_caption_run
from support.clip_runs import ClipItems, made_clip, make_clip_run
from support.keypoint_runs import MadeItems, made_samples, make_run
from support.pose_runs import made_pose, make_pose_run
from support.runs import Listed
from support.track_runs import make_track_run, write_videos

CORPUS = MadeItems({"train": 5, "dev": 2})


@pytest.mark.parametrize("layout", [143, 75, 543, 553])
def test_pandas_gives_back_every_sample(tmp_path: Path, layout: int) -> None:
    make_run(tmp_path / "run", CORPUS, layout)

    written = export(tmp_path / "run", "parquet", tmp_path / "out")

    assert [path.name for path in written] == ["train.parquet", "dev.parquet"]
    frame = pd.read_parquet(tmp_path / "out" / "train.parquet")
    samples = made_samples(CORPUS, "train", layout)
    assert len(frame) == len(samples)
    for row, sample in zip(frame.itertuples(), samples, strict=True):
        assert row.key == sample.key
        assert (row.sentence_id, row.signer, row.glosses) == (sample.meta["sentence_id"], "Signer01", "REGEN MÖGLICH")
        assert (row.path, row.layout, row.width, row.height) == (sample.meta["path"], layout, 210, 260)
        assert row.num_frames == len(sample.keypoints)
        assert row.keypoints.dtype == np.float32
        np.testing.assert_array_equal(row.keypoints.reshape(row.keypoints_shape), sample.keypoints)
        np.testing.assert_array_equal(row.presence.reshape(-1, 4), sample.presence)
        np.testing.assert_array_equal(row.visibility.reshape(-1, 33), sample.visibility)


def test_columns_have_the_types_of_the_table_and_only_texts_that_the_corpus_gives(tmp_path: Path) -> None:
    make_run(tmp_path / "run", MadeItems({"train": 2}, meta={"text": "regen möglich", "weight": 3}, videos=True))

    (path,) = export(tmp_path / "run", "parquet", tmp_path / "out")

    types = {field.name: str(field.type) for field in pq.read_schema(path)}
    assert types == {
        "key": "string",
        "path": "string",
        "frames": "list<element: string>",
        "sentence_id": "string",
        "text": "string",
        "layout": "int32",
        "width": "int32",
        "height": "int32",
        "fps": "double",
        "pixel_aspect_ratio": "double",
        "num_skipped_frames": "int32",
        "missing_seconds": "double",
        "crop": "list<element: int32>",
        "backend": "string",
        "num_frames": "int64",
        "keypoints": "list<element: float>",
        "keypoints_shape": "list<element: int32>",
        "presence": "list<element: uint8>",
        "visibility": "list<element: float>",
    }
    assert pq.read_table(path, columns=["fps", "text"]).to_pylist() == [
        {"fps": 25.0, "text": "regen möglich"},
        {"fps": 25.0, "text": "regen möglich"},
    ]


def test_the_folder_reads_as_one_dataset_and_holds_nothing_else(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS)

    export(tmp_path / "run", "parquet", tmp_path / "out")

    keys = pd.read_parquet(tmp_path / "out", columns=["key"])["key"]
    assert sorted(keys) == sorted(item.key for item in CORPUS.items())


def test_numbers_in_columns_of_texts_are_written_as_texts(tmp_path: Path) -> None:
    make_run(tmp_path / "run", MadeItems({"train": 1}, meta={"signer": 5, "glosses": None}))
    (path,) = export(tmp_path / "run", "parquet", tmp_path / "out")
    assert pq.read_table(path, columns=["signer", "glosses"]).to_pylist() == [{"signer": "5", "glosses": None}]

    make_clip_run(tmp_path / "clips", ClipItems({"train": 1}, vid=7, text=None), with_tokens=False)
    (path,) = export(tmp_path / "clips", "parquet", tmp_path / "out_clips")
    assert pq.read_table(path, columns=["vid", "text"]).to_pylist() == [{"vid": "7", "text": None}]


def test_statistics_are_in_the_metadata(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS, layout=75, failed=("dev/v1",))

    export(tmp_path / "run", "parquet", tmp_path / "out")

    statistics = json.loads(pq.read_metadata(tmp_path / "out" / "dev.parquet").metadata[b"statistics"])
    assert [statistics[name] for name in ("split", "planned", "committed", "failed")] == ["dev", 2, 1, 1]
    assert list(statistics["coordinate_range"]) == ["pose", "left_hand", "right_hand"]


def test_row_groups_end_where_their_bytes_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", CORPUS)
    samples = made_samples(CORPUS, "train")
    size = [s.keypoints.nbytes + s.presence.nbytes + s.visibility.nbytes for s in samples]
    monkeypatch.setattr(parquet, "_ROW_GROUP_BYTES", size[0] + size[1])

    export(tmp_path / "run", "parquet", tmp_path / "out")

    metadata = pq.read_metadata(tmp_path / "out" / "train.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [2, 1, 1, 1]
    keys = pq.read_table(tmp_path / "out" / "train.parquet", columns=["key"])["key"]
    assert keys == pa.chunked_array([[s.key for s in samples]])


def test_a_split_in_which_everything_failed_gives_no_rows(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS, failed=("dev/v0", "dev/v1"))

    export(tmp_path / "run", "parquet", tmp_path / "out")

    assert len(pd.read_parquet(tmp_path / "out" / "dev.parquet")) == 0


def test_an_existing_file_fails(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS)
    export(tmp_path / "run", "parquet", tmp_path / "out")

    with pytest.raises(ConfigError, match=r"train\.parquet exists, and is not replaced"):
        export(tmp_path / "run", "parquet", tmp_path / "out")


CLIPS = ClipItems({"train": 3, "dev": 1})


def test_pandas_gives_back_all_of_a_clip_but_its_frames(tmp_path: Path) -> None:
    make_clip_run(tmp_path / "run", CLIPS)

    written = export(tmp_path / "run", "parquet", tmp_path / "out")

    assert [path.name for path in written] == ["train.parquet", "dev.parquet"]
    frame = pd.read_parquet(tmp_path / "out" / "train.parquet")
    samples = [made_clip(item) for item in CLIPS.items() if item.split == "train"]
    assert len(frame) == len(samples)
    for row, sample in zip(frame.itertuples(), samples, strict=True):
        meta = sample.meta
        assert (row.key, row.path, row.vid, row.text) == (
            sample.key,
            meta["path"],
            meta["vid"],
            meta["text"],
        )
        assert (row.begin_time, row.end_time, row.duration) == (1.5, meta["end_time"], meta["duration"])
        assert (row.width, row.height, row.fps, row.num_frames, row.codec) == (640, 360, 25.0, 100, "h264")
        assert row.pts_seconds.tolist() == meta["pts_seconds"]
        assert (row.size if meta["size"] is None else row.size.tolist()) == meta["size"]
        assert (row.tokens.dtype, row.num_tokens, row.truncated) == (np.int64, 3, False)
        assert sample.tokens is not None
        np.testing.assert_array_equal(row.tokens, sample.tokens)


def test_columns_of_clips_are_those_that_the_corpus_gives(tmp_path: Path) -> None:
    corpus = ClipItems({"train": 1})
    bare = [replace(item, meta={"text": "cow"}) for item in corpus.items()]
    make_clip_run(tmp_path / "run", Listed(bare), with_tokens=False)

    (path,) = export(tmp_path / "run", "parquet", tmp_path / "out")

    types = {field.name: str(field.type) for field in pq.read_schema(path)}
    assert types == {
        "key": "string",
        "path": "string",
        "text": "string",
        "width": "int32",
        "height": "int32",
        "fps": "double",
        "pixel_aspect_ratio": "double",
        "num_frames": "int64",
        "num_skipped_frames": "int32",
        "codec": "string",
        "backends": "list<element: string>",
        "pts_seconds": "list<element: double>",
        "tokens": "list<element: int64>",
        "num_tokens": "int32",
        "truncated": "bool",
    }
    assert pq.read_table(path, columns=["tokens", "num_tokens", "truncated"]).to_pylist() == [
        {"tokens": None, "num_tokens": None, "truncated": None}
    ]


def test_statistics_of_clips_are_in_the_metadata(tmp_path: Path) -> None:
    make_clip_run(tmp_path / "run", CLIPS, failed=("train/v1",))

    path, _ = export(tmp_path / "run", "parquet", tmp_path / "out")

    statistics = json.loads(pq.read_metadata(path).metadata[b"statistics"])
    assert [statistics[name] for name in ("planned", "committed", "failed", "frames")] == [3, 2, 1, 32]
    assert "detection_rate" not in statistics


def test_samples_of_a_class_that_is_not_imported_fail(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS, fingerprint={"samples": {"class_path": "elsewhere.FlowSamples"}})

    with pytest.raises(ConfigError, match=r"If you trust it, add --kind elsewhere\.FlowSamples"):
        export(tmp_path / "run", "parquet", tmp_path / "out")


class BareSamples(KeypointSamples):
    """A kind that declares nothing for tables."""

    fields = ()  # type: ignore[assignment]
    columns = ()  # type: ignore[assignment]


def test_a_kind_with_nothing_for_a_table_fails(tmp_path: Path) -> None:
    class_path = f"{BareSamples.__module__}.{BareSamples.__qualname__}"
    make_run(tmp_path / "run", CORPUS, fingerprint={"samples": {"class_path": class_path}})

    with pytest.raises(ConfigError, match="BareSamples declares neither fields nor columns with a type"):
        export(tmp_path / "run", "parquet", tmp_path / "out")


class CountedSamples(KeypointSamples):
    """A kind of one's own, with a column of its own."""

    fields = ()  # type: ignore[assignment]
    columns = (  # type: ignore[assignment]
        Column("num_found", "poses", lambda sample: int(sample.presence[:, 0].sum()), pa.int32()),
    )


def test_a_kind_of_the_user_has_the_columns_that_it_declares(tmp_path: Path) -> None:
    class_path = f"{CountedSamples.__module__}.{CountedSamples.__qualname__}"
    make_run(tmp_path / "run", CORPUS, fingerprint={"samples": {"class_path": class_path}})

    path, _ = export(tmp_path / "run", "parquet", tmp_path / "out")

    assert pq.read_table(path).to_pylist() == [
        {"key": sample.key, "num_found": int(sample.presence[:, 0].sum())} for sample in made_samples(CORPUS, "train")
    ]


def test_captions_are_rows_with_all_that_made_them(tmp_path: Path) -> None:
    entities = [{"text": "a cow", "begin": 0, "end": 5, "boxes": [[0.1, 0.2, 0.5, 0.9]]}]
    items = caption_items("a.jpg", "sub/b.png", "c.png")
    make_caption_run(tmp_path / "run", items, failed=("c",), entities=entities, status="truncated")

    (path,) = export(tmp_path / "run", "parquet", tmp_path / "out")

    rows = pq.read_table(path).to_pylist()
    assert [(row["key"], row["image"], row["caption"]) for row in rows] == [
        ("a", "a.jpg", "a cow, <i>0</i> & Kühe"), ("sub/b", "sub/b.png", "a cow, <i>1</i> & Kühe")
    ]  # fmt: skip
    told = {
        "status": "truncated", "model": "made/cow-1B", "revision": "abc", "backend": "transformers",
        "prompt": "Describe the <b>Kühe</b>.", "system_prompt": None, "num_tokens": 3, "width": 8, "height": 6,
    }  # fmt: skip
    assert [{name: row[name] for name in told} for row in rows] == [told] * 2
    assert [json.loads(row["entities"]) for row in rows] == [entities] * 2
    statistics = json.loads(pq.read_metadata(path).metadata[b"statistics"])
    assert [statistics[name] for name in ("planned", "committed", "failed")] == [3, 2, 1]


def test_captions_without_entities_have_none(tmp_path: Path) -> None:
    make_caption_run(tmp_path / "run", caption_items("a.jpg"), store_images=False)
    (path,) = export(tmp_path / "run", "parquet", tmp_path / "out")
    assert pq.read_table(path)["entities"].to_pylist() == [None]


def test_poses_are_rows_of_flat_arrays(tmp_path: Path) -> None:
    items = caption_items("a.jpg", "b.jpg")
    make_pose_run(tmp_path / "run", items, (0, 2))
    (path,) = export(tmp_path / "run", "parquet", tmp_path / "out")
    nobody, two = pd.read_parquet(path).itertuples()
    assert (nobody.num_people, len(nobody.keypoints), len(nobody.scores)) == (0, 0, 0)
    sample = made_pose(items[1], 2)
    assert (two.key, two.image, two.caption, two.original_width) == ("b", "b.jpg", "a <dancer> in b", 96)
    np.testing.assert_array_equal(two.scores, sample.scores)
    np.testing.assert_array_equal(two.keypoints.reshape(2, 18, 3), sample.keypoints)
    np.testing.assert_array_equal(two.original_keypoints.reshape(2, 18, 3), sample.keypoints_in("original"))
    assert "people" not in pq.read_schema(path).names


def test_tracks_are_rows_with_an_entry_for_each_object_of_each_frame(tmp_path: Path) -> None:
    corpus = write_videos(tmp_path, "train/a", num_frames=4)
    make_track_run(tmp_path / "run", corpus)
    (path,) = export(tmp_path / "run", "parquet", tmp_path / "out")
    (row,) = pd.read_parquet(path).itertuples()
    (item,) = corpus.items()
    result = [(line["frame_idx"], each) for line in corpus.lines(item) for each in line["objects"]]
    assert (row.key, row.prompt, row.num_objects) == ("train/a", "car. person.", 1)
    assert (row.video_info["width"], row.video_info["fps"]) == (96, 25.0)
    assert row.frame_idx.tolist() == [frame_idx for frame_idx, _ in result]
    assert row.obj_ids.tolist() == [each["obj_id"] for _, each in result]
    assert row.labels.tolist() == [each["label"] for _, each in result]
    np.testing.assert_array_equal(row.scores, np.array([each["score"] for _, each in result], np.float32))
    assert row.boxes.reshape(-1, 4).tolist() == [each["bbox"] for _, each in result]
