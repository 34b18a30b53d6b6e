"""Timed captions of videos: WebVTT, SubRip, and the JSON of youtube-transcript-api.

| ending | content                                                                                            |
|--------|----------------------------------------------------------------------------------------------------|
| .vtt   | https://www.w3.org/TR/webvtt1: blocks between blank lines; `START --> END`, then lines of text      |
| .srt   | the same, with a comma before milliseconds                                                         |
| .json  | a list of objects with `text`, and `start` and `duration` in seconds                               |

Tags such as `<i>` are removed from the texts, and lines are joined by blanks.
"""

import html
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from datamodules.corpora.paths import describe_error
from datamodules.corpora.rows import read_rows
from datamodules.corpora.text_lists import open_list
from datamodules.errors import ConfigError, CorpusError

_TIMES = re.compile(r"^([0-9:.,]+)[ \t]+-->[ \t]+([0-9:.,]+)[^\n]*$", re.MULTILINE)


class Caption(NamedTuple):
    """A caption.

    Attributes:
        start: s, or a time as `[HH:]MM:SS.mmm`, as the file has it.
        stop: likewise.
        text: on one line.
    """

    start: Any
    stop: Any
    text: str


def read_captions(path: str) -> Iterator[Caption]:
    """Read the captions in a file whose ending says its format.

    Raises:
        ConfigError: the ending is not one of the above.
        CorpusError: the file cannot be read, or is malformed.
        EnvironmentFailure: the file system or the store fails.
    """
    match os.path.splitext(path)[1].lower():
        case ".vtt" | ".srt":
            return _read_blocks(path)
        case ".json":
            return _read_json(path)
        case ending:
            raise ConfigError(f"{path} has the ending {ending!r}: give captions in .vtt, .srt or .json")


def _read_blocks(path: str) -> Iterator[Caption]:
    try:
        with open_list(path) as file:
            text = file.read()
    except OSError as error:
        raise CorpusError(describe_error(path, error)) from error
    except UnicodeError as error:
        raise CorpusError(f"{path} is not UTF-8: {error}") from error
    for block in re.split(r"\n[ \t]*\n", text):
        if times := _TIMES.search(block):
            yield Caption(times[1], times[2], _plain(block[times.end() :]))


def _read_json(path: str) -> Iterator[Caption]:
    for row in read_rows(path):
        row.require("text", "start", "duration")
        text, start, duration = (row.values[name] for name in ("text", "start", "duration"))
        if not all(isinstance(seconds, (int, float)) for seconds in (start, duration)) or not isinstance(text, str):
            raise CorpusError(f"{row.where}: give text, start and duration in seconds")
        yield Caption(start, start + duration, _plain(text))


def _plain(text: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]*>", "", text)).split())
