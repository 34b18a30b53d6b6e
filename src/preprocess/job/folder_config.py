"""Read the `config.yaml` of a run, which may come from someone else, and decide what a retry takes from it.

| section       | a retry takes                                                                                   |
|---------------|-------------------------------------------------------------------------------------------------|
| `model`       | all options but those that its classes (extractor, backend) list in `not_from_folder`           |
| `data`        | all options but `corpus`, `shards` and `samples`: the items come from the plan                  |
| `output`      | all options but `dir`, `scratch`, `only` and `max_failures`                                     |
| `trainer`     | `accelerator`, `devices`, `num_nodes`, `strategy` and `precision`, if they are names or numbers |
| anything else | nothing                                                                                         |

A class is imported if it is one of Framemill's, or if the command line names it.
"""

import json
import os
import re
import shlex
from argparse import ArgumentParser
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType
from typing import Any, NamedTuple

import jsonargparse
import yaml
from jsonargparse._common import parsing_settings  # settings of the process; the public functions can only add to them
from lightning.pytorch.cli import LightningArgumentParser

from datamodules.errors import ConfigError, RunError
from datamodules.run.files import CONFIG
from datamodules.run.store import Store

_PACKAGES = ("preprocess", "datamodules")
_SECTIONS = ("model", "data", "output", "trainer")
_OF_PLAN = ("corpus", "shards", "samples")
_PLACEMENT = ("accelerator", "devices", "num_nodes", "strategy", "precision")
_PLAIN = re.compile(r"[\w, -]*")  # no dot: `gpu`, `0,1`, `ddp_spawn`, `bf16-mixed`
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DENIED = re.compile(r"Importing '([^']+)' is not allowed")

_MAX_BYTES = 1 << 18  # the config.yaml that `preprocess run` writes has 3 KB
_MAX_ALIASES = 10  # YAML aliases; each may double the number of values
_MAX_VALUES = 10_000
_MAX_DEPTH = 50
_MAX_BITS = 64  # of an integer; Python refuses to print one of 15,000 bits in a message
_MAX_SHOWN = 100  # characters of a value in a message


