"""Arguments that several commands have in common."""

from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime
from pathlib import Path

from datamodules.object_store import is_url
from datamodules.run.kind import import_kind
from preprocess.terminal import Parser


def parser_of(command: str, description: str) -> Parser:
    """Return the parser of a command that works on a run: its first argument, `folder`, is the folder of the run."""
    parser = Parser(f"preprocess {command}", description=description)
    add_folder(parser)
    return parser


def add_folder(parser: ArgumentParser) -> None:
    """Add the first argument, the folder of a run. It stays a text, because a Path has one slash of `s3://` only."""
    parser.add_argument("folder", metavar="O", help="folder or URL of the run (its --output.dir)")


def add_dest(parser: ArgumentParser) -> None:
    """Add the required option `--dest`."""
    parser.add_argument(
        "--dest", metavar="D", required=True, help="folder to write to, or URL of a new one in a bucket"
    )


def add_since(parser: ArgumentParser, what: str) -> None:
    """Add the option `--since`, a time in seconds since the epoch, which does `what`."""
    parser.add_argument(
        "--since",
        metavar="TIME",
        type=_seconds,
        help=f"{what}; such as 2026-11-30T18:00:00+00:00. For the processes of one job, which may start late",
    )


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not a time such as 2026-11-30T18:00:00+00:00") from error


def local_path(text: str) -> Path:
    """Return a path on this machine, as the `type` of an argument.

    Raises:
        ArgumentTypeError: `text` is a URL.
    """
    if is_url(text):
        raise ArgumentTypeError(f"{text} is a URL. Give a path on this machine")
    return Path(text)


def add_kind(parser: ArgumentParser) -> None:
    """Add the option `--kind`, which imports the class that it names: see `datamodules.run.kind`."""
    parser.add_argument(
        "--kind",
        metavar="CLASS",
        type=import_kind,
        help="sample kind of your own, as a dotted class path. It is imported: name only code that you trust",
    )
