"""`preprocess export`: the samples of a run in a format that other code reads."""

from argparse import SUPPRESS, ArgumentError, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any

from datamodules.errors import ConfigError
from preprocess.commands.arguments import add_dest, add_folder, add_kind, local_path
from preprocess.destination import destination
from preprocess.export.format import Format, all_formats
from preprocess.terminal import Parser, say


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess export`, print the files that it has written, and return its exit status."""
    first = Parser("preprocess export", add_help=False, allow_abbrev=False)
    first.add_argument("--format")
    first.add_argument("-h", "--help", action="store_true")
    options, _ = first.parse_known_args(arguments)
    chosen = Format(options.format) if options.format else None
    if options.help or chosen is None:
        return _explain(_list_of_formats() if chosen is None else _options_of(chosen), arguments)
    parsed = _parsed(chosen, arguments)
    with destination(parsed.pop("dest")) as dest:
        folder, exclude, where = (parsed.pop(name) for name in ("folder", "exclude", "where"))
        written = chosen.write(folder, dest.folder, exclude or (), where, **parsed)
    for path in written:
        say(dest.locate(path))
    return 0


def _explain(more: str, arguments: Sequence[str]) -> int:
    """Exit with the help and `more`, or with the message that `--format` is missing."""
    command = parser()
    command.epilog = more
    command.parse_args(arguments)
    raise AssertionError("--format is required")


def parser() -> Parser:
    """Return the parser of the options that all formats have."""
    parser = Parser(
        "preprocess export",
        description="Write the committed samples of a run in a format that other code reads.",
        formatter_class=RawDescriptionHelpFormatter,
    )
    _add_arguments(parser)
    return parser


def _parsed(format: Format, arguments: Sequence[str]) -> dict[str, Any]:
    """Return `folder`, `dest` and the options of `format`, by name."""
    from jsonargparse import ArgumentParser as TypedParser  # takes 0.1 s to import

    parser = TypedParser("preprocess export", exit_on_error=False)
    _add_arguments(parser)
    format.add_options(parser)
    try:
        parsed = parser.parse_args(list(arguments)).as_dict()
    except ArgumentError as error:
        raise ConfigError(f"--format {format.name}: {' '.join(str(error).split())}") from error
    return {name: value for name, value in parsed.items() if name not in ("format", "kind")}


def _add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that all formats have."""
    add_folder(parser)
    parser.add_argument(
        "--format",
        metavar="F",
        required=True,
        help="name of a format, or dotted path of your own module; `--format F --help` shows the options of the format",
    )
    add_dest(parser)
    parser.add_argument(
        "--exclude",
        metavar="FILE",
        type=local_path,
        help="leave out the samples whose keys this text file lists, one key per line",
    )
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        help="only samples that meet this condition on the tables, such as 'num_frames >= 16 and left_hand_rate > 0.5'",
    )
    add_kind(parser)


def _options_of(format: Format) -> str:
    """Return what `format` writes, and the help of its options."""
    from jsonargparse import ArgumentParser as TypedParser

    parser = TypedParser(usage=SUPPRESS, add_help=False)
    format.add_options(parser)
    options = parser.format_help().replace("options:", f"options of {format.name}:", 1)
    return f"{format.name}:\n  {format.summary}\n\n{options}"


def _list_of_formats() -> str:
    """Return the formats and what they write, by the class of the samples that they take."""
    lines = ["formats, by the samples that they take:"]
    by_kind: dict[str, list[str]] = {}
    for known in all_formats():
        kind = known.samples.__name__ if known.samples else "any"
        by_kind.setdefault(kind, []).append(f"    {known.name:<16} {known.summary}")
    for kind, rows in sorted(by_kind.items()):
        lines += ["", f"  {kind}", *rows]
    return "\n".join(lines)
