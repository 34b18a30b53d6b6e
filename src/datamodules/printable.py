"""Escaping of text from a corpus, run folder, checkpoint or server, so that a terminal or page shows what it contains.

| characters                                          | Unicode category | shown as                              |
|-----------------------------------------------------|------------------|---------------------------------------|
| control (C0, DEL, C1), among them escape sequences  | Cc               | `\\x1b`; `\\n`, `\\r`, `\\t`          |
| bidirectional overrides, zero width, tags           | Cf               | `\\u202e`, `\\U000e0041`              |
| line and paragraph separators                       | Zl, Zp           | `\\u2028`                             |
| lone surrogates, private use, unassigned            | Cs, Co, Cn       | `\\udc80`, `\\ue000`                  |
| joiners (U+200C, U+200D) that join nothing          | Cf               | `\\u200d`                             |
| marks beyond the eighth on one letter               | Mn, Me           | `\\u0301`                             |
| everything else, spaces of all widths included      |                  | unchanged                             |

Emoji sequences and Persian and Indic words need joiners, so these are kept after a character that is not ASCII; after
an ASCII character they would only make two names look alike. Words have at most eight marks on a letter; hundreds of
them would cover the lines above and below.

Letters of two scripts that look alike are kept, and so are invisible letters (Hangul fillers) and variation selectors.

A backslash is kept, so escaping twice changes nothing; but a text with a backslash of its own looks escaped.
"""

import json
import re
import unicodedata
from typing import Any

_NOT_ASCII_PRINTABLE = re.compile(r"[^ -~]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_JOINERS = "\u200c\u200d"
_MAX_MARKS = 8


def printable(text: str) -> str:
    """Return `text` as one line, with each character that could mislead a reader escaped as in a Python literal."""
    return _NOT_ASCII_PRINTABLE.sub(_escaped, text)


def printable_lines(text: str) -> str:
    r"""Return `text` as `printable` does, but with its line feeds kept; of `\r\n` the `\r` shows."""
    return "\n".join(map(printable, text.split("\n")))


def json_line(value: Any) -> str:
    r"""Return `value` as JSON on one line of ASCII: what is not printable ASCII is escaped as `\uXXXX`."""
    return json.dumps(value).replace("\x7f", r"\u007f")  # DEL, the one control character that `json` leaves


def _escaped(match: re.Match[str]) -> str:
    char, start = match[0], match.start()
    if char in _JOINERS:
        before = match.string[start - 1 : start]
        return char if before.isprintable() and not before.isascii() else _literal(char)
    category = unicodedata.category(char)
    if category in ("Mn", "Me"):
        before = match.string[max(0, start - _MAX_MARKS) : start]
        is_flood = len(before) == _MAX_MARKS and all(unicodedata.category(mark) in ("Mn", "Me") for mark in before)
        return _literal(char) if is_flood else char
    return char if char.isprintable() or category == "Zs" else _literal(char)


def _literal(char: str) -> str:
    code = ord(char)
    return _SHORT.get(char) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )
