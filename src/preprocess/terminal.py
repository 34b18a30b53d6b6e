"""Output of the commands, escaped: text of a corpus, run folder or server cannot control the terminal.

| output                       | function or class                                         |
|------------------------------|-----------------------------------------------------------|
| a line of standard output    | `say`; JSON by `printable.json_line`                      |
| a line of standard error     | `note`; several: `note_all`                               |
| tables, the live display     | `Terminal`, of plain strings, `cell` or `block`           |
| wrong options                | `Parser`                                                  |
| output of libraries          | `escaped_output`                                          |
| log, warnings, tracebacks    | `datamodules.messages`                                    |
"""

import argparse
import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NoReturn

from rich.console import Console  # noqa: TID251
from rich.text import Text  # noqa: TID251

from datamodules.printable import printable, printable_lines

_MAX_CELL = 2000  # characters


class Terminal(Console):
    """A console that prints plain strings escaped, without markup, emoji codes, links or highlighting.

    Args:
        options: those of rich's `Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return `text` as one line, escaped."""
        return super().render_str(printable(text), **options)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose messages escape the arguments, as a shell's `*` may have put file names among them."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and `message`, escaped, after the usage."""
        super().error(printable(message))


def say(text: str) -> None:
    """Print a line of a command's result to standard output."""
    print(printable(text))  # noqa: T201


def note(text: str, style: str = "") -> None:
    """Print a line to standard error, above the live display if one is shown."""
    note_all([text], style)


def note_all(lines: Iterable[str], style: str = "") -> None:
    """Print lines to standard error at once. With a live display, which is redrawn, it takes some milliseconds."""
    terminal = Terminal(stderr=True)
    with terminal.capture() as printed:
        for line in lines:
            terminal.print(line, style=style, soft_wrap=True)
    sys.stderr.write(printed.get())  # which rich's Live replaces; a Console of its own writes to the terminal itself


@contextmanager
def escaped_output() -> Iterator[None]:
    """Escape what a library prints to standard output in this block, and print it when the block ends."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        print(printable_lines(printed.getvalue()), end="")  # noqa: T201


def cell(text: str, style: str = "") -> Text:
    """Return `text` for a cell of a table: one line, escaped, cut after 2,000 characters."""
    more = f"… {len(text):,} characters in all" if len(text) > _MAX_CELL else ""
    return Text(printable(text[:_MAX_CELL]) + more, style)


def block(text: str) -> Text:
    """Return a text of several lines for a `Terminal`: escaped, with its line feeds."""
    return Text(printable_lines(text))
