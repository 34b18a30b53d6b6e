"""Ranks that do a small run together under faults, and the checks of that run.

1. One to three ranks start. When all have ended or died, one or two more may start, and more after these. Every rank
   does what `preprocess run` does: it opens the run (and sometimes plans or extends it), leases, spools, commits, and
   cleans up.
2. At last, perhaps after a crash of the machine, one more rank completes the run without faults.

Checked at every link and rename, and at every change in a bucket: a visible tar has a record, and the tar and its table
are whole. Checked at the end: every planned row exists once, every file is as its record says, the tars are those of a
run without faults, and no temporary files are left. After that, the last late requests arrive in the bucket, and the
run is checked again.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from datamodules.corpus import Corpus, Item
from datamodules.errors import EnvironmentFailure, RunError
from datamodules.run.bucket import Bucket
from datamodules.run.cleanup import clean_up
from datamodules.run.extension import extend
from datamodules.run.failure_limit import Tolerance
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from support.simulated.choices import Choices, shrink
from support.simulated.files import File
from support.simulated.modules import Here, Os, Path, Time, installed
from support.simulated.world import STALE_SECONDS, Broken, Machine, Process, World

_FOLDER = Path("/run")
_URL, _SCRATCH = "s3://simulated/run", "/run"
_ROWS = 2
_MOST_PROCESSES = 6
_CACHE_SECONDS = (0.0, 3.0, 30.0)
_ITEM_SECONDS = 1.0
_BUCKET_ITEM_SECONDS = (1.0, 1.0, 50.0)  # two of the last take longer than a heartbeat may be silent
_TOLERANCE = Tolerance(max_attempts=_MOST_PROCESSES + 1)  # more attempts than processes, so no item fails
_KIND_LENGTH = 15  # characters at the start of a failure that identify the check


class _Numbered(Corpus):
    root = "/corpus"

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def items(self) -> Iterator[Item]:
        for number in range(self.num_items):
            yield Item(f"item{number}", "train", f"item{number}.mp4", cost=1)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one interleaving.

    Attributes:
        failure: the check that failed; None: none did.
        store: where the run is; see `Choices`.
        made: the choices, for a replay.
        faults: number of faults by kind.
        num_steps: number of operations on files.
        seconds: simulated time.
        story: lines that say what happened; empty if not requested.
    """

    failure: str | None
    store: str
    made: Mapping[int, int]
    faults: Counter[int]
    num_steps: int
    seconds: float
    story: Sequence[str] = field(default_factory=list)


def interleave(choices: Choices, has_story: bool = False) -> Outcome:
    """Simulate one interleaving; call it within `simulated()`.

    Args:
        choices: the random choices.
        has_story: whether the outcome has a story.
    """
    if choices.store == "bucket":
        world = World(choices, None, 2 + choices.choose(2), has_story)
    elif choices.choose(2):  # NFS
        world = World(choices, _CACHE_SECONDS[choices.choose(len(_CACHE_SECONDS))], 1 + choices.choose(3), has_story)
    else:
        world = World(choices, None, 1, has_story)
    Here.world = world
    line = _Line(world)
    failure = None
    try:
        line.play()
    except Broken as error:
        failure = str(error)
    finally:
        world.end()
    return Outcome(failure, choices.store, choices.made, world.faults, world.num_steps, world.now, world.story)


