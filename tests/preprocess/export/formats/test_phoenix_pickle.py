"""The pickle export, as code for PHOENIX-2014-T unpickles it: values, None for missing parts, names."""

import json
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.errors import ConfigError, RunError
from datamodules.samples.keypoint_layouts import FACE_68
from datamodules.samples.keypoints import KeypointSample
from preprocess.export.format import export
from preprocess.export.formats.phoenix_pickle import load_phoenix_pickle
from support.keypoint_runs import PART_SLICES, PRESENCE_COLUMNS, MadeItems, made_samples, make_run

CORPUS = MadeItems({"train": 5, "dev": 2})
PARTS = ("face", "left_hand", "right_hand", "pose")


def expected_frames(sample: KeypointSample) -> list[dict[str, Any]]:
    """The frames of `sample`, built the plain way."""
    layout = sample.meta["layout"]
    frames = []
    for points, presence in zip(sample.keypoints, sample.presence, strict=True):
        frame: dict[str, Any] = {}
        for part in PARTS:
            values = points[PART_SLICES[layout][part]]
            values = values[list(FACE_68)] if part == "face" and layout != 143 else values
            frame[part] = values if presence[PRESENCE_COLUMNS.index(part)] else None
        frames.append(frame)
    return frames


def expected_content(corpus: MadeItems, layout: int = 143, failed: tuple[str, ...] = ()) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for split in corpus.items_per_split:
        samples = made_samples(corpus, split, layout, failed)
        content[split] = {
            "keypoints": [frame for sample in samples for frame in expected_frames(sample)],
            "image_paths": [f"{s.meta['path']}/{name}" for s in samples for name in s.meta["frames"]],
            "video_ids": [s.meta["sentence_id"] for s in samples for _ in s.meta["frames"]],
        }
    return content


def assert_equal(result: Any, expected: Any) -> None:
    """Equality through dicts and lists, of types and dtypes too."""
    assert type(result) is type(expected)
    if isinstance(expected, dict):
        assert list(result) == list(expected)
        for key in expected:
            assert_equal(result[key], expected[key])
    elif isinstance(expected, list):
        assert len(result) == len(expected)
        for one, other in zip(result, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, np.ndarray):
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected)
    else:
        assert result == expected


def exported(folder: Path, corpus: MadeItems = CORPUS, layout: int = 143, failed: tuple[str, ...] = ()) -> Path:
    make_run(folder / "run", corpus, layout, failed)
    return export(folder / "run", "phoenix-pickle", folder / "out")[0]


@pytest.mark.parametrize("layout", [143, 543, 553])
def test_pickle_load_gives_frames_paths_and_ids(tmp_path: Path, layout: int) -> None:
    path = exported(tmp_path, layout=layout)

    with open(path, "rb") as file:
        content = pickle.load(file)

    assert_equal(content, expected_content(CORPUS, layout))
    frame = content["train"]["keypoints"][0]
    assert {name: None if a is None else a.shape for name, a in frame.items()}.keys() == set(PARTS)


def test_absent_parts_are_none_and_present_ones_have_the_shapes_of_the_format(tmp_path: Path) -> None:
    content = load_phoenix_pickle(exported(tmp_path))
    frames = content["train"]["keypoints"]

    for part, num_points in {"face": 68, "left_hand": 21, "right_hand": 21, "pose": 33}.items():
        values = [frame[part] for frame in frames]
        assert any(value is None for value in values)
        assert {value.shape for value in values if value is not None} == {(num_points, 3)}


def test_the_opcodes_are_a_valid_pickle_of_protocol_4(tmp_path: Path) -> None:
    content = exported(tmp_path).read_bytes()

    with open(os.devnull, "w") as nowhere:
        pickletools.dis(content, nowhere)  # raises where the stack or the memo is not as the opcodes need it

    assert content[:2] == b"\x80\x04"


def test_pythons_own_unpickler_reads_it_like_the_c_one(tmp_path: Path) -> None:
    path = exported(tmp_path)

    with open(path, "rb") as file:
        content = pickle._Unpickler(file).load()

    assert_equal(content, expected_content(CORPUS))


def test_arrays_can_be_written_to_and_share_nothing(tmp_path: Path) -> None:
    content = load_phoenix_pickle(exported(tmp_path))
    poses = [frame["pose"] for frame in content["train"]["keypoints"] if frame["pose"] is not None]
    before = poses[1].copy()

    poses[0][:] = -1

    np.testing.assert_array_equal(poses[1], before)