class FolderConfig:
    """The part of a run folder's configuration that a retry takes.

    Args:
        store: of the run.
        named: the classes that the command line names; see `named_classes`.

    Attributes:
        location: of the run: a folder or URL.
        path: of the file, for messages.

    Raises:
        ConfigError: the file cannot be read, is larger or deeper than a configuration can be, or names a class that is
            neither Framemill's nor in `named`.
    """

    def __init__(self, store: Store, named: Collection[str]) -> None:
        self.location, self.path, self._named = store.location, store.locate(CONFIG), named
        try:
            sections = _load(store.read(CONFIG))
            if not isinstance(sections, dict):
                raise ValueError("it is not a mapping")
            model, data, self._output, self._trainer = (_mapping(sections, name) for name in _SECTIONS)
            self._model = {"class_path": model.get("class_path"), "init_args": _mapping(model, "init_args")}
            if not isinstance(self._model["class_path"], str):
                raise ValueError("it does not name an extractor (model.class_path)")
        except (OSError, RunError, ValueError) as error:
            raise ConfigError(f"{self.path} cannot be used to retry: {' '.join(str(error).split())}") from error
        self._data = {name: value for name, value in data.items() if name not in _OF_PLAN}
        self._left_out: list[_LeftOut] = []
        for option, class_path in _classes(self._model, "--model"):
            require_trusted(class_path, option, self._named, self.path)

    def parse(self, parser: LightningArgumentParser, output: Mapping[str, Any]) -> jsonargparse.Namespace:
        """Return the configuration as `parser` reads it, without the options that only a command line may set.

        Args:
            parser: parser of the command. Call `parse` within `importing_named`.
            output: options that replace those of the section `output`.

        Raises:
            ArgumentError: an option is unknown or has a wrong value.
            ConfigError: an option names a file to read its value from.
        """
        trainer = {name: self._trainer[name] for name in _PLACEMENT if _is_plain(self._trainer.get(name))}
        sections = {"model": self._model, "data": self._data, "output": {**self._output, **output}, "trainer": trainer}
        config: jsonargparse.Namespace = parser.parse_object(sections)
        if inner := next((value for key, value in config.items() if key.endswith("__path__")), None):
            raise ConfigError(
                f"{self.path} names another configuration file, {inner}. Replace its name by the options in it"
            )
        defaults = config.trainer.as_dict()
        for name in sorted(defaults.keys() & self._trainer.keys() - trainer.keys()):
            self._leave_out(f"trainer.{name}", self._trainer[name], defaults[name])
        for key, value in _objects(config.model, "model"):
            kind, arguments = resolve_name(value.class_path), value.get("init_args", {})
            for name in getattr(kind, "not_from_folder", ()):
                if name in arguments:
                    default = _default(kind, name)
                    self._leave_out(f"{key}.init_args.{name}", arguments[name], default)
                    arguments[name] = default
        return config

    def left_out(self, config: jsonargparse.Namespace) -> str | None:
        """Return a line that lists the options that were left out and that the command line did not repeat; else None.

        Args:
            config: the configuration with the options of the command line.
        """
        missing = [option for option in self._left_out if config.get(option.key) == option.default]
        if not missing:
            return None
        return (
            f"{self.path} also has {', '.join(map(str, missing))}. Left out, because the folder may come from someone "
            "else. Repeat on the command line the options that you want"
        )

    @contextmanager
    def importing_named(self) -> Iterator[None]:
        """Let jsonargparse import only from Framemill, Lightning and the packages that the command line names.

        Where an option accepts any value, a mapping that names a class stays a mapping; no object is made of it.
        """
        packages = {*_PACKAGES, "lightning", *(name.partition(".")[0] for name in self._named)}
        before = dict(parsing_settings)
        jsonargparse.set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=sorted(packages - {"jsonargparse"}),  # jsonargparse itself is never allowed
            instantiate_subclass_spec_in_any=False,
        )
        try:
            yield
        finally:
            parsing_settings.update(before)

    def _leave_out(self, key: str, value: Any, default: Any) -> None:
        if value != default:
            self._left_out.append(_LeftOut(key, value, default))


class _LeftOut(NamedTuple):
    """An option that was left out: its key in the configuration, its value in that file, and its default."""

    key: str
    value: Any
    default: Any

    def __str__(self) -> str:
        option = f"--{self.key.replace('.init_args', '')}"
        is_short = isinstance(self.value, (str, int, float)) and len(str(self.value)) <= _MAX_SHOWN
        return f"{option} {_as_argument(self.value)}" if is_short else option


