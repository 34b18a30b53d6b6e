"""What has a name on the Hugging Face hub, in a folder of this machine."""

from collections.abc import Sequence
from pathlib import Path

from datamodules.errors import ConfigError

FileSets = Sequence[Sequence[str]]  # each of which will do


def folder_of(name: str, option: str, files: FileSets, besides: Sequence[str] = (), hint: str = "") -> Path:
    """The folder `name`, as it is; or the one of the hub's cache that has its files, which are fetched if need be.

    Args:
        name: of the folder, or on the hub, which is asked only if the cache does not have them.
        option: by which `name` was given, for errors.
        files: which it must have to be taken from the cache.
        besides: files that are fetched with them, if there are any.
        hint: what to give instead, for errors.

    Raises:
        ConfigError: it is nowhere; the message says what was tried.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    wanted, failure = [*besides, *(file for names in files for file in names)], "it has none of the files"
    for from_cache in (True, False):
        try:
            folder = Path(snapshot_download(name, allow_patterns=wanted, local_files_only=from_cache))
        except (OSError, ValueError) as error:  # offline, no such name, a name that can be none
            failure = " ".join(str(error).split())[:120]
            continue
        if has_files(folder, files):
            return folder
    raise ConfigError(
        f"{option} {name}: there is no such folder, nor can it be had from the Hugging Face hub ({failure}); {hint}"
    )


def has_files(folder: Path, files: FileSets) -> bool:
    """Whether `folder` has all files of one of these sets."""
    return any(all((folder / file).is_file() for file in names) for names in files)
