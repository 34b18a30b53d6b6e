"""Extractors for tests whose workers die or hang on one item, as a native decoder may."""

import os
import signal
import time
from functools import partial
from typing import Any

from torch import Tensor

from brightness import Brightness, MeanTransform
from datamodules.line.frames import FrameRequest
from datamodules.line.item import Item


class Poisoned(Brightness):
    """`Brightness` in workers that `crash`, or `hang`, on the item whose key ends with `poison_key`."""

    def __init__(self, poison_key: str, what: str) -> None:
        super().__init__(in_workers=True)
        self.frames = FrameRequest(8, partial(PoisonedTransform, poison_key, what))


class PoisonedTransform(MeanTransform):
    def __init__(self, poison_key: str, what: str) -> None:
        self._poison_key, self._what, self._item = poison_key, what, ""

    def start(self, item: Item) -> None:
        self._item = item.key

    def __call__(self, frame: Tensor) -> Any:
        if self._item.endswith(self._poison_key):
            if self._what == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(1000)
        return super().__call__(frame)
