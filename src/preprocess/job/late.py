"""Late results: a device still computes them when `extract` returns. They are read when it has the next batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


class LateResults:
    """The results of a batch, which may be returned in place of a list of them.

    Args:
        number: of frames.
        read: waits for the device, and returns one result for each frame. Called once.
    """

    def __init__(self, number: int, read: Callable[[], list[Any]]) -> None:
        self._number, self._read = number, read
        self._results: list[Any] | None = None

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator["LateResult"]:
        return (LateResult(self, index) for index in range(self._number))

    def get(self) -> list[Any]:
        """Return the results. Waits for the device at the first call."""
        if self._results is None:
            self._results = self._read()
            if len(self._results) != self._number:
                raise ValueError(f"{len(self._results)} late results for {self._number} frames")
        return self._results


@dataclass(frozen=True)
class LateResult:
    """The result of one frame of a batch.

    Attributes:
        batch: the results of the batch.
        index: of the frame in the batch.
    """

    batch: LateResults
    index: int

    def get(self) -> Any:
        """Return the result; see `LateResults.get`."""
        return self.batch.get()[self.index]
