"""Prefetching: frames are copied to the GPU while it computes the batch before.

Lightning fetches a batch before it hands over the one before it. So a copy that starts when a batch comes, on a CUDA
stream of its own, runs beside that computation. Whoever takes the frames has its own stream wait for the copy. Order
and results are the same as without prefetching. The frames also stay in the host's memory, because a batch that is too
large for the GPU is split and copied again.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from datamodules.loading.batch import Batch

_MAX_BYTES = 1 << 28  # the copy of a larger batch could take the memory that the batch before it needs


class DeviceCopy(Protocol):
    """Frames that are being copied to a device."""

    def take(self) -> Tensor | list[Tensor]:
        """Return the frames on the device. Work that the current stream gets from now on waits for the copy."""
        ...


class Loader(Protocol):
    """Loads batches, and may start before it is iterated; see `datamodules.loading.loader.FrameLoader`."""

    def start(self) -> None:
        """Start the workers."""
        ...

    def close(self) -> None:
        """End the workers if no iteration has begun."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...


class PrefetchedBatches:
    """Batches whose frames are on their way to the device (`Batch.device_copy`).

    Args:
        batches: loads the batches.
        start_copy: starts to copy frames; returns None where a copy would not help.
    """

    def __init__(self, batches: Loader, start_copy: Callable[[Tensor | list[Tensor]], DeviceCopy | None]) -> None:
        self._batches, self._start_copy = batches, start_copy

    def start(self) -> None:
        """Start the workers."""
        self._batches.start()

    def close(self) -> None:
        """End the workers if no iteration has begun."""
        self._batches.close()

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            frames = batch.get("frames")
            # an item after which a process died is extracted alone: its batch is split, and the copy would be unused
            if frames is not None and not batch.get("alone") and (copy := self._start_copy(frames)):
                batch["device_copy"] = copy
            yield batch


class CopyStream:
    """Starts copies to a GPU on a CUDA stream of its own.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, frames: Tensor | list[Tensor]) -> DeviceCopy | None:
        """Start a copy of `frames`.

        Returns:
            The copy; None if the GPU has no memory to spare, or if the frames are not in page-locked memory, from which
            alone a copy runs beside a computation.
        """
        tensors = [frames] if isinstance(frames, Tensor) else frames
        if not tensors or not tensors[0].is_pinned() or sum(tensor.nbytes for tensor in tensors) > _MAX_BYTES:
            return None
        try:
            with torch.cuda.stream(self._stream):
                copies = [tensor.to(self._stream.device, non_blocking=True) for tensor in tensors]
                return _StreamCopy(copies, isinstance(frames, Tensor), self._stream.record_event())
        except torch.OutOfMemoryError:
            return None


class _StreamCopy:
    def __init__(self, copies: Sequence[Tensor], is_one: bool, done: Any) -> None:
        self._copies, self._is_one, self._done = copies, is_one, done

    def take(self) -> Tensor | list[Tensor]:
        current: Any = torch.cuda.current_stream(self._copies[0].device)
        current.wait_event(self._done)
        # The memory was allocated on the copying stream. Without this, the allocator could give it to the next copy
        # while the current stream still reads it.
        for copy in self._copies:
            copy.record_stream(current)
        return self._copies[0] if self._is_one else list(self._copies)
