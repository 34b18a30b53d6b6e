"""Joined runs: samples of the same items, of several runs, in one batch."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from datamodules import FramesDataModule
from datamodules.errors import ConfigError, RunError
from datamodules.samples.keypoints import KeypointSamples
from datamodules.training.joined import join
from support.keypoint_runs import MadeItems, make_run

KINDS = {"small": KeypointSamples(), "large": KeypointSamples()}
INNER = [f"train/v{number}" for number in (0, 3, 4, 5)]  # v1 failed in `small`, v2 in `large`, which has no v6, v7


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("joined")
    make_run(folder / "small", MadeItems({"train": 8, "dev": 3, "extra": 1}), layout=75, failed=("train/v1",))
    make_run(folder / "large", MadeItems({"train": 6, "dev": 2}), layout=143, failed=("train/v2",), per_shard=3)
    return {"small": folder / "small", "large": folder / "large"}


def data_of(shards: Any, **options: Any) -> FramesDataModule:
    return FramesDataModule(shards=shards, samples=KINDS, **{"num_workers": 0, "batch_size": 3, **options})


def batches_of(shards: Any, **options: Any) -> list[dict[str, Any]]:
    return list(data_of(shards, **options).train_dataloader())


@pytest.mark.parametrize(("num_ranks", "num_workers"), [(1, 2), (2, 0), (3, 0)])
def test_a_batch_has_the_samples_of_all_runs_with_the_same_key(
    shards: dict[str, Path], ranks: Callable[[int, int], None], num_ranks: int, num_workers: int
) -> None:
    keys = []
    for rank in range(num_ranks):
        ranks(rank, num_ranks)
        loader = data_of(shards, num_workers=num_workers).train_dataloader()
        assert len(loader.dataset) == len(INNER)  # type: ignore[arg-type]
        for batch in loader:
            assert list(batch) == ["key", "small", "large"]
            assert batch["key"] == batch["small"]["key"] == batch["large"]["key"]
            assert [batch[name]["keypoints"].shape[2] for name in KINDS] == [75, 143]
            keys += batch["key"]
    assert sorted(keys) == INNER


def test_an_outer_join_has_masks_of_what_is_present(shards: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):  # which a command of ours may have silenced
        batches = batches_of(shards, join="outer", batch_size=2)
    assert caplog.messages == ["split 'train' joined on key: of 8 values small lacks 1; large lacks 3"]
    found: dict[str, list[str]] = {"small": [], "large": []}
    for batch in batches:
        for name in KINDS:
            present = batch["present"][name]
            assert present.dtype == torch.bool
            keys = [key for key, is_present in zip(batch["key"], present.tolist(), strict=True) if is_present]
            assert (batch[name]["key"] if keys else []) == keys
            assert (batch[name] is None) == (not keys)
            found[name] += keys
    assert sorted(found["small"]) == [f"train/v{number}" for number in (0, 2, 3, 4, 5, 6, 7)]
    assert sorted(found["large"]) == [f"train/v{number}" for number in (0, 1, 3, 4, 5)]


def test_runs_are_joined_on_a_field_of_their_corpora(tmp_path: Path, shards: dict[str, Path]) -> None:
    make_run(tmp_path, MadeItems({"train": 4}, prefix="clip", meta={"video": "v3", "signer": 7}))
    runs = {"small": shards["small"], "large": tmp_path}
    with pytest.raises(RunError, match=r"have the same key: small has 'train/v0', large has 'train/clip0'"):
        batches_of(runs)
    with pytest.raises(ConfigError, match=r"on='video' is not a field,.*run small .* are glosses, sentence_id, signer"):
        batches_of(runs, on="video")
    make_run(tmp_path / "named", MadeItems({"train": 4}, prefix="clip", meta={"sentence_id": "v3"}), layout=75)
    [batch] = batches_of({"small": shards["small"], "large": tmp_path / "named"}, on="sentence_id", batch_size=9)
    assert batch["key"] == ["v3"] * 4
    assert batch["small"]["key"] == ["train/v3"] * 4
    assert sorted(batch["large"]["key"]) == [f"train/clip{number}" for number in range(4)]


def test_values_that_occur_several_times_are_combined_in_all_ways() -> None:
    values = {"a": pa.chunked_array([["x", "y", "x", None]]), "b": pa.chunked_array([["z", "x", None], ["x"]])}
    assert join(values).rows.tolist() == [[0, 1], [0, 3], [2, 1], [2, 3]]
    outer = join(values, outer=True)
    assert outer.rows.tolist() == [[0, 1], [0, 3], [1, -1], [2, 1], [2, 3], [-1, 0]]
    assert outer.keys.to_pylist() == ["x", "x", "y", "x", "x", "z"]


def test_selections_are_for_one_run_or_for_all(shards: dict[str, Path]) -> None:
    def keys(**options: Any) -> list[str]:
        return sorted(key for batch in batches_of(shards, **options) for key in batch["key"])

    assert keys(where={"large": "key != 'train/v3'"}) == [key for key in INNER if key != "train/v3"]
    assert keys(where="num_frames == 1", exclude=["train/v0"]) == ["train/v4"]
    assert keys(exclude=["train/v7"]) == INNER  # only one run has it


def test_validation_uses_a_split_that_all_runs_have(shards: dict[str, Path]) -> None:
    data = data_of(shards)
    data.setup("fit")
    [batch] = data.val_dataloader()
    assert batch["key"] == ["dev/v0", "dev/v1"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"val_split": "extra"},
            RunError,
            r"the run large \(.*\) has no split 'extra', .*\. Set val_split to one of dev, tr",
        ),
        ({"samples": {"small": KeypointSamples()}}, ConfigError, "samples has no kind for the run 'large'"),
        ({"samples": KeypointSamples()}, ConfigError, "so samples must have one for each name: small, large"),
        ({"where": {"huge": "num_frames > 1"}}, ConfigError, "where names 'huge', which is no run in shards"),
        ({"join": "left"}, ConfigError, "join = 'left' must be 'inner' or 'outer'"),
        ({"weights": [1, 2]}, ConfigError, "weights have no effect without a list of runs"),
        ({"exclude": ["train/v9"]}, ConfigError, "names a key that is not in .*small or .*large: 'train/v9'"),
    ],
)
def test_options_that_do_not_fit_the_runs_are_refused(
    shards: dict[str, Path], options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    data = FramesDataModule(shards=shards, **{"samples": KINDS, **options})
    with pytest.raises(kind, match=message):
        data.setup("fit")


def test_names_that_batches_have_of_their_own_are_refused(shards: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="has a run named 'key'"):
        data_of({"key": shards["small"]}).setup("fit")
    with pytest.raises(ConfigError, match="shards is empty"):
        data_of({}).setup("fit")
    with pytest.raises(ConfigError, match="on and join have no effect"):
        FramesDataModule(shards=shards["small"], samples=KeypointSamples(), on="sentence_id").setup("fit")
