"""Work on a GPU beside that of the current CUDA stream."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Start(Protocol):
    """Starts work on some tensors, and returns what waits for its result; see `at_once` and `SideStream`."""

    def __call__(self, work: Callable[[], T], inputs: Sequence[Tensor]) -> Callable[[], T]: ...


def at_once(work: Callable[[], T], inputs: Sequence[Tensor]) -> Callable[[], T]:
    """Do the work now, and return what returns its result."""
    result = work()
    return lambda: result


class SideStream:
    """A thread with a CUDA stream of its own; it does one work after another.

    A stream alone would not suffice: models wait for the GPU themselves, where they copy small tensors to it.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(1, "side stream")

    def __call__(self, work: Callable[[], T], inputs: Sequence[Tensor]) -> Callable[[], T]:
        """Start work on the GPU.

        Args:
            work: returns its result on the host, so that it has waited for the GPU.
            inputs: tensors on the GPU that it reads. What the current stream has yet to do for them is waited for.

        Returns:
            Waits for the result, or raises what the work has raised.
        """
        ready = torch.cuda.current_stream(self._stream.device).record_event()
        for tensor in inputs:
            tensor.record_stream(self._stream)  # else its memory could be given away while the work reads it

        def run() -> T:
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(ready)
                return work()

        return self._thread.submit(run).result
