"""`preprocess retry`: try the failed items of a run again, or its samples that have a given status or key."""

from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from inspect import isabstract
from pkgutil import resolve_name

from datamodules.corpus import Corpus
from datamodules.errors import ConfigError
from datamodules.objects import absolute_root
from datamodules.run.failures import count_failures
from datamodules.run.files import CONFIG
from datamodules.run.folder import Run
from datamodules.run.keys import planned_keys
from datamodules.run.retries import RetryRequest, refuse_unfinished
from preprocess.commands.arguments import add_since, local_path
from preprocess.commands.run import predict
from preprocess.job.folder_config import FolderConfig, named_classes, require_trusted
from preprocess.job.pipeline_cli import parse_pipeline, with_section
from preprocess.job.placement import is_first_on_machine
from preprocess.job.progress import quiet
from preprocess.job.session import Job
from preprocess.terminal import Parser, note

_DESCRIPTION = (
    "Try the failed items of a run again, or those of a list, with the configuration in its folder and the options of "
    "`run` that follow, for example --data.worker_timeout_seconds 600. Repeat classes of your own, and options that "
    "run code or send data elsewhere. Rerun the same command to resume an interrupted retry, or to join one."
)


def main(argv: Sequence[str], began: float) -> int:
    """Try items of a run again, with the run's configuration and the options that override it.

    Args:
        argv: the run's folder, classes of failures, a list of keys, options of `run`.
        began: when the command started; see `RetryRequest`.

    Returns:
        The exit status.
    """
    job = parse_retry(argv, began)
    return predict(job) if job else 0


def parser() -> Parser:
    """Return the parser of the command's own options."""
    parser = Parser("preprocess retry", allow_abbrev=False, description=_DESCRIPTION)
    parser.add_argument("folder", metavar="O", help="folder or URL of a complete run (its --output.dir)")
    parser.add_argument("--class", dest="classes", metavar="C", action="append", default=[], help="only of this class")
    parser.add_argument(
        "--keys",
        metavar="FILE",
        type=local_path,
        help="only the items whose keys this text file lists, one key per line. Samples are tried again as well",
    )
    add_since(parser, "take part in a retry that was completed after this time, instead of beginning another one")
    return parser


def parse_retry(argv: Sequence[str], began: float) -> Job | None:
    """Return the job of `preprocess retry` with the options `argv`; None, with a message, if nothing is to be done."""
    options, overrides = parser().parse_known_args(argv)
    run = Run(options.folder)
    if not run.store.find(CONFIG):
        raise ConfigError(f"{run.store} has no {CONFIG} to retry with. It was merged, or made by other means")
    refuse_unfinished(run)
    keys = planned_keys(options.keys, run) if options.keys else None
    if not count_failures(run, options.classes, keys) and all(retry.is_complete() for retry in run.retries):
        if is_first_on_machine():
            note(f"{run.store}: nothing to retry", "green")
        return None
    quiet()
    named = named_classes(overrides)
    corpus, overrides = _planned_corpus(run, overrides, named)
    cli = parse_pipeline(overrides, folder=FolderConfig(run.store, named))
    corpus = cli.data.corpus or corpus
    request = RetryRequest(tuple(options.classes), options.since or began, (absolute_root(corpus.root),), keys)
    return cli.job(corpus, request)


def _planned_corpus(run: Run, overrides: Sequence[str], named: Collection[str]) -> tuple[Corpus, list[str]]:
    """Return the planned corpus, and the options that do not concern it.

    Like pickle, this makes the corpus without calling its constructor, which would read lists that a retry does not
    need.

    Args:
        run: the run to retry.
        overrides: options of `run`. They may repeat the class of the corpus, and may set its current folder.
        named: see `named_classes`.

    Raises:
        ConfigError: the class is neither one of Framemill's nor named on the command line; it is not a corpus with
            these arguments; or `overrides` change another option of the corpus.
    """
    planned, location = run.plan.fingerprint.get("corpus", {}), run.plan.location
    class_path, arguments = planned.get("class_path", ""), planned.get("init_args", {})
    require_trusted(class_path, "--data.corpus", named, location)
    kind = _imported_corpus(class_path, location)
    if wrong := next((name for name in arguments if name.startswith("_") or callable(getattr(kind, name, None))), None):
        raise ConfigError(f"{location} gives the corpus {class_path} the argument {wrong!r}, which it does not have")
    parser = ArgumentParser("preprocess retry", add_help=False, allow_abbrev=False)
    parser.add_argument(
        with_section(f"--data.{kind.root_option}"), dest="root", default=next(iter(run.plan.roots), None)
    )
    parser.add_argument("--data.corpus", dest="class_path", default=class_path)
    given, others = parser.parse_known_args([with_section(option) for option in overrides])
    if given.root is None:
        raise ConfigError(f"{location} does not say where the corpus is. Set --data.{kind.root_option}")
    changed = next((option for option in others if option.startswith("--data.corpus")), None)
    if given.class_path != class_path or changed:
        option = (changed or "--data.corpus").partition("=")[0].replace("corpus.init_args.", "")
        raise ConfigError(
            f"{option} cannot change in a retry, which takes its items from the plan. Leave it out, or start a new run"
        )
    corpus: Corpus = kind.__new__(kind)
    vars(corpus).update(arguments, root=given.root)
    return corpus, others


def _imported_corpus(class_path: str, location: str) -> type[Corpus]:
    try:
        kind = resolve_name(class_path)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{location} names the class {class_path}, which cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Corpus)) or isabstract(kind):
        raise ConfigError(
            f"{location} names {class_path}, which is not a concrete subclass of datamodules.corpus.Corpus"
        )
    return kind
