"""Sequential reading through webdataset: exact counts, locality and resuming, for any number of ranks and workers."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import FramesDataModule
from datamodules.errors import ConfigError, RunError
from datamodules.run.remote_tars import RemoteTars
from datamodules.samples.keypoints import KeypointSamples
from support.keypoint_runs import MadeItems, make_run, retry_made

_KEYS = {f"train/v{number}" for number in range(24)} - {"train/v8"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a retry, which replaces one of two failures."""
    folder = tmp_path_factory.mktemp("shards")
    make_run(folder, MadeItems({"train": 24, "dev": 5}), failed=("train/v3", "train/v8"), per_shard=4)
    retry_made(folder, failed=("train/v8",))
    return folder


def loader_of(shards: Any, **options: Any) -> Any:
    options = {"num_workers": 0, "batch_size": 4, "reading": "sequential", "shuffle_buffer": 6, **options}
    return FramesDataModule(shards=shards, samples=KeypointSamples(), **options).train_dataloader()


def keys_of(loader: Any) -> list[list[str]]:
    return [batch["key"] for batch in loader]


def in_order(batches: list[list[str]]) -> list[str]:
    return [key for batch in batches for key in batch]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_over_all_ranks_every_sample_comes_once_an_epoch_in_equally_many_batches(
    shards: Path, ranks: Callable[[int, int], None], num_ranks: int, batch_size: int
) -> None:
    by_rank = []
    for rank in range(num_ranks):
        ranks(rank, num_ranks)
        loader = loader_of(shards, batch_size=batch_size)
        by_rank.append(keys_of(loader))
        assert len(loader) == len(by_rank[-1])
    assert len({len(batches) for batches in by_rank}) == 1
    assert sorted(key for batches in by_rank for key in in_order(batches)) == sorted(_KEYS)
    sizes = [len(batch) for batches in by_rank for batch in batches]
    assert max(sizes) - min(sizes) <= 1


def test_samples_are_those_of_random_access(shards: Path) -> None:
    def by_key(loader: Any) -> dict[str, torch.Tensor]:
        return {batch["key"][0]: batch["keypoints"][0] for batch in loader}

    sequential, random = (by_key(loader_of(shards, batch_size=1)), by_key(loader_of(shards, batch_size=1, **_RANDOM)))
    assert sequential.keys() == random.keys() == _KEYS
    assert all(torch.equal(sequential[key], random[key]) for key in _KEYS)


_RANDOM = {"reading": "random", "shuffle_buffer": 1000}


def test_excluded_samples_are_left_out(shards: Path) -> None:
    assert set(in_order(keys_of(loader_of(shards, exclude=["train/v0", "dev/v1"])))) == _KEYS - {"train/v0"}


def test_keys_that_webdataset_takes_for_metadata_are_read(tmp_path: Path) -> None:
    make_run(tmp_path, MadeItems({"__a__": 3}, prefix="V"))
    assert sorted(in_order(keys_of(loader_of(tmp_path, train_split="__a__")))) == sorted(
        in_order(keys_of(loader_of(tmp_path, train_split="__a__", **_RANDOM)))
    )


def test_each_epoch_has_its_own_order_of_shards_and_samples(shards: Path) -> None:
    loader, orders = loader_of(shards), []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        orders.append(in_order(keys_of(loader)))
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != in_order(keys_of(loader_of(shards, seed=1)))


