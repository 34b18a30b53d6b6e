"""Rows of lists in JSON and JSON Lines."""

import json
import re
import sys
from contextlib import suppress
from typing import IO, Any, NoReturn

from datamodules.corpora.row import MAX_DEPTH, MAX_NAMED, RawRows, name_some
from datamodules.corpora.text_lists import MAX_ROW_CHARS, open_list, read_lines
from datamodules.errors import CorpusError

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_READ_CHARS = 1 << 20
_LAYOUTS = {"sentences": "MSR-VTT", "videos": "MSR-VTT", "database": "ActivityNet", "annotations": "COCO"}  # by a key


def read_json_rows(path: str) -> RawRows:
    """Read the elements of the list in a `.json`, one in memory at a time, see `read_rows`."""
    with open_list(path) as file:
        text = _JsonText(path, file)
        text.expect("[", hint=_hint(path) if text.peek() == "{" else ": give a list of objects")
        if text.peek() == "]":
            text.expect("]")
        else:
            number = 0
            while number == 0 or text.expect(",]") == ",":
                number += 1
                yield f"{path}, row {number}", text.value()
        if text.peek():
            text.fail("there is more after the list")


def read_jsonl_rows(path: str) -> RawRows:
    """Read the lines of a `.jsonl` that are not blank, see `read_rows`."""
    with open_list(path) as file:
        for number, line in enumerate(read_lines(file, path), 1):
            if not line.isspace():
                yield f"{path}, line {number}", _decode_line(line)


def _hint(path: str) -> str:
    """Return what to do with a `.json` that holds an object, which probably wraps the list."""
    keys: list[str] = []
    with open_list(path) as file, suppress(CorpusError):  # it may be long or malformed: the first keys are enough
        text = _JsonText(path, file)
        text.expect("{")
        while text.peek() == '"' and len(keys) < MAX_NAMED:
            keys.append(text.value())
            text.expect(":")
            text.value()
            text.expect(",")
    layout = next((f" ({layout}'s layout)" for key, layout in _LAYOUTS.items() if key in keys), "")
    return (
        f": it is an object with {name_some(keys)}{layout}. Write the list of objects in it to "
        "a file of its own, or name it .jsonl if it has an object a line"
    )


def _decode_line(line: str) -> Any:
    """Return the value of a line of JSON; a malformed one gives a CorpusError, returned because only its row fails."""
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        return CorpusError(f"malformed JSON at column {error.colno}: {error.msg}")
    except (RecursionError, ValueError) as error:
        return CorpusError(_describe_limit(error))


def _describe_limit(error: RecursionError | ValueError) -> str:
    """Return which limit of Python's parser well-formed JSON exceeds."""
    if isinstance(error, RecursionError):
        return f"its values are nested more than {MAX_DEPTH} deep, the limit"
    return f"it has a whole number of more than {sys.get_int_max_str_digits():,} digits, the limit"


class _JsonText:
    """JSON that is parsed value by value, from a file that is read piece by piece.

    Python's own parser does the work, because it is fast and knows where something is malformed. It needs a value as a
    whole: where one is cut off by the end of the piece, twice as much is read and the value parsed again, so the time
    stays linear in the length.

    Args:
        path: of the list, for errors.
        file: the list, open.
    """

    def __init__(self, path: str, file: IO[str]) -> None:
        self._path, self._file = path, file
        self._text, self._position = "", 0  # the piece, and the next character in it
        self._lines, self._column = 0, 0  # line breaks before the piece, and characters since the last of them

    def peek(self) -> str:
        """Return the next character that is not white space; "" at the end."""
        while True:
            self._position = _SPACE.match(self._text, self._position).end()  # type: ignore[union-attr]  # always matches
            if self._position < len(self._text) or not self._read():
                return self._text[self._position : self._position + 1]

    def expect(self, characters: str, hint: str = "") -> str:
        """Consume and return the next character.

        Args:
            characters: those that may come.
            hint: end of the message if another one comes.

        Raises:
            CorpusError: another one comes, or the end.
        """
        character = self.peek()
        if not character or character not in characters:
            expected, actual = " or ".join(map(repr, characters)), repr(character) if character else "the end"
            self.fail(f"{expected} expected, not {actual}{hint}")
        self._position += 1
        return character

    def value(self) -> Any:
        """Consume and return the next value.

        Raises:
            CorpusError: it is malformed, or has more than `MAX_ROW_CHARS` characters.
        """
        self.peek()
        while True:
            try:
                value, self._position = _DECODER.raw_decode(self._text, self._position)
                return value
            except json.JSONDecodeError as error:
                offset = error.pos - self._position
                if len(self._text) - self._position > MAX_ROW_CHARS:
                    self.fail(f"{error.msg}, or its row has more than {MAX_ROW_CHARS:,} characters, the limit", offset)
                if not self._read():
                    self.fail(error.msg, offset)
            except (RecursionError, ValueError) as error:
                self.fail(_describe_limit(error))

    def fail(self, problem: str, offset: int = 0) -> NoReturn:
        """Raise CorpusError with the line and column of the character `offset` behind the next one."""
        before = self._text[: self._position + offset]
        lines = before.count("\n")
        column = len(before) - before.rfind("\n") - 1 if lines else self._column + len(before)
        where = f"{self._path}, line {self._lines + lines + 1}, column {column + 1}"
        raise CorpusError(f"{where}: malformed JSON: {problem}")

    def _read(self) -> bool:
        """Read the next piece, at least as long as what is left of this one; return False at the end of the file."""
        rest = self._text[self._position :]
        more = self._file.read(max(_READ_CHARS, len(rest)))
        if not more:
            return False
        done = self._text[: self._position]
        lines = done.count("\n")
        self._column = len(done) - done.rfind("\n") - 1 if lines else self._column + len(done)
        self._lines += lines
        self._text, self._position = rest + more, 0
        return True
