"""Find models and tokenizers by name: folders on this machine, or repositories of the Hugging Face hub."""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from datamodules.errors import ConfigError
from datamodules.network import masked, naming_no_proxy, proxy_for, require_usable
from datamodules.printable import printable

_TIMEOUT_SECONDS = 10.0  # for the hub's first answer; huggingface_hub itself waits without limit


def find_files(
    name: str, option: str, alternatives: Sequence[Sequence[str]], *, advice: str, optional: Sequence[str] = ()
) -> Path:
    """Return the folder or repository `name` that has all files of one of `alternatives`; see `find_folder`.

    Args:
        name: a folder, or a repository on the hub.
        option: option that the user gave the name with, for messages.
        alternatives: sets of file names, one of which must be complete.
        advice: a sentence for messages that says what to give instead.
        optional: names of files to download as well if the repository has them.

    Raises:
        ConfigError: no such folder or repository has the files.
    """

    def missing(folder: Path) -> str | None:
        if any(all((folder / file).is_file() for file in files) for files in alternatives):
            return None
        return ", nor ".join(" and ".join(files) for files in alternatives)

    patterns = [*optional, *(file for files in alternatives for file in files)]
    return find_folder(name, option, patterns, missing, advice)


def find_folder(
    name: str,
    option: str,
    patterns: Sequence[str],
    missing: Callable[[Path], str | None],
    advice: str,
    revision: str | None = None,
) -> Path:
    """Return the folder `name`, or the folder in the hub's cache with the files of the repository `name`.

    The hub is asked only if its cache on this machine is incomplete.

    Args:
        name: a folder, or a repository on the hub.
        option: option that the user gave the name with, for messages.
        patterns: glob patterns of the files to download.
        missing: returns the names of the files that a folder lacks, as a phrase; None if it is complete.
        advice: a sentence for messages that says what to give instead.
        revision: branch, tag or commit on the hub; None: its main branch.

    Raises:
        ConfigError: neither the folder nor the repository exists, it is incomplete, or the hub does not answer.
    """
    if os.path.isdir(name):  # unlike Path.is_dir, False for a name that is too long for a path
        if lack := missing(Path(name)):
            raise ConfigError(f"{option} {name} has no {lack}. {advice}")
        return Path(name)
    if revision and (".." in revision or revision.startswith("/")):  # the hub's cache uses it in a path
        raise ConfigError(f"{option} {name}: revision {revision!r} is not a branch, tag or commit")
    result = _from_hub(name, patterns, missing, revision)
    if isinstance(result, Path):
        return result
    from huggingface_hub.constants import ENDPOINT

    at = f" at revision {revision}" if revision else ""
    proxy = proxy_for(ENDPOINT)
    through = f" through {proxy}" if proxy else ""
    raise ConfigError(
        f"{option} {name}: there is no folder {Path(name).absolute()}, and {name}{at} cannot be loaded from the "
        f"Hugging Face hub{through}: {result}. {advice}"
    )


def _from_hub(
    name: str, patterns: Sequence[str], missing: Callable[[Path], str | None], revision: str | None
) -> Path | str:
    """Return the complete folder of a repository in the hub's cache, downloaded if need be; else the reason why not."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import ENDPOINT

    failure = ""
    for find in (_cached, _downloaded):
        try:
            folder = find(name, patterns, revision)
        except (OSError, ValueError, _http().HTTPError, ConfigError) as error:  # offline, no such name, a bad proxy
            message = masked(" ".join(str(error).split()), get_token())
            failure = printable(masked(message, urlsplit(ENDPOINT).password))[:200]
            continue
        lack = missing(folder)
        if not lack:
            return folder
        failure = f"it has no {lack}"
    return failure


def _cached(name: str, patterns: Sequence[str], revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=True))


def _downloaded(name: str, patterns: Sequence[str], revision: str | None) -> Path:
    from huggingface_hub import model_info, snapshot_download

    require_usable()
    with naming_no_proxy(_http()):
        model_info(name, revision=revision, timeout=_TIMEOUT_SECONDS)
    return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))


def _http() -> ModuleType:
    """Return the HTTP library of huggingface_hub, whose errors it raises: httpx in its release 1, httpx2 since 2."""
    from huggingface_hub import __version__

    return import_module("httpx" if __version__.startswith("1.") else "httpx2")
