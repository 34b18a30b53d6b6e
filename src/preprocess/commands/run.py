"""`preprocess run`, `retry` and `estimate`: a pipeline from its configuration, over a Lightning predict loop."""

import os
import signal
import warnings
from argparse import ArgumentError, ArgumentParser
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from inspect import isabstract
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from datamodules import FramesDataModule
from datamodules.card import write_card
from datamodules.corpus import Corpus
from datamodules.errors import ConfigError, FramemillError, TooManyFailures
from datamodules.run.cleanup import clean_up
from datamodules.run.failure_limit import FailureLimit
from datamodules.run.failures import count_failures
from datamodules.run.folder import Run, plan_path
from datamodules.run.retries import RetryRequest, refuse_unfinished
from preprocess.integrity import coverage
from preprocess.job.extractor import Extractor
from preprocess.job.folder_config import FolderConfig, denied_import, named_classes, require_trusted
from preprocess.job.output import Output
from preprocess.job.placement import is_first_on_machine
from preprocess.job.progress import quiet
from preprocess.job.session import TRAINER_DEFAULTS, Job, Session
from preprocess.terminal import escaped_output, note, say

_NO_LIMIT = FailureLimit()

_DESCRIPTION = (
    "Run a pipeline over a corpus, go on with a run, or join one. The options of a class are shown by "
    "--model.help CLASS and --data.corpus.help CLASS; --data.NAME is short for --data.corpus.init_args.NAME, and "
    "--max-failures for --output.max_failures."
)

_RETRY = (
    "Try the failed items of a run again, with the configuration that it keeps and whatever options of `run` follow, "
    "for example --data.worker_timeout_seconds 600. Classes of your own, and options that reach beyond the folder, "
    "must be among them. Rerun the same command to resume an interrupted retry, or to join one."
)


