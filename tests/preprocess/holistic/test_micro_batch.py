from typing import Any

import pytest
import torch

from preprocess.holistic.micro_batch import Trial, measure, suggest_batch_size


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ({16: 1000, 32: 1900, 64: 2950, 128: 3000, 256: 2900}, 64),  # 2 % slower than 128
        ({16: 1000, 32: 2000, 64: 4000, 128: 8000, 256: 16000}, 256),
        ({16: 1000, 32: 990, 64: 980, 128: 970, 256: 960}, 16),
        ({16: 1000, 32: 2000, 64: None}, 32),  # for which there is no memory; larger ones are not tried
    ],
)
def test_the_smallest_of_the_fastest_sizes_is_suggested(speeds: dict[int, Any], expected: int) -> None:
    def trial(size: int) -> Any:
        if speeds[size] is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Trial(size, speeds[size], size * 10_000_000)

    first, *others = suggest_batch_size(trial).splitlines()
    assert first == f"--model.batch_size {expected}; images/s and memory of the GPU by size:"
    tried = [(size, speed) for size, speed in speeds.items() if speed]
    assert [line.split()[:2] for line in others] == [[str(size), f"{speed:,}"] for size, speed in tried]
    assert others[0].split()[2:] == ["160.0", "MB"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: out of memory"),  # of the instantiation of a graph
    ],
)
def test_too_little_memory_suggests_nothing(error: RuntimeError) -> None:
    def trial(size: int) -> Any:
        raise error

    assert suggest_batch_size(trial) == "none: the GPU's memory is too small for the smallest batch"


def test_other_errors_end_the_measurements() -> None:
    def trial(size: int) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        suggest_batch_size(trial)


@pytest.mark.gpu
def test_images_per_second_and_memory_are_measured() -> None:
    assert torch.cuda.is_available(), "there is no GPU: leave out `-m gpu`"
    found = measure(
        16, lambda: torch.empty(1 << 28, dtype=torch.uint8, device="cuda").sum().item(), torch.device("cuda")
    )
    assert found.per_second > 16
    assert found.memory_bytes >= 1 << 28
