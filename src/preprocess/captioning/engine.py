"""What makes captions: the protocol that `local` and `served` keep."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from datamodules.errors import ExtractError
from datamodules.line.frames import FrameTransform
from preprocess.captioning.caption import Caption


class Engine(Protocol):
    """A model, wherever it runs.

    Attributes:
        transform: made in each worker: an image and its item to what `captions` wants.
    """

    transform: Callable[[], FrameTransform]

    def captions(self, inputs: Sequence[Any]) -> list[Caption | ExtractError]:
        """Of one batch of what `transform` made, in order."""
        ...

    def ingredients(self) -> dict[str, str]:
        """Versions and weights that change captions, by name, for the fingerprint."""
        ...
