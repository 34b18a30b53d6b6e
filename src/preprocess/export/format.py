"""Finding a format by name, its options, and the export itself."""

import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.errors import ConfigError, EnvironmentFailure, RunError
from preprocess.export import formats
from preprocess.export.reading import Snapshot


def format_names() -> list[str]:
    """The names that `export` takes as `format`."""
    return [module.name.replace("_", "-") for module in pkgutil.iter_modules(formats.__path__)]


def options_of(format: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The options of a format, from the command line.

    Raises:
        ConfigError: there is no such format or option, or it cannot have this value.
    """
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"preprocess export --format {format}", exit_on_error=False)
    parser.add_function_arguments(_module(format).export, skip={"run", "dest"}, as_group=False)
    try:
        return dict(parser.parse_args(list(arguments)).as_dict())
    except ArgumentError as error:
        raise ConfigError(f"--format {format}: {' '.join(str(error).split())}") from error


def export(folder: Path, format: str, dest: Path, **options: Any) -> list[Path]:
    """Write the committed samples of the run in `folder` to files in `dest`, which is made if it is not there.

    Args:
        folder: of the run.
        format: one of `format_names()`.
        dest: folder to write to.
        options: of the format.

    Returns:
        The files written. Shards that are committed while this goes on are not in them.

    Raises:
        ConfigError: there is no such format, it cannot hold the run's layout, or a file it would write exists.
        RunError: `folder` is no run, has nothing committed, or holds samples of another kind.
        EnvironmentFailure: the files cannot be written; none of them is there.
    """
    module = _module(format)
    run = Snapshot(folder)
    committed = [each.committed() for each in run.with_retries]  # from here on, these
    if not any(committed):
        raise RunError(f"nothing is committed in {folder}: run it first")
    try:
        written: list[Path] = module.export(run, dest, **options)
    except OSError as error:
        raise EnvironmentFailure(f"the export to {dest} failed, and nothing was written: {error}") from error
    return written


def _module(format: str) -> Any:
    if format not in format_names():
        raise ConfigError(f"--format {format}: there is no such format; choose from {', '.join(format_names())}")
    return importlib.import_module(f"{formats.__name__}.{format.replace('-', '_')}")
