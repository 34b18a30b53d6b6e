from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.loading.prefetch import CopyStream, PrefetchedBatches


class StartedCopy:
    def __init__(self, frames: Tensor | list[Tensor]) -> None:
        self.frames = frames

    def take(self) -> Tensor | list[Tensor]:
        return self.frames


def test_the_copy_of_a_batch_starts_when_the_batch_is_fetched() -> None:
    frames = torch.zeros(2, 3, 4, 4)
    given: list[dict[str, Any]] = [
        {"frames": frames},
        {"results": [1]},
        {"frames": [frames[0]], "alone": True},
        {"frames": frames[:0]},
        {},
    ]
    begun: list[Any] = []

    def start_copy(frames: Tensor | list[Tensor]) -> StartedCopy | None:
        begun.append(frames)
        return StartedCopy(frames) if len(frames) else None

    copies: Any = (batch.copy() for batch in given)  # as dicts, where a loader has `Batch`
    batches: Any = iter(PrefetchedBatches(copies, start_copy))
    assert next(batches)["device_copy"].take() is frames
    assert len(begun) == 1
    assert [batch.keys() for batch in batches] == [batch.keys() for batch in given[1:]]
    assert len(begun) == 2


@pytest.mark.gpu
def test_copies_on_a_stream_of_their_own_have_the_same_values() -> None:
    assert torch.cuda.is_available(), "no GPU is available: leave out `-m gpu`"
    start_copy = CopyStream(torch.device("cuda"))
    for _ in range(20):
        frames = torch.randint(0, 256, (64, 3, 260, 210), dtype=torch.uint8)
        busy = torch.rand(4096, 4096, device="cuda")
        copy = start_copy(frames.pin_memory())
        for _ in range(4):
            busy = busy @ busy
        assert copy is not None
        taken = copy.take()
        assert isinstance(taken, Tensor)
        assert torch.equal(taken.cpu(), frames)
        two = start_copy([frames[0].pin_memory(), frames[1, :, :9].contiguous().pin_memory()])
        assert two is not None
        assert [tuple(frame.shape) for frame in two.take()] == [(3, 260, 210), (3, 9, 210)]
    assert start_copy(frames) is None  # not page-locked: a copy would wait
    assert start_copy([]) is None
