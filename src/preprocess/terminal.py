"""All that the commands show passes through here, so text of a corpus, run folder or server cannot steer the terminal.

| shown                        | by                                                        |
|------------------------------|-----------------------------------------------------------|
| a line of standard output    | `say`; JSON by `printable.json_line`                      |
| a line of standard error     | `note`                                                    |
| tables, the live display     | `Terminal`, with a plain string, `cell` or `block` each   |
| wrong options                | `Parser`                                                  |
| what libraries print         | `escaped_output`                                          |
| log, warnings, tracebacks    | `datamodules.messages`                                    |
"""

import argparse
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NoReturn

from rich.console import Console  # noqa: TID251
from rich.text import Text  # noqa: TID251

from datamodules.printable import printable, printable_lines

_MAX_CELL = 2000  # characters


class Terminal(Console):
    """A console that shows a plain string as what it is: escaped, without markup, emoji codes, links or highlights.

    Args:
        options: of rich's `Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return `text` as one line, escaped."""
        return super().render_str(printable(text), **options)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose messages show arguments escaped: a shell's `*` may have put file names among them."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and `message`, escaped, after the usage."""
        super().error(printable(message))


def say(text: str) -> None:
    """Print a line of a command's result to standard output."""
    print(printable(text))  # noqa: T201


def note(text: str, style: str = "") -> None:
    """Print a line to standard error."""
    Terminal(stderr=True).print(text, style=style, soft_wrap=True)


@contextmanager
def escaped_output() -> Iterator[None]:
    """Escape what a library prints to standard output in this block, such as a configuration; shown when it ends."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        print(printable_lines(printed.getvalue()), end="")  # noqa: T201


def cell(text: str, style: str = "") -> Text:
    """Return `text` for a place in a table: one line, escaped; of a long one the first 2,000 characters."""
    more = f"… {len(text):,} characters in all" if len(text) > _MAX_CELL else ""
    return Text(printable(text[:_MAX_CELL]) + more, style)


def block(text: str) -> Text:
    """Return a text of several lines for a `Terminal`, escaped but for its line feeds."""
    return Text(printable_lines(text))
