"""The NumPy export equals what code for PHOENIX-2014-T loads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.errors import ConfigError, EnvironmentFailure, RunError
from datamodules.samples.keypoint_layouts import FACE_68
from datamodules.samples.keypoints import KeypointSample
from preprocess.export.format import export
from support.keypoint_runs import PART_SLICES, REASON, MadeItems, made_samples, make_run

CORPUS = MadeItems({"train": 5, "dev": 2})


def expected_keypoints(samples: list[KeypointSample], layout: int) -> NDArray[np.float32]:
    """[N, 143, 3], put together part by part."""
    points = np.concatenate([sample.keypoints for sample in samples])
    parts = {name: points[:, place] for name, place in PART_SLICES[layout].items()}
    face = parts["face"] if layout == 143 else parts["face"][:, list(FACE_68)]
    return np.concatenate([face, parts["left_hand"], parts["right_hand"], parts["pose"]], axis=1)


def loaded(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("layout", [143, 543, 553])
def test_numpy_load_gives_keypoints_paths_and_ids(tmp_path: Path, layout: int) -> None:
    make_run(tmp_path / "run", CORPUS, layout)

    written = export(tmp_path / "run", "phoenix-npz", tmp_path / "out")

    names = [f"{split}_{file}" for split in ("train", "dev") for file in ("keypoints.npz", "statistics.json")]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    for split in ("train", "dev"):
        arrays = loaded(tmp_path / "out" / f"{split}_keypoints.npz")
        samples = made_samples(CORPUS, split, layout)
        assert list(arrays) == ["keypoints", "image_paths", "video_ids"]
        assert arrays["keypoints"].dtype == np.float32
        assert arrays["keypoints"].shape == (sum(len(s.keypoints) for s in samples), 143, 3)
        np.testing.assert_array_equal(arrays["keypoints"], expected_keypoints(samples, layout))
        paths = [f"{s.meta['path']}/{name}" for s in samples for name in s.meta["frames"]]
        assert arrays["image_paths"].tolist() == paths
        assert arrays["video_ids"].tolist() == [s.meta["sentence_id"] for s in samples for _ in s.meta["frames"]]


def test_an_item_without_a_name_is_called_by_its_key(tmp_path: Path) -> None:
    make_run(tmp_path / "run", MadeItems({"train": 1}, meta={"sentence_id": None}))

    export(tmp_path / "run", "phoenix-npz", tmp_path / "out")

    assert loaded(tmp_path / "out" / "train_keypoints.npz")["video_ids"].tolist() == ["train/v0"]


def test_a_split_in_which_everything_failed_gives_empty_arrays(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS, failed=("dev/v0", "dev/v1"))

    export(tmp_path / "run", "phoenix-npz", tmp_path / "out")

    arrays = loaded(tmp_path / "out" / "dev_keypoints.npz")
    assert {name: array.shape for name, array in arrays.items()} == {
        "keypoints": (0, 143, 3),
        "image_paths": (0,),
        "video_ids": (0,),
    }


def test_a_run_that_is_not_complete_gives_what_is_committed_and_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS, failed=("train/v1",), max_shards=2)

    export(tmp_path / "run", "phoenix-npz", tmp_path / "out")

    ids = loaded(tmp_path / "out" / "train_keypoints.npz")["video_ids"].tolist()
    assert list(dict.fromkeys(ids)) == ["v0", "v2", "v3"]
    train, dev = (json.loads((tmp_path / "out" / f"{s}_statistics.json").read_text()) for s in ("train", "dev"))
    assert [train[name] for name in ("planned", "committed", "failed", "not_done")] == [5, 3, 1, 1]
    assert train["failures"] == [{"key": "train/v1", "reason": REASON}]
    assert [dev[name] for name in ("planned", "committed", "failed", "not_done")] == [2, 0, 0, 2]


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        make_run(tmp_path / name, CORPUS)
        contents.append(export(tmp_path / name, "phoenix-npz", tmp_path / f"{name}-out")[0].read_bytes())

    assert contents[0] == contents[1]


def test_a_layout_without_a_face_fails_before_anything_is_written(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS, layout=75)

    with pytest.raises(ConfigError, match=r"layout 75 of train/v0 has no face"):
        export(tmp_path / "run", "phoenix-npz", tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_an_existing_file_fails_before_anything_is_written(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dev_statistics.json").write_text("mine")

    with pytest.raises(ConfigError, match=r"dev_statistics\.json exists, and is not replaced"):
        export(tmp_path / "run", "phoenix-npz", tmp_path / "out")

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dev_statistics.json"]
    assert (tmp_path / "out" / "dev_statistics.json").read_text() == "mine"


def test_a_damaged_shard_fails_and_leaves_no_file(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS)
    with open(tmp_path / "run" / "dev-000000.tar", "r+b") as tar:
        tar.truncate(512)

    with pytest.raises(RunError, match=r"dev-000000\.tar"):
        export(tmp_path / "run", "phoenix-npz", tmp_path / "out")

    assert list((tmp_path / "out").glob("*")) == []


def test_a_destination_that_is_a_file_fails(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS)
    (tmp_path / "out").write_text("mine")

    with pytest.raises(ConfigError, match=r"--dest .*out is not a folder"):
        export(tmp_path / "run", "phoenix-npz", tmp_path / "out")


def test_a_disk_that_refuses_fails_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", CORPUS)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)

    with pytest.raises(EnvironmentFailure, match=r"export to .*out failed.*No space left on device"):
        export(tmp_path / "run", "phoenix-npz", tmp_path / "out")

    assert list((tmp_path / "out").iterdir()) == []
