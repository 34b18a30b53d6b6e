"""`--help` of the commands that start a pipeline: first the options of the configured classes, by their short names.

jsonargparse's own help shows the options of a parser, and the parser of a pipeline does not know its classes before the
configuration is read. Here a parser that parses nothing gets the options of the classes that a configuration names.
"""

import json
import re
import shutil
import textwrap
from argparse import SUPPRESS, Action, ArgumentParser, _HelpAction
from collections.abc import Iterator, Mapping
from inspect import signature
from pkgutil import resolve_name
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ArgumentParser as TypedParser
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch import Trainer

from datamodules import FramesDataModule
from datamodules.datamodule import TRAINING_OPTIONS
from preprocess.configurations import summaries
from preprocess.job.output import Output
from preprocess.job.session import TRAINER_DEFAULTS
from preprocess.terminal import Parser

_MAX_WIDTH = 120  # columns
_MAX_TEXT = 88  # characters about an option in the short help: two lines of 80 columns
_TRAINER = ("accelerator", "devices", "num_nodes", "precision", "logger")
_RARE = re.compile(  # of the options of all pipelines: those that only --help-all shows
    r"output\.(scratch|only|stale_seconds|max_attempts|extract_timeout_seconds|grace_seconds|same_device|shards\.max_bytes)"
    r"|data\.(pin_memory|worker_timeout_seconds|fetching\..*|decoding\.(?!backend|images).*)"
)
_TYPES = {"int": "N", "float": "X", "str": "TEXT", "Path": "PATH"}  # as placeholders of values
_FOOTER = """
In parentheses: what holds without further options. Options of another class:
--model.help CLASS, --model.backend.help CLASS, --data.corpus.help CLASS"""


class PipelineParser(Parser):
    """Parses the own options of a command that starts a pipeline; `pipeline_cli.parse_pipeline` parses the others.

    Args:
        command: its name.
        description: what it does.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            f"preprocess {command}",
            usage=f"preprocess {command} NAME [options]\n       preprocess {command} --config FILE [options]",
            description=f"{description} NAME is an installed configuration: see `preprocess configs`.",
            add_help=False,
            allow_abbrev=False,
        )

    def add_general(self) -> None:
        """Add the options of every such command, for its help: they are parsed with those of the pipeline."""
        self.add_argument("--config", metavar="FILE", help="a configuration of yours, or one more")
        self.add_argument("--print_config", action="store_true", help="print the configuration that would run")
        self.add_argument("-h", "--help", action="store_true", help="show this help, also after NAME or --config FILE")
        self.add_argument("--help-all", action="store_true", help="show all options, and all about each")


class HelpAction(_HelpAction):
    """Prints the help for the configuration that precedes `--help` or `--help-all`, and exits.

    Args:
        command: parser of the command's own options, with its usage and description.
        options: those of `argparse.Action`.
    """

    def __init__(self, command: PipelineParser, **options: Any) -> None:
        super().__init__(**options)
        self._command = command

    def __call__(self, parser: ArgumentParser, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Print the help and exit with status 0."""
        print(pipeline_help(self._command, namespace.as_dict(), option_string == "--help-all"))  # noqa: T201
        parser.exit()


def pipeline_help(command: PipelineParser, config: Mapping[str, Any], everything: bool) -> str:
    """Return the help of a command that starts a pipeline.

    Args:
        command: parser of the command's own options, with its usage and description.
        config: sections of the configuration, as in its YAML file; some or all may be missing.
        everything: show also the options that are rarely needed, and say all about each.
    """
    command.add_general()
    parts = [command.format_help()]
    if not config.get("model"):
        width = max(map(len, summaries()))
        parts += ["configurations:", *(f"  {name:<{width}}  {text}" for name, text in summaries().items()), ""]
    return "\n".join([*parts, pipeline_parser(config, everything).format_help().strip(), _FOOTER])