def test_more_videos_than_a_byte_counts_keep_their_ids(tmp_path: Path) -> None:
    corpus = MadeItems({"train": 300})

    make_run(tmp_path / "run", corpus, per_shard=300)

    content = load_phoenix_pickle(export(tmp_path / "run", "phoenix-pickle", tmp_path / "out")[0])

    assert content["train"]["video_ids"] == [f"v{i}" for i in range(300) for _ in range(1 + i % 4)]


def test_frames_of_a_video_are_named_by_their_number(tmp_path: Path) -> None:
    content = load_phoenix_pickle(exported(tmp_path, MadeItems({"train": 1}, videos=True)))

    assert content["train"]["image_paths"] == ["train/v0.mp4#0", "train/v0.mp4#1", "train/v0.mp4#2"]


def test_failed_items_are_left_out_and_counted(tmp_path: Path) -> None:
    failed = ("train/v1", "dev/v0", "dev/v1")

    path = exported(tmp_path, failed=failed)

    assert_equal(load_phoenix_pickle(path), expected_content(CORPUS, failed=failed))
    statistics = json.loads((path.parent / "keypoints_statistics.json").read_text())
    assert list(statistics) == ["train", "dev"]
    assert [failure["key"] for failure in statistics["train"]["failures"]] == ["train/v1"]
    assert statistics["dev"]["frames"] == 0


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (exported(tmp_path / name) for name in ("a", "b"))

    assert first.read_bytes() == second.read_bytes()


def test_a_layout_without_a_face_fails_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"layout 75 of train/v0 has no face.*143, 543 or 553.*--format parquet"):
        exported(tmp_path, layout=75)

    assert not (tmp_path / "out").exists()


def test_an_existing_file_fails_and_stays(tmp_path: Path) -> None:
    path = exported(tmp_path)
    before = path.read_bytes()
    (tmp_path / "out" / "keypoints_statistics.json").unlink()

    with pytest.raises(ConfigError, match=r"keypoints\.pickle exists, and is not replaced"):
        export(tmp_path / "run", "phoenix-pickle", tmp_path / "out")

    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_what_pickle_itself_writes_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pickle"
    content = expected_content(CORPUS)
    content["train"]["keypoints"][1] = content["train"]["keypoints"][0]  # is referred to, not written twice
    path.write_bytes(pickle.dumps(content, protocol=4))

    assert_equal(load_phoenix_pickle(path), content)


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_fails_and_nothing_is_executed(tmp_path: Path) -> None:
    path, harm = tmp_path / "harm.pickle", tmp_path / "harm"
    path.write_bytes(pickle.dumps({"train": {"keypoints": [Malicious(harm)], "image_paths": [], "video_ids": []}}))

    with pytest.raises(RunError, match=r"the pickle wants posix\.mkdir, which keypoints do not need: refused"):
        load_phoenix_pickle(path)

    assert not harm.exists()
    pickle.loads(path.read_bytes())
    assert harm.exists()  # it would have been


@pytest.mark.parametrize("dtype", ["O", "i4", "U3"])
def test_arrays_of_anything_but_floats_fail(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "other.pickle"
    frame = {"pose": np.zeros((33, 3)).astype(dtype)}
    path.write_bytes(pickle.dumps({"train": {"keypoints": [frame], "image_paths": [""], "video_ids": [""]}}))

    with pytest.raises(RunError, match=f"the pickle has arrays of '{dtype}.*, and keypoints are floats: refused"):
        load_phoenix_pickle(path)


def test_an_array_with_a_forged_state_fails(tmp_path: Path) -> None:
    path = exported(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"K\x44K\x03\x86", b"K\xffK\xff\x86"))  # a shape of 255 x 255

    with pytest.raises(RunError, match="is no pickle of keypoints, or damaged: cannot reshape array of size 204"):
        load_phoenix_pickle(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no pickle of keypoints, or damaged: Ran out of input"),
        (b"no pickle at all", "is no pickle of keypoints, or damaged"),
        (pickle.dumps(["a", "list"]), "is a pickle, but not of keypoints"),
        (
            pickle.dumps({"train": {"keypoints": [{"pose": 1}], "image_paths": [], "video_ids": []}}),
            "but not of keypoints",
        ),
        (pickle.dumps({"train": {"keypoints": []}}), "must have lists keypoints, image_paths, video_ids"),
    ],
)
def test_other_content_fails(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other.pickle"
    path.write_bytes(content)

    with pytest.raises(RunError, match=message):
        load_phoenix_pickle(path)


def test_a_missing_file_fails(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such file"):
        load_phoenix_pickle(tmp_path / "none.pickle")
