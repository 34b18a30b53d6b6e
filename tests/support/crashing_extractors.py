"""Extractors that kill or hang their worker or their rank on one item, as native code may."""

import ctypes
import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from datamodules.corpus import Item
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.loading.request import FrameRequest
from support.brightness import Brightness, BrightnessSample, MeanTransform


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


class Deadly(Brightness):
    """`Brightness` whose rank dies, hangs or runs out of memory at frames of the value `poison`."""

    def __init__(self, poison: int, what: str, batch_size: int = 8) -> None:
        super().__init__(batch_size=batch_size)
        self.value, self.what = poison, what

    def extract(self, batch: Batch) -> list[Any]:
        if any(bool((frame == self.value).all()) for frame in batch["frames"]):
            if self.what == "segfault":
                ctypes.string_at(0)
            elif self.what == "hang":
                time.sleep(1000)
            elif self.what == "hang in native code":
                ctypes.PyDLL(None).sleep(1000)  # and holds the GIL
            elif self.what == "break":
                1 / 0  # noqa: B018
            elif self.what == "exhaust memory":
                raise MemoryError
            elif self.what == "lose the device":
                patch("preprocess.job.extraction.is_device_lost", lambda device: True).start()  # there is no GPU
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        return super().extract(batch)

    def assemble(self, item: Item, results: Sequence[Any], summary: ItemSummary) -> BrightnessSample:
        if self.what == "break assembling" and self.value in results:
            raise ZeroDivisionError("division by zero")
        return super().assemble(item, results, summary)
