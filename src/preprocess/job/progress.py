"""What a run shows: a live display or lines, and the messages of loggers. Third parties' messages are silenced."""

import logging
import threading
import time
import warnings
from contextlib import suppress

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.live import Live

from datamodules.run.folder import Run
from preprocess.job.placement import is_first_on_machine
from preprocess.report.status import StatusReader, headline, render
from preprocess.terminal import Terminal, note

_CHATTER = ("lightning.pytorch", "lightning.fabric", "absl")  # advertisements, "GPU available", …
_HARMLESS_WARNINGS = (
    "Couldn't infer the batch indices",  # batches carry their own items
    ".*LeafSpec",  # Lightning 2.6 with torch 2.15
    "GPU available but not used",  # --trainer.accelerator cpu says so
    "The `srun` command is available",  # ranks need no srun, and this is a login node or a batch script of SLURM
)


class Display:
    """Shows the state of a whole run, with all ranks of all machines, from its construction until it is closed.

    On a terminal, a display is redrawn twice as often as ranks write heartbeats; elsewhere, a line is printed every
    `line_seconds`. While the store cannot be read, the display stays as it is.

    Args:
        run: the run.
        console: where to print; None: standard error.
        line_seconds: seconds between lines if the console is no terminal.
    """

    def __init__(self, run: Run, console: Terminal | None = None, line_seconds: float = 10.0) -> None:
        self._run = run
        self._console = console or Terminal(stderr=True)
        self._line_seconds = line_seconds
        self._done = threading.Event()
        show = self._draw if self._console.is_terminal else self._print
        self._thread = threading.Thread(target=show, name="progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Show the final state and stop the thread."""
        self._done.set()
        self._thread.join()

    def _draw(self) -> None:
        reader = StatusReader(self._run)
        with Live(render(reader.read()), console=self._console, auto_refresh=False) as live:
            while not self._done.wait(self._run.store.beat_seconds / 2):
                self._update(live, reader)
            self._update(live, reader)

    def _update(self, live: Live, reader: StatusReader) -> None:
        with suppress(OSError):  # if the store stays away, the rank ends with a message of its own
            live.update(render(reader.read()), refresh=True)

    def _print(self) -> None:
        reader = StatusReader(self._run)
        while not self._done.wait(self._line_seconds):
            with suppress(OSError):  # see `_update`
                self._console.print(time.strftime("%H:%M:%S"), headline(reader.read()), soft_wrap=True)


class Progress(Callback):
    """Shows the state of the run on the first rank of each machine; see `Display`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._display: Display | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the display."""
        if is_first_on_machine() and trainer.local_rank == 0:
            self._display = Display(self._run)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Show the final state and end the display."""
        if self._display:
            self._display.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the display: after an exception Lightning does not call `teardown`."""
        self.teardown(trainer, pl_module, "predict")


class _Lines(logging.Handler):
    """Prints each log record as a line of standard error, above the live display if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"{time.strftime('%H:%M:%S')} {record.getMessage()}")


def quiet() -> None:
    """Show the messages of our own loggers, and silence third parties' loggers and some warnings of Lightning."""
    for name in ("preprocess", "datamodules"):
        ours = logging.getLogger(name)
        ours.setLevel(logging.INFO)
        ours.handlers = [_Lines()]
    for name in _CHATTER:
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in _HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=text, module="lightning")