def named_classes(arguments: Sequence[str]) -> set[str]:
    """Return the classes that the arguments of a command name, including those in its `--config` files."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    given, others = parser.parse_known_args(arguments)
    texts = [Path(config).read_bytes() if os.path.isfile(config) else os.fsencode(config) for config in given.config]
    values = [argument.partition("=")[2] if argument.startswith("-") else argument for argument in others]
    named = list(values)
    for text in (*texts, *map(os.fsencode, values)):
        with suppress(ValueError):  # jsonargparse reports what is wrong with the text
            named += [class_path for _, class_path in _classes(_load(text), "")]
    return set(filter(_is_class_path, named))


def require_trusted(class_path: str, option: str, named: Collection[str], path: str) -> None:
    """Raise ConfigError unless the class is one of Framemill's or the command line names it.

    Args:
        class_path: module and name of the class, with dots.
        option: option of the command line that would name it.
        named: see `named_classes`.
        path: of the file that names the class, for the message.

    Raises:
        ConfigError: the class is neither.
    """
    if not _is_class_path(class_path):
        raise ConfigError(f"{path} names the class {class_path!r}, which is not of the form package.module.Class")
    if class_path.partition(".")[0] not in _PACKAGES and class_path not in named:
        raise ConfigError(
            f"{path} names the class {class_path}, and importing it runs its code. If you trust it, add "
            f"{option} {class_path}"
        )


def denied_import(message: str) -> str | None:
    """Return our message for jsonargparse's about a class that `importing_named` denies; None for other messages.

    For example, the command line names a class by another package than the one that defines it.
    """
    denied = _DENIED.search(message)
    return denied and (
        f"{denied[1]} is neither Framemill's nor named on the command line, and importing it runs its code. If you "
        "trust it, name it there by exactly this path"
    )


def _load(text: bytes) -> Any:
    """Return the value of the YAML document `text`.

    Raises:
        ValueError: the text is not YAML in UTF-8, or is larger or deeper than a configuration can be.
    """
    if len(text) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
    try:
        decoded = text.decode()
        if sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(decoded, _LOADER)) > _MAX_ALIASES:
            raise ValueError(f"it has more than {_MAX_ALIASES} aliases (*name)")
        values = jsonargparse.get_loader("yaml")(decoded)
    except (yaml.YAMLError, RecursionError, TypeError) as error:
        raise ValueError(f"it is not YAML: {error}") from error
    _require_bounded(values)
    return values


def _require_bounded(values: Any) -> None:
    """Raise ValueError if a configuration cannot have so many values, levels or bits, or values of such types."""
    num_values, waiting = 0, [(values, 0)]
    while waiting:
        value, depth = waiting.pop()
        num_values += 1
        if num_values > _MAX_VALUES or depth > _MAX_DEPTH:
            raise ValueError(f"it has more than {_MAX_VALUES:,} values, or {_MAX_DEPTH} levels")
        if isinstance(value, dict):
            waiting += [(inner, depth + 1) for inner in (*value, *value.values())]
        elif isinstance(value, list):
            waiting += [(inner, depth + 1) for inner in value]
        elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise ValueError(f"it has an integer of more than {_MAX_BITS} bits")
        elif not isinstance(value, (str, int, float, NoneType)):
            raise ValueError(f"it has a value of type {type(value).__name__}")


def _mapping(values: dict[str, Any], name: str) -> dict[str, Any]:
    value = values.get(name) or {}
    if not isinstance(value, dict):
        raise ValueError(f"its {name} is {type(value).__name__}, not a mapping")
    return value


def _classes(value: Any, option: str) -> Iterator[tuple[str, str]]:
    """Yield each class that `value` names as `class_path`, after the option that would name it."""
    if isinstance(value, list):
        for inner in value:
            yield from _classes(inner, option)
    elif isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield option, value["class_path"]
        for name, inner in value.items():
            yield from _classes(inner, option if name == "init_args" else f"{option}.{name}")


def _is_class_path(text: str) -> bool:
    return "." in text and all(part.isidentifier() for part in text.split("."))


def _is_plain(value: Any) -> bool:
    """Whether the value of a trainer option is a name, a number or a list of numbers, and so cannot name a class."""
    if isinstance(value, list):
        return all(isinstance(number, int) for number in value)
    return isinstance(value, int) or (isinstance(value, str) and _PLAIN.fullmatch(value) is not None)


def _objects(value: Any, key: str) -> Iterator[tuple[str, jsonargparse.Namespace]]:
    """Yield each object that a parsed configuration describes, at any depth: its key, and its class and arguments.

    jsonargparse has imported these classes. A mapping that names another class is a plain dict after parsing.
    """
    if isinstance(value, jsonargparse.Namespace):
        if "class_path" in value:
            yield key, value
        value = vars(value)
    elif isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _objects(inner, f"{key}.{name}")


def _default(kind: type, option: str) -> Any:
    """Return the default of a constructor's option; `server.url` is the attribute `url` of the default of `server`."""
    name, *inner = option.split(".")
    constructors = (signature(base).parameters for base in kind.__mro__)  # a subclass may pass `**kwargs` to its base
    default = next(parameters[name].default for parameters in constructors if name in parameters)
    for attribute in inner:
        default = getattr(default, attribute)
    return default


def _as_argument(value: str | float) -> str:
    """Return `value` quoted for a shell."""
    return shlex.quote(value) if isinstance(value, str) else json.dumps(value)
