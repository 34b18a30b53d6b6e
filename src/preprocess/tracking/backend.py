"""What tracks objects: what `grounded` and `sam3` have in common."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from preprocess.backend import Backend


class TrackedObject(NamedTuple):
    """An object on one frame.

    Attributes:
        obj_id: from 1 in each video, in order of appearance; never given again.
        label: the class of the prompt that it is of.
        score: 0 to 1, of the last detection that confirmed it.
        mask: bool [H, W], on the model's device, of the frame's own size.
    """

    obj_id: int
    label: str
    score: float
    mask: Tensor


class VideoTracker(Protocol):
    """The state of one video; dropped at its end.

    Attributes:
        delay: frames that must be seen after a frame before its objects are decided; 0: none.
    """

    delay: int

    def track(self, first: int, frames: Sequence[Tensor]) -> list[list[TrackedObject]]:
        """Track the next frames.

        After an exception (memory) it may be called again with fewer of the same frames: those done already are
        answered from memory, nothing is tracked twice.

        Args:
            first: the place of the first of them in the video, from 0.
            frames: uint8 [3, H, W], RGB, on the model's device.

        Returns:
            The objects, ascending by id, of each frame that these decide: from place `first - delay` (at least 0) to
            `first + len(frames) - delay`, which is not among them.
        """
        ...

    def finish(self) -> list[list[TrackedObject]]:
        """Return the objects of the video's last `delay` frames, which no later frame will decide."""
        ...


class TrackingBackend(Backend):
    """Finds objects that a prompt names, and follows them through videos."""

    @abstractmethod
    def check(self, classes: tuple[str, ...]) -> None:
        """Do nothing if these can be looked for; needs no weights.

        Raises:
            ExtractError: they are too long for the model, or its tokenizer does not know one.
        """

    @abstractmethod
    def start(self, classes: tuple[str, ...]) -> VideoTracker:
        """A new video, in which these are looked for, as `prompt.classes_of` gives them.

        Raises:
            ExtractError: see `check`.
        """
