"""Signals: the first asks the run to stop, and keeps what is in hand; a second one, after a second, stops at once."""

import signal
import time
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.line.rank import Rank
from preprocess.writer import ShardWriter

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_SECONDS = 1.0  # torchrun and a terminal may both deliver the first


class StopOnSignal(Callback):
    """Turns SIGINT (Ctrl-C) and SIGTERM (torchrun, SLURM, Docker) into an orderly end of predicting."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._first = 0.0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen; later than Lightning, which in predict would ignore SIGTERM, and before the workers start."""
        writer = next(callback for callback in trainer.callbacks if isinstance(callback, ShardWriter))  # type: ignore[attr-defined]
        assert writer.rank is not None
        rank = writer.rank

        def stop(number: int, frame: FrameType | None) -> None:
            self._stop(rank, number)

        self._before = {number: signal.signal(number, stop) for number in _SIGNALS}

    def _stop(self, rank: Rank, number: int) -> None:
        if rank.stopping is None:
            rank.stopping, self._first = number, time.monotonic()
        elif time.monotonic() - self._first > _AGAIN_SECONDS:
            raise KeyboardInterrupt

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no more."""
        while self._before:
            signal.signal(*self._before.popitem())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Listen no more."""
        self.teardown(trainer, pl_module, "predict")
