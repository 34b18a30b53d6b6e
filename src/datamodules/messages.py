"""Escaping of log records, warnings and tracebacks, which may quote text from a corpus, run folder or server."""

import logging
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import Any, TextIO

from datamodules.printable import printable_lines

_FORMATTER = logging.Formatter()


def escape_messages() -> None:
    """Replace Python's hooks for log records, warnings and uncaught exceptions by ones that escape; see `printable`.

    Line feeds are kept, because tracebacks and messages of libraries have several lines.
    """
    logging.setLogRecordFactory(_Record)
    warnings.showwarning = _show_warning
    sys.excepthook = _show_exception
    threading.excepthook = _show_exception_of_thread


class _Record(logging.LogRecord):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.exc_info:
            self.exc_text = printable_lines(_FORMATTER.formatException(self.exc_info))

    def getMessage(self) -> str:  # noqa: N802
        return printable_lines(super().getMessage())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(printable_lines(text))


def _show_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(printable_lines("".join(traceback.format_exception(kind, error, trace))))


def _show_exception_of_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is not SystemExit and arguments.exc_value is not None:
        name = arguments.thread.name if arguments.thread else "unknown"
        sys.stderr.write(f"Exception in thread {name}:\n")
        _show_exception(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
