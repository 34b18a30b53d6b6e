"""Values of a row of a list, checked."""

import math
import re
from contextlib import suppress
from typing import Any

from datamodules.corpus import JSON_FILES
from datamodules.errors import CorpusError

_CLOCK = re.compile(r"(?:([0-9]+):(?=[0-5]?[0-9]:))?([0-9]+):([0-5]?[0-9](?:[.,][0-9]+)?)")
_NAN = ("nan", "NaN")


def as_meta(values: dict[str, Any]) -> dict[str, Any]:
    """Return `values`, of a row, as the meta of an item.

    Raises:
        CorpusError: one has the name under which items keep where their JSON files are, so a list could name any file;
            or a name that UTF-8 cannot hold.
    """
    if JSON_FILES in values:
        raise CorpusError(f"it has the field {JSON_FILES!r}, a name that no field of a list can have: rename it")
    if wrong := next((name for name in values if re.search("[\ud800-\udfff]", name)), None):
        raise CorpusError(f"its field {wrong!r:.80} has a lone surrogate in its name: rename it")
    return values


def as_name(column: str, value: Any) -> str:
    """Return `value`, of a row's `column`, as text that can name something.

    Raises:
        CorpusError: it is neither text nor a whole number, or is missing.
    """
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value in ("", *_NAN):
        raise CorpusError(f"{column!r} is {value!r:.80}: give text or a whole number")
    return str(value)


def as_text(column: str, value: Any) -> str:
    """Return `value`, of a row's `column`, as text; "" where it is missing as pandas writes that.

    Raises:
        CorpusError: it is no text.
    """
    if not isinstance(value, str):
        raise CorpusError(f"{column!r} is {value!r:.80}, and not text")
    return "" if value in _NAN else value


def as_seconds(column: str, value: Any) -> float | None:
    """Return `value`, of a row's `column`, in seconds; None where it is missing.

    It is a number, or a time as `[HH:]MM:SS`, with decimals after `.` or, as in SRT, `,`.

    Raises:
        CorpusError: it is none of these, or below 0.
    """
    if value is None or value in ("", *_NAN):
        return None
    seconds = math.nan
    if isinstance(value, str) and (clock := _CLOCK.fullmatch(value.strip())):
        hours, minutes, rest = clock.groups(default="0")
        seconds = float(hours) * 3600 + float(minutes) * 60 + float(rest.replace(",", "."))
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            seconds = math.nan if "_" in str(value) else float(value)  # Python reads 1_5 as 15
    if not 0 <= seconds < math.inf:
        raise CorpusError(f"{column!r} is {value!r:.80}: give seconds from 0 on, as a number or HH:MM:SS.mmm")
    return seconds
