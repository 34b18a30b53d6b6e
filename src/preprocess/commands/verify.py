"""`preprocess verify`: check whether a run is intact, and repair it with `--repair`."""

from collections.abc import Sequence

from datamodules.run.bucket import open_store
from datamodules.run.folder import Run
from datamodules.run.outcome import device_mix
from datamodules.run.store import Store
from preprocess.commands.arguments import parser_of
from preprocess.commands.repair import repair
from preprocess.integrity import Coverage, coverage, plan_problems, verify
from preprocess.terminal import Parser, say


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess verify` and return its exit status: 1 if a problem is left, else 0."""
    options = parser().parse_args(arguments)
    store = open_store(options.folder)
    if damaged := plan_problems(store):
        for line in damaged:
            say(line)
        return 1
    run = Run(store)
    problems = []
    for problem in verify(run):
        problems.append(problem)
        say(str(problem))
    if options.repair:
        for line in repair(run, problems):
            say(line)
        problems = [problem for problem in problems if not problem.is_open and not problem.is_repairable]
    _say_verdict(store, coverage(Run(store)), len(problems))
    return 1 if problems else 0


def parser() -> Parser:
    """Return the parser of the command's options."""
    parser = parser_of(
        "verify", "Check every record, hash, count and key of a run. The exit status is 1 if something is wrong."
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="delete damaged shards, so that the command of the run makes them again; move stray files to O/stray",
    )
    return parser


def _say_verdict(store: Store, covered: Coverage, num_problems: int) -> None:
    if num_problems:
        verdict = "1 problem" if num_problems == 1 else f"{num_problems:,} problems"
    elif covered.missing:
        verdict = f"{covered.missing:,} items have to be done again: rerun the same command"
    else:
        verdict = "everything is as it should be"
    if len(covered.devices) > 1:
        say(f"made on several device models: {device_mix(covered.devices)}")
    say(
        f"{store}: {covered.planned:,} planned = {covered.committed:,} committed + {covered.failed:,} failed"
        f" + {covered.missing:,} missing; {verdict}"
    )
