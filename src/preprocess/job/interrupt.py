"""Signals: the first asks the run to stop, and keeps what is in hand; a second one, after a second, stops at once.

A thread hears them, because Python's own handlers do not run while the main thread is in a call of native code. It ends
the process as well when what is in hand takes longer than the grace time. Neither costs what is spooled or committed.
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
_AGAIN_SECONDS = 1.0  # torchrun and a terminal may both deliver the first


class StopOnSignal(Callback):
    """Turns the first signal into an orderly end of predicting, in this process and those that it has launched.

    Args:
        rank: is asked to stop.
        grace_seconds: after that, the process ends, whatever it is doing.
    """

    def __init__(self, rank: Rank, grace_seconds: float) -> None:
        self._rank, self._grace_seconds = rank, grace_seconds
        self._listener: _Listener | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen, before Lightning sets its own handlers: in predict it would ignore SIGTERM, but it respects ours."""
        rank = self._rank
        launched = getattr(trainer.strategy.launcher, "procs", [])

        def stop(number: int) -> None:
            rank.stopping = number
            pass_on(number)

        def stop_now(number: int, why: str) -> None:
            threading.Timer(_AGAIN_SECONDS, os._exit, (128 + number,)).start()  # if the folder hangs as well
            try:
                pass_on(number)
                note(f"{why}: stopped at once; what is spooled or committed is safe")
                rank.mark_idle()  # nobody's fault
            finally:
                os._exit(128 + number)

        def pass_on(number: int) -> None:
            for process in launched:
                process.send_signal(number)

        self._listener = _Listener(stop, stop_now, self._grace_seconds)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no more."""
        if self._listener:
            self._listener.close()
            self._listener = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Listen no more."""
        self.teardown(trainer, pl_module, "predict")


class _Listener:
    """Hears `SIGNALS` from its making to `close`.

    Args:
        stop: is called for the first one.
        stop_now: is called for a second one, or when the first is `grace_seconds` ago, with the reason.
        grace_seconds: see `stop_now`.
    """

    def __init__(self, stop: Callable[[int], None], stop_now: Callable[[int, str], None], grace_seconds: float) -> None:
        self._stop, self._stop_now, self._grace_seconds = stop, stop_now, grace_seconds
        self._heard, self._sends = socket.socketpair()
        self._sends.setblocking(False)
        self._previous_descriptor = signal.set_wakeup_fd(self._sends.fileno(), warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, _leave_it_to_the_thread) for number in SIGNALS}
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_descriptor)
        self._sends.close()
        self._thread.join()
        self._heard.close()

    def _listen(self) -> None:
        first, since = 0, 0.0
        while True:
            try:
                heard = self._heard.recv(64)
            except TimeoutError:
                self._stop_now(first, f"what was in hand took longer than {self._grace_seconds:g} s")
                return
            if not heard:
                return
            for number in heard:
                if number in SIGNALS and not first:
                    first, since = number, time.monotonic()
                    self._stop(number)
                elif number in SIGNALS and time.monotonic() - since > _AGAIN_SECONDS:
                    self._stop_now(number, f"a second {signal.Signals(number).name}")
                    return
            if first:
                self._heard.settimeout(max(0.01, since + self._grace_seconds - time.monotonic()))


def _leave_it_to_the_thread(number: int, frame: FrameType | None) -> Any:
    """A handler there must be, or the signal would do its default."""
