"""A resumed run lists its corpus again in the background, and says in one line how it has changed since planning."""

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
# between these, so that the work of the rank comes first: listing 10^6 items takes 13 s of CPU time
_PAUSE_SECONDS = 0.01
_CHECK_SECONDS = 0.1  # between two looks at whether the user asks to stop
_QUIET_SECONDS = 5.0  # of waiting without a word


class Relisting(threading.Thread):
    """Compares `corpus` with the plan of the run, and logs a line if they differ; nothing else comes of it.

    Args:
        plan: of the run.
        corpus: whose class and arguments are those that were planned.
    """

    def __init__(self, plan: Plan, corpus: Corpus) -> None:
        super().__init__(name="relisting", daemon=True)
        self._plan, self._corpus = plan, corpus
        self._hurries, self._is_cancelled = threading.Event(), False

    def run(self) -> None:
        """List and compare."""
        try:
            found = drift(self._plan, self._items())
        except (FramemillError, OSError) as error:
            _log.warning("the corpus cannot be listed again, so it was not compared with the run's plan: %s", error)
            return
        if any(found) and not self._is_cancelled:
            _log.warning("%s", found.line(self._plan))

    def finish(self, is_stopping: Callable[[], bool]) -> None:
        """Wait for the line; as soon as `is_stopping`, cancel the listing instead."""
        self._hurries.set()
        noted_at = time.monotonic() + _QUIET_SECONDS
        while self.is_alive() and not self._is_cancelled:
            if is_stopping():
                self.cancel()
                return
            if time.monotonic() > noted_at:
                _log.warning(
                    "the work is done. The corpus is still being compared with the run's plan; Ctrl-C skips this"
                )
                noted_at = math.inf
            self.join(_CHECK_SECONDS)

    def cancel(self) -> None:
        """End the listing without a line. Waits for that for a second at most: the file system may hang."""
        self._is_cancelled = True
        self._hurries.set()
        self.join(1.0)

    def _items(self) -> Iterator[Item]:
        for number, item in enumerate(self._corpus.items()):
            if number % _ITEMS_AT_A_TIME == 0:
                self._hurries.wait(_PAUSE_SECONDS)
                if self._is_cancelled:
                    return
            yield item