class PipelineCLI(LightningCLI):
    """The sections of a configuration: `model` (an extractor), `data`, `output` (`Output`), `trainer`.

    Attributes:
        job: what the configuration says.

    Args:
        options: of `LightningCLI`.
        folder: the configuration of a run to retry, which the command line changes; None: there is only the latter.
    """

    def __init__(self, folder: FolderConfig | None = None, **options: Any) -> None:
        self._folder = folder
        super().__init__(Extractor, FramesDataModule, **options)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, on top of the folder's configuration if there is one."""
        if self._folder is None:
            super().parse_arguments(parser, args)
            return
        output = {"dir": str(self._folder.path.parent), "only": None, "max_failures": "100%"}  # most may fail again
        self.config = parser.parse_args(args, namespace=self._folder.parse(parser, output))
        if (line := self._folder.left_out(self.config)) and is_first_on_machine():
            note(line, "yellow")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `output`, and what a Trainer needs for preprocessing."""
        parser.add_class_arguments(Output, "output")
        parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})

    def instantiate_classes(self) -> None:
        """Make the job; the Trainer is made later, by its `Session`."""
        made = self.parser.instantiate(self.config)
        self.data: FramesDataModule = made["data"]
        self.extractor: Extractor = made["model"]
        self.output: Output = made["output"]
        self.trainer_options: dict[str, Any] = dict(made["trainer"])

    def job(self, corpus: Corpus | None = None, retry: RetryRequest | None = None) -> Job:
        """Return what the configuration says is to be done.

        Args:
            corpus: the one that was planned, for a retry; None: that of the configuration.
            retry: what to try again.

        Raises:
            ConfigError: there is no corpus.
        """
        corpus = corpus or self.data.corpus
        if corpus is None:
            raise ConfigError("there is no corpus to work on: set data.corpus")
        text = self.parser.dump(self.config, skip_none=False) if retry is None else None
        return Job(self.extractor, corpus, self.data, self.output, self.trainer_options, text, retry)


def run(argv: Sequence[str]) -> int:
    """`preprocess run`: make, go on with, or join a run; ends with the coverage check."""
    quiet()
    return _predict(_cli(argv).job())


def retry(argv: Sequence[str], began: float) -> int:
    """`preprocess retry`: try the failed items of a run again, with its configuration and what overrides that.

    Args:
        argv: the run's folder, classes of failures, options of `run`.
        began: see `RetryRequest`.
    """
    parser = ArgumentParser("preprocess retry", allow_abbrev=False, description=_RETRY)
    parser.add_argument("folder", metavar="O", type=Path, help="folder of a complete run (its --output.dir)")
    parser.add_argument("--class", dest="classes", metavar="C", action="append", default=[], help="of this class only")
    options, overrides = parser.parse_known_args(argv)
    run, config = Run(options.folder), options.folder / "config.yaml"
    if not config.is_file():
        raise ConfigError(f"{run.folder} has no config.yaml to retry with: it is merged, or was made by other means")
    refuse_unfinished(run)
    if not count_failures(run, options.classes) and all(retry.is_complete() for retry in run.retries):
        if is_first_on_machine():
            note(f"{run.folder}: nothing to retry", "green")
        return 0
    quiet()
    named = named_classes(overrides)
    corpus, overrides = _planned_corpus(run, overrides, named)
    cli = _cli(overrides, FolderConfig(config, named))
    corpus = cli.data.corpus or corpus
    request = RetryRequest(tuple(options.classes), began, (os.path.realpath(corpus.root),))
    return _predict(cli.job(corpus, request))


def _planned_corpus(run: Run, overrides: Sequence[str], named: Collection[str]) -> tuple[Corpus, list[str]]:
    """Return the corpus that was planned, and the other options.

    It is made as pickle does it, without its constructor, which would read lists that are not needed any more.

    Args:
        run: to retry.
        overrides: options of `run`. They may name the class of the corpus again, and the folder where it is now.
        named: see `named_classes`.

    Raises:
        ConfigError: the class is not one of Framemill's, and not named; it is not a corpus with such arguments; or
            `overrides` change another option of the corpus.
    """
    planned, path = run.plan.fingerprint.get("corpus", {}), plan_path(run.folder)
    class_path, arguments = planned.get("class_path", ""), planned.get("init_args", {})
    require_trusted(class_path, "--data.corpus", named, path)
    kind = _imported_corpus(class_path, path)
    if wrong := next((name for name in arguments if name.startswith("_") or callable(getattr(kind, name, None))), None):
        raise ConfigError(f"{path} gives its corpus, {class_path}, the argument {wrong!r}, which it does not have")
    parser = ArgumentParser("preprocess retry", add_help=False, allow_abbrev=False)
    parser.add_argument(_nested(f"--data.{kind.root_option}"), dest="root", default=next(iter(run.plan.roots), None))
    parser.add_argument("--data.corpus", dest="class_path", default=class_path)
    given, others = parser.parse_known_args([_nested(each) for each in overrides])
    if given.root is None:
        raise ConfigError(f"{path} does not say where the corpus is: give --data.{kind.root_option}")
    taken = next((each for each in others if each.startswith("--data.corpus")), None)
    if given.class_path != class_path or taken:
        option = (taken or "--data.corpus").partition("=")[0].replace("corpus.init_args.", "")
        raise ConfigError(
            f"a retry takes its items as they were planned: {option} cannot change; leave it out, or start a new run"
        )
    corpus: Corpus = kind.__new__(kind)
    vars(corpus).update(arguments, root=given.root)
    return corpus, others


def _imported_corpus(class_path: str, path: Path) -> type[Corpus]:
    try:
        kind = resolve_name(class_path)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the class {class_path}, which {path} names, cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Corpus)) or isabstract(kind):
        raise ConfigError(f"{class_path}, which {path} names, is not a Corpus (datamodules.corpus) that can be made")
    return kind


def _predict(job: Job) -> int:
    with Session(job) as session:
        try:
            session.predict()
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # what Lightning makes of it
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


def estimate(argv: Sequence[str]) -> int:
    """`preprocess estimate`: the options of `run`; runs a sample of the corpus, and says what all of it would take."""
    from preprocess.commands.estimate import estimate as estimated

    quiet()
    for line in str(estimated(_one_process(argv))).splitlines():
        say(line)
    return 0


def check(argv: Sequence[str]) -> int:
    """`preprocess check`: the options of `run`; looks at every file, and says which items a run would fail."""
    from preprocess.commands.check import check as checked

    parser = ArgumentParser("preprocess check", add_help=False, allow_abbrev=False)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--json", action="store_true")
    options, argv = parser.parse_known_args(argv)
    quiet()
    return checked(_one_process(argv), options.full, options.json)


def _one_process(argv: Sequence[str]) -> Job:
    return _cli([*argv, "--trainer.devices", "1"]).job()


def conclude(worked_on: Run, partial: bool, limit: FailureLimit = _NO_LIMIT) -> int:
    """Check the coverage of the run, or of the run that a retry is of, write its dataset card, and say how it ended.

    Args:
        worked_on: the run, or the retry.
        partial: this was to do a part of the run only.
        limit: of the failures of a complete run; it was too early to judge a short one by it while it went on.

    Returns:
        The exit status.
    """
    run = Run(worked_on.folder)
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
            f"{run.folder}: {covered.planned:,} planned = {covered.committed:,} committed + {covered.failed:,} failed"
            f" + {covered.missing:,} missing",
            "green" if is_done and not has_failed else "yellow",
        )
        if has_failed:
            note(
                f"more have failed than --output.max_failures {limit} allows. Is something wrong with the whole run? "
                f"See `preprocess failures {run.folder}`, and try them again by `preprocess retry {run.folder}`",
                "red",
            )
    if has_failed:
        return TooManyFailures.exit_status
    return 0 if is_done or (partial and not covered.problems) else 1


def _cli(argv: Sequence[str], folder: FolderConfig | None = None) -> PipelineCLI:
    imports = folder.importing_named() if folder else nullcontext()
    with warnings.catch_warnings(), imports, escaped_output():  # --print_config of `retry` shows the folder's options
        # what jsonargparse and Lightning have to say to each other; nothing that our users can act on
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"lightning|jsonargparse")
        try:
            return PipelineCLI(
                folder,
                args=[_nested(argument) for argument in argv],
                run=False,
                subclass_mode_model=True,
                save_config_callback=None,
                seed_everything_default=False,
                auto_configure_optimizers=False,
                parser_kwargs={"prog": "preprocess run", "description": _DESCRIPTION, "exit_on_error": False},
            )
        except ArgumentError as error:
            raise ConfigError(denied_import(str(error)) or _in_one_line(str(error))) from error
        except (ValueError, TypeError) as error:  # jsonargparse's, around what a constructor raised
            if isinstance(error.__cause__, FramemillError):
                raise error.__cause__ from None
            if folder:  # of which some wrong types are noticed late
                reason = denied_import(str(error)) or _in_one_line(str(error))
                raise ConfigError(f"{folder.path} cannot be used with these options: {reason}") from error
            raise


def _nested(argument: str) -> str:
    """`--data.root` → `--data.corpus.init_args.root`: what the DataModule does not take belongs to its corpus.

    And `--max-failures` → `--output.max_failures`, as any option of `Output`.
    """
    plain = argument.removeprefix("--").partition("=")[0].replace("-", "_")
    if argument.startswith("--") and plain in Output.__annotations__:
        return f"--output.{plain}{argument[2 + len(plain) :]}"
    section, _, rest = argument.partition(".")
    name = rest.partition("=")[0].partition(".")[0]
    own = FramesDataModule.__init__.__annotations__
    return f"--data.corpus.init_args.{rest}" if section == "--data" and name and name not in own else argument


def _in_one_line(message: str) -> str:
    """jsonargparse's message without the lines that repeat what was given, or name alternatives to nothing."""
    noise = ("Does not validate", "Subtypes:", "Errors:", "- Expected a <class 'NoneType'>", "Given value")
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line.removeprefix("- ") for line in lines if line and not line.startswith(noise))
