"""What makes captions: the protocol that `local` and `served` keep."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from datamodules.errors import ExtractError
from datamodules.loading.request import FrameTransform
from preprocess.captioning.caption import Caption


class Engine(Protocol):
    """A model, wherever it runs."""

    @property
    def transform(self) -> Callable[[], FrameTransform]:
        """Makes, in each worker, what turns an image and its item into what `captions` wants."""
        ...

    def captions(self, inputs: Sequence[Any]) -> list[Caption | ExtractError]:
        """Of one batch of what `transform` made, in order."""
        ...

    def provenance(self) -> dict[str, str]:
        """Versions and weights that change captions, by name, for the fingerprint."""
        ...
