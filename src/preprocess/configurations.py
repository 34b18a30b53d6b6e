"""The configurations that are installed with the package, by name: the files `configs/*.yaml`. Without torch."""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from datamodules.errors import ConfigError

_IN_WHEEL = Path(__file__).parent / "configs"
_IN_CHECKOUT = Path(__file__).parents[2] / "configs"  # for an editable install
_OTHERWISE = ("--config", "-c", "--model", "--help", "-h")  # options that can do without a name
_FOLDER = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CHECKOUT


def summaries() -> dict[str, str]:
    """Return the first line of the header of each configuration, by name."""
    files = sorted(_FOLDER.glob("*.yaml"))
    return {file.stem: file.read_text("utf-8").partition("\n")[0].removeprefix("# ") for file in files}


def find_configuration(name: str) -> Path:
    """Return the file of the configuration `name`.

    Raises:
        ConfigError: there is none of that name.
    """
    names = list(summaries())
    if name in names:
        return _FOLDER / f"{name}.yaml"
    if os.path.isfile(name):  # unlike Path.is_file, False for a name that is too long for a path
        raise ConfigError(f"{name} is a file, not the name of a configuration. Write --config {name}")
    nearest = get_close_matches(name, names, n=1)
    meant = f"Did you mean {nearest[0]}? " if nearest else ""
    known = ", ".join(names)
    raise ConfigError(f"there is no configuration {name!r}. {meant}Known: {known}. For a file, write --config FILE")


def with_config(arguments: Sequence[str]) -> list[str]:
    """Return arguments of `run` whose first one, if it is a bare name of a configuration, is `--config FILE` instead.

    Raises:
        ConfigError: there is no configuration of that name; or the arguments name neither one nor a file nor a model.
    """
    if arguments and not arguments[0].startswith("-"):
        return ["--config", str(find_configuration(arguments[0])), *arguments[1:]]
    if not any(argument.startswith(_OTHERWISE) for argument in arguments):
        raise ConfigError(
            "no pipeline is named. Write the name of a configuration first, such as `run keypoints --data.root R`, or "
            "--config FILE; `preprocess configs` lists the names"
        )
    return list(arguments)