def test_a_shuffle_buffer_has_samples_of_neighbouring_shards(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tars are read front to back: each is begun once, and a buffer of 6 reads of at most 3 tars of 4 samples."""
    reads: list[tuple[int, int]] = []
    read = RemoteTars.read

    def spied(self: RemoteTars, number: int, size: int, offset: int) -> bytes:
        reads.append((number, offset))
        return read(self, number, size, offset)

    monkeypatch.setattr(RemoteTars, "read", spied)
    assert len(in_order(keys_of(loader_of(shards)))) == 23
    assert len(reads) <= 7 + 4 + 2  # 7 tars, 4 buffers; the retry is in the middle of a shard's samples
    for number in range(7):
        offsets = [offset for tar, offset in reads if tar == number]
        assert offsets == sorted(offsets)


def test_workers_read_lanes_of_their_own(shards: Path, ranks: Callable[[int, int], None]) -> None:
    """Over two ranks of two workers each, a buffer is begun by one worker, whose later batches empty it."""
    begun, excluded = [], [f"train/v{number}" for number in range(10, 17)]
    for rank in range(2):
        ranks(rank, 2)
        held: dict[int, list[int]] = {0: [], 1: []}
        loader = loader_of(shards, num_workers=2, batch_size=2, shuffle_buffer=3, exclude=excluded)
        for step, batch in enumerate(loader.sampler):
            held[step % 2] += [index for buffer in batch.buffers for index in buffer]
            assert batch.is_first == (step < 2)
            begun += batch.buffers
            for index in batch.indices:
                held[step % 2].remove(index)
        assert not any(held.values())
    assert len(begun) == 4 * 2  # lanes of 4 samples
    assert sorted(index for buffer in begun for index in buffer) == list(range(16))


def test_workers_give_the_order_of_the_samples(shards: Path) -> None:
    """Of one process that reads the lanes of two workers."""
    loader, alone = loader_of(shards, num_workers=2), loader_of(shards)
    alone.sampler.resume(0, loader.sampler.position(0))
    for _ in range(2):
        assert keys_of(loader) == keys_of(alone)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("workers", [(2, 2), (3, 1)], ids=str)
def test_an_epoch_continues_in_the_same_order_on_any_number_of_ranks_and_workers(
    shards: Path, ranks: Callable[[int, int], None], num_ranks: int, workers: tuple[int, int]
) -> None:
    """The orders to workers are compared; what they read is tested above."""

    def samplers_of(num_ranks: int, num_workers: int) -> list[Any]:
        samplers = []
        for rank in range(num_ranks):
            ranks(rank, num_ranks)
            samplers.append(loader_of(shards, batch_size=2, num_workers=num_workers).sampler)
        return samplers

    def steps_of(samplers: list[Any], epoch: int) -> list[list[list[int]]]:
        for sampler in samplers:
            sampler.set_epoch(epoch)
        by_rank = [[batch.indices for batch in sampler] for sampler in samplers]
        assert {len(batches) for batches in by_rank} == {samplers[0].num_steps_left}
        return [list(step) for step in zip(*by_rank, strict=True)]

    def flat(steps: list[list[list[int]]]) -> list[int]:
        return [index for step in steps for batch in step for index in batch]

    before, after = samplers_of(2, workers[0]), samplers_of(num_ranks, workers[1])
    begun, following = steps_of(before, 0), steps_of(before, 1)
    for step in range(len(begun)):
        for sampler in after:
            sampler.resume(0, before[0].position(step))
        rest = steps_of(after, 0)
        assert flat(rest) == flat(begun[step:])
        assert num_ranks != 2 or rest == begun[step:]
        assert flat(steps_of(after, 1)) == flat(following)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    make_run(folder, MadeItems({"train": 6}, prefix="w"))
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_several_runs_are_mixed(shards: Path, other: Path, num_workers: int) -> None:
    loader = loader_of([shards, other], num_workers=num_workers, batch_size=10)
    batches = keys_of(loader)
    assert sorted(in_order(batches)) == sorted(_KEYS | {f"train/w{number}" for number in range(6)})
    assert num_workers or all("train/w" in "".join(batch) for batch in batches)


def test_each_run_has_its_weight(shards: Path, other: Path) -> None:
    """A run goes through all its samples before one comes again, over the epochs, and a position is exact."""
    loader = loader_of([shards, other], weights=[1, 1])
    counts = Counter[str]()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        keys = in_order(keys_of(loader))
        assert sum("/w" in key for key in keys) in (14, 15)
        assert len(keys) == 29
        counts.update(keys)
    assert {counts[f"train/w{number}"] for number in range(6)} <= {4, 5}  # 28 or 30 of 6
    assert {counts[key] for key in _KEYS} == {1, 2}
    loader.load_state_dict({**loader.state_dict(), "position": loader.sampler.position(3)})
    assert in_order(keys_of(loader)) == keys[12:]


def test_runs_are_not_joined_sequentially(shards: Path) -> None:
    data = FramesDataModule(shards={"a": shards}, samples={"a": KeypointSamples()}, reading="sequential")
    with pytest.raises(ConfigError, match=r"reading='sequential' cannot join runs, .*\. Leave it out"):
        data.setup("fit")


def test_a_loader_continues_after_the_batches_that_were_taken(shards: Path) -> None:
    loader, whole = loader_of(shards, num_workers=2), keys_of(loader_of(shards, num_workers=2))
    batches = iter(loader)
    assert [next(batches)["key"] for _ in range(3)] == whole[:3]
    other = loader_of(shards, num_workers=2)
    other.load_state_dict(loader.state_dict())
    assert keys_of(other) == whole[3:]


def test_a_checkpoint_of_random_reading_is_refused(shards: Path) -> None:
    state = loader_of(shards, **_RANDOM).state_dict()
    with pytest.raises(RunError, match=r"order\.reading: 'random' there, 'sequential' here"):
        loader_of(shards).load_state_dict(state)


def test_a_damaged_tar_is_named(shards: Path, tmp_path: Path) -> None:
    make_run(tmp_path, MadeItems({"train": 4}), per_shard=4)
    tar = tmp_path / "train-000000.tar"
    content = tar.read_bytes()
    for damage in (content[:700], content[:512] + bytes(len(content) - 512), b"x" * len(content)):
        tar.write_bytes(damage)
        with pytest.raises(RunError, match=r"train-000000\.tar cannot be read at byte 0: .*run `preprocess verify`"):
            keys_of(loader_of(tmp_path))


@pytest.mark.parametrize("options", [{"shuffle_buffer": 0}, {"reading": "random", "shuffle_buffer": 5}], ids=str)
def test_a_shuffle_buffer_without_effect_is_refused(shards: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^shuffle_buffer = \d must be 1 or more, and needs reading='sequential'$"):
        loader_of(shards, **options)
