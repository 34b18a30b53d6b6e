"""One image and its prompt, as the DataLoader workers prepare them for an engine."""

from typing import Any, NamedTuple


class Prepared(NamedTuple):
    """One image, ready for an engine.

    Attributes:
        prompt: as filled for this image.
        inputs: what the engine wants besides.
        num_tokens: of the prompt and the image; 0 where only a server knows.
        num_pixels: of the image, as the model is to see it.
    """

    prompt: str
    inputs: Any
    num_tokens: int
    num_pixels: int
