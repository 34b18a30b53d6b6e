"""`preprocess retry`: try the failed items of a run again, or samples of a status."""

import os
from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from inspect import isabstract
from pathlib import Path
from pkgutil import resolve_name

from datamodules.corpus import Corpus
from datamodules.errors import ConfigError
from datamodules.run.failures import count_failures
from datamodules.run.folder import Run, plan_path
from datamodules.run.retries import RetryRequest, refuse_unfinished
from preprocess.commands.run import predict
from preprocess.job.folder_config import FolderConfig, named_classes, require_trusted
from preprocess.job.pipeline_cli import parse_pipeline, with_section
from preprocess.job.placement import is_first_on_machine
from preprocess.job.progress import quiet
from preprocess.terminal import note

_DESCRIPTION = (
    "Try the failed items of a run again, with the configuration in its folder and the options of `run` that follow, "
    "for example --data.worker_timeout_seconds 600. Classes of your own, and options that reach beyond the folder, "
    "must be among them. Rerun the same command to resume an interrupted retry, or to join one."
)


def main(argv: Sequence[str], began: float) -> int:
    """Try items of a run again, with the run's configuration and the options that override it.

    Args:
        argv: the run's folder, classes of failures, options of `run`.
        began: see `RetryRequest`.

    Returns:
        The exit status.
    """
    parser = ArgumentParser("preprocess retry", allow_abbrev=False, description=_DESCRIPTION)
    parser.add_argument("folder", metavar="O", type=Path, help="folder of a complete run (its --output.dir)")
    parser.add_argument("--class", dest="classes", metavar="C", action="append", default=[], help="of this class only")
    options, overrides = parser.parse_known_args(argv)
    run, config = Run(options.folder), options.folder / "config.yaml"
    if not config.is_file():
        raise ConfigError(f"{run.folder} has no config.yaml to retry with: it was merged, or made by other means")
    refuse_unfinished(run)
    if not count_failures(run, options.classes) and all(retry.is_complete() for retry in run.retries):
        if is_first_on_machine():
            note(f"{run.folder}: nothing to retry", "green")
        return 0
    quiet()
    named = named_classes(overrides)
    corpus, overrides = _planned_corpus(run, overrides, named)
    cli = parse_pipeline(overrides, FolderConfig(config, named))
    corpus = cli.data.corpus or corpus
    request = RetryRequest(tuple(options.classes), began, (os.path.realpath(corpus.root),))
    return predict(cli.job(corpus, request))


def _planned_corpus(run: Run, overrides: Sequence[str], named: Collection[str]) -> tuple[Corpus, list[str]]:
    """Return the planned corpus, and the options that are not about it.

    The corpus is made without calling its constructor, as pickle does: that would read lists which are no longer
    needed.

    Args:
        run: the run to retry.
        overrides: options of `run`. They may name the class of the corpus again, and the folder where it is now.
        named: see `named_classes`.

    Raises:
        ConfigError: the class is not one of Framemill's and is not named on the command line; it is not a corpus with
            such arguments; or `overrides` change another option of the corpus.
    """
    planned, path = run.plan.fingerprint.get("corpus", {}), plan_path(run.folder)
    class_path, arguments = planned.get("class_path", ""), planned.get("init_args", {})
    require_trusted(class_path, "--data.corpus", named, path)
    kind = _imported_corpus(class_path, path)
    if wrong := next((name for name in arguments if name.startswith("_") or callable(getattr(kind, name, None))), None):
        raise ConfigError(f"{path} gives its corpus, {class_path}, the argument {wrong!r}, which it does not have")
    parser = ArgumentParser("preprocess retry", add_help=False, allow_abbrev=False)
    parser.add_argument(
        with_section(f"--data.{kind.root_option}"), dest="root", default=next(iter(run.plan.roots), None)
    )
    parser.add_argument("--data.corpus", dest="class_path", default=class_path)
    given, others = parser.parse_known_args([with_section(option) for option in overrides])
    if given.root is None:
        raise ConfigError(f"{path} does not say where the corpus is: give --data.{kind.root_option}")
    changed = next((option for option in others if option.startswith("--data.corpus")), None)
    if given.class_path != class_path or changed:
        option = (changed or "--data.corpus").partition("=")[0].replace("corpus.init_args.", "")
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
