"""Transforms that kill or hang their worker, in a module that imports only what workers need."""

import os
import signal
import time
from typing import Any, NamedTuple

from datamodules.corpus import Item


class FatalTransform:
    """Returns the value of a gray frame, `size` times; `fatal` says effect some values do: crash, kill, hang, break."""

    def __init__(self, fatal: Any, size: int = 1) -> None:
        self._fatal, self._size = fatal, size

    def start(self, item: Item) -> None:
        pass

    def __call__(self, frame: Any) -> Any:
        value = int(frame[0, 0, 0])
        effect = self._fatal.get(value)
        if effect == "hang":
            time.sleep(1000)
        elif effect == "break":
            raise ZeroDivisionError(value)
        elif effect:
            os.kill(os.getpid(), signal.SIGSEGV if effect == "crash" else signal.SIGKILL)
        return bytes([value]) * self._size


class HangingStart(FatalTransform):
    """Hangs when it is made."""

    def __init__(self) -> None:
        time.sleep(1000)


class Brightness(NamedTuple):
    """The value of a gray frame, and its size."""

    value: int
    num_pixels: int
    num_tokens: int = 1


class FatalBrightness(FatalTransform):
    """Returns the `Brightness` of a frame, whose size grows with its darkness.

    The files in `folder` are named by values: the first frame with such a value removes the file and kills its worker.
    """

    def __init__(self, folder: Any) -> None:
        super().__init__({})
        self._folder = folder

    def __call__(self, frame: Any) -> Any:
        value = int(frame[0, 0, 0])
        file = self._folder / str(value)
        if file.exists():
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return Brightness(value, 256 - value)
