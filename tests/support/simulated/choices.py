"""The random choices of a simulation: drawn from a seed, recorded, replayed, and shrunk.

A choice is a number from 0, and 0 is the simplest case: no fault, no switch, the fewest ranks. A record has the choices
that are not 0, as {index: value}, so any part of a record is a valid record. Operations have even indices, all other
choices odd ones: without a switch, then, fewer of the later choices change their meaning.
"""

import random
from collections.abc import Callable, Mapping

# events at an operation; `NOTHING` is 0
NOTHING, SWITCH, STALL, FREEZE, KILL, CRASH, ERROR, LOST, UNSURE, LATE, CONFLICT, SLOW, PARTITION = range(13)
FAULTS = {
    STALL: "stalled task",
    FREEZE: "stalled process",
    KILL: "killed process",
    CRASH: "crashed machine",
    ERROR: "failed operation",
    LOST: "lost reply",
    UNSURE: "done, but an error reported",
    LATE: "late request, repeated",
    CONFLICT: "false conflict (409)",
    SLOW: "slow request",
    PARTITION: "machine without network",
}
STORES = {"folder": range(STALL, LATE), "bucket": range(STALL, PARTITION + 1)}  # with the faults that occur there


class Choices:
    """The choices of a record; 0 where the record has none.

    Args:
        record: choices by index.
        store: one of `STORES`: where the simulated run is.

    Attributes:
        store: see above.
        made: the choices made so far that are not 0, by index: a record for a replay.
    """

    def __init__(self, record: Mapping[int, int], store: str = "folder") -> None:
        self.store = store
        self._record, self._operation, self._other = record, 0, 1
        self.made: dict[int, int] = {}

    def choose(self, options: int) -> int:
        """Return a number from 0 to `options` - 1."""
        self._other += 2
        value = self._draw(options)
        if value:
            self.made[self._other] = value
        return value

    def disturbance(self) -> int:
        """Return what happens at the next operation: `NOTHING`, `SWITCH`, or a fault."""
        self._operation += 2
        value = self._disturb()
        if value:
            self.made[self._operation] = value
        return value

    def _draw(self, options: int) -> int:
        return min(self._record.get(self._other, 0), options - 1)

    def _disturb(self) -> int:
        return self._record.get(self._operation, NOTHING)


class RandomChoices(Choices):
    """Choices drawn from a seed, which also sets how often tasks switch, and the kinds and number of faults."""

    def __init__(self, seed: int, store: str = "folder") -> None:
        super().__init__({}, store)
        self._random = random.Random(seed)
        self._switches = self._random.choice((0.02, 0.1, 0.3, 0.6))
        self._faults_left = self._random.choice((0, 1, 1, 2, 3, 5))
        self._faults = self._random.choice((0.005, 0.02, 0.05)) if self._faults_left else 0.0
        self._kinds = self._random.sample(STORES[store], self._random.randint(1, len(STORES[store])))
        self._skip()

    def _skip(self) -> None:
        """Draw how many operations pass without an event, which is faster than a draw at every operation."""
        rate = self._switches + self._faults
        self._next = self._operation + 2 + 2 * int(self._random.expovariate(rate))

    def _draw(self, options: int) -> int:
        return int(self._random.random() * options)

    def _disturb(self) -> int:
        if self._operation < self._next:
            return NOTHING
        kind = SWITCH
        if self._random.random() * (self._switches + self._faults) >= self._switches:
            kind = self._random.choice(self._kinds)
            self._faults_left -= 1
            self._faults = self._faults if self._faults_left else 0.0
        self._skip()
        return kind


def shrink(record: Mapping[int, int], fails: Callable[[Mapping[int, int]], bool], tries: int = 2000) -> dict[int, int]:
    """Return a smaller record that still fails.

    Args:
        record: a record that fails.
        fails: returns whether a record fails.
        tries: limit for the calls of `fails`.

    Returns:
        A record without any choice that could be removed; after `tries` calls, the smallest until then.
    """
    best = dict(record)
    left = tries

    def better(smaller: dict[int, int]) -> bool:
        nonlocal best, left
        left -= 1
        if left < 0 or not fails(smaller):
            return False
        best = smaller
        return True

    size = max(1, len(best) // 2)
    while left > 0:
        before = len(best)
        for start in range(0, len(best), size):
            end = len(best) - start  # later choices first
            left_out = sorted(best)[max(0, end - size) : max(0, end)]
            better({index: value for index, value in best.items() if index not in left_out})
        if size == 1 and len(best) == before:
            break
        size = max(1, size // 2)
    for index, value in sorted(best.items()):
        for smaller in {1, value // 2, value - 1} - {0}:
            if smaller < best[index]:
                better({**best, index: smaller})
    return best
