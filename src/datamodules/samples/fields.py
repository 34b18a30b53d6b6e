"""Fields of a sample's json: each has one Arrow type in all samples of a run.

Readers such as Hugging Face `datasets` give each field one type for a whole dataset. So a sample kind declares its
fields in one table, from which its json, the dataset card, `features_of` and the Parquet export are made. Other fields
of the corpus get their types when the run is planned, from the values of all items:

| type in the plan | values of all items, except nulls      | written as                                            |
|------------------|----------------------------------------|-------------------------------------------------------|
| bool             | booleans                               | the same                                              |
| int64            | whole numbers of at most 64 bits       | the same                                              |
| float64          | numbers, the whole ones of 53 bits     | floats: 6 becomes 6.0                                 |
| string           | texts                                  | the same                                              |
| null             | none                                   | null                                                  |
| list<…>          | lists of one of the above              | lists of that                                         |
| json             | anything else: objects, nested lists,  | JSON text, of which `json.loads` is the value: `"5"`  |
|                  | texts of some items, numbers of others | of the number 5, `"\\"5\\""` of the text 5            |

A field that an item does not have is null in its sample.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pyarrow as pa

from datamodules.errors import ExtractError
from datamodules.media.limits import MAX_PIXELS
from datamodules.run.typed_json import load
from datamodules.samples.content import Content, size_of

CorpusTypes = Mapping[str, str]  # name of a field: type in the plan
_MAX_JSON_BYTES = 256 << 20  # of one sample; the names of the frames of a day at 25 frames a second are 50 MB
_JSON, _NULL, _LIST = "json", "null", "list<"
_SCALARS = {
    frozenset[str](): _NULL,
    frozenset({"bool"}): "bool",
    frozenset({"int"}): "int64",
    frozenset({"wide int"}): "int64",
    frozenset({"int", "wide int"}): "int64",
    frozenset({"float"}): "float64",
    frozenset({"int", "float"}): "float64",
    frozenset({"text"}): "string",
}


@dataclass(frozen=True)
class Field:
    """A field of a sample's json.

    Attributes:
        name: name in the json.
        type: type in Arrow; every field may be null.
        meaning: short text for the dataset card.
        unit: unit of a number; empty: none.
        of_corpus: whether the corpus provides the field: samples have it only if their corpus has it.
    """

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""
    of_corpus: bool = False


def struct_of(**types: pa.DataType) -> pa.DataType:
    """Return the type of an object with these fields."""
    return pa.struct(list(types.items()))


def encode_json(meta: Mapping[str, Any], fields: Iterable[Field]) -> bytes:
    """Return the json of a sample, with the values of `fields` in their types and all others unchanged.

    A lone surrogate, which UTF-8 cannot hold, becomes a question mark.

    Raises:
        ExtractError: see `typed`.
    """
    return json.dumps({**meta, **typed(meta, fields)}, sort_keys=True, ensure_ascii=False).encode(errors="replace")


def read_json(content: Content) -> Any:
    """Return the value of a JSON file of a sample.

    Raises:
        ValueError: it is not JSON, is too large, or is nested too deeply.
    """
    return load(_read(content))


def _read(content: Content) -> bytes:
    if size_of(content) > _MAX_JSON_BYTES:
        raise ValueError(f"its json has {size_of(content):,} bytes; at most {_MAX_JSON_BYTES:,} are read")
    if not isinstance(content, bytes):
        content.seek(0)
        content = content.read()
    return content


def decode_json(content: Content, fields: Iterable[Field]) -> dict[str, Any]:
    """Return the json of a sample that `encode_json` wrote. Its `fields` have their types.

    Raises:
        ValueError: it is not a JSON object, or the value of a field does not fit its type.
    """
    text = _read(content)
    document = load(text)
    if not isinstance(document, dict):
        raise ValueError("its json is not an object")
    if b"\\u" in text:  # UTF-8 holds no lone surrogate, but an escape may be one
        json.dumps(document, ensure_ascii=False).encode()  # raises ValueError for a lone surrogate
    for field in (field for field in fields if field.name in document):
        try:
            document[field.name] = as_type(document[field.name], field.type)
        except ValueError as error:
            shown = f"{document[field.name]!r:.80}"
            raise ValueError(f"{field.name} in its json is {shown}, where {error} is needed") from error
    return document


def size_of_frames(meta: Mapping[str, Any], prefix: str = "") -> tuple[int, int]:
    """Return (height, width) in px from the fields `{prefix}height` and `{prefix}width` of `meta`.

    Raises:
        ValueError: a field is missing, or an image cannot have this size.
    """
    height, width = (meta.get(f"{prefix}{name}") for name in ("height", "width"))
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        raise ValueError(f"its json has the {prefix}width {width} and {prefix}height {height}")
    if height * width > MAX_PIXELS:
        raise ValueError(f"its json has the size {width}x{height} px; the limit is {MAX_PIXELS:,} px")
    return height, width


def typed(meta: Mapping[str, Any], fields: Iterable[Field]) -> dict[str, Any]:
    """Return the values in `meta` of those of `fields` that it has, in their types.

    Raises:
        ExtractError: a value, which comes from the corpus, does not fit its field.
    """
    values: dict[str, Any] = {}
    for field in (field for field in fields if field.name in meta):
        try:
            values[field.name] = as_type(meta[field.name], field.type)
        except ValueError as error:
            raise ExtractError(
                f"its corpus field {field.name!r} is {meta[field.name]!r:.80}, where {error} is needed: correct it, or "
                "rename the field or leave it out"
            ) from error
    return values


def as_type(value: Any, type: pa.DataType) -> Any:
    """Return `value`, JSON-able, converted to the type of its field; null stays null.

    For a float, numbers and texts of numbers are converted, because a CSV file has only texts; `nan`, which pandas
    writes for a missing value, becomes null. For a string, any other value becomes JSON text.

    Raises:
        ValueError: the value does not fit; the message says what would fit.
    """
    return None if value is None else _converter(type)(value)


@cache  # asking Arrow about a type takes longer than to convert a value
def _converter(type: pa.DataType) -> Callable[[Any], Any]:
    """Return the function that converts a value, not None, to a type; see `as_type`."""
    if pa.types.is_floating(type):
        return _as_float
    if pa.types.is_integer(type):
        return partial(_as_integer, type.bit_width)
    if pa.types.is_boolean(type):
        return _as_bool
    if pa.types.is_string(type):
        return _as_text
    if pa.types.is_list(type):
        return partial(_as_list, _converter(type.value_type))
    if pa.types.is_struct(type):
        return partial(_as_struct, {field.name: _converter(field.type) for field in type})
    return lambda value: value


def _as_integer(bit_width: int, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("a whole number")
    if not -(1 << bit_width - 1) <= value < 1 << bit_width - 1:
        raise ValueError(f"a whole number of {bit_width} bits")
    return value


def _as_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _as_list(convert: Callable[[Any], Any], value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("a list")
    return [None if element is None else convert(element) for element in value]


def _as_struct(converters: Mapping[str, Callable[[Any], Any]], value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("an object")
    known = {name: convert for name, convert in converters.items() if value.get(name) is not None}
    return {**value, **{name: convert(value[name]) for name, convert in known.items()}}


def _as_float(value: Any) -> float | None:
    try:
        number = math.inf if isinstance(value, bool) or "_" in str(value) else float(value)  # Python reads 1_5 as 15
    except (ValueError, TypeError, OverflowError):
        number = math.inf
    if math.isinf(number):
        raise ValueError("a number")
    return None if math.isnan(number) else number


class TypeInference:
    """Finds one type for each field from the values of many items."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[set[str], set[str]]] = {}  # by field: of its values, and of their elements

    def add(self, meta: Mapping[str, Any]) -> None:
        """Take the values of one item into account."""
        for name, value in meta.items():
            kinds, of_elements = self._kinds.setdefault(name, (set(), set()))
            if value is not None:
                kinds.add(_kind(value))
            if isinstance(value, (list, tuple)):
                of_elements.update(_kind(element) for element in value if element is not None)

    def types(self) -> dict[str, str]:
        """Return the type of each field, named as in the table above."""
        return {name: _type_name(*kinds) for name, kinds in sorted(self._kinds.items())}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):  # floats hold 53 bits
        return "int" if abs(value) <= 1 << 53 else "wide int" if -(1 << 63) <= value < 1 << 63 else "other"
    if isinstance(value, float):
        return "float"
    return "text" if isinstance(value, str) else "list" if isinstance(value, (list, tuple)) else "other"


