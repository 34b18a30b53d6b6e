import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from datamodules import FramesDataModule
from datamodules.corpora.images import Images
from datamodules.errors import ConfigError, RunError
from datamodules.loading.request import FrameRequest
from datamodules.media.decoding import Decoding
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from datamodules.samples.pose import PoseSamples
from datamodules.samples.tracks import TrackSamples
from support.pose_runs import make_pose_run
from support.run_paths import folder_of
from support.runs import make_run, some_items


def keypoint_run(folder: Path, counts: dict[str, int], per_shard: int = 3) -> Run:
    """A run with `counts` committed keypoint samples by split; sample k has 1 + k % 3 frames."""
    items = [item for split, count in counts.items() for item in some_items(count, split)]
    run = make_run(folder, items, per_shard)
    with Rank(run) as rank:
        while opened := rank.lease():
            for row in opened.missing:
                item = opened.items[row]
                frames = 1 + item.meta["number"] % 3
                sample = KeypointSample(
                    item.key,
                    np.full((frames, 75, 3), item.meta["number"], np.float32),
                    np.ones((frames, 4), np.uint8),
                    np.ones((frames, 33), np.float32),
                    dict(item.meta),
                )
                result = Result(row, num_frames=frames)
                rank.add(opened.shard.number, result, KeypointSamples().encode(sample))
    return run


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(keypoint_run(tmp_path_factory.mktemp("shards"), {"train": 17, "dev": 5, "test": 2}))


def data_of(shards: Path, **options: Any) -> FramesDataModule:
    options = {"num_workers": 0, "batch_size": 4, **options}
    return FramesDataModule(shards=shards, samples=KeypointSamples(), **options)


