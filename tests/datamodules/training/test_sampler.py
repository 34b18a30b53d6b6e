from collections.abc import Callable
from typing import Any

import pytest

from datamodules.errors import ConfigError
from datamodules.training.sampler import EpochSampler


def sampler(num_samples: int, batch_size: int = 4, shuffle: bool = True, seed: int = 3) -> EpochSampler:
    samples: Any = range(num_samples)  # only its length is used
    return EpochSampler(samples, batch_size, shuffle, seed)


@pytest.mark.parametrize("num_samples", [1, 2, 7, 64, 1001])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_batches_of_all_ranks_partition_the_samples(
    ranks: Callable[[int, int], None], num_samples: int, batch_size: int
) -> None:
    for num_ranks in range(1, min(num_samples, 6) + 1):
        by_rank = []
        for rank in range(num_ranks):
            ranks(rank, num_ranks)
            by_rank.append(list(sampler(num_samples, batch_size)))
            assert len(sampler(num_samples, batch_size)) == len(by_rank[-1])
        assert len({len(batches) for batches in by_rank}) == 1
        assert sorted(index for batches in by_rank for batch in batches for index in batch) == list(range(num_samples))
        sizes = [len(batch) for batches in by_rank for batch in batches]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("num_samples", "batch_size"), [(1, 1), (23, 4), (64, 16), (101, 1)])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_an_epoch_that_is_continued_after_any_step_has_the_same_batches(
    ranks: Callable[[int, int], None], num_samples: int, batch_size: int, num_ranks: int
) -> None:
    if num_samples < num_ranks:
        return
    ranks(num_ranks - 1, num_ranks)
    whole = sampler(num_samples, batch_size)
    batches = list(whole)
    for step in range(len(batches) + 1):
        rest = sampler(num_samples, batch_size)
        rest.resume(0, whole.position(step))
        assert list(rest) == batches[step:]


@pytest.mark.parametrize("num_ranks", [1, 3, 4])
def test_an_epoch_that_is_continued_on_other_ranks_has_the_samples_that_are_left(
    ranks: Callable[[int, int], None], num_ranks: int
) -> None:
    order = [index for batch in sampler(50) for index in batch]
    for start in (0, 1, 30, 45, 46, 50):
        by_rank = []
        for rank in range(num_ranks):
            ranks(rank, num_ranks)
            rest = sampler(50)
            rest.resume(0, start)
            by_rank.append(list(rest))
            assert len(rest) - rest.num_steps_left >= 0
        assert [index for step in zip(*by_rank, strict=True) for batch in step for index in batch] == order[start:]


def test_without_shuffling_samples_come_in_order() -> None:
    assert list(sampler(10, shuffle=False)) == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_each_epoch_has_its_own_order_which_the_seed_decides() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = sampler(20, seed=seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert order(0, 0) == order(0, 0)
    assert len({str(order(seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (7, 0))}) == 3


def test_fewer_samples_than_ranks_are_refused(ranks: Callable[[int, int], None]) -> None:
    ranks(0, 3)
    with pytest.raises(ConfigError, match=r"2 samples cannot be shared by 3 ranks\. Use fewer ranks"):
        sampler(2)
