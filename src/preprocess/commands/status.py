"""`preprocess status`: how far a run is, while it runs and after a crash."""

from collections.abc import Sequence

from datamodules.run.folder import Run
from preprocess.commands.arguments import parser_of
from preprocess.report.status import StatusReader, render
from preprocess.terminal import Terminal, say


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess status` and return its exit status."""
    parser = parser_of(
        "status",
        "Show how far a run is: items done and failed, rate, time left, bottleneck. Reads the run folder only, so it "
        "works from any machine, while the run is going on and afterwards.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    options = parser.parse_args(arguments)
    status = StatusReader(Run(options.folder)).read()
    if options.json:
        say(status.to_json())
    else:
        Terminal().print(render(status))
    return 0
