"""Fetching the objects of a corpus in an object store: limits, and what an error says of the item."""

from dataclasses import dataclass, fields

from datamodules.corpus import Item
from datamodules.errors import ChangedError, ConfigError, EnvironmentFailure, MissingError
from datamodules.object_store import StaleVersionError, StoreUnavailableError


@dataclass(frozen=True)
class Fetching:
    """How much of a corpus in an object store is fetched before it is needed. One object may exceed a limit of bytes.

    Args:
        images: number of images that each worker fetches into its memory, the next one included.
        image_bytes: bytes of these images, by their sizes in the plan.
        videos: number of videos in the scratch folder of a rank, for each of its workers: the one that it reads, and
            those that come next.
        video_bytes: bytes of these videos, of all workers of a rank, by their sizes in the plan.

    Raises:
        ConfigError: one is below 1.
    """

    images: int = 32
    image_bytes: int = 64 << 20
    videos: int = 2
    video_bytes: int = 16 << 30

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            if getattr(self, name) < 1:
                raise ConfigError(f"--data.fetching.{name} {getattr(self, name)}: it must be 1 or more")


def error_of(item: Item, error: OSError) -> Exception:
    """Return the error for an object of `item` that could not be fetched.

    Returns:
        EnvironmentFailure if the store as a whole cannot be used; MissingError and ChangedError; else `error`, which an
        item fails with in the class `io`.
    """
    if isinstance(error, StoreUnavailableError):
        return EnvironmentFailure(
            f"{item.source} cannot be read: {error.strerror}. Finished work is safe. Fix the problem and rerun the "
            "same command"
        )
    if isinstance(error, FileNotFoundError):
        return MissingError(f"{item.source} is missing")
    if isinstance(error, StaleVersionError):
        return ChangedError(f"{item.source} has changed since it was planned: it has another ETag")
    return error
