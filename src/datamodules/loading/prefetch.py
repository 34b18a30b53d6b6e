"""Frames that are on their way to the GPU while it computes the batch before.

Lightning fetches a batch before it hands over the one before it. So a copy that is begun as a batch comes, on a stream
of its own, runs beside that computation; whoever wants the frames has its stream wait for the copy. Order and results
are what they would be without. The frames stay in the host's memory as well, for parts of a batch that was too large.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from datamodules.loading.frames import Batch

_MOST_BYTES = 1 << 28  # a larger batch may need the memory that its copy would take from the one before


class Copy(Protocol):
    """Frames that are being copied."""

    def take(self) -> Tensor | list[Tensor]:
        """The frames on the device; what the current stream does from now on comes after the copy."""
        ...


class CopiedAhead:
    """Batches whose frames are on their way (`Batch.ahead`).

    Args:
        batches: from the workers.
        begin: begins to copy frames; None where that is no use.
    """

    def __init__(self, batches: Iterable[Batch], begin: Callable[[Tensor | list[Tensor]], Copy | None]) -> None:
        self._batches, self._begin = batches, begin

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            frames = batch.get("frames")
            if frames is not None and not batch.get("alone") and (copy := self._begin(frames)):
                batch["ahead"] = copy
            yield batch


class SideStream:
    """Begins copies to a GPU on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, frames: Tensor | list[Tensor]) -> Copy | None:
        """A copy; None if there is no memory to spare, or the frames are none of page-locked memory."""
        each = [frames] if isinstance(frames, Tensor) else frames
        if not each or not each[0].is_pinned() or sum(frame.nbytes for frame in each) > _MOST_BYTES:
            return None
        try:
            with torch.cuda.stream(self._stream):
                copies = [frame.to(self._stream.device, non_blocking=True) for frame in each]
                return _StreamCopy(copies, isinstance(frames, Tensor), self._stream.record_event())
        except torch.OutOfMemoryError:
            return None


class _StreamCopy:
    def __init__(self, copies: Sequence[Tensor], is_one: bool, done: Any) -> None:
        self._copies, self._is_one, self._done = copies, is_one, done

    def take(self) -> Tensor | list[Tensor]:
        current: Any = torch.cuda.current_stream(self._copies[0].device)
        current.wait_event(self._done)
        for copy in self._copies:  # its memory belongs to the other stream: keep it from being used anew too early
            copy.record_stream(current)
        return self._copies[0] if self._is_one else list(self._copies)
