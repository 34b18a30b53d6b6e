"""`preprocess completion`: a script by which a shell completes commands, configurations, options and their values.

The script is made once and holds all words: asking Python for them at each key would take seconds, as the options of a
pipeline are known only when torch and its classes are imported.
"""

import re
import sys
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Sequence
from importlib import import_module

import shtab
import yaml

from preprocess.cli import COMMANDS
from preprocess.configurations import find_configuration, summaries
from preprocess.export.format import all_formats
from preprocess.job.pipeline_help import PipelineParser, first_sentence, pipeline_parser
from preprocess.terminal import Parser

_PATHS = ("D", "DIR", "FILE", "O", "R")  # placeholders of folders and files


def main(arguments: Sequence[str]) -> int:
    """Print the script for a shell and return the exit status."""
    shell = parser().parse_args(arguments).shell
    sys.stdout.write(shtab.complete(_all_commands(), shell) + "\n")  # with its tabs; it has no text of others
    return 0


def parser() -> Parser:
    """Return the parser of the command's options."""
    parser = Parser(
        "preprocess completion",
        description="Print a script that completes commands, configurations, options and their values in a shell: "
        "preprocess completion bash > ~/.local/share/bash-completion/completions/preprocess",
    )
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="name of the shell")
    return parser


def _all_commands() -> ArgumentParser:
    """Return a parser that knows the options of all commands, and after the name of a configuration those of it."""
    root = ArgumentParser("preprocess")
    commands = root.add_subparsers()
    for command, text in COMMANDS.items():
        own: Parser = import_module(f"preprocess.commands.{command}").parser()
        if not isinstance(own, PipelineParser):
            commands.add_parser(command, help=text, parents=[_completed(own)], add_help=False)
            continue
        own.add_general()
        shared = [_completed(own), _completed(pipeline_parser({}, everything=False))]
        names = commands.add_parser(command, help=text, parents=shared, add_help=False).add_subparsers()
        for name, summary in summaries().items():
            config = yaml.safe_load(find_configuration(name).read_text("utf-8"))
            options = _completed(pipeline_parser(config, everything=False))
            names.add_parser(name, help=summary, parents=[own, options], add_help=False)
    return root


def _completed(parser: ArgumentParser) -> ArgumentParser:
    """Return `parser`, whose actions say how a shell completes their values: by choices, or as paths."""
    for action in parser._actions:
        choices = re.fullmatch(r"\{(.+)\}", str(action.metavar))  # as jsonargparse shows them
        kind = str(getattr(action, "_typehint", action.type))  # `_typehint`: of a union
        if choices:
            action.choices = choices[1].split(",")
        elif action.dest == "format":
            action.choices = [known.name for known in all_formats()]
        elif action.dest == "name":
            action.choices = list(summaries())
        elif action.dest == "trainer.accelerator":
            action.choices = ["auto", "cpu", "gpu"]
        elif action.metavar in _PATHS or (action.metavar is None and re.search(r"\bstr\b|Path", kind)):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        if action.help and action.help != SUPPRESS:
            action.help = first_sentence(action.help).replace("%", "%%")  # argparse formats it
    return parser
