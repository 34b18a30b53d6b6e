"""Resuming a training within an epoch, by Lightning's checkpoints and without Lightning."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules import FramesDataModule
from datamodules.errors import ConfigError, RunError
from datamodules.samples.keypoints import KeypointSamples
from datamodules.training.resume import require_same
from support.keypoint_runs import MadeItems, extend_made, make_run
from support.runs import wait_for

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning", "ignore:.*exists and is not empty"
)
_QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)
_NUM_SAMPLES = 23  # without a failed item


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    make_run(folder, MadeItems({"train": _NUM_SAMPLES + 1, "dev": 5}), failed=("train/v3",), per_shard=4)
    return folder


@pytest.fixture(scope="module")
def several(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Options for several runs, by how they are read. The second run has one sample more, and others less."""
    other = tmp_path_factory.mktemp("other")
    make_run(other, MadeItems({"train": 20, "dev": 5}), failed=("train/v5",), layout=75)
    again = tmp_path_factory.mktemp("again")
    make_run(again, MadeItems({"train": 7, "dev": 2}, prefix="w"), per_shard=3)
    joined, mixed = {"a": shards, "b": other}, [shards, again]
    return {
        "inner": {"shards": joined},
        "outer": {"shards": joined, "join": "outer"},
        "mixed": {"shards": mixed},
        "weighted": {"shards": mixed, "weights": [1, 3]},
        "sequential": {"shards": mixed, "reading": "sequential", "shuffle_buffer": 6},
    }


def data_of(shards: Any, **options: Any) -> FramesDataModule:
    samples: Any = dict.fromkeys(shards, KeypointSamples()) if isinstance(shards, dict) else KeypointSamples()
    return FramesDataModule(shards=shards, samples=samples, **{"num_workers": 0, "batch_size": 4, **options})


class Recording(LightningModule):
    """Records the keys of its batches, and how many of them came before each validation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.trained: list[list[str]] = []
        self.fails_at: int | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.fails_at == len(self.trained):
            raise RuntimeError("fails in the middle of a step")
        self.trained.append(batch["key"])
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Saving(Callback):
    """Saves a checkpoint at each event, and notes how many batches had been trained on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.saved = folder, dict[Path, int]()

    def _save(self, trainer: Trainer, event: str) -> None:
        num_trained = len(trainer.lightning_module.trained)  # type: ignore[arg-type]
        if num_trained and not trainer.sanity_checking:
            path = self.folder / f"{num_trained:02d}-{event}.ckpt"
            trainer.save_checkpoint(path)
            self.saved[path] = num_trained

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "batch")

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "epoch")


def fit(data: FramesDataModule, checkpoint: Path | None = None, **options: Any) -> list[list[str]]:
    """The keys of the batches of a training."""
    model = Recording()
    trainer = Trainer(accelerator="cpu", **_QUIET, **{"max_epochs": 3, "num_sanity_val_steps": 0, **options})
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model.trained


def in_order(batches: list[list[str]]) -> list[str]:
    return [key for batch in batches for key in batch]


