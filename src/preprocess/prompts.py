"""Prompts and captions with fields, such as `{name}`, that are filled in for each item."""

import json
import math
import os
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

from datamodules.corpus import JSON_FILES, Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.objects import open_input
from datamodules.regular import NotRegularError

_MAX_JSON_BYTES = 16 << 20  # of one image, whose JSON is read at once
_MAX_FIELD_CHARS = 1 << 20  # of a field: tokenizers need more than a second for so many
_MAX_NAME_CHARS = 80  # of a field, in messages
_PIECES = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<field>[^{}]+)\}|(?P<stray>[{}])")


class PromptTemplate:
    """A prompt with fields, such as `Describe the {name}, sold by {seller.name}.`; `{{` and `}}` are braces.

    Fields come from the corpus and from the item's JSON files, which are read when the prompt is filled in; of equal
    names the last one counts. `{a.b}` is the field `a.b`, or else the field `b` of the object `a`. Values are texts,
    numbers, booleans, or lists of these.

    Args:
        template: the prompt.
        option: the option that gave it, for messages.

    Attributes:
        fields: names of the fields in the template, in order.

    Raises:
        ConfigError: a brace has no partner, or braces have no name between them.
    """

    def __init__(self, template: str, option: str = "--model.prompt") -> None:
        pieces = list(_PIECES.finditer(template))
        if stray := next((piece for piece in pieces if piece["stray"]), None):
            raise ConfigError(
                f"{option} {template!r}: the {stray[0]!r} at character {stray.start() + 1} has no partner, or no "
                "name of a field. Write {{ and }} for braces"
            )
        self._template = template
        self.fields = [piece["field"].strip() for piece in pieces if piece["field"]]

    def __call__(self, item: Item) -> str:
        """Return the prompt for `item`.

        Raises:
            ExtractError: a field is missing, empty or not text, or a JSON file is damaged.
        """
        fields = _Fields.of(item) if self.fields else _Fields({}, {}, [])
        return _PIECES.sub(
            lambda piece: piece[0][0] if piece["brace"] else fields.text(piece["field"].strip()), self._template
        )


class _Fields(NamedTuple):
    """The fields of an item.

    Attributes:
        values: by name.
        sources: of fields from JSON files, by name: where they were read.
        searched: all JSON that was read.
    """

    values: dict[str, Any]
    sources: dict[str, str]
    searched: list[str]

    @classmethod
    def of(cls, item: Item) -> "_Fields":
        fields = cls({name: value for name, value in item.meta.items() if name != JSON_FILES}, {}, [])
        for path, start_byte, num_bytes in item.meta.get(JSON_FILES, ()):
            source = path if start_byte is None else f"the JSON at byte {start_byte:,} of {path}"
            values = _read(source, path, start_byte, num_bytes)
            fields.values.update(values)
            fields.sources.update(dict.fromkeys(values, source))
            fields.searched.append(source)
        return fields

    def text(self, field: str) -> str:
        """Return the value of `field` as text; ExtractError says where it was searched for."""
        try:
            return _text(self.values, field)
        except ExtractError as error:
            source = self.sources.get(field) or self.sources.get(field.partition(".")[0])
            searched = f"; searched in {', '.join(self.searched)}" if self.searched else ""
            raise ExtractError(f"{error} (in {source})" if source else f"{error}{searched}") from error


def _read(source: str, path: str, start_byte: int | None, num_bytes: int | None) -> dict[str, Any]:
    """Return the object in a JSON file, or in `num_bytes` of a larger file; {} if an image has no such file."""
    try:
        with open_input(path) as file:
            num_bytes = file.seek(0, os.SEEK_END) if num_bytes is None else num_bytes
            if num_bytes > _MAX_JSON_BYTES:
                raise ExtractError(
                    f"{source} has {num_bytes:,} bytes; the limit for the JSON of one image is {_MAX_JSON_BYTES:,}"
                )
            file.seek(start_byte or 0)
            content = file.read(num_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        if start_byte is None:  # optional: the image has no JSON file
            return {}
        raise ExtractError(f"{path} is missing") from error
    except (IsADirectoryError, NotRegularError) as error:
        raise ExtractError(f"{path} cannot be read: {error.strerror}") from error
    try:
        fields = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError among them
        raise ExtractError(f"{source} is not JSON in UTF-8: {error}") from error
    if not isinstance(fields, dict):
        raise ExtractError(f"{source} is not an object with fields, but {type(fields).__name__}")
    return fields


def _text(fields: Mapping[str, Any], field: str) -> str:
    value = _find(fields, field)
    if isinstance(value, (dict, Mapping)):
        raise ExtractError(f"its field {field!r} is an object. Name one of {_listed(value, field)}")
    values = value if isinstance(value, list) else [value]
    if wrong := next((wrong for element in values if (wrong := _unusable(element))), None):
        raise ExtractError(f"its field {field!r} is {'a list with ' if isinstance(value, list) else ''}{wrong}")
    texts = [json.dumps(element) if isinstance(element, bool) else str(element).strip() for element in values]
    if not all(texts) or not texts:
        raise ExtractError(f"its field {field!r} is empty")
    text = ", ".join(texts)
    if len(text) > _MAX_FIELD_CHARS:
        raise ExtractError(f"its field {field!r} has {len(text):,} characters; the limit is {_MAX_FIELD_CHARS:,}")
    return text


def _unusable(value: Any) -> str | None:
    """Return what `value` is, if it cannot be part of a prompt; None if it can."""
    if isinstance(value, float) and not math.isfinite(value):  # Python reads NaN and 1e999, which JSON does not have
        return f"{value}, which is not a number"
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return "a text with a lone surrogate, which UTF-8 cannot store"
    if isinstance(value, (dict, Mapping)):
        return "an object"
    return "null" if value is None else "a list" if isinstance(value, list) else None


def _find(fields: Any, field: str) -> Any:
    if field in fields:
        return fields[field]
    outer, _, inner = field.partition(".")
    if inner and isinstance(fields.get(outer), Mapping):
        try:
            return _find(fields[outer], inner)
        except ExtractError as error:
            raise ExtractError(f"in its field {outer!r}: {error}") from error
    raise ExtractError(f"it has no field {field!r}; its fields: {_listed(fields)}")


def _listed(fields: Mapping[str, Any], outer: str = "") -> str:
    names = [name[:_MAX_NAME_CHARS].encode(errors="replace").decode() for name in islice(fields, 21)]
    listed = ", ".join(f"{outer}.{name}" if outer else name for name in names[:20])
    return listed + (", …" if len(names) > 20 else "") if names else "none"
