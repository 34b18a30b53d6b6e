"""A transform of which workers die or hang, in a module that imports no more than workers need."""

import os
import signal
import time
from typing import Any, NamedTuple

from datamodules.corpus import Item


class FatalTransform:
    """The value of a gray frame, `size` times; `fatal` says which values crash, kill, hang or break the process."""

    def __init__(self, fatal: Any, size: int = 1) -> None:
        self._fatal, self._size = fatal, size

    def start(self, item: Item) -> None:
        pass

    def __call__(self, frame: Any) -> Any:
        value = int(frame[0, 0, 0])
        what = self._fatal.get(value)
        if what == "hang":
            time.sleep(1000)
        elif what == "break":
            raise ZeroDivisionError(value)
        elif what:
            os.kill(os.getpid(), signal.SIGSEGV if what == "crash" else signal.SIGKILL)
        return bytes([value]) * self._size


class HangingStart(FatalTransform):
    """It is not made in any time."""

    def __init__(self) -> None:
        time.sleep(1000)


class Brightness(NamedTuple):
    """The value of a gray frame, and its size."""

    value: int
    num_pixels: int
    num_tokens: int = 1


class FatalBrightness(FatalTransform):
    """`Brightness` of a frame; the darker, the larger it is said to be. One in `mines` dies once, of a file there."""

    def __init__(self, mines: Any) -> None:
        super().__init__({})
        self._mines = mines

    def __call__(self, frame: Any) -> Any:
        value = int(frame[0, 0, 0])
        mine = self._mines / str(value)
        if mine.exists():
            mine.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return Brightness(value, 256 - value)
