"""Endings by which corpora tell images and videos, without opening them and without importing a decoder."""

from pathlib import PurePosixPath

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg"})


def image_ending(name: str) -> str:
    """The ending of an image's file called `name`, as samples have it."""
    return PurePosixPath(name).suffix.lower().removeprefix(".")
