"""JSON documents, and JSON lists that are written value by value because all of them would not fit into memory."""

import json
from collections.abc import Callable, Iterable
from typing import Any, TextIO


def as_json(values: Any) -> bytes:
    """Return `values` as an indented UTF-8 document; a lone surrogate becomes a question mark."""
    return json.dumps(values, indent=1, ensure_ascii=False).encode(errors="replace") + b"\n"


def write_list(file: TextIO, values: Iterable[dict[str, Any] | Callable[[TextIO], None]]) -> None:
    """Write a JSON list with one value per line.

    Args:
        file: to write to.
        values: the values; a callable writes its value to `file` itself.
    """
    file.write("[")
    for index, value in enumerate(values):
        file.write(",\n" if index else "\n")
        if callable(value):
            value(file)
        else:
            file.write(json.dumps(value, ensure_ascii=False))
    file.write("]")