def pipeline_parser(config: Mapping[str, Any], everything: bool) -> TypedParser:
    """Return a parser that shows the options for a configuration, by their short names; see `pipeline_help`."""
    parser = TypedParser(add_help=False, usage=SUPPRESS, formatter_class=_Complete if everything else _Short)
    for option, value in _objects(config):
        kind, arguments = resolve_name(value["class_path"]), value.get("init_args") or {}
        group = parser.add_argument_group(f"--{option} {value['class_path']}")
        nested = {name for name, inner in arguments.items() if _is_object(inner)}
        group.add_class_arguments(kind, _short(option), as_group=False, skip=nested, fail_untyped=False)
    group = parser.add_argument_group("output")
    group.add_class_arguments(Output, "output", as_group=False)
    group = parser.add_argument_group("loading")
    group.add_class_arguments(FramesDataModule, "data", as_group=False, skip={*TRAINING_OPTIONS, "corpus"})
    group = parser.add_argument_group("Lightning's Trainer")
    hidden = set() if everything else signature(Trainer).parameters.keys() - _TRAINER
    group.add_class_arguments(Trainer, "trainer", as_group=False, skip=hidden, fail_untyped=False)
    for action in parser._actions:
        action.metavar = _choices_or_none(getattr(action, "_typehint", None)) or action.metavar
        if action.metavar == "CONFIG" or action.dest.endswith(".help") or (not everything and _RARE.match(action.dest)):
            action.help = SUPPRESS
    _set_defaults(parser, {"trainer": TRAINER_DEFAULTS}, "")
    _set_defaults(parser, config, "")
    return parser


def _choices_or_none(hint: Any) -> str | None:
    """Return the choices of `Literal[…] | None` as jsonargparse shows those of `Literal[…]`; None for other types."""
    literal, *others = get_args(hint) or (None,)
    if get_origin(literal) is not Literal or others != [type(None)]:
        return None
    return f"{{{','.join(map(str, get_args(literal)))}}}"


def _objects(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (option, class and arguments) of the extractor, of the objects among its arguments, and of the corpus."""
    waiting = [("model", config.get("model")), ("data.corpus", (config.get("data") or {}).get("corpus"))]
    while waiting:
        option, value = waiting.pop(0)
        if isinstance(value, Mapping) and _is_object(value):
            yield option, value
            inner = (value.get("init_args") or {}).items()
            waiting[:0] = [(f"{option}.{name}", argument) for name, argument in inner if _is_object(argument)]


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_path" in value


def _short(option: str) -> str:
    """Return the name by which users may set an option; see `pipeline_cli.with_section`."""
    return re.sub(r"^data\.corpus(?=\.|$)", "data", option.replace(".init_args", ""))


def _set_defaults(parser: TypedParser, values: Mapping[str, Any], prefix: str) -> None:
    """Make the values of a configuration the defaults of `parser`, which has some of the options."""
    known = {action.dest for action in parser._actions}
    for name, value in values.items():
        option = _short(f"{prefix}{name}")
        if isinstance(value, Mapping) and (option not in known or _is_object(value)):
            _set_defaults(parser, value, f"{prefix}{name}.")
        elif option in known:
            parser.set_defaults({option: value})


class _Complete(DefaultHelpFormatter):
    """Shows all that is to say about an option, in lines of at most 120 characters."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size((_MAX_WIDTH, 24)).columns, _MAX_WIDTH)
        super().__init__(prog, max_help_position=32, width=width)  # type: ignore[no-untyped-call]

    def _format_action_invocation(self, action: Action) -> str:
        """Leave out `--name+`, which appends to a list."""
        return f"{action.option_strings[0]} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        """Return the placeholder of the type, which says more than the name once more."""
        kind = re.sub(r"Optional\[(\w+)\]|(\w+) \| null", r"\1\2", self._get_type_str(action) or "")
        return _TYPES.get(kind, "VALUE")


class _Short(_Complete):
    """Shows the first sentence about an option, and its value in the configuration or else its default."""

    def start_section(self, heading: str | None) -> None:
        """Leave out what follows the first sentence about a dataclass."""
        super().start_section(first_sentence(heading or ""))

    def _get_help_string(self, action: Action) -> str:
        """Return the text in place of jsonargparse's, which adds the type."""
        value = ""
        if action.default not in (None, ""):
            value = action.default if isinstance(action.default, str) else json.dumps(action.default, default=str)
            value = f" ({value})"
        return textwrap.shorten(first_sentence(action.help or ""), _MAX_TEXT - len(value), placeholder=" …") + value


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, without its full stop."""
    return re.split(r"\.\s+(?=[A-Z0-9`])|\.$", text)[0]
