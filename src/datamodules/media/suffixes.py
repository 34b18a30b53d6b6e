"""Extensions by which corpora recognise images and videos, without opening them and without importing a decoder.

`.ts` is an MPEG transport stream here. A TypeScript file in a folder of videos fails alone when it is read.
"""

from importlib.util import find_spec
from pathlib import PurePosixPath

_HEIF_SUFFIXES = frozenset({".heic", ".heif"})
IMAGE_SUFFIXES = _HEIF_SUFFIXES | {
    ".png", ".jpg", ".jpeg", ".jfif", ".jp2", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"
}  # fmt: skip
HAS_HEIF = find_spec("pillow_heif") is not None  # Pillow itself does not decode HEIC
READABLE_IMAGE_SUFFIXES = IMAGE_SUFFIXES if HAS_HEIF else IMAGE_SUFFIXES - _HEIF_SUFFIXES
UNKNOWN_TO_DATASETS = _HEIF_SUFFIXES | {".avif"}  # the imagefolder of datasets 5 leaves such images out
VIDEO_SUFFIXES = frozenset(
    {
        ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv",
        ".3gp", ".ogv", ".dv", ".gif",
    }
)  # fmt: skip


def image_ending(name: str) -> str:
    """Return the extension of an image's file name, in lower case and without its dot, as samples store it."""
    return PurePosixPath(name).suffix.lower().removeprefix(".")
