"""Sequential reading through webdataset: exact counts, locality and resuming, for any number of ranks and workers."""

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


def loader_of(shards: Path | str, **options: Any) -> Any:
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


def test_workers_read_sections_of_their_own(shards: Path) -> None:
    loader = loader_of(shards, num_workers=2)
    for _ in range(2):
        assert sorted(in_order(keys_of(loader))) == sorted(_KEYS)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("workers", [(0, 0), (2, 2), (3, 1)], ids=str)
def test_an_epoch_continues_with_the_samples_that_were_left(
    shards: Path, ranks: Callable[[int, int], None], num_ranks: int, workers: tuple[int, int]
) -> None:
    """The orders to workers are compared; what they read is tested above."""

    def sampler_of(rank: int, num_ranks: int, num_workers: int) -> Any:
        ranks(rank, num_ranks)
        return loader_of(shards, batch_size=2, num_workers=num_workers).sampler

    def indices_of(sampler: Any, num_workers: int) -> list[list[int]]:
        sections, batches = [], []
        for step, batch in enumerate(sampler):
            if batch.section is not None:
                sections.append([index for buffer in batch.section for index in buffer])
            section = sections[step % max(1, num_workers)]
            batches.append([section.pop(0) for _ in range(batch.size)])
        assert not any(sections)
        return batches

    first, second = workers
    begun = [indices_of(sampler_of(rank, 2, first), first) for rank in range(2)]
    for step in range(len(begun[0]) + 1):
        position = sampler_of(0, 2, first).position(step)
        rest = []
        for rank in range(num_ranks):
            sampler = sampler_of(rank, num_ranks, second)
            sampler.resume(0, position)
            rest.append(indices_of(sampler, second))
            assert len(rest[-1]) == sampler.num_steps_left <= len(sampler)
        left = [batches[step:] for batches in begun]
        assert sorted(i for batches in rest for b in batches for i in b) == sorted(
            i for bs in left for b in bs for i in b
        )
        if num_ranks == 2 and first == second:
            assert rest == left


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
