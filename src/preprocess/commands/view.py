"""`preprocess view`: what a run holds, or one sample of it."""

from collections.abc import Sequence

from datamodules.run.folder import Run
from preprocess.commands.arguments import add_kind, parser_of
from preprocess.report.view import view
from preprocess.terminal import Parser, Terminal


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess view` and return its exit status."""
    options = parser().parse_args(arguments)
    view(Run(options.folder), options.key, Terminal())
    return 0


def parser() -> Parser:
    """Return the parser of the command's options."""
    parser = parser_of("view", "Show what a run holds: its splits, its items, and statistics of its samples.")
    add_kind(parser)
    parser.add_argument("key", metavar="KEY", nargs="?", help="show the item with this key instead")
    return parser
