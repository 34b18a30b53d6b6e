"""`preprocess sbatch`: print or submit a SLURM job whose tasks work on one run. Without torch.

The job is an array of identical tasks of one node each. Ranks need nothing from each other, so each task starts when a
node is free, instead of all when all are; and a task that is preempted or has lost its node is requeued alone.
"""

import math
import os
import re
import shlex
import subprocess
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.resources import files

from jinja2 import StrictUndefined, Template

from datamodules.errors import ConfigError
from datamodules.printable import printable
from preprocess.configurations import with_config
from preprocess.terminal import Parser, note, say

_COMMANDS = ("run", "retry")
_SIGNAL_SECONDS = 120  # the ranks get the signal to stop this long before the time limit
_GRACE_SECONDS = 100  # of these, for in-flight items
_FIXED = {  # options of sbatch that the script relies on: what to use instead
    "array": "--nodes, the number of tasks",
    "ntasks": "--ranks-per-node",
    "ntasks-per-node": "--ranks-per-node",
    "no-requeue": "`scancel`, which ends the job for good",
    "signal": "--output.grace_seconds of the run, up to 100",
}


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess sbatch` and return its exit status."""
    command = parser()
    start = next((index for index, word in enumerate(arguments) if word in _COMMANDS), len(arguments))
    options, others = command.parse_known_args(arguments[:start])
    if start == len(arguments):
        command.error("name the command that the ranks run, with its options: run … or retry …")
    if arguments[start + 1 : start + 2] and arguments[start + 1] in _COMMANDS:
        name = arguments[start]
        command.error(f"{name} {arguments[start + 1]}: write --OPTION={name} if the first {name} is a value of sbatch")
    if not 0 <= options.gpus_per_rank <= 1:
        command.error(f"--gpus-per-rank {options.gpus_per_rank:g}: a rank uses 1 GPU, a part of one (0.5) or none (0)")
    made_by = " ".join(["preprocess sbatch", *map(_quoted, arguments)])
    script = _script(made_by, {**_resources(options), **_sbatch_options(others)}, arguments[start:])
    if options.submit:
        _submit(script)
    else:
        for line in script.splitlines():
            say(line)
    return 0


def parser() -> Parser:
    """Return the parser of the command's own options."""
    parser = Parser(
        "preprocess sbatch",
        usage="preprocess sbatch [options] [any option of sbatch, in its long form] {run,retry} …",
        description="Print a SLURM script whose tasks work on one run, or submit it. All tasks are the same: each "
        "takes one node and starts ranks on it. Until the run is complete, a task is requeued when it is preempted, "
        "loses its node or reaches its time limit.",
        allow_abbrev=False,
    )
    parser.add_argument("--nodes", type=_positive, default=1, metavar="N", help="tasks, each of one node (1)")
    parser.add_argument("--ranks-per-node", type=_positive, default=1, metavar="N", help="ranks on each node (1)")
    parser.add_argument("--gpus-per-rank", type=float, default=0, metavar="N", help="1, 0 (default), or a part of one")
    parser.add_argument("--cpus-per-rank", type=_positive, metavar="N", help="cores (the cluster's default)")
    parser.add_argument("--submit", action="store_true", help="pass the script to sbatch, and print the job's id")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _resources(options: Namespace) -> dict[str, str | None]:
    """Return the options of sbatch that the script sets, by name; None: without a value."""
    gpus = math.ceil(round(options.gpus_per_rank * options.ranks_per_node, 6))  # 10 x 0.1 are 1
    return {
        "job-name": "framemill",
        "array": f"0-{options.nodes - 1}",
        "nodes": "1",
        "ntasks-per-node": str(options.ranks_per_node),
        **({"gpus-per-node": str(gpus)} if gpus else {}),
        **({"cpus-per-task": str(options.cpus_per_rank)} if options.cpus_per_rank else {}),
        "output": "%x-%A_%a.log",
        "open-mode": "append",
        "requeue": None,
        "signal": f"USR1@{_SIGNAL_SECONDS}",
    }


def _sbatch_options(words: Sequence[str]) -> dict[str, str | None]:
    """Return options of sbatch by name, from `--name value`, `--name=value` and `--name`, whose value is None.

    Raises:
        ConfigError: a word is none of these, an option is one of `_FIXED`, or a value has control characters.
    """
    options: dict[str, str | None] = {}
    name = ""
    for word in words:
        if re.fullmatch("--[a-z][a-z0-9-]*(=.*)?", word, re.DOTALL):
            name, equals, value = word[2:].partition("=")
            options[name] = value if equals else None
        elif name and options[name] is None and not word.startswith("-"):
            options[name] = word
        else:
            raise ConfigError(
                f"{word!r} is not an option of sbatch in its long form, such as --partition gpu or --exclusive"
            )
        if name in _FIXED:
            raise ConfigError(f"--{name} is set by the script, whose ranks rely on it. Use {_FIXED[name]}")
        if (value := options[name] or "") != printable(value):
            raise ConfigError(f"--{name} {value!r} has control characters, which a line of the script cannot hold")
    return options


def _script(made_by: str, options: Mapping[str, str | None], command: Sequence[str]) -> str:
    """Return the script of the job.

    Args:
        made_by: the command line, for its header.
        options: of sbatch, by name; None: without a value.
        command: `run` or `retry` and its options.

    Raises:
        ConfigError: `run` is followed by a bare word that is no configuration.
    """
    own = [f"--output.grace_seconds={_GRACE_SECONDS}"]  # before the options of the user, which take precedence
    if command[0] == "retry" or "--extend" in command:  # all tasks, late ones too, are to work on one of them
        own.append(f"--since={datetime.now(timezone.utc).isoformat(timespec='seconds')}")
    given = with_config(command[1:]) if command[0] == "run" else command[1:]
    words = [sys.executable, "-m", "preprocess", command[0], *own, *given]
    lines = [f"--{name}" + ("" if value is None else f"={_sbatch_quoted(value)}") for name, value in options.items()]
    template = files("preprocess.commands").joinpath("sbatch.sh.jinja").read_text("utf-8")
    script: str = Template(template, undefined=StrictUndefined, keep_trailing_newline=True).render(
        made_by=made_by, options=lines, command=" ".join(map(_quoted, words))
    )
    return script


def _sbatch_quoted(value: str) -> str:
    """Return a value as sbatch reads it: quotes are those of a shell, but a backslash escapes also within them."""
    return shlex.quote(value).replace("\\", "\\\\")


def _quoted(argument: str) -> str:
    r"""Return an argument as a word of bash that is printable, and exact: `$'\033'` has what may not be shown."""
    if printable(argument) == argument:
        return shlex.quote(argument)
    plain = set(range(32, 127)).difference(b"'\\")
    return "$'" + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in os.fsencode(argument)) + "'"


def _submit(script: str) -> None:
    """Pass the script to sbatch and print the id of the job.

    Raises:
        ConfigError: there is no sbatch here, or it refuses the script.
    """
    try:
        done = subprocess.run(["sbatch", "--parsable"], input=os.fsencode(script), capture_output=True, check=False)
    except FileNotFoundError as error:
        raise ConfigError(
            "there is no sbatch on this machine. Use --submit on a login node of the cluster, or leave it out to print "
            "the script"
        ) from error
    messages = " ".join(os.fsdecode(done.stderr).split())
    if done.returncode:
        raise ConfigError(f"sbatch refuses the job: {messages}")
    if messages:
        note(messages)
    say(os.fsdecode(done.stdout).strip())
