"""A single file of weights, as projects publish it that do not use transformers."""

import os
from collections.abc import Sequence
from pathlib import Path

from datamodules.hub import find_files


def find_weights_file(name: str, option: str, file_names: Sequence[str], advice: str) -> Path:
    """Return the file `name`, or the first of `file_names` in the folder or hub repository `name`.

    Args:
        name: a file, a folder, or a name on the Hugging Face hub.
        option: the option that gave the name, for messages.
        file_names: paths within the folder or repository, of which one must exist.
        advice: a sentence for messages that says what to give instead.

    Raises:
        ConfigError: there is no such file.
    """
    if os.path.isfile(name):  # unlike Path.is_file, False for a name that is too long for a path
        return Path(name)
    folder = find_files(name, option, [[file] for file in file_names], advice=advice)
    return next(folder / file for file in file_names if (folder / file).is_file())
