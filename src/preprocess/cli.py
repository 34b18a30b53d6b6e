"""The command line. `run`, `retry`, `ray`, `estimate` and `check` import torch; the others start at once.

| exit status | meaning                                                                                            |
|-------------|----------------------------------------------------------------------------------------------------|
| 0           | done. `run`: every planned item is committed or failed. `retry`: every failed item was tried       |
|             | again. `verify --repair`: every problem is repaired; shards may have to be made again              |
| 1           | `verify`, `check` or `models` found a problem, or a run ended before all items were committed or   |
|             | failed                                                                                             |
| 2           | wrong options, corpus, folder, bucket or installation; nothing was started                         |
| 3           | the environment failed (disk full, …). Finished work is safe; rerun the command to resume          |
| 4           | more items failed than `--output.max_failures` allows                                              |
| 128 + n     | stopped by signal n (130: Ctrl-C). Finished work is safe; rerun the command to resume              |
"""

import errno
import gc
import importlib
import io
import os
import sys
import time
from collections.abc import Sequence
from types import ModuleType

import psutil

from datamodules.errors import ConfigError, EnvironmentFailure, FramemillError
from datamodules.messages import escape_messages
from datamodules.object_store import is_url
from preprocess.early_start import start_fork_server
from preprocess.terminal import Parser, note

_BEGAN = "FRAMEMILL_BEGAN"  # environment variable

COMMANDS = {  # each is a module of preprocess.commands
    "run": "run a pipeline over a corpus, resume a run, or join one",
    "configs": "list the configurations that `run` takes by name, or print one",
    "check": "list the items that would fail in a run, without running the pipeline",
    "estimate": "run a few items of a corpus, and estimate hours and disk space for all of it",
    "retry": "try the failed items of a run again",
    "ray": "start `run` or `retry` on the nodes of a Ray cluster",
    "sbatch": "print or submit a SLURM job that runs or retries",
    "status": "show the progress of a run, while it runs and afterwards",
    "view": "show what a run holds, or one of its samples",
    "failures": "list the items that failed, where and why",
    "report": "make a page to look at: counts, timeline, failures, distributions, samples",
    "verify": "check every record, hash, count and key of a run; `--repair` repairs the run",
    "visualize": "draw samples: PNG, MP4 or HTML",
    "export": "write the samples in a format that other code reads",
    "merge": "merge complete runs into one",
    "models": "show where the models of MediaPipe Holistic are, or fetch them ahead of a run",
    "completion": "print a script that completes commands and options in a shell",
    "sample": "create a small demo corpus",
    "demo": "preprocess the demo corpus, and open the report of the run",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; see the table above.

    Args:
        argv: the arguments; None: those of this process, whose output is then escaped (`datamodules.messages`).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    began = _began() if argv is None else time.time()  # before torch is imported, which takes seconds
    if argv is None:
        escape_messages()
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may not fit the locale's encoding
        sys.stdout.reconfigure(errors="backslashreplace")  # as sys.stderr does already
    try:
        return _run(_parser().parse_args(arguments[:1]).command, arguments[1:], began)
    except BrokenPipeError:  # `preprocess view O | head`
        sys.stderr.close()
        return 0
    except FramemillError as error:
        note(f"error: {error}", "red")
        return error.exit_status
    except OSError as error:
        if not is_url(error.filename):
            raise
        note(f"error: {error.filename}: {error.strerror}", "red")  # of an object store, which says all there is to say
        is_missing = error.errno == errno.ENOENT  # the bucket, or an object
        return (ConfigError if is_missing else EnvironmentFailure).exit_status
    except KeyboardInterrupt:
        return 130


def _parser() -> Parser:
    parser = Parser(
        "preprocess",
        description="Turn raw image and video corpora into training data.",
        epilog="`preprocess COMMAND --help` shows the options of a command.",
    )
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)  # the command's own module parses its options
    return parser


def _run(command: str, arguments: Sequence[str], began: float) -> int:
    """Import the module of `command` and run it: importing all of them would cost seconds."""
    if command in ("run", "retry", "estimate", "check"):
        start_fork_server(command, arguments)
    module = _import_without_gc(f"preprocess.commands.{command}")
    status: int = module.main(arguments, began) if command in ("run", "retry", "ray") else module.main(arguments)
    return status


def _import_without_gc(name: str) -> ModuleType:
    """Return an imported module, whose objects the garbage collector never looks at.

    Importing Lightning makes 530,000 objects and no garbage. Looking at them takes 0.6 s while they are made, 0.3 s in
    each full collection later, and a second when the interpreter ends.
    """
    if name in sys.modules:
        return sys.modules[name]
    gc.disable()
    try:
        module = importlib.import_module(name)
        gc.freeze()
    finally:
        gc.enable()
    return module


def _began() -> float:
    """Return when this command was started, in seconds since the epoch; up to 1 s late.

    Ranks that Lightning starts, as copies of this process, find the time in their environment: they are one command.
    """
    began = psutil.Process().create_time() + 1.0  # create_time is up to 1 s early: Linux has its boot time in whole s
    return float(os.environ.setdefault(_BEGAN, repr(began)))
