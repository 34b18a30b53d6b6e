"""Read JSON files of a run folder as dataclasses.

The folder may come from someone else, so every type is checked.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
_INT64_MAX = (1 << 63) - 1
_MAX_DEPTH = 200  # code that walks a value recurses once per level, and Python allows 1,000 calls
_SHOWN_LENGTH = 60  # characters of a wrong value or name in a message


def load(text: str | bytes) -> Any:
    """Return the value of the JSON document `text`.

    Raises:
        ValueError: `text` is not JSON, or nested too deeply.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if text.count("[") + text.count("{") > _MAX_DEPTH and _depth(value) > _MAX_DEPTH:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
    return value


def _depth(value: Any) -> int:
    """Return how deeply lists and objects are nested in `value`, level by level and so without recursion."""
    depth, level = 0, [value]
    while level := [child for parent in level if isinstance(parent, (list, dict)) for child in _children(parent)]:
        depth += 1
    return depth


def _children(value: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def build(cls: type[T], value: Any, name: str = "") -> T:
    """Return an object of the dataclass `cls` with the fields of the JSON object `value`.

    The type of a field may be `Any`, str, bool, int, float, a dataclass, a list, a tuple, a dict with str keys, or the
    union of one of these with None. Every int in a run folder is a count, a size or an index, so it must be from 0 to
    2^63 - 1. A float must be finite.

    Args:
        cls: the dataclass.
        value: a value that `load` returned, or a part of one.
        name: of the field with this value, for messages; empty: `value` is the whole document.

    Raises:
        ValueError: a field is missing, unknown or of another type; the message names it.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{name or 'the document'} is {_shown(value)}, not an object")
    types, required = _declared(cls)  # type: ignore[arg-type]
    prefix = f"{name}." if name else ""
    if missing := required - value.keys():
        raise ValueError(f"{prefix}{min(missing)} is missing")
    if unknown := value.keys() - types.keys():
        raise ValueError(f"{prefix}{min(unknown):.{_SHOWN_LENGTH}} is not a known field")
    return cls(**{field: _typed(types[field], part, f"{prefix}{field}") for field, part in value.items()})


@lru_cache
def _declared(cls: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the types of the fields of a dataclass by name, and the names of those without a default."""
    required = (field.name for field in fields(cls) if field.default is field.default_factory is MISSING)
    return get_type_hints(cls), frozenset(required)


def _typed(kind: Any, value: Any, name: str) -> Any:
    """Return the value of the field `name` as the type `kind`; raise ValueError if it has another type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if NoneType in arguments:
        [kind] = (argument for argument in arguments if argument is not NoneType)
        return None if value is None else _typed(kind, value, name)
    if is_dataclass(kind):
        return build(kind, value, name)  # type: ignore[arg-type]
    if origin is dict and isinstance(value, dict):
        return {key: _typed(arguments[1], part, f"{name}.{key:.{_SHOWN_LENGTH}}") for key, part in value.items()}
    if origin is list and isinstance(value, list):
        return [_typed(arguments[0], part, name) for part in value]
    if origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        return tuple(_typed(argument, part, name) for argument, part in zip(arguments, value, strict=True))
    if not _is_scalar(kind, value):
        raise ValueError(f"{name} is {_shown(value)}, not {kind.__name__ if origin is None else kind}")
    return value


def _is_scalar(kind: Any, value: Any) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value <= _INT64_MAX
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return kind is Any or type(value) is kind


def _shown(value: Any) -> str:
    """Return a scalar as text; of a list or an object, which may be long, only the type."""
    return type(value).__name__ if isinstance(value, (dict, list)) else f"{value!r:.{_SHOWN_LENGTH}}"