def keys_of(loader: Any) -> list[Any]:
    return [batch["key"] for batch in loader]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_over_all_ranks_every_sample_comes_once_an_epoch_in_equally_many_batches(
    shards: Path, ranks: Callable[[int, int], None], num_ranks: int, batch_size: int
) -> None:
    by_rank = []
    for rank in range(num_ranks):
        ranks(rank, num_ranks)
        loader = data_of(shards, batch_size=batch_size).train_dataloader()
        by_rank.append(keys_of(loader))
        assert len(loader) == len(by_rank[-1])
    assert len({len(batches) for batches in by_rank}) == 1
    assert sorted(key for batches in by_rank for batch in batches for key in batch) == [
        item.key for item in some_items(17)
    ]
    sizes = [len(batch) for batches in by_rank for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size + 1


@pytest.mark.parametrize(("num_workers", "split", "count"), [(1, "train", 17), (3, "train", 17), (3, "test", 2)])
def test_workers_more_than_shards_or_samples_give_every_sample_once(
    shards: Path, num_workers: int, split: str, count: int
) -> None:
    loader = data_of(shards, num_workers=num_workers, train_split=split).train_dataloader()
    for _ in range(2):
        assert sorted(key for batch in keys_of(loader) for key in batch) == [i.key for i in some_items(count, split)]


def test_the_number_of_workers_changes_nothing(shards: Path) -> None:
    loaders = [data_of(shards, num_workers=n, seed=5).train_dataloader() for n in (0, 2)]
    assert keys_of(loaders[0]) == keys_of(loaders[1])


def test_shuffling_follows_the_seed_and_the_epoch(shards: Path) -> None:
    def order(seed: int, epoch: int) -> list[Any]:
        loader: Any = data_of(shards, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return keys_of(loader)

    assert order(0, 0) == order(0, 0)
    assert len({str(order(seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (7, 0))}) == 3


def test_validation_and_test_come_in_planned_order(shards: Path) -> None:
    data = data_of(shards)
    assert [key for batch in keys_of(data.val_dataloader()) for key in batch] == [i.key for i in some_items(5, "dev")]
    assert keys_of(data.test_dataloader()) == [[item.key for item in some_items(2, "test")]]


def test_a_batch_is_padded_with_lengths_and_mask(shards: Path) -> None:
    [batch] = data_of(shards, batch_size=9, val_split="dev").val_dataloader()
    assert batch["lengths"].tolist() == [1, 2, 3, 1, 2]
    assert batch["keypoints"].shape == (5, 3, 75, 3)
    assert torch.equal(batch["mask"].sum(1), batch["lengths"])
    for number in range(5):
        assert (batch["keypoints"][number][batch["mask"][number]] == number).all()
        assert not batch["keypoints"][number][~batch["mask"][number]].any()


def test_samples_are_changed_at_random_in_training_alone(tmp_path: Path) -> None:
    items = [replace(item, split=split) for split in ("train", "dev", "test") for item in some_items(2, split)]
    items = [replace(item, meta={"image": f"{item.key}.png"}) for item in items]
    run = make_pose_run(tmp_path / "poses", items, [1] * len(items))
    samples = PoseSamples("keypoints", size=(32, 48), flip=1.0)
    data = FramesDataModule(shards=folder_of(run), samples=samples, num_workers=0)
    [trained], [validated], [tested] = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert trained["flipped"].all()
    assert not validated["flipped"].any()
    assert not tested["flipped"].any()
    assert validated["images"].shape == (2, 3, 32, 48)  # all else is as given
    assert "keypoints" in tested

    tracked = TrackSamples(num_frames=3, step=2, root="/videos", size=(8, 8)).for_evaluation()
    assert vars(tracked) == vars(TrackSamples(num_frames=3, step=2, root="/videos", size=(8, 8), start="first"))


def test_a_run_without_validation_split_validates_nothing(tmp_path: Path) -> None:
    data = data_of(folder_of(keypoint_run(tmp_path, {"train": 3})))
    data.setup("fit")
    assert data.val_dataloader() == []
    with pytest.raises(RunError, match=r"has no split 'dev'\. Set val_split to one of train"):
        data.setup("validate")


@pytest.mark.parametrize(
    ("splits", "chosen"), [(["val"], "val"), (["dev"], "dev"), (["val", "dev"], "dev"), (["validation"], None)]
)
def test_validation_uses_the_split_that_the_run_has(tmp_path: Path, splits: list[str], chosen: str | None) -> None:
    data = data_of(folder_of(keypoint_run(tmp_path, {"train": 3, **dict.fromkeys(splits, 2)})))
    data.setup("fit")
    keys = [key for batch in keys_of(data.val_dataloader()) for key in batch]
    assert keys == ([item.key for item in some_items(2, chosen)] if chosen else [])


def test_a_named_validation_split_that_is_missing_fails(shards: Path) -> None:
    data = data_of(shards, val_split="val")
    for use in (lambda: data.setup("fit"), data.val_dataloader):
        with pytest.raises(RunError, match=r"has no split 'val'\. Set val_split to one of dev, test, train"):
            use()


QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


class Recording(LightningModule):
    """Records the keys of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.trained: list[list[str]] = []
        self.validated: list[list[str]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.trained.append(batch["key"])
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(batch["key"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning")
def test_overfitting_takes_the_same_whole_batches_in_every_epoch(shards: Path) -> None:
    model = Recording()
    Trainer(max_epochs=2, accelerator="cpu", overfit_batches=2, num_sanity_val_steps=0, **QUIET).fit(
        model, datamodule=data_of(shards)
    )
    keys = [item.key for item in some_items(17)]
    first = [keys[:4], keys[4:8]]  # 17 samples in 5 batches, the first of which have one more
    assert model.trained == first * 2
    assert [key for batch in model.validated[:2] for key in batch] == [item.key for item in some_items(5, "dev")]


class RecordingWithoutValidation(Recording):
    validation_step = LightningModule.validation_step  # type: ignore[assignment] # as if it had none


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("kind", [Recording, RecordingWithoutValidation])
@pytest.mark.parametrize("splits", [{"train": 3}, {"train": 3, "dev": 2}])
def test_fitting_without_a_validation_split_gives_no_warning(
    tmp_path: Path, kind: type[Recording] | type[RecordingWithoutValidation], splits: dict[str, int]
) -> None:
    """pytest makes an error of a warning."""
    data, model = data_of(folder_of(keypoint_run(tmp_path, splits))), kind()
    Trainer(max_epochs=1, accelerator="cpu", num_sanity_val_steps=0, **QUIET).fit(model, datamodule=data)
    assert len(model.trained) == 1
    assert len(model.validated) == ("dev" in splits and kind is Recording)
    assert [len(batch["key"]) for batch in data.val_dataloader()] == ([2] if "dev" in splits else [])


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_excluded_samples_are_left_out_of_every_epoch_and_count(
    shards: Path, tmp_path: Path, ranks: Callable[[int, int], None], num_ranks: int
) -> None:
    left_out = [item.key for item in some_items(17)[::4]] + ["dev/item001"]
    flagged = tmp_path / "flagged.txt"
    flagged.write_text("\n".join(left_out))
    for exclude in (flagged, str(flagged), left_out):
        by_rank = []
        for rank in range(num_ranks):
            ranks(rank, num_ranks)
            loader: Any = data_of(shards, exclude=exclude).train_dataloader()
            by_rank.append(keys_of(loader))
            assert len(loader) == len(by_rank[-1]) == {1: 3, 3: 1}[num_ranks]
            assert len(loader.dataset) == 12
        keys = sorted(key for batches in by_rank for batch in batches for key in batch)
        assert keys == [item.key for item in some_items(17) if item.key not in left_out]


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_samples_that_meet_a_condition_come_once_an_epoch(
    shards: Path, ranks: Callable[[int, int], None], num_ranks: int
) -> None:
    by_rank = []
    for rank in range(num_ranks):
        ranks(rank, num_ranks)
        data = data_of(shards, where="num_frames >= 2 and key != 'train/item001'", exclude=["train/item002"])
        by_rank.append(keys_of(data.train_dataloader()))
        assert len(data.train_dataloader().dataset) == 9  # type: ignore[arg-type]
    keys = sorted(key for batches in by_rank for batch in batches for key in batch)
    assert keys == [item.key for number, item in enumerate(some_items(17)) if number % 3 and number not in (1, 2)]


def test_a_condition_is_checked_with_the_metrics_of_the_kind_before_the_first_batch(
    shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=r"names 'num_people', which .*metrics of these samples are pose_rate, face_"):
        data_of(shards, where="num_people == 1").setup("fit")
    with pytest.raises(RunError, match=r"no samples of split 'train' but those that exclude=… or where=… leaves out"):
        data_of(shards, where="num_frames > 3").setup("fit")
    with pytest.raises(RunError, match="leaves out"):  # the fixture records no metrics
        data_of(shards, where="pose_rate >= 0").setup("fit")
    assert "leaves out 17 samples of split 'train'" in caplog.text


def test_excluded_samples_are_found_without_the_tars(tmp_path: Path) -> None:
    folder = folder_of(keypoint_run(tmp_path / "run", {"train": 9}))
    for tar in folder.glob("*.tar"):
        tar.unlink()
    data = data_of(folder, exclude=["train/item000"], where="num_frames < 9")
    data.setup("fit")
    assert len(data.train_dataloader().dataset) == 8  # type: ignore[arg-type]


def test_a_list_that_changed_is_read_anew_by_the_next_stage(shards: Path, tmp_path: Path) -> None:
    flagged = tmp_path / "flagged.txt"
    data = data_of(shards, exclude=flagged)
    counts = []
    for keys in ("dev/item000\n", "dev/item000\ndev/item001\n"):
        flagged.write_text(keys)
        data.setup("validate")
        counts.append(len(data.val_dataloader().dataset))  # type: ignore[union-attr, arg-type]
    assert counts == [4, 3]


@pytest.mark.parametrize(
    ("exclude", "kind", "message"),
    [
        (["train/v99"], ConfigError, r"the list of keys names a key that is not in .*: 'train/v99'\. The nearest key"),
        ("nowhere.txt", ConfigError, r"the list of keys nowhere\.txt cannot be read: No such file"),
        (
            ["test/item000", "test/item001"],
            RunError,
            r"has no samples of split 'test' but those that exclude=… or where=… leaves out",
        ),
    ],
)
def test_a_wrong_list_of_excluded_keys_fails_before_the_first_batch(
    shards: Path, exclude: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        data_of(shards, exclude=exclude).setup("test")


def test_a_split_that_was_not_planned_fails(shards: Path) -> None:
    data = data_of(shards, train_split="training")
    with pytest.raises(RunError, match=r"has no split 'training'\. Set train_split to one of dev, test, train"):
        data.setup("fit")
    with pytest.raises(RunError, match="Set train_split to one of"):
        data.train_dataloader()


def test_a_run_with_nothing_committed_fails(tmp_path: Path) -> None:
    make_run(tmp_path, 3)
    with pytest.raises(RunError, match="no shard is committed"):
        data_of(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ("ftp://host/run", r"^shards ftp://host/run: ftp:// is not supported\. Give a local folder, or s3://"),
        (Path("s3://bucket/run"), r"^shards s3:/bucket/run lacks a slash: s3://bucket/run"),
    ],
)
def test_a_wrong_url_of_a_run_is_called_shards(shards: str | Path, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FramesDataModule(shards=shards, samples=KeypointSamples()).setup("fit")


def test_a_folder_that_is_not_a_run_fails(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is no run: it has no plan\.arrow"):
        data_of(tmp_path).setup("fit")


def test_training_without_shards_or_kind_fails(shards: Path) -> None:
    with pytest.raises(ConfigError, match="training needs shards="):
        FramesDataModule().setup("fit")
    with pytest.raises(ConfigError, match="training needs samples="):
        FramesDataModule(shards=shards).train_dataloader()


def test_frames_without_a_rank_are_refused() -> None:
    data = FramesDataModule(Images("images"))
    for use in (lambda: data.setup("predict"), data.predict_dataloader):
        with pytest.raises(ConfigError, match=r"use preprocess\.job\.session\.Session"):
            use()


@pytest.mark.parametrize(
    "options",
    [{"decoding": Decoding(fallback=True)}, {"worker_timeout_seconds": 5.0}, {"corpus": Images("images")}],
    ids=lambda options: next(iter(options)),
)
def test_options_of_preprocessing_are_refused_in_training(shards: Path, options: dict[str, Any]) -> None:
    data = data_of(shards, **options)
    for use in (lambda: data.setup("fit"), data.train_dataloader, data.val_dataloader, data.test_dataloader):
        with pytest.raises(ConfigError, match=rf"^{next(iter(options))} has no effect in training\. Leave it out$"):
            use()


@pytest.mark.parametrize(
    "options",
    [
        {"shards": "runs"},
        {"batch_size": 64},
        {"seed": 1},
        {"train_split": "a"},
        {"val_split": "a"},
        {"test_split": "a"},
        {"exclude": "flagged.txt"},
        {"where": "num_frames > 3"},
        {"reading": "sequential"},
        {"shuffle_buffer": 5},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_training_are_refused_in_preprocessing(options: dict[str, Any]) -> None:
    data = FramesDataModule(Images("images"), **options)
    with pytest.raises(ConfigError, match=rf"^{next(iter(options))} has no effect in preprocessing\. Leave it out$"):
        data.request(FrameRequest(), torch.device("cpu"))


@pytest.mark.parametrize("options", [{"num_workers": -1}, {"batch_size": 0}])
def test_numbers_out_of_range_fail(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        FramesDataModule(**options)


@pytest.mark.parametrize(
    "module",
    [
        "datamodules", "datamodules.errors", "datamodules.corpus", "datamodules.run.plan",
        "datamodules.run.leases", "datamodules.run.commit", "datamodules.run.folder", "datamodules.run.rank",
        "datamodules.run.reader", "datamodules.corpora.phoenix", "datamodules.corpora.videos",
    ],
)  # fmt: skip
def test_what_status_and_planning_import_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'lightning', 'decord', 'av') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
