"""What has a name on the Hugging Face hub, in a folder of this machine."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from datamodules.errors import ConfigError
from datamodules.network import masked, naming_no_proxy, proxy_for, require_usable
from datamodules.printable import printable

FileSets = Sequence[Sequence[str]]  # each of which will do
_ASK_SECONDS = 10.0  # for the hub's first answer; without one, huggingface_hub itself waits for ever


def folder_of(name: str, option: str, files: FileSets, besides: Sequence[str] = (), hint: str = "") -> Path:
    """`find_folder` for what has all files of one of these sets.

    Args:
        name: a folder, or a name on the hub.
        option: that gave it, for messages.
        files: which it must have.
        besides: files to have with them, if there are any.
        hint: what to give instead.

    Raises:
        ConfigError: it is nowhere; the message says what was tried.
    """
    wanted = [*besides, *(file for names in files for file in names)]
    return find_folder(name, option, wanted, partial(has_files, files=files), hint)


def has_files(folder: Path, files: FileSets) -> bool:
    """Whether `folder` has all files of one of these sets."""
    return any(all((folder / file).is_file() for file in names) for names in files)


def find_folder(
    name: str,
    option: str,
    wanted: Sequence[str],
    is_whole: Callable[[Path], bool],
    advice: str,
    revision: str | None = None,
) -> Path:
    """The folder `name`; or where the hub's cache has its files, or had them put now.

    The hub is asked only if its cache on this machine does not have them.

    Args:
        name: a folder, or a name on the hub.
        option: that gave it, for messages.
        wanted: patterns of the files to have from the hub.
        is_whole: whether a folder has all that is needed.
        advice: what to do if it is nowhere.
        revision: branch, tag or commit on the hub; None: its main branch.

    Raises:
        ConfigError: it is nowhere, or not whole on the hub.
    """
    if os.path.isdir(name):  # unlike Path.is_dir, False for a name that is too long for a path
        return Path(name)
    if revision and (".." in revision or revision.startswith("/")):  # the hub's cache makes a path of it
        raise ConfigError(f"{option} {name}: revision {revision!r} is not a branch, tag or commit")
    from httpx import HTTPError
    from huggingface_hub import get_token
    from huggingface_hub.constants import ENDPOINT

    failure = ""
    for find in (_cached, _downloaded):
        try:
            folder = find(name, wanted, revision)
        except (OSError, ValueError, HTTPError, ConfigError) as error:  # offline, no such name, an unusable proxy
            message = masked(" ".join(str(error).split()), get_token())
            failure = printable(masked(message, urlsplit(ENDPOINT).password))[:200]
            continue
        if is_whole(folder):
            return folder
        failure = "its files are not all there"
    at = f" at revision {revision}" if revision else ""
    proxy = proxy_for(ENDPOINT)
    through = f", through {proxy}," if proxy else ""
    raise ConfigError(
        f"{option} {name}: there is no folder {Path(name).absolute()}, nor can that name{at} be had from the Hugging "
        f"Face hub{through} ({failure}); {advice}"
    )


def _cached(name: str, wanted: Sequence[str], revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, allow_patterns=list(wanted), local_files_only=True))


def _downloaded(name: str, wanted: Sequence[str], revision: str | None) -> Path:
    from huggingface_hub import model_info, snapshot_download

    require_usable()
    with naming_no_proxy():
        model_info(name, revision=revision, timeout=_ASK_SECONDS)
    return Path(snapshot_download(name, revision=revision, allow_patterns=list(wanted)))
