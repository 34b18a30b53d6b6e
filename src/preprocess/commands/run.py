"""`preprocess run`: run a pipeline over a corpus, resume a run, or join one."""

import signal
from collections.abc import Sequence
from dataclasses import replace

from datamodules.card import write_card
from datamodules.errors import ConfigError, TooManyFailures
from datamodules.run.cleanup import clean_up
from datamodules.run.failure_limit import FailureLimit
from datamodules.run.folder import Run
from preprocess.commands.arguments import add_since
from preprocess.integrity import coverage
from preprocess.job.pipeline_cli import parse_pipeline
from preprocess.job.pipeline_help import PipelineParser
from preprocess.job.placement import is_first_on_machine
from preprocess.job.progress import quiet
from preprocess.job.session import Job, Session
from preprocess.report.summary import summary
from preprocess.terminal import note, note_all

_NO_LIMIT = FailureLimit()


def main(argv: Sequence[str], began: float) -> int:
    """Run `preprocess run`.

    Args:
        argv: its options.
        began: when the command started; see `extension.extend`.

    Returns:
        The exit status.
    """
    quiet()
    return predict(parse_run(argv, began))


def parser() -> PipelineParser:
    """Return the parser of the command's own options."""
    parser = PipelineParser("run", "Run a pipeline over a corpus, resume a run, or join one.")
    parser.add_argument("--extend", action="store_true", help="plan the items too that the corpus has gained since")
    add_since(parser, "with --extend: do not list the corpus again if the run was extended after this time")
    return parser


def parse_run(argv: Sequence[str], began: float) -> Job:
    """Return the job of `preprocess run` with the options `argv`.

    Raises:
        ConfigError: see `parse_pipeline`; or `--since` has no effect.
    """
    options, others = parser().parse_known_args(argv)
    if options.since and not options.extend:
        raise ConfigError("--since has no effect without --extend: add it, or leave --since out")
    job = parse_pipeline(others, command=parser()).job()
    return replace(job, extended_since=options.since or began) if options.extend else job


def predict(job: Job) -> int:
    """Run a job, check the coverage of its run, and print how it ended. Returns the exit status."""
    with Session(job) as session:
        try:
            if not session.run.is_complete():  # else a process that starts late ends without loading a model
                session.predict()
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns it into SystemExit
                raise KeyboardInterrupt from None
            raise
        spooled = sum(len(opened.spool.results) for opened in session.rank.open.values())
    stopped = session.rank.stopping
    if stopped:
        note(
            f"stopped by {signal.Signals(stopped).name}. Finished work is safe, including {spooled:,} items of "
            "unfinished shards. Rerun the same command to resume",
            "yellow",
        )
    limit = FailureLimit() if job.retry else job.output.tolerance().limit
    status = conclude(session.run, job.output.only is not None, limit)
    return 128 + stopped if stopped and status else status


def conclude(worked_on: Run, partial: bool, limit: FailureLimit = _NO_LIMIT) -> int:
    """Check the coverage of a run, write its dataset card, and print how it ended.

    Args:
        worked_on: the run, or a retry of it.
        partial: whether the command processed only a part of the run.
        limit: limit on the failures of the complete run. A short run is not checked against it before its end.

    Returns:
        The exit status.
    """
    run = Run(worked_on.store)
    covered = coverage(run)
    is_done = covered.is_exact and worked_on.is_complete()
    if is_done and all(retry.is_complete() for retry in run.retries):
        clean_up(run)
    if not covered.problems:
        write_card(run)
    has_failed = is_done and limit.is_exceeded_in_all(covered.failed, covered.planned)
    if is_first_on_machine():
        for problem in covered.problems:
            note(str(problem), "red")
        note(
            f"{run.store}: {covered.planned:,} planned = {covered.committed:,} committed + {covered.failed:,} failed"
            f" + {covered.missing:,} missing",
            "green" if is_done and not has_failed else "yellow",
        )
        if has_failed:
            note(
                f"more items have failed than --output.max_failures {limit} allows. Check `preprocess failures "
                f"{run.store}` for a common cause, then try them again with `preprocess retry {run.store}`",
                "red",
            )
        elif is_done:
            note_all(summary(worked_on, covered.failure_classes, covered.efforts[worked_on.retry]))
    if has_failed:
        return TooManyFailures.exit_status
    return 0 if is_done or (partial and not covered.problems) else 1
