"""The command line. `run`, `retry`, `estimate` and `check` import torch and lightning; the others start at once.

| exit status | meaning                                                                              |
|-------------|--------------------------------------------------------------------------------------|
| 0           | done; of `run`: every planned item is committed or failed; of `retry`: tried again;  |
|             | of `verify --repair`: all that was wrong is repaired, shards may have to be done     |
| 1           | `verify` or `check` found something wrong, or the coverage check of a run did        |
| 2           | wrong options, corpus, folder or installation: nothing was started                   |
| 3           | the environment failed (disk full, …): what is committed is safe, rerun the command  |
| 4           | more items failed than `--output.max_failures` allows                                |
| 128 + n     | stopped by signal n (130: Ctrl-C): what is committed or spooled is safe, run it again |
"""

import argparse
import io
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from datamodules.errors import FramemillError
from datamodules.messages import escape_messages
from datamodules.run.folder import Run, device_mix
from datamodules.run.retries import count_failures, failures
from preprocess.terminal import Parser, Terminal, note, say

_FORMATS = (
    "phoenix-pickle, phoenix-npz; clip4mc; captions-json, imagefolder; tracks-jsonl, grounded-sam2, coco-video, mot; "
    "openpose-txt, openpose-json, coco-keypoints, controlnet; parquet, jsonl"
)
_FORMAT_OPTIONS = (
    "Options of formats, which come last: --coordinates processed or original, of openpose-txt, openpose-json, "
    "coco-keypoints and controlnet; --people best or all, and --missing -1, of openpose-txt; --image_ids order or "
    "name, of coco-keypoints."
)
_Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is that of the table above."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    began = _began() if argv is None else time.time()  # before torch is imported, which takes seconds
    if argv is None:  # this process is ours
        escape_messages()
    if isinstance(sys.stdout, io.TextIOWrapper):  # as sys.stderr is: file names may not fit the locale's encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if arguments[:1] == ["retry"]:
            from preprocess.commands.run import retry

            return retry(arguments[1:], began)
        if arguments[:1] in (["run"], ["estimate"], ["check"]):
            from preprocess.commands import run

            return getattr(run, arguments[0])(arguments[1:])  # type: ignore[no-any-return]
        parser = _parser()
        options, more = parser.parse_known_args(arguments)
        if more and options.command is not _export:
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        options.more = more  # of the format
        command: _Command = options.command
        return command(options)
    except FramemillError as error:
        note(f"error: {error}", "red")
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `preprocess view O | head`
        sys.stderr.close()
        return 0


def _began() -> float:
    """When this process was started, in seconds since the epoch; up to 1 s late."""
    return psutil.Process().create_time() + 1.0  # which is up to 1 s early: Linux tells its boot in whole seconds


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="preprocess", description="Raw image and video corpora into training data.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    commands.add_parser("run", help="run a pipeline over a corpus, or go on with a run; see `preprocess run --help`")
    commands.add_parser("retry", help="try failed items of a run again; see `preprocess retry --help`")
    commands.add_parser("estimate", help="time a sample of a corpus, and say what all of it would take")

    commands.add_parser("check", help="look for files that a run would fail: `run`'s options, and --full, --json")

    def add(name: str, command: _Command, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=command)
        return added

    def add_for_run(name: str, command: _Command, text: str) -> argparse.ArgumentParser:
        added = add(name, command, text)
        added.add_argument("folder", metavar="O", type=Path, help="folder of a run (its --output.dir)")
        return added

    status = add_for_run("status", _status, "how far a run is; while it runs, and after")
    status.add_argument("--json", action="store_true", help="one JSON object instead of text")
    view = add_for_run("view", _view, "what a run holds; or one sample of it")
    view.add_argument("key", metavar="KEY", nargs="?", help="key of the item to show")
    failed = add_for_run("failures", _failures, "what failed, where and why; those that a retry mended are not shown")
    failed.add_argument("--class", dest="classes", metavar="C", action="append", default=[], help="of this class only")
    form = failed.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    form.add_argument("--parquet", metavar="FILE", type=Path, help="write a Parquet file instead")
    check = add_for_run(
        "verify", _verify, "check every record, hash, count and key; exit status 1 if something is wrong"
    )
    check.add_argument("--repair", action="store_true", help="put damaged shards back to be done, move strays away")
    visualize = add_for_run(
        "visualize",
        _visualize,
        "draw skeletons or tracks over the frames, or clips: PNG and MP4; or captions: HTML",
    )
    visualize.add_argument("--num-samples", type=int, default=4, help="samples to draw (default: 4)")
    visualize.add_argument("--split", help="of this split only")
    visualize.add_argument("--root", metavar="R", help="folder of the corpus, if it has moved since it was planned")
    export = add_for_run("export", _export, "write the samples in a format that other code reads")
    export.add_argument("--format", required=True, help=_FORMATS)
    export.epilog = _FORMAT_OPTIONS
    merge = add("merge", _merge, "make one run of several over different splits or items")
    merge.add_argument("folders", metavar="O", nargs="+", type=Path, help="folders of complete runs")
    for command in (visualize, export, merge):
        command.add_argument("--dest", metavar="D", type=Path, required=True, help="folder to write to")
    sample = add("sample", _sample, "make a small corpus shaped like PHOENIX-2014-T, to try things on")
    sample.add_argument("dest", metavar="D", type=Path, help="folder to make")
    return parser