class _Line:
    """One simulated run of 1 or 2 shards."""

    def __init__(self, world: World) -> None:
        Os.reset()
        self._world = world
        self.num_shards = 1 + world.choices.choose(2)
        # the corpus gains the items of the second shard after it was planned, and ranks extend the run
        self.grows = self.num_shards == 2 and world.choices.choose(3) == 2
        self._item_seconds = _ITEM_SECONDS
        if world.server:
            self._item_seconds = _BUCKET_ITEM_SECONDS[world.choices.choose(len(_BUCKET_ITEM_SECONDS))]
            world.server.changed = self._check_changed
        else:
            world.machines[0].files.appeared = self._check_appeared
        world.crashed = self._check_all_visible

    def play(self) -> None:
        """Simulate the whole run.

        Raises:
            Broken: a check fails.
        """
        world = self._world
        if world.choices.choose(16) != 15:
            self._write_plan()
        self._run_ranks(1 + (world.choices.choose(3) + 1) % 3)  # 2, 3 or 1
        while len(world.processes) < _MOST_PROCESSES and world.choices.choose(2):
            self._run_ranks(1 + world.choices.choose(2))
        world.calm = True
        if not world.is_nfs and world.choices.choose(2):
            world.crash(world.machines[0])
        world.pass_time()
        last = self.start(world.machines[0])
        world.run()
        if last.error:
            raise Broken(f"the last rank, without faults, ends with {last.error!r}") from last.error
        for process in world.processes:
            self._check_end(process)
        self._check_run()
        self._check_litter(last)
        if world.server:
            world.server.deliver(math.inf)
            self._check_run()

    def start(self, machine: Machine) -> Process:
        return self._world.start(machine, self._work)

    def _run_ranks(self, num_ranks: int) -> None:
        """Start `num_ranks` ranks and run until all have ended or died."""
        machines = self._world.machines
        first = self._world.choices.choose(len(machines))
        for number in range(num_ranks):
            self.start(machines[(first + number) % len(machines)])
        self._world.run()

    def _work(self) -> None:
        """Do what `preprocess run` does."""
        stale_seconds = STALE_SECONDS[self._world.choices.store]
        with Rank(self._open(), stale_seconds=stale_seconds, tolerance=_TOLERANCE) as rank:
            while not rank.finished():
                rank.abandon_committed()
                opened = rank.lease()
                for row in opened.missing if opened else ():
                    assert opened is not None
                    rank.mark_active(opened.shard.number, [row])
                    Time.sleep(self._item_seconds)
                    rank.mark_idle()
                    rank.add(opened.shard.number, *_result(opened.items[row], row, self._world.process.pid))
                if not opened:
                    Time.sleep(stale_seconds / 3)
        if len(rank.run.committed()) == len(rank.run.plan.shards):
            clean_up(rank.run)

    def _open(self) -> Run:
        size, made = ShardSize(max_items=_ROWS, min_shards=1), {"made": "here"}
        location = Bucket(_URL, _SCRATCH) if self._world.server else str(_FOLDER)
        began, num_items = Time.time(), self.num_shards * _ROWS
        run = open_or_plan(location, _Numbered(_ROWS if self.grows else num_items), made, size)
        return extend(run, _Numbered(num_items), made, size, began) if self.grows else run

    def _write_plan(self) -> None:
        """Write the plan, durably, as if the run were planned already."""
        machine = self._world.machines[0]
        files = machine.files
        for name, content in _PLANS[1 if self.grows else self.num_shards].items():
            if self._world.server:
                self._world.server.put(name, content)
                continue
            file = files.create(machine, f"{_FOLDER}/{name}", truncate=True)
            files.write(machine, file, 0, content)
            files.sync(file)
        files.sync(files.folders[str(_FOLDER)])

    # Checks

    def _check_appeared(self, folder: str, name: str) -> None:
        shard, _, ending = name.rpartition(".")
        is_visible_tar = ending == "tar" and folder == str(_FOLDER)
        if is_visible_tar or (
            ending == "json" and folder == f"{_FOLDER}/records" and self.content(f"{shard}.tar") is not None
        ):
            self._check_shard(shard)

    def _check_changed(self, path: str) -> None:
        """Check the shard of an object that was written or removed, if its tar is visible or was until then.

        Without faults, a shard has at most its first holder and a backup, until it is committed: then a rank that has
        listed the claims before may find one of them removed, and claim the shard once more, which it clears at once.
        """
        is_third = path.startswith("work/leases/train-") and path.endswith(".000002")
        shard = path.removeprefix("work/leases/").partition(".")[0]
        if is_third and not self._world.faults and self.content(f"records/{shard}.json") is None:
            raise Broken(f"{path}: the holders of the claims before it are alive")
        shard, _, ending = path.rpartition("/")[2].rpartition(".")
        if path.startswith("records/"):
            record = json.loads(self.content(path) or b"")
            for name, ending in ((record["tar"]["name"], "tar"), (record["table"]["name"], "parquet")):
                staged = f"work/staging/{record['attempt']}.{ending}"
                if self.content(name) is None and self.content(staged) is None:
                    raise Broken(f"{name}: the record exists, but the file is missing")
        if not path.startswith(("work/", "plan")) and (ending == "tar" or self.content(f"{shard}.tar") is not None):
            self._check_shard(shard)

    def _check_all_visible(self) -> None:
        for name in self.names():
            self._check_appeared(str(_FOLDER), name)

    def _check_shard(self, shard: str) -> dict[str, Any]:
        """Return the record of `shard`; raise Broken unless its files are at their final names and as it says."""
        content = self.content(f"records/{shard}.json")
        if content is None:
            raise Broken(f"{shard}.tar is visible, but its record is missing")
        try:
            record: dict[str, Any] = json.loads(content)
        except ValueError as error:
            raise Broken(f"records/{shard}.json: not the bytes of the record") from error
        for name in ("table", "tar"):
            file = record[name]
            content = self.content(file["name"])
            if content is None:
                raise Broken(f"{file['name']}: the record exists, but the file is missing")
            if (hashlib.sha256(content).hexdigest(), len(content)) != (file["sha256"], file["bytes"]):
                raise Broken(f"{file['name']}: not the bytes of the record")
        return record

    def _check_run(self) -> None:
        planned = [f"train-{index:06d}" for index in range(self.num_shards)]
        plans = {*_PLANS[1], *_EXTENSION} if self.grows else _PLANS[self.num_shards]
        expected = {*plans, "records", "tables", *(f"{shard}.tar" for shard in planned)}
        if set(self.names()) - {"work"} != expected:
            raise Broken(f"the run folder has {sorted(self.names())}")
        for folder, ending in (("records", ".json"), ("tables", ".parquet")):
            if sorted(self.names(folder)) != [shard + ending for shard in planned]:
                raise Broken(f"{folder}/ has {sorted(self.names(folder))}")
        for index, shard in enumerate(planned):
            record = self._check_shard(shard)
            failed = sum(_fails(index * _ROWS + row) for row in range(_ROWS))
            if (record["planned"], record["committed"], record["failed"]) != (_ROWS, _ROWS - failed, failed):
                raise Broken(f"{shard}: the record counts {record}")
            if self.content(f"{shard}.tar") != _TARS[self.num_shards][f"{shard}.tar"]:
                raise Broken(f"{shard}.tar: not the bytes of a run without faults")

    def _check_litter(self, last: Process) -> None:
        for folder in ("staging", "planning", "spool", "leases"):
            if left := self._left(f"work/{folder}") + self._left_on(last.machine, folder):
                raise Broken(f"left in work/{folder}: {left}")
        known_dead = [p for p in self._world.processes if p.machine is last.machine and p.boot == last.boot]
        for name in self._left("work/ranks"):  # ranks of other machines may be alive
            if any(name.startswith(f"machine{p.machine.number}-{p.pid}-") for p in known_dead):
                raise Broken(f"left in work/ranks: {name}")

    def _left(self, folder: str) -> list[str]:
        """Return the names in a folder of the run, without objects that a late request may have written."""
        late = self._world.server.late_paths if self._world.server else ()
        return [name for name in self.names(folder) if f"{folder}/{name}" not in late]

    def _left_on(self, machine: Machine, folder: str) -> list[str]:
        """Return the names in a folder of a machine's own disk that a run in a bucket works in."""
        inode = machine.files.folders.get(str(Bucket(_URL, _SCRATCH).work / folder)) if self._world.server else None
        return list(inode.entries) if inode else []

    def _check_end(self, process: Process) -> None:
        """Raise Broken if a rank ended with an error that neither a fault nor an NFS cache explains."""
        error, world = process.error, self._world
        allowed: tuple[type[Exception], ...] = (EnvironmentFailure,) if world.is_nfs else ()
        if world.had_errors:
            allowed = (EnvironmentFailure, RunError, OSError)
        if error is not None and not isinstance(error, allowed):
            raise Broken(f"{process.name} ends with {error!r}") from error

    def names(self, folder: str = "") -> list[str]:
        """Return the names in a folder of the run, as they are on the server; empty if it is missing."""
        if self._world.server:
            return self._world.server.names(folder)
        inode = self._world.machines[0].files.folders.get(str(_FOLDER / folder))
        return list(inode.entries) if inode else []

    def content(self, name: str) -> bytes | None:
        """Return the content of a file of the run; None if it is missing."""
        if self._world.server:
            found = self._world.server.find(name)
            return found.content if found else None
        path = _FOLDER / name
        folder = self._world.machines[0].files.folders.get(str(path.parent))
        file = folder.entries.get(path.name) if folder else None
        return bytes(file.data) if isinstance(file, File) else None


