"""Base class of trackers that process one frame after another, and no frame twice."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from preprocess.float32 import without_tf32
from preprocess.tracking.backend import TrackedObject


class SteppedTracker(ABC):
    """Base class of every `VideoTracker`. After an exception, a frame is tracked or as if not yet started.

    The results of tracked frames are kept until later frames are requested.

    Args:
        delay: see `VideoTracker`.
    """

    def __init__(self, delay: int = 0) -> None:
        self.delay = delay
        self._done: dict[int, list[TrackedObject]] = {}
        self._next = 0

    @abstractmethod
    def step(self, frame_idx: int, frame: Tensor) -> list[TrackedObject]:
        """Track the next frame, uint8 [3, H, W]; return the objects of frame `frame_idx - delay`, if there is one."""

    def finish(self) -> list[list[TrackedObject]]:
        """See `VideoTracker`; by default all frames are final already."""
        return []

    def prepare(self, frames: Mapping[int, Tensor]) -> None:  # noqa: B027
        """Process several of the next frames together, where that is faster; by default does nothing."""

    @without_tf32()
    def track(self, first: int, frames: Sequence[Tensor]) -> list[list[TrackedObject]]:
        """See `VideoTracker`.

        Raises:
            ValueError: `frames` are not the next frames.
        """
        if first > self._next:
            raise ValueError(f"frame {first} comes after frame {self._next}, which was not tracked")
        self._done = {frame_idx: objects for frame_idx, objects in self._done.items() if frame_idx >= first}
        if first < self._next and first not in self._done:
            raise ValueError(f"frame {first} was tracked, and its result was dropped")
        requested = dict(enumerate(frames, first))
        self.prepare({frame_idx: frame for frame_idx, frame in requested.items() if frame_idx >= self._next})
        return [self._objects(frame_idx, frame) for frame_idx, frame in requested.items()][max(0, self.delay - first) :]

    def _objects(self, frame_idx: int, frame: Tensor) -> list[TrackedObject]:
        if frame_idx not in self._done:
            self._done[frame_idx] = self.step(frame_idx, frame)
            self._next = frame_idx + 1
        return self._done[frame_idx]
