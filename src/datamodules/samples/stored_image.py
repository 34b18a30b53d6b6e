"""The file of an image that a sample stores, as the corpus has it or encoded anew."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from datamodules.errors import DecodeError, RunError
from datamodules.media.suffixes import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from torch import Tensor


def find_image(endings: Iterable[str]) -> str | None:
    """Return the first of the `endings` of a sample's files that is an image's, such as `jpg`; None without one."""
    return next((ending for ending in endings if f".{ending}" in IMAGE_SUFFIXES), None)


def require_image(key: str, ending: str | None) -> str:
    """Return the ending of the image that the sample `key` stores.

    Raises:
        ValueError: it is not the ending of an image.
    """
    if ending is None or find_image([ending]) is None:
        raise ValueError(f"{key} has an image whose ending is {ending!r}")
    return ending


def decode_stored(key: str, content: bytes, ending: str | None) -> "Tensor":
    """Return the image as uint8 [3, H, W], RGB.

    Raises:
        RunError: it is damaged.
    """
    from datamodules.media.image import decode_image

    try:
        return decode_image(content, f"{key}.{ending}")
    except DecodeError as error:
        raise RunError(f"{error}; run `preprocess verify`") from error
