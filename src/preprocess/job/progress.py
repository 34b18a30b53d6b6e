"""What a run shows: the live display, a line of the log for what a pipeline tells; and what is kept quiet meanwhile."""

import logging
import threading
import time
import warnings

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.live import Live

from datamodules.run.folder import Run
from preprocess.job.placement import is_first_on_machine
from preprocess.report.status import StatusReader, headline, render
from preprocess.terminal import Terminal, note

_CHATTER = ("lightning.pytorch", "lightning.fabric", "absl")  # tips for other products, "GPU available", …
_NO_CONCERN = (
    "Couldn't infer the batch indices",  # batches carry their items themselves
    ".*LeafSpec",  # Lightning 2.6 with torch 2.15
)


class Progress(Callback):
    """Shows the state of the whole run, all ranks on all machines, from the first rank of each machine.

    On a terminal it is a display that is drawn anew; elsewhere a line every `line_seconds`.

    Args:
        run: the run.
        console: where to; None: standard error.
        line_seconds: between lines where there is no terminal.
    """

    def __init__(self, run: Run, console: Terminal | None = None, line_seconds: float = 10.0) -> None:
        self._run = run
        self._console = console or Terminal(stderr=True)
        self._line_seconds = line_seconds
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to show."""
        if is_first_on_machine() and trainer.local_rank == 0:
            show = self._draw if self._console.is_terminal else self._print
            self._thread = threading.Thread(target=show, name="progress", daemon=True)
            self._thread.start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Show the end, and stop."""
        self._done.set()
        if self._thread:
            self._thread.join()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop, which Lightning does not do by `teardown` then."""
        self.teardown(trainer, pl_module, "predict")

    def _draw(self) -> None:
        reader = StatusReader(self._run)
        with Live(render(reader.read()), console=self._console, auto_refresh=False) as live:
            while not self._done.wait(1.0):
                live.update(render(reader.read()), refresh=True)
            live.update(render(reader.read()), refresh=True)

    def _print(self) -> None:
        reader = StatusReader(self._run)
        while not self._done.wait(self._line_seconds):
            self._console.print(time.strftime("%H:%M:%S"), headline(reader.read()), soft_wrap=True)


class _Lines(logging.Handler):
    """A line of standard error for each record; above the live display, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"{time.strftime('%H:%M:%S')} {record.getMessage()}")


def quiet() -> None:
    """Show what our own loggers tell, and silence third parties': by name, and Lightning's warnings by text."""
    for name in ("preprocess", "datamodules"):
        ours = logging.getLogger(name)
        ours.setLevel(logging.INFO)
        ours.handlers = [_Lines()]
    for name in _CHATTER:
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in _NO_CONCERN:
        warnings.filterwarnings("ignore", message=text, module="lightning")
