"""Arguments that several commands have in common."""

from argparse import ArgumentParser
from pathlib import Path

from datamodules.run.kind import import_kind
from preprocess.terminal import Parser


def parser_of(command: str, description: str) -> Parser:
    """Return the parser of a command that works on a run: its first argument, `folder`, is the folder of the run."""
    parser = Parser(f"preprocess {command}", description=description)
    add_folder(parser)
    return parser


def add_folder(parser: ArgumentParser) -> None:
    """Add the first argument, the folder of a run."""
    parser.add_argument("folder", metavar="O", type=Path, help="folder of the run (its --output.dir)")


def add_dest(parser: ArgumentParser) -> None:
    """Add the required option `--dest`."""
    parser.add_argument("--dest", metavar="D", type=Path, required=True, help="folder to write to")


def add_samples(parser: ArgumentParser) -> None:
    """Add the option `--samples`, which imports the class that it names: see `datamodules.run.kind`."""
    parser.add_argument(
        "--samples",
        metavar="CLASS",
        type=import_kind,
        help="sample kind of your own, as a dotted class path. It is imported: name only code that you trust",
    )
