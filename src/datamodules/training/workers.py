"""The start of the workers of a training: what they import, and when.

A DataLoader's workers import the script that made it, once each, because the samples may be of a class in it. A script
mostly imports Lightning, and its import takes a worker longer than many a first epoch. So workers whose samples need
nothing of the script do not import it.
"""

import pickle
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.popen_forkserver import Popen
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import Dataset

from datamodules.samples import SampleKind
from datamodules.worker_process import fork_server


def start_server(samples: SampleKind[Any] | Mapping[str, SampleKind[Any]]) -> ForkServerContext:
    """Start the fork server of this process, unless it runs. It imports torch while the caller goes on.

    Args:
        samples: the kind of the samples, or kinds by name. The server imports ours. Those of a user might start threads
            when they are imported, which a server that forks must not have.
    """
    kinds = samples.values() if isinstance(samples, Mapping) else [samples]
    modules = {type(kind).__module__ for kind in kinds}
    own = sorted(module for module in modules if module.startswith("datamodules."))
    return fork_server(["datamodules.training.batches", "datamodules.training.sequential", *own])


def context_of(batches: Dataset[Any]) -> ForkServerContext:
    """Return the context that starts workers for a dataset from the fork server, which `start_server` started."""
    return ForkServerContext() if _needs_script(batches) else _ScriptlessContext()


def _needs_script(batches: Dataset[Any]) -> bool:
    """Return whether something in a dataset is defined in the script; in doubt, it is."""
    try:
        return b"__main__" in pickle.dumps(batches)
    except RuntimeError:  # a lock or a queue in it, which is pickled for a process only
        return True


class _ScriptlessProcess(ForkServerProcess):
    """A process that does not import the script that starts it."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Popen:  # noqa: N802 # a name of multiprocessing
        # multiprocessing has no option for it, but imports no script where there is none, as in an interactive session
        script = vars(sys.modules["__main__"])
        names: dict[str, Any] = {name: script[name] for name in ("__file__", "__spec__") if name in script}
        script.update(dict.fromkeys(names))
        try:
            return ForkServerProcess._Popen(process_obj)
        finally:
            script.update(names)


class _ScriptlessContext(ForkServerContext):
    Process = _ScriptlessProcess
