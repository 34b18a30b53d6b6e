"""`preprocess configs`: list the installed configurations, or print one. Without torch."""

from collections.abc import Sequence

from preprocess.configurations import find_configuration, summaries
from preprocess.terminal import Parser, say


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess configs` and return its exit status."""
    name = parser().parse_args(arguments).name
    if name:
        for line in find_configuration(name).read_text("utf-8").splitlines():
            say(line)
        return 0
    by_name = summaries()
    width = max(map(len, by_name))
    for name, summary in by_name.items():
        say(f"{name:<{width}}  {summary}")
    return 0


def parser() -> Parser:
    """Return the parser of the command's options."""
    parser = Parser(
        "preprocess configs",
        description="List the configurations that `run`, `estimate` and `check` take by name. Or print one, to edit "
        "it: preprocess configs keypoints > my.yaml; then run it with --config my.yaml.",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of the configuration to print")
    return parser
