"""Values of a row of a list, checked: each function returns the value, or raises CorpusError, which costs the row.

`nan` and `NaN` count as missing in texts, names and times, because pandas writes missing values so.
"""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from datamodules.corpus import JSON_FILES
from datamodules.errors import CorpusError

# [HH:]MM:SS[.mmm]: minutes are below 60 only after hours, so `90:00` is 90 minutes, and `1:75:00` is refused
_CLOCK = re.compile(r"(?:([0-9]+):(?=[0-5]?[0-9]:))?([0-9]+):([0-5]?[0-9](?:[.,][0-9]+)?)")
_NAN = ("nan", "NaN")


def as_meta(values: dict[str, Any]) -> dict[str, Any]:
    """Return `values` of a row as the meta of an item.

    Raises:
        CorpusError: a field is named `json_files`, by which a list could name any file of the machine; or a name has a
            lone surrogate, which UTF-8 cannot hold.
    """
    if JSON_FILES in values:
        raise CorpusError(f"it has the field {JSON_FILES!r}, a name that is reserved: rename it")
    if faulty := next((name for name in values if re.search("[\ud800-\udfff]", name)), None):
        raise CorpusError(f"its field {faulty!r:.80} has a lone surrogate in its name: rename it")
    return values


def as_name(column: str, value: Any) -> str:
    """Return the `value` of a `column` as text that names something, such as a key or a split.

    Raises:
        CorpusError: it is neither text nor a whole number, or is missing.
    """
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value in ("", *_NAN):
        raise CorpusError(f"{column!r} is {value!r:.80}: give text or a whole number")
    return str(value)


def as_text(column: str, value: Any) -> str:
    """Return the `value` of a `column` as text; "" for `nan`.

    Raises:
        CorpusError: it is not text.
    """
    if not isinstance(value, str):
        raise CorpusError(f"{column!r} is {value!r:.80}, and not text")
    return "" if value in _NAN else value


def as_seconds(column: str, value: Any) -> float | None:
    """Return the `value` of a `column` in seconds; None where it is missing.

    Args:
        column: name, for errors.
        value: a number, or a time as `[HH:]MM:SS`, with decimals after `.` or, as in SRT, `,`.

    Raises:
        CorpusError: it is anything else, or below 0.
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


def as_part(
    values: Mapping[str, Any], start_column: str | None, stop_column: str | None
) -> tuple[float | None, float | None]:
    """Return the start and the end of a part of a video, in s; None: those of the video.

    Args:
        values: of a row.
        start_column: of the start; None: the row has none.
        stop_column: of the end; None: the row has none.

    Raises:
        CorpusError: one is no time (`as_seconds`), or the part does not end after it starts.
    """
    start, stop = (as_seconds(name, values[name]) if name else None for name in (start_column, stop_column))
    require_part(start_column, start, stop_column, stop)
    return start, stop


def require_part(start_column: str | None, start: float | None, stop_column: str | None, stop: float | None) -> None:
    """Check that a part of a video, in seconds, ends after it starts; None: at the start, at the end.

    Raises:
        CorpusError: it does not; the message names the columns.
    """
    if stop is not None and stop <= (start or 0.0):
        start_name = f"{start_column} =" if start_column else "the start,"
        raise CorpusError(f"{stop_column} = {stop:g} is not after {start_name} {start or 0:g}")


def require_below(path: str) -> None:
    """Raise CorpusError if `path` is neither that of a file below the root nor a URL."""
    if path in ("", "."):
        raise CorpusError(f"{path!r} names no video")
    if path.startswith("/") or re.match(r"[A-Za-z]:[/\\]", path) or ".." in re.split(r"[/\\]", path):
        raise CorpusError(f"{path!r} leads out of the folder of the videos: name a file in it")
