"""What a run shows: a live display or lines, and the messages of loggers. Third parties' messages are silenced."""

import logging
import time
import warnings

from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.run.folder import Run
from preprocess.job.figures import FigureLog
from preprocess.job.placement import is_first_on_machine
from preprocess.report.display import Display
from preprocess.terminal import Terminal, note

_CHATTER = ("lightning.pytorch", "lightning.fabric", "absl")  # advertisements, "GPU available", …
_HARMLESS_WARNINGS = (
    "Couldn't infer the batch indices",  # batches carry their own items
    ".*LeafSpec",  # Lightning 2.6 with torch 2.15
    "GPU available but not used",  # --trainer.accelerator cpu says so
    "The `srun` command is available",  # ranks need no srun, and this is a login node or a batch script of SLURM
)


class Progress(Callback):
    """Shows the state of the run on the first rank of each machine, and writes its figures to loggers.

    Args:
        run: the run or retry.
        figures: writes the figures; None: this rank writes none.
    """

    def __init__(self, run: Run, figures: FigureLog | None = None) -> None:
        self._run, self._figures = run, figures
        self._display: Display | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the display. The log of figures shares its reading of the run."""
        is_shown = is_first_on_machine() and trainer.local_rank == 0
        if is_shown or self._figures:
            console = Terminal(stderr=True, quiet=not is_shown)
            self._display = Display(self._run, console, self._figures.add if self._figures else None)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Show and log the final state, and end the display."""
        if self._figures:
            self._figures.publish()
        if self._display:
            self._display.close()
        if self._figures:
            self._figures.close()

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
