"""Ranks that do a small run together while things go wrong, and what must hold then.

1. One to three ranks begin; when they have ended or died, one or two others may go on, and others after these. Each
   does what `preprocess run` does: opens the run (sometimes plans it), leases, spools, commits, and sweeps in the end.
2. In the end, perhaps after a crash of the machine, one more rank goes on undisturbed until all is done.

Held at every change: a tar that shows belongs to a record, and it and its table are whole. In the end: each planned row
once, every file as its record says, the tars those of a quiet run, no litter.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from datamodules.corpus import Corpus, Item
from datamodules.errors import EnvironmentFailure, RunError
from datamodules.run.cleanup import clean_up
from datamodules.run.failure_limit import Tolerance
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from support.simulated.choices import Choices, shrink
from support.simulated.files import File
from support.simulated.modules import Here, Os, Path, Time, installed
from support.simulated.world import Broken, Machine, Process, World

_FOLDER = Path("/run")
_ROWS = 2
_MOST_PROCESSES = 6
_CACHE_SECONDS = (0.0, 3.0, 30.0)
_ITEM_SECONDS = 1.0
_STALE_SECONDS = 6.0
_TOLERANCE = Tolerance(max_attempts=_MOST_PROCESSES + 1)  # so no death of theirs costs an item
_KIND_LENGTH = 15  # as much of a failure's text tells its kind


class _Numbered(Corpus):
    root = "/corpus"

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def items(self) -> Iterator[Item]:
        for number in range(self.num_items):
            yield Item(f"item{number}", "train", f"item{number}.mp4", cost=1)


@dataclass(frozen=True)
class Outcome:
    """How one interleaving went.

    Attributes:
        failure: what did not hold; None: everything did.
        made: the choices, for a replay.
        faults: how many of each kind.
        num_steps: operations on files.
        seconds: simulated.
        story: what happened, a line each; empty unless asked for.
    """

    failure: str | None
    made: Mapping[int, int]
    faults: Counter[int]
    num_steps: int
    seconds: float
    story: Sequence[str] = field(default_factory=list)


def interleave(choices: Choices, tells: bool = False) -> Outcome:
    """Let one interleaving happen, within `simulated()`.

    Args:
        choices: what chance decides.
        tells: whether the outcome has a story.
    """
    is_nfs = choices.choose(2)
    world = World(
        choices,
        _CACHE_SECONDS[choices.choose(len(_CACHE_SECONDS))] if is_nfs else None,
        1 + choices.choose(3) if is_nfs else 1,
        tells,
    )
    Here.world = world
    line = _Line(world)
    failure = None
    try:
        line.happen()
    except Broken as error:
        failure = str(error)
    finally:
        world.end()
    return Outcome(failure, choices.made, world.faults, world.num_steps, world.now, world.story)


class _Line:
    """One run of 1 or 2 shards, in a world."""

    def __init__(self, world: World) -> None:
        Os.forget()
        self._world = world
        self.num_shards = 1 + world.choices.choose(2)
        world.files.appeared = self._check_appeared
        world.crashed = self._check_all_that_shows

    def happen(self) -> None:
        """All of it; Broken if something does not hold."""
        world = self._world
        if world.choices.choose(16) != 15:
            self._put_plan()
        self._go_on(1 + (world.choices.choose(3) + 1) % 3)  # 2, 3 or 1
        while len(world.processes) < _MOST_PROCESSES and world.choices.choose(2):
            self._go_on(1 + world.choices.choose(2))
        world.calm = True
        if not world.is_nfs and world.choices.choose(2):
            world.crash(world.machines[0])
        world.pass_time()
        last = self.start(world.machines[0])
        world.run()
        if last.error:
            raise Broken(f"the last rank, undisturbed, ends with {last.error!r}") from last.error
        for process in world.processes:
            self._check_end(process)
        self._check_run()
        self._check_litter(last)

    def start(self, machine: Machine) -> Process:
        return self._world.start(machine, self._be_a_rank)

    def _go_on(self, num_ranks: int) -> None:
        """Let `num_ranks` ranks work until all have ended, however they end."""
        machines = self._world.machines
        first = self._world.choices.choose(len(machines))
        for number in range(num_ranks):
            self.start(machines[(first + number) % len(machines)])
        self._world.run()

    def _be_a_rank(self) -> None:
        """What `preprocess run` does."""
        with Rank(_open(self.num_shards), stale_seconds=_STALE_SECONDS, tolerance=_TOLERANCE) as rank:
            while not rank.finished():
                rank.abandon_committed()
                opened = rank.lease()
                for row in opened.missing if opened else ():
                    assert opened is not None
                    rank.mark_active(opened.shard.number, [row])
                    Time.sleep(_ITEM_SECONDS)
                    rank.mark_idle()
                    rank.add(opened.shard.number, *_result(opened.items[row], row, self._world.process.pid))
                if not opened:
                    Time.sleep(2 * _ITEM_SECONDS)
        if len(rank.run.committed()) == len(rank.run.plan.shards):
            clean_up(rank.run)

    def _put_plan(self) -> None:
        """Let the run be planned already."""
        content = _PLANS[self.num_shards]
        files, machine = self._world.files, self._world.machines[0]
        file = files.create(machine, f"{_FOLDER}/plan.arrow", truncate=True)
        files.write(machine, file, 0, content)
        files.sync(file)
        files.sync(files.folders[str(_FOLDER)])

    # What must hold

    def _check_appeared(self, folder: str, name: str) -> None:
        shard, _, ending = name.rpartition(".")
        shows = ending == "tar" and folder == str(_FOLDER)
        if shows or (ending == "json" and folder == f"{_FOLDER}/records" and self.content(f"{shard}.tar") is not None):
            self._check_shard(shard)

    def _check_all_that_shows(self) -> None:
        for name in self.names():
            self._check_appeared(str(_FOLDER), name)

    def _check_shard(self, shard: str) -> dict[str, Any]:
        """The record of `shard`, whose files are in place."""
        content = self.content(f"records/{shard}.json")
        if content is None:
            raise Broken(f"{shard}.tar shows, but there is no record")
        record: dict[str, Any] = json.loads(content)
        for name in ("table", "tar"):
            file = record[name]
            content = self.content(file["name"])
            if content is None:
                raise Broken(f"{file['name']}: the record is there, the file is not")
            if (hashlib.sha256(content).hexdigest(), len(content)) != (file["sha256"], file["bytes"]):
                raise Broken(f"{file['name']}: not the bytes that the record tells")
        return record

    def _check_run(self) -> None:
        planned = [f"train-{index:06d}" for index in range(self.num_shards)]
        expected = {"plan.arrow", "records", "tables", "work", *(f"{shard}.tar" for shard in planned)}
        if set(self.names()) != expected:
            raise Broken(f"in the run's folder there are {sorted(self.names())}")
        for folder, ending in (("records", ".json"), ("tables", ".parquet")):
            if sorted(self.names(folder)) != [shard + ending for shard in planned]:
                raise Broken(f"in {folder}/ there are {sorted(self.names(folder))}")
        for index, shard in enumerate(planned):
            record = self._check_shard(shard)
            failed = sum(_fails(index * _ROWS + row) for row in range(_ROWS))
            if (record["planned"], record["committed"], record["failed"]) != (_ROWS, _ROWS - failed, failed):
                raise Broken(f"{shard}: the record counts {record}")
            if self.content(f"{shard}.tar") != _TARS[self.num_shards][f"{shard}.tar"]:
                raise Broken(f"{shard}.tar: not the bytes of an undisturbed run")

    def _check_litter(self, last: Process) -> None:
        for folder in ("staging", "spool", "leases"):
            if self.names(f"work/{folder}"):
                raise Broken(f"left in work/{folder}: {self.names(f'work/{folder}')}")
        known_dead = [p for p in self._world.processes if p.machine is last.machine and p.boot == last.boot]
        for name in self.names("work/ranks"):  # of other machines nobody can know
            if any(name.startswith(f"machine{p.machine.number}-{p.pid}-") for p in known_dead):
                raise Broken(f"left in work/ranks: {name}")

    def _check_end(self, process: Process) -> None:
        """A rank ends with an error only if an operation failed, or what it had cached made it believe so."""
        error, world = process.error, self._world
        excused: tuple[type[Exception], ...] = (EnvironmentFailure,) if world.is_nfs else ()
        if world.was_refused:
            excused = (EnvironmentFailure, RunError, OSError)
        if error is not None and not isinstance(error, excused):
            raise Broken(f"{process.name} ends with {error!r}") from error

    def names(self, folder: str = "") -> list[str]:
        found = self._world.files.folders.get(str(_FOLDER / folder))
        return list(found.entries) if found else []

    def content(self, name: str) -> bytes | None:
        path = _FOLDER / name
        folder = self._world.files.folders.get(str(path.parent))
        file = folder.entries.get(path.name) if folder else None
        return bytes(file.data) if isinstance(file, File) else None


def _open(num_shards: int) -> Run:
    size = ShardSize(max_items=_ROWS, min_shards=1)
    return open_or_plan(str(_FOLDER), _Numbered(num_shards * _ROWS), {"made": "here"}, size)


def _fails(number: int) -> bool:
    return number % 3 == 1


def _result(item: Item, row: int, seconds: float) -> tuple[Result, dict[str, bytes]]:
    """What a rank makes of a row; `seconds`, which differ, tell tables of different ranks apart."""
    if _fails(int(item.key.removeprefix("item"))):
        return Result(row, seconds=seconds, reason="it is cut", reason_class="decode"), {}
    return Result(row, num_frames=1, seconds=seconds), {"json": json.dumps({"key": item.key}).encode() * 90}


_PLANS: dict[int, bytes] = {}  # by number of shards; of undisturbed runs, as are
_TARS: dict[int, dict[str, bytes | None]] = {}


def _learn(num_shards: int) -> None:
    """Make the plan and the tars of an undisturbed run."""
    world = Here.world = World(Choices({}), None, 1)
    world.calm = True
    line = _Line(world)
    line.num_shards = num_shards
    process = line.start(world.machines[0])
    world.run()
    if process.error:
        raise process.error
    _TARS[num_shards] = {name: line.content(name) for name in line.names() if name.endswith(".tar")}
    _PLANS[num_shards] = line.content("plan.arrow") or b""


@contextmanager
def simulated() -> Iterator[None]:
    """Let `interleave` be called while the block runs; no other code may use the line meanwhile."""
    with installed():
        for num_shards in (1, 2):
            _learn(num_shards)
        yield


def story_of(choices: Choices) -> list[str]:
    """What happens, a numbered line each."""
    outcome = interleave(choices, tells=True)
    lines = [*outcome.story, f"FAILURE: {outcome.failure}" if outcome.failure else "everything holds"]
    return [f"{number:4}. {line}" for number, line in enumerate(lines, 1)]


def shrunk(outcome: Outcome) -> dict[int, int]:
    """The choices of a short story that fails as `outcome` did: by the same check."""
    kind = str(outcome.failure)[:_KIND_LENGTH]
    return shrink(outcome.made, lambda made: str(interleave(Choices(made)).failure)[:_KIND_LENGTH] == kind)
