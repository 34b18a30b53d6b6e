"""Stop on signals: the first finishes the batches in progress; a second one, a second later, stops at once.

A thread receives the signals, because Python's own handlers do not run while the main thread is in native code. It also
ends the process when the batches in progress take longer than the grace time. Spooled and committed results are never
lost.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.run.rank import Rank
from preprocess.terminal import note

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # Ctrl-C; torchrun, SLURM, Docker; `sbatch --signal=USR1@60`
_AGAIN_SECONDS = 1.0  # a signal sooner than this is the first one again: torchrun and a terminal may both deliver it


class StopOnSignal(Callback):
    """Ends prediction in an orderly way on the first signal, in this process and in those that it has launched.

    Args:
        rank: this process's rank; `rank.stopping` is set to the signal's number.
        grace_seconds: time after the first signal at which the process ends, whatever it is doing.
    """

    def __init__(self, rank: Rank, grace_seconds: float) -> None:
        self._rank, self._grace_seconds = rank, grace_seconds
        self._listener: SignalListener | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start to listen, before Lightning sets handlers that would ignore SIGTERM. Lightning keeps existing ones."""
        rank = self._rank
        launched = getattr(trainer.strategy.launcher, "procs", [])

        def stop(number: int) -> None:
            rank.stopping = number
            pass_on(number)

        def stop_now(number: int, why: str) -> None:
            threading.Timer(_AGAIN_SECONDS, os._exit, (128 + number,)).start()  # in case the run folder hangs as well
            try:
                pass_on(number)
                note(f"{why}. Stopped at once; spooled and committed results are safe")
                rank.mark_idle()  # no item is at fault
            finally:
                os._exit(128 + number)

        def pass_on(number: int) -> None:
            for process in launched:
                process.send_signal(number)

        self._listener = SignalListener(stop, stop_now, self._grace_seconds)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop listening."""
        if self._listener:
            self._listener.close()
            self._listener = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop listening."""
        self.teardown(trainer, pl_module, "predict")


class SignalListener:
    """Receives `SIGNALS` in a thread, from its construction, in the main thread, to `close`.

    Args:
        stop: called with the number of the first signal.
        stop_now: called with its number and the reason for a second signal, or `grace_seconds` after the first.
        grace_seconds: see `stop_now`.
    """

    def __init__(self, stop: Callable[[int], None], stop_now: Callable[[int, str], None], grace_seconds: float) -> None:
        self._stop, self._stop_now, self._grace_seconds = stop, stop_now, grace_seconds
        self._receiving, self._sending = socket.socketpair()
        self._sending.setblocking(False)
        self._previous_descriptor = signal.set_wakeup_fd(self._sending.fileno(), warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, _ignore) for number in SIGNALS}
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Restore the previous handlers and end the thread."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_descriptor)
        self._sending.close()
        self._thread.join()
        self._receiving.close()

    def _listen(self) -> None:
        first, since = 0, 0.0
        while True:
            try:
                numbers = self._receiving.recv(64)
            except TimeoutError:
                self._stop_now(first, f"the batches in progress took longer than {self._grace_seconds:g} s")
                return
            if not numbers:
                return
            for number in numbers:
                if number in SIGNALS and not first:
                    first, since = number, time.monotonic()
                    self._stop(number)
                elif number in SIGNALS and time.monotonic() - since > _AGAIN_SECONDS:
                    self._stop_now(number, f"a second {signal.Signals(number).name}")
                    return
            if first:
                self._receiving.settimeout(max(0.01, since + self._grace_seconds - time.monotonic()))


def _ignore(number: int, frame: FrameType | None) -> Any:
    """Replace the default action of a signal; the thread acts on it."""
