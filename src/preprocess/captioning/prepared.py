"""One image and its prompt, as the DataLoader workers prepare them for a backend."""

from typing import Any, NamedTuple


class Prepared(NamedTuple):
    """One image, ready for a backend.

    Attributes:
        prompt: as filled in for this image.
        inputs: what the backend itself needs for this image.
        num_tokens: number of tokens of the prompt and the image; 0 where only a server knows it.
        num_pixels: number of pixels of the image, as the model gets it.
    """

    prompt: str
    inputs: Any
    num_tokens: int
    num_pixels: int