@pytest.mark.parametrize(
    "options",
    [
        {"val_check_interval": 2},
        {"accumulate_grad_batches": 2, "limit_train_batches": 3},
        {"max_steps": 9},
    ],
    ids=str,
)
def test_a_training_continues_from_each_checkpoint_with_the_batches_that_were_left(
    shards: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    options = {"max_epochs": 2, **options}
    saving = Saving(tmp_path)
    batches = fit(data_of(shards), callbacks=[saving], **options)
    for path, num_trained in saving.saved.items():
        assert fit(data_of(shards), path, **options) == batches[num_trained:], path.name


def test_an_epoch_that_max_steps_ended_continues_with_more_steps(shards: Path, tmp_path: Path) -> None:
    saving = Saving(tmp_path)
    fit(data_of(shards), callbacks=[saving], max_epochs=-1, max_steps=9)
    batches = fit(data_of(shards), max_epochs=-1, max_steps=14)
    assert fit(data_of(shards), tmp_path / "09-epoch.ckpt", max_epochs=-1, max_steps=14) == batches[9:]


@pytest.mark.parametrize("max_steps", [-1, 99])
def test_samples_may_change_at_the_end_of_an_epoch(shards: Path, tmp_path: Path, max_steps: int) -> None:
    fit(data_of(shards), callbacks=[Saving(tmp_path)], max_epochs=1)
    changed = {"exclude": ["train/v1"], "batch_size": 6}
    rest = fit(data_of(shards, **changed), tmp_path / "06-epoch.ckpt", max_epochs=2, max_steps=max_steps)
    assert rest == fit(data_of(shards, **changed), max_epochs=2)[4:]


def test_a_training_that_reads_sequentially_continues_too(shards: Path, tmp_path: Path) -> None:
    """With another batch size, too: a step of three ranks is one of a batch size that is three times as large."""
    reading = {"reading": "sequential", "shuffle_buffer": 6}
    saving = Saving(tmp_path)
    batches = fit(data_of(shards, **reading), callbacks=[saving], max_epochs=2)
    for name in ("02-batch", "06-batch", "09-batch"):
        num_trained = int(name[:2])
        path = tmp_path / f"{name}.ckpt"
        assert fit(data_of(shards, **reading), path, max_epochs=2) == batches[num_trained:]
        rest = in_order(fit(data_of(shards, batch_size=12, **reading), path, max_epochs=2))
        assert rest == in_order(batches[num_trained:])


@pytest.mark.parametrize("source", ["inner", "outer", "mixed", "weighted", "sequential"])
def test_a_training_on_several_runs_continues_too(several: dict[str, Any], tmp_path: Path, source: str) -> None:
    """With another batch size, too; two epochs, with all samples in each."""
    options, saving = several[source], Saving(tmp_path)
    batches = fit(data_of(**options), callbacks=[saving], max_epochs=2)
    if source in ("inner", "outer", "mixed"):
        assert sorted(in_order(batches)) == sorted(2 * list(set(in_order(batches))))
    path = tmp_path / "02-batch.ckpt"
    assert fit(data_of(**options), path, max_epochs=2) == batches[2:]
    rest = in_order(fit(data_of(**{**options, "batch_size": 12}), path, max_epochs=2))
    assert rest == in_order(batches[2:])


@pytest.mark.parametrize(("batch_size", "options"), [(1, {}), (12, {}), (2, {"limit_train_batches": 0.5})], ids=str)
def test_batches_of_another_size_continue_where_the_checkpoint_was_saved(
    shards: Path, tmp_path: Path, batch_size: int, options: dict[str, Any]
) -> None:
    """A step of three ranks is one of a batch size that is three times as large."""
    saving = Saving(tmp_path)
    batches = fit(data_of(shards), callbacks=[saving], max_epochs=2, **options)
    keys = in_order(batches)
    for path, num_trained in saving.saved.items():
        if path.stem not in ("02-batch", "03-batch", "06-batch", "06-validation", "06-epoch"):
            continue
        before = len(in_order(batches[:num_trained]))
        rest = in_order(fit(data_of(shards, batch_size=batch_size), path, max_epochs=2, **options))
        if options:  # half of the batches, so another half of the samples; both epochs begin at their first sample
            num_first = len(keys) // 2 - before
            assert rest[:num_first] == keys[before : before + num_first]
            assert abs(len(rest) - (len(keys) - before)) <= 2 * 4
        else:
            assert rest == keys[before:], path.name


@pytest.mark.slow
@pytest.mark.parametrize("source", ["inner", "outer", "mixed", "weighted", "sequential"])
def test_a_training_on_several_runs_continues_with_workers(
    several: dict[str, Any], tmp_path: Path, source: str
) -> None:
    batches = fit(data_of(**several[source]), callbacks=[Saving(tmp_path)], max_epochs=2)
    assert fit(data_of(**several[source], num_workers=2), tmp_path / "02-batch.ckpt", max_epochs=2) == batches[2:]


@pytest.mark.slow
def test_workers_read_ahead_without_moving_the_position(shards: Path, tmp_path: Path) -> None:
    saving = Saving(tmp_path)
    batches = fit(data_of(shards), callbacks=[saving], max_epochs=2)
    again = Saving(tmp_path / "again")
    data = data_of(shards, num_workers=2)
    assert fit(data, tmp_path / "08-batch.ckpt", callbacks=[again], max_epochs=2) == batches[8:]
    assert fit(data_of(shards), tmp_path / "again/01-batch.ckpt", max_epochs=2) == batches[9:]
    assert fit(data, tmp_path / "06-epoch.ckpt", max_epochs=2) == batches[6:]


def test_what_workers_have_read_ahead_does_not_count(shards: Path) -> None:
    loader = data_of(shards, num_workers=1).train_dataloader()
    batches = iter(loader)
    keys = [next(batches)["key"] for _ in range(2)]
    other = data_of(shards).train_dataloader()
    other.load_state_dict(loader.state_dict())
    assert keys + [batch["key"] for batch in other] == [batch["key"] for batch in data_of(shards).train_dataloader()]


def test_a_step_that_was_not_completed_is_done_again(shards: Path, tmp_path: Path) -> None:
    class SavingAtFailure(Callback):
        def on_exception(self, trainer: Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "failure.ckpt")

    batches, model = fit(data_of(shards), max_epochs=2), Recording()
    model.fails_at = 8
    trainer = Trainer(accelerator="cpu", max_epochs=2, callbacks=[SavingAtFailure()], **_QUIET)
    with pytest.raises(RuntimeError, match="in the middle of a step"):
        trainer.fit(model, datamodule=data_of(shards))
    assert fit(data_of(shards), tmp_path / "failure.ckpt", max_epochs=2) == batches[8:]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("source", ["one", "inner", "outer", "mixed", "weighted"])
def test_any_number_of_ranks_continues_the_order_of_all_samples(
    shards: Path, several: dict[str, Any], ranks: Callable[[int, int], None], source: str, num_ranks: int
) -> None:
    """Without Lightning."""
    options = several.get(source, {"shards": shards})

    def batches_of(state: dict[str, Any] | None, num_ranks: int) -> tuple[list[list[list[str]]], dict[str, Any]]:
        by_rank, taken = [], 2 if state is None else None
        for rank in range(num_ranks):
            ranks(rank, num_ranks)
            loader = data_of(**options).train_dataloader()
            loader.sampler.set_epoch(7)  # type: ignore[attr-defined]
            if state is not None:
                loader.load_state_dict(state)
            of_rank, batches = [], iter(loader)
            for batch in batches:
                of_rank.append(batch["key"])
                if len(of_rank) == taken:
                    break
            by_rank.append(of_rank)
        return by_rank, loader.state_dict()

    def in_steps(by_rank: list[list[list[str]]]) -> list[str]:
        return [key for step in zip(*by_rank, strict=True) for batch in step for key in batch]

    loader = data_of(**options).train_dataloader()
    loader.sampler.set_epoch(7)  # type: ignore[attr-defined]
    keys = in_order([batch["key"] for batch in loader])
    begun, state = batches_of(None, 2)
    num_done = {"one": 16, "inner": 12, "outer": 16, "mixed": 16, "weighted": 16}[source]
    assert (state["epoch"], state["position"]) == (7, num_done)
    assert in_steps(begun) == keys[:num_done]
    rest, end = batches_of(state, num_ranks)
    assert in_steps(rest) == keys[num_done:]
    assert end["position"] == len(keys)


def test_passes_after_the_one_that_was_continued_are_whole(shards: Path) -> None:
    """In a loop that never calls `set_epoch`."""
    loader = data_of(shards).train_dataloader()
    whole = [batch["key"] for batch in loader]
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    other = data_of(shards).train_dataloader()
    other.load_state_dict(loader.state_dict())
    assert [[batch["key"] for batch in other] for _ in range(2)] == [whole[2:], whole]


def test_fewer_samples_than_ranks_that_are_left_are_refused(shards: Path, ranks: Callable[[int, int], None]) -> None:
    loader = data_of(shards, batch_size=21).train_dataloader()
    state = {**loader.state_dict(), "position": 21}
    ranks(0, 3)
    with pytest.raises(
        ConfigError, match=r"leaves 2 samples of epoch 0, which cannot be shared by 3 ranks\. Resume on"
    ):
        data_of(shards).train_dataloader().load_state_dict(state)


@pytest.fixture(scope="module")
def checkpoint(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved after two batches."""
    saving = Saving(tmp_path_factory.mktemp("checkpoint"))
    fit(data_of(shards), callbacks=[saving], max_steps=2)
    return next(path for path, num_trained in saving.saved.items() if num_trained == 2)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"train_split": "dev"}, r"split: 'train' there, 'dev' here$"),
        (
            {"exclude": ["train/v1"]},
            r"samples: '23 \(.*\)' there, '22 \(.*\)' here; selection\.exclude: 0 there, 1 here$",
        ),
        ({"where": "num_frames > 1"}, r"; selection\.where: None there, 'num_frames > 1' here$"),
        ({"seed": 5}, r"order\.seed: 0 there, 5 here$"),
    ],
)
def test_a_checkpoint_of_other_data_is_refused(
    shards: Path, checkpoint: Path, options: dict[str, Any], difference: str
) -> None:
    with pytest.raises(RunError, match=rf"was saved by a training on other data\. Give the same run, .*{difference}"):
        fit(data_of(shards, **options), checkpoint)


def test_a_checkpoint_of_another_run_is_refused_but_tests_on_it(tmp_path: Path, checkpoint: Path, shards: Path) -> None:
    class Testing(Recording):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            pass

    make_run(tmp_path, MadeItems({"train": 8, "test": 2}, prefix="w"), layout=75)
    with pytest.raises(RunError, match=r"run\.extractor\.init_args\.layout: 143 there, 75 here"):
        fit(data_of(tmp_path), checkpoint)
    Trainer(accelerator="cpu", **_QUIET).test(Testing(), datamodule=data_of(tmp_path), ckpt_path=checkpoint)


def test_a_checkpoint_of_other_runs_is_refused(shards: Path, several: dict[str, Any]) -> None:
    """The message stays short, even if a whole run is missing."""

    def refusal(options: dict[str, Any], other: dict[str, Any]) -> str:
        data, stored = data_of(**options), data_of(**other)._training().source("train")  # as Lightning stores it
        with pytest.raises(RunError) as refused:
            require_same(stored, data._training().source("train"))
        return str(refused.value)

    inner, weighted = several["inner"], several["weighted"]
    swapped = {"shards": dict(reversed(inner["shards"].items()))}
    assert refusal(inner, swapped).endswith("in: order: ['b', 'a'] there, ['a', 'b'] here")
    assert refusal(inner, several["outer"]).endswith("in: join: 'outer' there, 'inner' here")
    assert refusal(weighted, {**weighted, "weights": [1, 2]}).endswith("in: weights: [1, 2] there, [1, 3] here")
    message = refusal({"shards": shards}, inner)
    assert "; runs: {'a': {" in message
    assert len(message) < 1500


def test_a_list_of_keys_of_other_splits_is_no_other_data(shards: Path, checkpoint: Path) -> None:
    assert len(fit(data_of(shards, exclude=["dev/v0"]), checkpoint, max_epochs=1)) == 4


def test_new_items_of_a_run_that_was_extended_come_in_the_next_epoch(tmp_path: Path) -> None:
    make_run(tmp_path / "run", MadeItems({"train": 4}))
    fit(data_of(tmp_path / "run", batch_size=2), callbacks=[Saving(tmp_path)], max_epochs=1)
    extend_made(tmp_path / "run", MadeItems({"train": 7}))
    rest = fit(data_of(tmp_path / "run"), tmp_path / "02-epoch.ckpt", max_epochs=2)
    assert sorted(in_order(rest)) == [f"train/v{number}" for number in range(7)]
    with pytest.raises(RunError, match=r"samples: '4 \(digest .*\)' there, '7 \(digest .*\)' here$"):
        fit(data_of(tmp_path / "run"), tmp_path / "01-batch.ckpt", max_epochs=2)


def test_a_run_that_was_copied_is_no_other_data(shards: Path, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "copy")
    assert len(fit(data_of(tmp_path / "copy"), checkpoint, max_epochs=1)) == 4


def start_training(
    options: Mapping[str, Any], dest: Path, num_ranks: int, *checkpoint: Path
) -> "subprocess.Popen[str]":
    """Start the ranks of a training in a process group of their own."""
    dest.mkdir(parents=True)
    script = Path(__file__).parents[2] / "support/resumable_training.py"
    with (dest / "stderr").open("w") as stderr:
        return subprocess.Popen(
            [sys.executable, script, json.dumps(options, default=str), dest, str(num_ranks), *checkpoint],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=stderr,
            start_new_session=True,
            text=True,
        )


def trained_keys(dest: Path, num_ranks: int) -> list[tuple[int, str]]:
    """Return (epoch, key) of all samples, in the order of the epochs."""
    by_rank = [
        [json.loads(line) for line in (dest / f"{rank}.jsonl").read_text().splitlines()] for rank in range(num_ranks)
    ]
    return [(epoch, key) for step in zip(*by_rank, strict=False) for epoch, keys in step for key in keys]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", ["one", "outer"])
def test_two_ranks_that_are_killed_continue_as_one_and_as_three(
    shards: Path, several: dict[str, Any], tmp_path: Path, source: str
) -> None:
    options, expected = several.get(source, {"shards": shards}), []
    loader = data_of(**options).train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        expected += [(epoch, key) for batch in loader for key in batch["key"]]
    training = start_training(options, tmp_path / "killed", 2)
    checkpoint = tmp_path / "killed/step=9.ckpt"  # 6 batches of each rank are an epoch
    wait_for(checkpoint.exists, seconds=200)
    os.killpg(training.pid, signal.SIGKILL)
    training.wait()
    position = torch.load(checkpoint)["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["position"]
    before = expected[: len(expected) // 2 + position]
    assert trained_keys(tmp_path / "killed", 2)[: len(before)] == before
    for num_ranks in (1, 3):
        dest = tmp_path / f"{num_ranks}-ranks"
        assert start_training(options, dest, num_ranks, checkpoint).wait(200) == 0, (dest / "stderr").read_text()
        assert trained_keys(dest, num_ranks) == expected[len(before) :]
