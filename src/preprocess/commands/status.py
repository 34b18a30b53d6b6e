"""`preprocess status`: how far a run is, while it runs and after a crash."""

from collections.abc import Sequence

from datamodules.run.folder import Run
from preprocess.commands.arguments import parser_of
from preprocess.report.display import watch
from preprocess.report.status import StatusReader, render
from preprocess.report.summary import summary
from preprocess.terminal import Parser, Terminal, say


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess status` and return its exit status."""
    options = parser().parse_args(arguments)
    run, terminal = Run(options.folder), Terminal()
    if options.watch:
        status = watch(run, terminal)
    else:
        status = StatusReader(run).read()
        if options.json:
            say(status.to_json())
            return 0
        terminal.print(render(status))
    if status.effort:
        for line in summary(run, status.failure_classes, status.effort):
            say(line)
    return 0


def parser() -> Parser:
    """Return the parser of the command's options."""
    parser = parser_of(
        "status",
        "Show how far a run is: items done and failed, rate, time left, bottleneck. Reads the run folder only, so it "
        "works from any machine, while the run is going on and afterwards.",
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    forms.add_argument("--watch", action="store_true", help="go on showing it until the run is complete")
    return parser
