"""The sample kind of a run, whose class is named in the plan."""

import sys
from pkgutil import resolve_name
from typing import Any

from datamodules.errors import ConfigError, RunError
from datamodules.run.folder import Run
from datamodules.samples import SampleKind

_OWN = "datamodules.samples."


def kind_of(run: Run) -> SampleKind[Any]:
    """Return the kind of the samples of `run`, constructed without arguments.

    Raises:
        ConfigError: see `class_of`; or the constructor needs arguments.
        RunError: see `class_of`.
    """
    kind = class_of(run)
    try:
        return kind()
    except TypeError as error:
        raise ConfigError(
            f"{class_path_of(run)} cannot be constructed without arguments: {error}. Give them default values"
        ) from error


def class_of(run: Run) -> type[SampleKind[Any]]:
    """Return the class of the samples of `run`.

    A plan may come from someone else, and importing a module runs its code. So a class outside `datamodules.samples` is
    used only if the program has imported its module already, as `import_kind` does.

    Raises:
        ConfigError: the class is not Framemill's, and its module is not imported.
        RunError: the plan names no class, or a class that is not a `SampleKind`.
    """
    class_path = class_path_of(run)
    if not class_path.startswith(_OWN) and _imported_module(class_path) is None:
        raise ConfigError(
            f"{run.store} holds samples of {class_path}, which is not Framemill's, and importing it runs its code. If "
            f"you trust it, add --kind {class_path}"
        )
    try:
        return _checked(_resolved(class_path))
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise RunError(f"{run.store} holds samples of {class_path!r}, which cannot be used: {error}") from error


def class_path_of(run: Run) -> str:
    """Return the path of the class of the samples of `run`, such as `datamodules.samples.keypoints.KeypointSamples`.

    Raises:
        RunError: the plan does not name the class.
    """
    class_path: str = run.plan.fingerprint.get("samples", {}).get("class_path", "")
    if not class_path:
        raise RunError(f"the plan of {run.store} does not name the class of its samples")
    return class_path


def import_kind(class_path: str) -> str:
    """Import the class that `--kind` names, and return its path. Runs with samples of this class can then be read.

    Raises:
        ConfigError: the class cannot be imported, or is not a `SampleKind`.
    """
    try:
        _checked(resolve_name(class_path))
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(f"--kind {class_path} cannot be used: {error}") from error
    return class_path


def _checked(kind: Any) -> type[SampleKind[Any]]:
    if not (isinstance(kind, type) and issubclass(kind, SampleKind)):
        raise TypeError("it is not a subclass of datamodules.samples.SampleKind")
    return kind


def _resolved(class_path: str) -> Any:
    """Return the object that `class_path` names, in an imported module or in `datamodules.samples`."""
    if class_path.startswith(_OWN):
        return resolve_name(class_path)
    module = _imported_module(class_path) or ""
    return resolve_name(f"{module}:{class_path.removeprefix(module)[1:]}")


def _imported_module(class_path: str) -> str | None:
    """Return the name of the imported module that `class_path` begins with; None if it is not imported.

    The rest may be more than one name, because a class may be defined in another class.
    """
    parts = class_path.split(".")
    modules = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
    return next((module for module in modules if module in sys.modules), None)
