"""List the corpus of a resumed run again in the background, and log one line if it has changed since planning."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator

from datamodules.corpus import Corpus, Item
from datamodules.errors import FramemillError
from datamodules.run.drift import drift
from datamodules.run.plan import Plan

_log = logging.getLogger(__name__)
_ITEMS_AT_A_TIME = 256
# pause after that many items, so that the rank's own work comes first: listing 10^6 items takes 13 s of CPU time
_PAUSE_SECONDS = 0.01
_CHECK_SECONDS = 0.1  # between two checks whether the run is to stop
_QUIET_SECONDS = 5.0  # of waiting before a line explains the wait


class Relisting(threading.Thread):
    """A thread that compares `corpus` with the plan of the run, and logs a line if they differ.

    The plan stays as it is.

    Args:
        plan: plan of the run.
        corpus: corpus of the planned class and arguments.
    """

    def __init__(self, plan: Plan, corpus: Corpus) -> None:
        super().__init__(name="relisting", daemon=True)
        self._plan, self._corpus = plan, corpus
        self._skips_pauses, self._is_cancelled = threading.Event(), False

    def run(self) -> None:
        """List the corpus and compare it with the plan."""
        try:
            changes = drift(self._plan, self._items())
        except (FramemillError, OSError) as error:
            _log.warning("the corpus cannot be listed again, so it was not compared with the run's plan: %s", error)
            return
        if any(changes) and not self._is_cancelled:
            _log.warning("%s", changes.line(self._plan))

    def finish(self, is_stopping: Callable[[], bool]) -> None:
        """Wait until the comparison is done. Cancel it as soon as `is_stopping` returns True."""
        self._skips_pauses.set()
        explain_at = time.monotonic() + _QUIET_SECONDS
        while self.is_alive() and not self._is_cancelled:
            if is_stopping():
                self.cancel()
                return
            if time.monotonic() > explain_at:
                _log.warning(
                    "the work is done. The corpus is still being compared with the run's plan; Ctrl-C skips this"
                )
                explain_at = math.inf
            self.join(_CHECK_SECONDS)

    def cancel(self) -> None:
        """Stop the comparison without a line. Waits at most a second for the thread: the file system may hang."""
        self._is_cancelled = True
        self._skips_pauses.set()
        self.join(1.0)

    def _items(self) -> Iterator[Item]:
        for number, item in enumerate(self._corpus.items()):
            if number % _ITEMS_AT_A_TIME == 0:
                self._skips_pauses.wait(_PAUSE_SECONDS)
                if self._is_cancelled:
                    return
            yield item
