"""Backends of tracking: they find objects that a prompt names, and follow them through videos."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from preprocess.backend import Backend


class TrackedObject(NamedTuple):
    """An object on one frame.

    Attributes:
        obj_id: from 1 in each video, in order of appearance; never reused.
        label: its class, one of the prompt's.
        score: 0 to 1, of the last detection that confirmed it.
        mask: bool [H, W], of the frame's size, on the model's device.
    """

    obj_id: int
    label: str
    score: float
    mask: Tensor


class VideoTracker(Protocol):
    """Tracks the objects of one video; one instance per video.

    Attributes:
        delay: how many later frames are needed before the objects on a frame are final.
    """

    delay: int

    def track(self, first: int, frames: Sequence[Tensor]) -> list[list[TrackedObject]]:
        """Track the next frames.

        After an exception (such as too little memory) it may be called again with fewer of the same frames. The results
        of frames that are already tracked are then repeated; no frame is tracked twice.

        Args:
            first: index in the video of the first of `frames`, from 0.
            frames: uint8 [3, H, W], RGB, on the model's device.

        Returns:
            The objects, ascending by id, of each frame that is now final: from frame `first - delay` (at least 0) to
            frame `first + len(frames) - delay`, exclusive.
        """
        ...

    def finish(self) -> list[list[TrackedObject]]:
        """Return the objects on the last `delay` frames of the video."""
        ...


class TrackingBackend(Backend):
    """Finds objects that a prompt names, and follows them through videos."""

    @abstractmethod
    def check(self, classes: tuple[str, ...]) -> None:
        """Check that the models can look for these classes; needs no weights.

        Raises:
            ExtractError: the classes are too long for the model, or its tokenizer does not know one.
        """

    @abstractmethod
    def start(self, classes: tuple[str, ...]) -> VideoTracker:
        """Return a tracker for a new video.

        Args:
            classes: the classes to look for, from `prompt.classes_of`.

        Raises:
            ExtractError: see `check`.
        """
