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
from datamodules.regular import NotRegularError, open_regular

_MAX_JSON_BYTES = 16 << 20  # of one image; it is read whole
_MAX_FIELD_CHARS = 1 << 20  # in a prompt: tokenizers take more than a second for so many
_MAX_NAME_CHARS = 80  # of a field, in messages
_PIECES = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<field>[^{}]+)\}|(?P<stray>[{}])")


class PromptTemplate:
    """A prompt with fields: `Describe the {name}, sold by {seller.name}.` `{{` and `}}` are braces.

    Fields are what the corpus tells of an item, and those of its JSON files as they are now, of which later ones win.
    `{a.b}` is the field `a.b`, or else the field `b` of the object `a`. Values are texts, numbers, true or false, or
    lists of these.

    Args:
        template: the prompt.
        option: that gave it, for messages.

    Attributes:
        fields: that are wanted, in order.

    Raises:
        ConfigError: a brace without its partner, or without a name.
    """

    def __init__(self, template: str, option: str = "--model.prompt") -> None:
        pieces = list(_PIECES.finditer(template))
        if stray := next((piece for piece in pieces if piece["stray"]), None):
            raise ConfigError(
                f"{option} {template!r}: the {stray[0]!r} at character {stray.start() + 1} has no partner, or no "
                "name of a field: write {{ and }} for braces"
            )
        self._template = template
        self.fields = [piece["field"].strip() for piece in pieces if piece["field"]]

    def __call__(self, item: Item) -> str:
        """The prompt for `item`.

        Raises:
            ExtractError: a field is not there, or says nothing, or is no text; or a JSON file is none.
        """
        known = _known(item) if self.fields else _Known({}, {}, [])
        return _PIECES.sub(
            lambda piece: piece[0][0] if piece["brace"] else known.text(piece["field"].strip()), self._template
        )


class _Known(NamedTuple):
    """The fields that there are of an item; where those of JSON files come from; and where they were looked for."""

    fields: dict[str, Any]
    places: dict[str, str]
    looked_for: list[str]

    def text(self, field: str) -> str:
        try:
            return _text(self.fields, field)
        except ExtractError as error:
            place = self.places.get(field) or self.places.get(field.partition(".")[0])
            looked_for = f"; looked for in {', '.join(self.looked_for)}" if self.looked_for else ""
            raise ExtractError(f"{error} (in {place})" if place else f"{error}{looked_for}") from error


def _known(item: Item) -> _Known:
    known = _Known({name: value for name, value in item.meta.items() if name != JSON_FILES}, {}, [])
    for path, start_byte, num_bytes in item.meta.get(JSON_FILES, ()):
        where = path if start_byte is None else f"the JSON at byte {start_byte:,} of {path}"
        fields = _read(where, path, start_byte, num_bytes)
        known.fields.update(fields)
        known.places.update(dict.fromkeys(fields, where))
        known.looked_for.append(where)
    return known


def _read(where: str, path: str, start_byte: int | None, num_bytes: int | None) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            num_bytes = os.fstat(file.fileno()).st_size if num_bytes is None else num_bytes
            if num_bytes > _MAX_JSON_BYTES:
                raise ExtractError(
                    f"{where} has {num_bytes:,} bytes; the limit for the JSON of one image is {_MAX_JSON_BYTES:,}"
                )
            file.seek(start_byte or 0)
            content = file.read(num_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        if start_byte is None:  # the image has none there
            return {}
        raise ExtractError(f"{path} is missing") from error
    except (IsADirectoryError, NotRegularError) as error:
        raise ExtractError(f"{path} cannot be read: {error.strerror}") from error
    try:
        fields = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError among them
        raise ExtractError(f"{where} is no JSON in UTF-8: {error}") from error
    if not isinstance(fields, dict):
        raise ExtractError(f"{where} holds no object with fields, but {type(fields).__name__}")
    return fields


def _text(known: Mapping[str, Any], field: str) -> str:
    value = _find(known, field)
    if isinstance(value, (dict, Mapping)):
        raise ExtractError(f"its field {field!r} is an object: name one of {_listed(value, field)}")
    values = value if isinstance(value, list) else [value]
    if wrong := next((wrong for each in values if (wrong := _no_text(each))), None):
        raise ExtractError(f"its field {field!r} is {'a list with ' if isinstance(value, list) else ''}{wrong}")
    texts = [json.dumps(each) if isinstance(each, bool) else str(each).strip() for each in values]
    if not all(texts) or not texts:
        raise ExtractError(f"its field {field!r} is empty")
    text = ", ".join(texts)
    if len(text) > _MAX_FIELD_CHARS:
        raise ExtractError(f"its field {field!r} has {len(text):,} characters; the limit is {_MAX_FIELD_CHARS:,}")
    return text


def _no_text(value: Any) -> str | None:
    """What `value` is, if it cannot stand in a prompt by itself."""
    if isinstance(value, float) and not math.isfinite(value):  # Python reads NaN and 1e999, which are no JSON
        return f"{value}, which is no number"
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return "a text with half a character (a lone surrogate)"  # JSON may have it, UTF-8 and tokenizers not
    if isinstance(value, (dict, Mapping)):
        return "an object"
    return "null" if value is None else "a list" if isinstance(value, list) else None


def _find(known: Any, field: str) -> Any:
    if field in known:
        return known[field]
    outer, _, inner = field.partition(".")
    if inner and isinstance(known.get(outer), Mapping):
        try:
            return _find(known[outer], inner)
        except ExtractError as error:
            raise ExtractError(f"in its field {outer!r}: {error}") from error
    raise ExtractError(f"it has no field {field!r}; there are {_listed(known)}")


def _listed(known: Mapping[str, Any], outer: str = "") -> str:
    names = [name[:_MAX_NAME_CHARS].encode(errors="replace").decode() for name in islice(known, 21)]
    listed = ", ".join(f"{outer}.{name}" if outer else name for name in names[:20])
    return listed + (", …" if len(names) > 20 else "") if names else "none"
