"""Records when the steps of a start begin and end, in each process of a run, for `benchmarks/startup.py`.

Python imports a `sitecustomize` on PYTHONPATH at its start. This one appends a line "step seconds-since-the-epoch" to
the file of this process in $STARTUP_STEPS when a module in `_MODULES` has been imported, or a function in `_FUNCTIONS`
has returned for the first time in this process.
"""

import functools
import os
import sys
import time
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_MODULES = {  # name: step
    "preprocess.cli": "cli",
    "torch": "torch",
    "lightning": "lightning",
    "preprocess.commands.run": "command",
    "datamodules.loading.loader": "loader",
    "cv2": "cv2",
}
_FUNCTIONS = {  # module: (class or "", function, step)
    "preprocess.commands.run": ("", "parse_run", "parsed"),
    "preprocess.job.session": ("Session", "__enter__", "opened"),
    "datamodules.worker_process": ("", "begin_worker", "worker"),
    "preprocess.holistic.frame_results": ("LiteRTTransform", "__init__", "transform"),
    "preprocess.holistic.litert_landmarker": ("LiteRTLandmarker", "__call__", "frame"),
    "datamodules.run.rank": ("Rank", "add", "sample"),
}
_STEPS: set[str] = set()


def _record(step: str) -> None:
    if step not in _STEPS:
        _STEPS.add(step)
        with open(f"{os.environ['STARTUP_STEPS']}/{os.getpid()}", "a") as file:
            file.write(f"{step} {time.time()}\n")


class _RecordingLoader(Loader):
    """Loads a module as `loader` does, and records its steps."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Do as the loader does."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Import the module, and wrap the function of it that is a step."""
        module.__spec__.loader = self._loader  # type: ignore[union-attr]
        self._loader.exec_module(module)
        name = module.__name__
        if name in _FUNCTIONS:
            kind, function, step = _FUNCTIONS[name]
            _wrap(getattr(module, kind) if kind else module, function, step)
        if name in _MODULES:
            _record(_MODULES[name])


def _wrap(owner: Any, name: str, step: str) -> None:
    wrapped = getattr(owner, name)

    @functools.wraps(wrapped)
    def recording(*args: Any, **kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        _record(step)
        return result

    setattr(owner, name, recording)


class _Finder(MetaPathFinder):
    """Finds the modules whose steps are recorded."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of the module, with a recording loader."""
        spec = PathFinder.find_spec(name, path) if name in _MODULES or name in _FUNCTIONS else None
        if spec and spec.loader:
            spec.loader = _RecordingLoader(spec.loader)
        return spec


_record("python")
sys.meta_path.insert(0, _Finder())
