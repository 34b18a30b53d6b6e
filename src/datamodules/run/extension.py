"""Extension of a run: items that its corpus has gained since it was planned get shards of their own in the same run.

Nothing that is planned or committed changes: the new items are a further part of the plan (`plan.py`), and the shards
of a split are numbered on. An item is new if no planned item has its key. Planned items that have changed, or are gone
from the corpus, are reported and stay as they are.

Any number of ranks may extend a run at once: one lists the corpus, and the others wait for it. It leaves `EXTENDED`, so
that the ranks of the same command that come later do not list the corpus once more.
"""

import hashlib
import json
import logging
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from datamodules.corpus import Corpus, Item, hash64
from datamodules.objects import absolute_root
from datamodules.run.drift import SAME_TIME_SECONDS
from datamodules.run.folder import Run
from datamodules.run.leases import Leases
from datamodules.run.opening import plan_once
from datamodules.run.plan import Plan, ShardSize, plan_name
from datamodules.run.planning import write_plan

EXTENDED = "work/extended"  # replaced each time the corpus was compared with the plan
_NUM_NAMED = 3  # keys in a line of the log

_log = logging.getLogger(__name__)


def extend(
    run: Run, corpus: Corpus, fingerprint: Mapping[str, Any], size: ShardSize, began: float, device: str = ""
) -> Run:
    """Plan the items of `corpus` that `run` does not have yet, once among all ranks. Return the run with them.

    Args:
        run: a run with the settings of this rank, complete or not.
        corpus: its corpus, as it is now.
        fingerprint: of the run.
        size: of the new shards.
        began: start of the command, in seconds since the epoch. If the run was extended since then, the ranks of this
            command have done so, and the corpus is not listed again.
        device: see `Plan.device`.

    Raises:
        CorpusError: two new items have one key, or a field of the corpus has another type than before.
        EnvironmentFailure: the run cannot be written to.
    """
    store = run.store
    store.prepare()
    with closing(Leases(store)) as leases:
        began += leases.seconds_ahead()

    def is_done() -> bool:
        entry = store.find(EXTENDED)
        return entry is not None and entry.modified >= began

    def write() -> None:
        plan, root = Run(store).plan, absolute_root(corpus.root)  # with what another rank has added meanwhile
        changes = Changes(plan)
        new = changes.new_items(corpus.items())
        first = next(new, None)
        if first is not None:
            try:
                write_plan(chain([first], new), store, fingerprint, size, device=device, roots=[root], extended=plan)
            except FileExistsError:  # this rank was taken for dead, and another one has extended the run
                return
        for line in (*changes.lines(), *corpus.notes()):
            _log.warning("%s", line)
        store.replace(EXTENDED, json.dumps({"new": changes.num_new}).encode())

    plan_once(store, plan_name(extension=len(run.plan.parts)), write, is_done)
    return Run(store)


class _Planned(NamedTuple):
    """The planned items, sorted by the first half of the hash of their key. 40 bytes for each.

    Attributes:
        first, second: uint64 [N], halves of a hash of 128 bits, with which no two keys are taken for one.
        cost: int64 [N], bytes.
        modified: float64 [N], seconds since the epoch; nan: not compared.
        version: uint64 [N], hash of the ETag; 0: none.
    """

    first: Any
    second: Any
    cost: Any
    modified: Any
    version: Any


class Changes:
    """How a corpus differs from a plan, found while its items pass by.

    Args:
        plan: of a run.

    Attributes:
        num_new, num_changed: items whose key is not planned; items with another size, time or ETag than planned.
        changed: the keys of the first few changed items.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._planned = plan, _read(plan)
        self._is_listed = np.zeros(len(self._planned.first), bool)
        self.num_new = self.num_changed = 0
        self.changed: list[str] = []

    def new_items(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items whose key is not planned, and count the others that have changed."""
        for item in items:
            index = self._find(item.key)
            if index is None:
                self.num_new += 1
                yield item
                continue
            self._is_listed[index] = True
            if self._has_changed(item, index):
                self.num_changed += 1
                if len(self.changed) < _NUM_NAMED:
                    self.changed.append(item.key)

    @property
    def num_gone(self) -> int:
        """Number of planned items that were not listed."""
        return int((~self._is_listed).sum())

    def lines(self) -> Iterator[str]:
        """Yield lines for people, after all items have passed by."""
        yield f"new: {self.num_new:,} items are planned beside the {self._plan.num_items:,} of this run"
        if self.num_gone:
            yield f"gone: {self.num_gone:,} planned items are no longer in the corpus. Their samples stay"
        if self.num_changed:
            more = ", …" if self.num_changed > len(self.changed) else ""
            yield (
                f"changed: {self.num_changed:,} items have another size, time or ETag than when they were planned "
                f"({', '.join(self.changed)}{more}). Their samples stay; `preprocess retry {self._plan.store} "
                "--keys FILE` makes them again"
            )

    def _find(self, key: str) -> int | None:
        """Return the index of the planned item with this key; None if there is none."""
        first, second = _halves(key)
        index = int(np.searchsorted(self._planned.first, first))
        while index < len(self._planned.first) and self._planned.first[index] == first:
            if self._planned.second[index] == second:
                return index
            index += 1
        return None

    def _has_changed(self, item: Item, index: int) -> bool:
        planned = self._planned
        if item.modified is None or math.isnan(planned.modified[index]):
            return False
        if item.cost != planned.cost[index]:
            return True
        if item.version is not None and planned.version[index]:
            return bool(hash64(item.version) != planned.version[index])
        return bool(abs(item.modified - planned.modified[index]) > SAME_TIME_SECONDS)


def _halves(key: str) -> tuple[np.uint64, np.uint64]:
    first, second = np.frombuffer(hashlib.blake2b(key.encode(), digest_size=16).digest(), "<u8")
    return first, second


def _read(plan: Plan) -> _Planned:
    """Read what is compared of all items of a plan."""
    hashes = bytearray()
    cost, modified, version = array("q"), array("d"), array("Q")
    for shard in plan.shards:
        batch = plan.batch(shard.number)
        for key in batch["key"].to_pylist():
            hashes += hashlib.blake2b(key.encode(), digest_size=16).digest()
        cost.extend(batch["cost"].to_pylist())
        modified.extend(math.nan if time is None else time for time in batch["modified"].to_pylist())
        version.extend(0 if tag is None else hash64(tag) for tag in batch["version"].to_pylist())
    halves = np.frombuffer(bytes(hashes), "<u8").reshape(-1, 2)
    order = np.argsort(halves[:, 0])
    columns = (halves[:, 0], halves[:, 1], np.array(cost), np.array(modified), np.array(version))
    return _Planned(*(column[order] for column in columns))