def _status(options: argparse.Namespace) -> int:
    from preprocess.report.status import StatusReader, render

    status = StatusReader(Run(options.folder)).read()
    if options.json:
        say(status.to_json())
    else:
        Terminal().print(render(status))
    return 0


def _view(options: argparse.Namespace) -> int:
    from preprocess.report.view import view

    view(Run(options.folder), options.key, Terminal())
    return 0


def _failures(options: argparse.Namespace) -> int:
    from preprocess.commands.failures import print_json, show, summary, write_parquet

    run = Run(options.folder)
    counts, failed = count_failures(run, options.classes), failures(run, options.classes)
    if options.json:
        print_json(failed)
        return 0
    if options.parquet:
        write_parquet(failed, options.parquet)
        _written([options.parquet])
    else:
        show(failed, Terminal())
    say(summary(counts))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from preprocess.commands.repair import repair
    from preprocess.integrity import coverage, plan_problems, verify

    if damaged := plan_problems(options.folder):
        for line in damaged:
            say(line)
        return 1
    run = Run(options.folder)
    problems = []
    for problem in verify(run):
        problems.append(problem)
        say(str(problem))
    if options.repair:
        for line in repair(run, problems):
            say(line)
        problems = [problem for problem in problems if not problem.is_open and not problem.is_repairable]
    covered = coverage(Run(options.folder))
    if problems:
        verdict = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
    elif covered.missing:
        verdict = f"{covered.missing:,} items to be done again: run the same command"
    else:
        verdict = "everything is as it should be"
    if len(covered.devices) > 1:
        say(f"made on several device models: {device_mix(covered.devices)}")
    say(
        f"{options.folder}: {covered.planned:,} planned = {covered.committed:,} committed + {covered.failed:,} failed"
        f" + {covered.missing:,} missing; {verdict}"
    )
    return 1 if problems else 0


def _visualize(options: argparse.Namespace) -> int:
    from preprocess.draw.visualize import visualize

    run = Run(options.folder)
    if options.root:
        run.plan.roots.insert(0, options.root)
    return _written(visualize(run, options.dest, options.num_samples, options.split))


def _export(options: argparse.Namespace) -> int:
    from preprocess.export.format import export, options_of

    given = options_of(options.format, options.more)
    return _written(export(options.folder, options.format, options.dest, **given))


def _merge(options: argparse.Namespace) -> int:
    from preprocess.commands.merge import merge

    return _written([merge(options.folders, options.dest).folder])


def _sample(options: argparse.Namespace) -> int:
    from preprocess.commands.sample import make_sample_corpus

    return _written([make_sample_corpus(options.dest)])


def _written(paths: Sequence[Path]) -> int:
    for path in paths:
        say(str(path))
    return 0