def _fails(number: int) -> bool:
    return number % 3 == 1


def _result(item: Item, row: int, seconds: float) -> tuple[Result, dict[str, bytes]]:
    """Return the result of a row and the files of its sample; `seconds` identify the rank in its table."""
    if _fails(int(item.key.removeprefix("item"))):
        return Result(row, seconds=seconds, reason="it is cut", reason_class="decode"), {}
    return Result(row, num_frames=1, seconds=seconds), {"json": json.dumps({"key": item.key}).encode() * 90}


# files of plans, and tars, of runs without faults, by number of shards
_PLANS: dict[int, dict[str, bytes]] = {}
_TARS: dict[int, dict[str, bytes | None]] = {}
_EXTENSION: set[str] = set()  # names of the files of the plan that extends a run of one shard to two


def _run_without_faults(num_shards: int, grows: bool = False) -> None:
    """Add the plan and the tars of a run without faults to `_PLANS` and `_TARS`, or to `_EXTENSION`."""
    world = Here.world = World(Choices({}), None, 1)
    world.calm = True
    line = _Line(world)
    line.num_shards, line.grows = num_shards, grows
    process = line.start(world.machines[0])
    world.run()
    if process.error:
        raise process.error
    if grows:
        _EXTENSION.update(name for name in line.names() if name.startswith("plan-extension"))
        return
    _TARS[num_shards] = {name: line.content(name) for name in line.names() if name.endswith(".tar")}
    _PLANS[num_shards] = {name: line.content(name) or b"" for name in line.names() if name.startswith("plan.")}


@contextmanager
def simulated() -> Iterator[None]:
    """Allow calls of `interleave` while the block runs. No other code may use `datamodules.run` in the block."""
    with installed():
        for num_shards, grows in ((1, False), (2, False), (2, True)):
            _run_without_faults(num_shards, grows)
        yield


def story_of(choices: Choices) -> list[str]:
    """Return what happens in an interleaving, as numbered lines; the last one says which check failed, if any."""
    outcome = interleave(choices, has_story=True)
    lines = [*outcome.story, f"FAILURE: {outcome.failure}" if outcome.failure else "all checks pass"]
    return [f"{number:4}. {line}" for number, line in enumerate(lines, 1)]


def shrunk(outcome: Outcome, tries: int = 2000) -> dict[int, int]:
    """Return the choices of a short story in which the same check fails as in `outcome`; see `shrink`."""
    kind = str(outcome.failure)[:_KIND_LENGTH]

    def fails(made: Mapping[int, int]) -> bool:
        return str(interleave(Choices(made, outcome.store)).failure)[:_KIND_LENGTH] == kind

    return shrink(outcome.made, fails, tries)
