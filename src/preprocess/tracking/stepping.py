"""Frames of a video one after another, none of them twice."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from preprocess.tracking.backend import TrackedObject


class SteppedTracker(ABC):
    """Base of every `VideoTracker`. A frame is either done or as if it had not been begun.

    What was done is remembered until later frames are asked for.

    Args:
        delay: see `VideoTracker`.
    """

    def __init__(self, delay: int = 0) -> None:
        self.delay = delay
        self._done: dict[int, list[TrackedObject]] = {}
        self._next = 0

    @abstractmethod
    def step(self, place: int, frame: Tensor) -> list[TrackedObject]:
        """Track the next frame, uint8 [3, H, W] at `place`; return the objects of frame `place - delay`, if any."""

    def finish(self) -> list[list[TrackedObject]]:
        """See `VideoTracker`; by default nothing is left."""
        return []

    def prepare(self, frames: Mapping[int, Tensor]) -> None:  # noqa: B027
        """Do what is to be done for several of the next frames together; by default nothing."""

    def track(self, first: int, frames: Sequence[Tensor]) -> list[list[TrackedObject]]:
        """See `VideoTracker`.

        Raises:
            ValueError: these are not the next frames.
        """
        if first > self._next:
            raise ValueError(f"frame {first} comes after frame {self._next}, which was not tracked")
        self._done = {place: objects for place, objects in self._done.items() if place >= first}
        if first < self._next and first not in self._done:
            raise ValueError(f"frame {first} was tracked, and is forgotten")
        wanted = dict(enumerate(frames, first))
        self.prepare({place: frame for place, frame in wanted.items() if place >= self._next})
        return [self._objects(place, frame) for place, frame in wanted.items()][max(0, self.delay - first) :]

    def _objects(self, place: int, frame: Tensor) -> list[TrackedObject]:
        if place not in self._done:
            self._done[place] = self.step(place, frame)
            self._next = place + 1
        return self._done[place]
