"""Export formats: which there are, what each needs, its options, and running it."""

import importlib
import inspect
import logging
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from datamodules.errors import ConfigError, EnvironmentFailure, RunError
from datamodules.run.keys import KeyList
from datamodules.run.kind import class_path_of
from datamodules.samples import SampleKind
from preprocess.export import formats
from preprocess.export.source import Source

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_log = logging.getLogger(__name__)


class Format:
    """An export format: a module with a function `export`; see `preprocess.export`.

    Args:
        name: one of `format_names()`, or the path of a module elsewhere (`my_package.my_format`).

    Attributes:
        name: as given.
        samples: the sample kind that the format accepts; None: any kind.
        summary: what it writes, in one line.

    Raises:
        ConfigError: there is no such format.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._module = _module_of(name)
        self.samples: type[SampleKind[Any]] | None = getattr(self._module, "SAMPLES", None)
        self.summary = (inspect.getdoc(self._module) or "").partition("\n")[0].rstrip(".")

    def add_options(self, parser: "ArgumentParser") -> None:
        """Add the options of the format, which are the further arguments of its function `export`."""
        parser.add_function_arguments(self._module.export, skip={"source", "dest"}, as_group=False)

    def write(
        self,
        folder: str | os.PathLike[str],
        dest: Path,
        exclude: KeyList = (),
        where: str | None = None,
        **options: Any,
    ) -> list[Path]:
        """Write the committed samples of the run in `folder` to `dest`.

        Shards that are committed meanwhile are left out.

        Args:
            folder: the run's folder.
            dest: folder to write to; made if it is missing.
            exclude: file with the keys of samples to leave out, or the keys; see `datamodules.run.keys`.
            where: only samples that meet this condition on the tables, see `datamodules.run.condition`; None: all.
            options: the format's options.

        Returns:
            The files written.

        Raises:
            ConfigError: the format cannot hold these samples, a file that it would write exists, `exclude` has keys
                that are not planned, `where` is no condition on the tables, or no sample is left.
            RunError: `folder` is not a run, has nothing committed, holds samples of another kind, or is damaged.
            EnvironmentFailure: the files cannot be written. None of them exists then.
        """
        source = Source(folder, self.samples, exclude, where)
        self._require_kind(source)
        committed = [
            part.committed() for part in source.run.with_retries
        ]  # listed for all parts now: shards committed later are not exported
        if not any(committed):
            raise RunError(f"no shard is committed in {folder} yet: run it first")
        if (exclude or where) and not any(source.committed(split) for split in source.splits):
            raise ConfigError(f"{source.run.store} has no samples but those that --exclude or --where leaves out")
        if source.num_undecided:
            _log.warning(
                "where=%r leaves out %s samples that lack a value which it compares", where, f"{source.num_undecided:,}"
            )
        try:
            written: list[Path] = self._module.export(source, dest, **options)
        except OSError as error:
            raise EnvironmentFailure(f"the export to {dest} failed, and nothing was written: {error}") from error
        return written

    def _require_kind(self, source: Source[Any]) -> None:
        if self.samples is None:
            return
        expected, actual = f"{self.samples.__module__}.{self.samples.__qualname__}", class_path_of(source.run)
        if actual != expected:
            raise RunError(
                f"{source.run.store} holds {_last_part(actual)}, but --format {self.name} needs "
                f"{self.samples.__name__}: choose another --format"
            )


def format_names() -> list[str]:
    """Return the names of Framemill's own formats."""
    return [module.name.replace("_", "-") for module in pkgutil.iter_modules(formats.__path__)]


def all_formats() -> Iterator[Format]:
    """Yield Framemill's own formats, whose modules are then imported."""
    return map(Format, format_names())


def export(
    folder: str | os.PathLike[str],
    format: str,
    dest: Path,
    exclude: KeyList = (),
    where: str | None = None,
    **options: Any,
) -> list[Path]:
    """Write the committed samples of a run in a format; see `Format` and its `write`."""
    return Format(format).write(folder, dest, exclude, where, **options)


def _module_of(name: str) -> ModuleType:
    if name in format_names():
        return importlib.import_module(f"{formats.__name__}.{name.replace('-', '_')}")
    if "." not in name:
        raise ConfigError(f"--format {name}: there is no such format; choose from {', '.join(format_names())}")
    try:
        module = importlib.import_module(name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"--format {name}: this module cannot be imported: {error}") from error
    if not callable(getattr(module, "export", None)):
        raise ConfigError(f"--format {name}: this module has no function `export`")
    return module


def _last_part(class_path: str) -> str:
    return class_path.rpartition(".")[2]
