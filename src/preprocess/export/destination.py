"""Files and folders that appear whole or not at all, and replace nothing."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from datamodules.errors import ConfigError
from datamodules.run.files import sync
from preprocess.scratch import scratch_beside


@contextmanager
def all_or_none(paths: Sequence[Path], option: str = "--dest") -> Iterator[list[Path]]:
    """Yield temporary names to write to, which become `paths` if the block ends without an error.

    Args:
        paths: the files, in one folder or several; missing folders are made.
        option: the option of the command line that named them, for messages.

    Raises:
        ConfigError: one of `paths` exists, or its folder is not a folder. Nothing has been written then.
    """
    for path in paths:
        if os.path.lexists(path):
            raise ConfigError(f"{path} exists, and is not replaced: remove it, or write elsewhere")
        if path.parent.exists() and not path.parent.is_dir():
            raise ConfigError(f"{option} {path.parent} is not a folder")
    partials = [path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial") for path in paths]
    written: list[Path] = []
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield partials
        for partial in partials:
            sync(partial)
        for partial, path in zip(partials, paths, strict=True):
            os.rename(partial, path)
            written.append(path)
    except BaseException:
        for path in (*partials, *written):
            path.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(dest: Path, may_replace: bool = False) -> Iterator[Path]:
    """Yield a hidden folder beside `dest` to write to, which becomes `dest` if the block ends without an error.

    Args:
        dest: the folder.
        may_replace: whether a folder `dest` that is there is removed, at the end.

    Raises:
        ConfigError: `dest` exists and is not an empty folder, or another process is writing it. Nothing has been
            written then.
    """
    if not may_replace and os.path.lexists(dest) and not (dest.is_dir() and not any(dest.iterdir())):
        raise ConfigError(f"--dest {dest} exists, and is not replaced: name a folder that is new or empty")
    with scratch_beside(dest) as scratch:
        yield scratch
        os.sync()  # one call for all files; a call for each of a million small ones would take hours
        if may_replace and dest.exists():
            shutil.rmtree(dest)
        os.rename(scratch, dest)