def _type_name(kinds: set[str], of_elements: set[str]) -> str:
    if kinds != {"list"}:
        return _SCALARS.get(frozenset(kinds), _JSON)
    element = _SCALARS.get(frozenset(of_elements))
    return f"{_LIST}{element}>" if element else _JSON


def arrow_type(name: str) -> pa.DataType:
    """Return the Arrow type that the table above calls `name`; string for a field with nulls only."""
    if name.startswith(_LIST):
        return pa.list_(arrow_type(name.removeprefix(_LIST).removesuffix(">")))
    return pa.string() if name in (_JSON, _NULL) else pa.type_for_alias(name)


def check_type(name: str) -> str:
    """Return `name` if it is a type of the table above.

    Raises:
        ValueError: it is not.
    """
    element = name[len(_LIST) : -1] if name.startswith(_LIST) and name.endswith(">") else name
    if element not in _SCALARS.values() and name != _JSON:
        raise ValueError(f"{name!r:.100} is not the type of a field")
    return name


def common_type(one: str, other: str) -> str | None:
    """Return the type to which fields of both types can be converted; None if there is none."""
    if one.startswith(_LIST) and other.startswith(_LIST):
        element = common_type(*(name.removeprefix(_LIST).removesuffix(">") for name in (one, other)))
        return element and f"{_LIST}{element}>"
    types = {one, other} - {_NULL}
    return "float64" if types == {"int64", "float64"} else max(types, default=_NULL) if len(types) < 2 else None


def uniform(meta: Mapping[str, Any], types: CorpusTypes, declared: Sequence[Field]) -> dict[str, Any]:
    """Return `meta` with every field of the corpus in its type in the run; null if the item does not have it.

    Args:
        meta: the meta of a sample, JSON-able.
        types: types of the corpus's fields.
        declared: fields of the sample's kind; `encode_json` converts these.
    """
    own = {field.name for field in declared}
    others = {name: _as_corpus_type(meta.get(name), kind) for name, kind in types.items() if name not in own}
    return {**dict.fromkeys(types), **meta, **others}


def _as_corpus_type(value: Any, name: str) -> Any:
    if value is not None and name == _JSON:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return as_type(value, arrow_type(name))
