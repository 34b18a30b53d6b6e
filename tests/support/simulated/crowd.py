"""Ranks that claim the shards of a run in a simulated bucket, without faults: how many requests they send.

The real `Schedule` and `Leases` of many ranks run side by side. Every request takes 20 ms, whatever the number of
others; a listing takes one for each 1,000 names. Neither the plan nor the content of shards is read or written.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from datamodules.run.bucket import Bucket
from datamodules.run.leases import Leases
from datamodules.run.plan import Shard
from datamodules.run.record import RECORDS, record_name
from datamodules.run.schedule import Schedule
from support.simulated.bucket import REQUEST_SECONDS
from support.simulated.choices import Choices
from support.simulated.modules import Here, Os, Time
from support.simulated.world import OPERATION_SECONDS, World

_PAGE = 1000  # names of one request that lists
_SHARD_SECONDS = (40.0, 80.0)


@dataclass
class Crowd:
    """What ranks did.

    Attributes:
        requests: number of requests by method.
        num_won, num_lost: claims that a rank won, and that another was faster with.
        num_late: claims won on a shard that was committed since it was listed.
        seconds: simulated time until the last rank ended.
    """

    requests: Counter[str] = field(default_factory=Counter)
    num_won: int = 0
    num_lost: int = 0
    num_late: int = 0
    seconds: float = 0.0


class _Parallel(World):
    """A world whose requests take their time side by side."""

    def __init__(self, crowd: Crowd) -> None:
        super().__init__(Choices({}, "bucket"), None, 1)
        self._crowd = crowd

    def step(self, what: str, where: str, faults: Any = frozenset(), seconds: float = OPERATION_SECONDS) -> int:
        if seconds == REQUEST_SECONDS:
            assert self.server
            pages = max(1, -(-len(self.server.folders.get(where, ())) // _PAGE)) if what == "LIST" else 1
            self._crowd.requests[what.partition(" ")[0]] += pages
            self.pause(pages * seconds)
        return 0

    def run(self) -> None:
        order = itertools.count()
        waiting = [(0.0, next(order), task) for task in self._tasks]
        while waiting:
            self.clock.now, _, task = heapq.heappop(waiting)
            self._resume(task)
            if not task.greenlet.dead:
                heapq.heappush(waiting, (task.wake, next(order), task))


def claim_all(num_ranks: int, num_shards: int) -> Crowd:
    """Let ranks claim, hold for 40 to 80 s, and commit all shards; call it within `simulated()`."""
    Os.reset()
    crowd, chance = Crowd(), random.Random(0)
    world = Here.world = _Parallel(crowd)
    shards = [Shard(number, "train", number, 1, 1, 1) for number in range(num_shards)]
    store, names = Bucket("s3://simulated/run", "/run"), {shard.name for shard in shards}
    run: Any = SimpleNamespace(
        store=store,
        plan=SimpleNamespace(shards=shards),
        committed=lambda: {name.removesuffix(".json") for name in store.names(RECORDS)} & names,
        is_committed=lambda name: store.find(record_name(name)) is not None,
    )

    def rank(position: float) -> None:
        leases = Leases(store, clock=Time.monotonic)
        schedule = Schedule(run, leases, None, position)
        schedule.begin()
        while len(run.committed()) < num_shards:
            shard = next(_claimed(run, leases, schedule, crowd), None)
            for _ in range(3 if shard else 1):
                Time.sleep(chance.uniform(*_SHARD_SECONDS) / 3)
                leases.beat()
            if shard:
                store.create(record_name(shard.name), leases.identity.rank.encode())
                leases.clear(shard.name)
        leases.close()

    for number in range(num_ranks):
        world.start(world.machines[0], lambda position=number / num_ranks: rank(position))  # type: ignore[misc]
    world.run()
    for process in world.processes:
        if process.error:
            raise process.error
    crowd.seconds = world.now
    return crowd


def _claimed(run: Any, leases: Leases, schedule: Schedule, crowd: Crowd) -> Iterator[Shard]:
    """Yield the shards that a rank may work on, as `Rank.lease` does."""
    claim = leases.claim

    def counted(name: str, generation: int = 0) -> bool:
        won = claim(name, generation)
        crowd.num_won, crowd.num_lost = crowd.num_won + won, crowd.num_lost + (not won)
        return won

    leases.claim = counted  # type: ignore[method-assign]
    try:
        for shard in schedule.claims(()):
            if run.is_committed(shard.name):
                crowd.num_late += 1
                leases.clear(shard.name)
            else:
                yield shard
    finally:
        leases.claim = claim  # type: ignore[method-assign]
