"""Leases: which rank works on which shard. They are only files, so ranks may differ in speed, die, and join late.

A rank has one file, `work/ranks/{rank}`, with its identity and what it is doing. A claim on the shard `name` is the
file `work/leases/{name}.{generation}`, with the identity of its holder.

- Why exclusive creation: of several ranks that claim a shard at once, one wins.
- Why one heartbeat: a rank replaces its own file every few seconds, whatever the number of its claims, and one listing
  shows the heartbeats of all ranks.
- Why generations: a successor does not replace a dead rank's claim, because between its check and its deletion another
  successor may have claimed the shard, and that claim would be deleted. It creates the next generation instead, which
  again has one winner.
- Why the local clock: the clocks of machines and stores differ. A rank only observes whether the version of another's
  file changes, and measures by its own clock how long it has not.

Claims only save work and decide nothing: two ranks on one shard waste time, but do no harm (see `commit.py`).
"""

import errno
import json
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from datamodules.errors import EnvironmentFailure, RunError
from datamodules.run.store import Entry, Store
from datamodules.run.typed_json import build, load

RANKS = "work/ranks"
_CLAIMS = "work/leases"
_RANK = re.compile(r"[^/.\0][^/\0]*")  # one file name: host names differ, so the rest is free
_CLAIM = re.compile(r"(.+)\.([0-9]{6,})", re.DOTALL)  # what `_claim_name` makes


@dataclass(frozen=True)
class RankIdentity:
    """Identity of a rank, from which a rank on the same machine can see whether its process has ended.

    Attributes:
        rank: unique name, `{host}-{pid}-{random}`.
        machine: identifies the boot of the host and the process-id namespace (containers).
        pid: process id on that machine.
        started: start of that process, in clock ticks since the boot (in seconds since the epoch where there is no
            `/proc`). Process ids are reused; the pair of id and start is not.
    """

    rank: str
    machine: str
    pid: int
    started: int

    @classmethod
    def of_this_process(cls) -> "RankIdentity":
        """Return a new identity of this process. Two calls return two ranks."""
        pid = os.getpid()
        rank = f"{_host()}-{pid}-{os.urandom(3).hex()}"
        return cls(rank, _machine(), pid, _started(pid) or 0)

    @classmethod
    def read(cls, store: Store, name: str) -> "RankIdentity":
        """Read the identity from the file `name` of a rank or of a claim.

        Raises:
            OSError: the file cannot be read.
            RunError, ValueError: the file is not a rank's, or has a rank name that is no file name.
        """
        content = load(store.read(name))
        identity = build(cls, content.get("identity") if isinstance(content, dict) else None)
        if not _RANK.fullmatch(identity.rank):
            raise ValueError(f"{identity.rank!r:.100} cannot be the name of a rank")
        return identity

    def has_died(self) -> bool:
        """Return whether the process is known to have ended; False if it is on another machine."""
        return self.machine == _machine() and _started(self.pid) != self.started


@dataclass(frozen=True)
class Claim:
    """One claim file, as it was when it was listed.

    Attributes:
        name: of the claimed shard, or `folder.PLANNING`.
        generation: 0 for the first claim; one more for each take-over and each backup.
        holder: the rank that holds the claim; None if the file cannot be read.
        dead: the holder's process has ended, or its heartbeat has stopped.
    """

    name: str
    generation: int
    holder: RankIdentity | None
    dead: bool


class Leases:
    """The claims of this process, and what it knows of the claims of other ranks.

    Args:
        store: of the run. This rank's file is created in it.
        stale_seconds: a rank is dead if its heartbeat has not changed for this long, by this process's clock. File
            servers cache modification times for some seconds (NFS: up to 60).
        clock: returns seconds and never goes back.

    Attributes:
        identity: of this rank.
        activity: what this rank is doing, as JSON-able values and dataclasses; part of each heartbeat.
        random: random numbers of this rank.

    Raises:
        EnvironmentFailure: the store cannot be written to.
    """

    def __init__(self, store: Store, stale_seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.identity = RankIdentity.of_this_process()
        self.activity: Mapping[str, Any] | None = None
        self.random = random.Random(self.identity.rank)
        self._store, self._stale_seconds, self._clock = store, stale_seconds, clock
        # by rank: the version of its file, and when, by `clock`, this process first saw that version
        self._last_beat: dict[str, tuple[str, float]] = {}
        self._holders: dict[tuple[str, str], RankIdentity | None] = {}  # by name and version of a claim
        self._held: dict[str, int] = {}  # by name: the generation that this rank claimed
        self._beating = threading.Lock()  # two threads beat: an older activity must not replace a newer one
        try:
            self.beat()
        except OSError as error:
            raise EnvironmentFailure(f"the output folder cannot be written to: {error}") from error

    def beat(self) -> None:
        """Write a heartbeat for this rank. Call it several times within `stale_seconds`."""
        with self._beating:
            self._store.replace(self._own, self._content(activity=self.activity))

    def seconds_ahead(self) -> float:
        """Return how far the clock of the store is ahead of this machine's, in s. They may differ by hours."""
        self.beat()
        entry = self._store.find(self._own)
        return entry.modified - time.time() if entry else 0.0

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Write heartbeats from a thread while the block runs."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self._store.beat_seconds):
                with suppress(OSError):  # the next one may succeed; what the block writes fails by itself
                    self.beat()

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def claim(self, name: str, generation: int = 0) -> bool:
        """Try to claim `name` in `generation`.

        Returns:
            Whether this rank holds the claim; False if another rank was faster.

        Raises:
            EnvironmentFailure: the store cannot create files exclusively.
            OSError: the store cannot be written to.
        """
        # a claim need not survive a crash: without it, another rank does the work
        if not self._store.create(_claim_name(name, generation), self._content(), is_durable=False):
            return False
        self._held[name] = generation
        return True

    def generation(self, name: str) -> int:
        """Return the generation of this rank's claim on `name`."""
        return self._held[name]

    def earlier_holders(self, name: str) -> list[str]:
        """Return the names of the ranks that claimed `name` before this rank did, oldest first.

        Claims that cannot be read are left out. Ranks that died, or were slower, are among them.
        """
        claims = (_claim_name(name, generation) for generation in range(self._held[name]))
        return [holder.rank for claim in claims if (holder := _read_identity(self._store, claim))]

    def release(self, name: str) -> None:
        """Give up the claim on `name`. It is no error if its file is already removed."""
        self._store.remove(_claim_name(name, self._held.pop(name)))

    def clear(self, name: str) -> None:
        """Remove this rank's claim on `name`, which is finished, and those before it."""
        for generation in range(self._held.pop(name, -1) + 1):
            self._store.remove(_claim_name(name, generation))

    def claimed(self) -> set[str]:
        """Return the names that have a claim, of a living or a dead rank. Lists the claims once and reads none."""
        return {match[1] for name in self._store.names(_CLAIMS) if (match := _CLAIM.fullmatch(name))}

    def list_claims(self, max_reads: int | None = None) -> dict[str, list[Claim]]:
        """Return the claims by name, the longest held first; those on one name in order of generation.

        Args:
            max_reads: read at most so many claims, the oldest, whose holders this process does not know yet. Names
                with other unknown claims are left out. None: read all.
        """
        found: dict[str, list[tuple[int, Entry]]] = {}
        for entry in sorted(self._store.list(_CLAIMS), key=lambda entry: entry.modified):
            if match := _CLAIM.fullmatch(entry.name.removeprefix(f"{_CLAIMS}/")):
                found.setdefault(match[1], []).append((int(match[2]), entry))
        # after the claims, as a rank has its file before it claims: one without a file has ended
        ranks = {entry.name: entry for entry in self._store.list(RANKS)}
        claims: dict[str, list[Claim]] = {}
        for name, entries in found.items():
            num_unknown = sum((entry.name, entry.version) not in self._holders for _, entry in entries)
            if max_reads is not None:
                if num_unknown > max_reads:
                    continue
                max_reads -= num_unknown
            for generation, entry in sorted(entries):
                holder = self._holder(entry)
                beat = ranks.get(f"{RANKS}/{holder.rank}") if holder else None
                is_dead = holder is None or self._is_silent(holder, beat)
                claims.setdefault(name, []).append(Claim(name, generation, holder, is_dead))
        return claims

    def is_dead(self, rank: str) -> bool:
        """Return whether the rank named `rank` has ended or its heartbeat has stopped."""
        identity, beat = _read_rank(self._store, rank), self._store.find(f"{RANKS}/{rank}")
        return identity is None or self._is_silent(identity, beat)

    def has_died_here(self, rank: str) -> bool:
        """Return whether the rank named `rank` ran on this machine, since its last boot, and its process has ended."""
        identity = _read_rank(self._store, rank)
        return identity is not None and identity.has_died()

    def at_work(self) -> set[str]:
        """Return the names of the other living ranks, whose last heartbeat is at most `stale_seconds` old.

        Compares times of writing, all by the store's clock, and so answers at once. `list_claims` and `is_dead` trust
        only this process's clock, and have to observe a rank for `stale_seconds` before they call it dead.
        """
        self.beat()
        beats = {entry.name: entry.modified for entry in self._store.list(RANKS) if "." not in entry.name}
        now = beats.pop(self._own, 0.0)
        recent = {name.removeprefix(f"{RANKS}/") for name, beat in beats.items() if now - beat <= self._stale_seconds}
        return {rank for rank in recent if not has_ended(self._store, rank)}

    def close(self) -> None:
        """Give up all claims of this rank and remove its file."""
        for name in list(self._held):
            self.release(name)
        self._store.remove(self._own)

    @property
    def _own(self) -> str:
        return f"{RANKS}/{self.identity.rank}"

    def _content(self, **more: Any) -> bytes:
        return json.dumps({"identity": self.identity, **more}, default=vars).encode()

    def _holder(self, claim: Entry) -> RankIdentity | None:
        """Return the rank that holds a claim; None if the file cannot be read."""
        key = claim.name, claim.version
        if key not in self._holders:
            self._holders[key] = _read_identity(self._store, claim.name)
        return self._holders[key]

    def _is_silent(self, rank: RankIdentity, beat: Entry | None) -> bool:
        """Return whether a rank has ended or its heartbeat, the entry of its file, has stopped."""
        if beat is None:  # it removed its file at its end
            return True
        now = self._clock()
        seen, since = self._last_beat.get(rank.rank, ("", now))
        if seen != beat.version:  # a heartbeat, or the first look at this rank: both start the wait anew
            since = now
            self._last_beat[rank.rank] = beat.version, since
        return rank.has_died() or now - since > self._stale_seconds


def is_of_this_host(rank: str) -> bool:
    """Return whether a rank of this name runs, or ran, on a host of this host's name."""
    return rank.rpartition("-")[0].rpartition("-")[0] == _host()


def has_ended(store: Store, rank: str) -> bool:
    """Return whether the rank named `rank` is known to have ended."""
    identity = _read_rank(store, rank)
    return identity is None or identity.has_died()


def _read_rank(store: Store, rank: str) -> RankIdentity | None:
    """Return the identity of the rank named `rank`; None if its file is missing, or not a rank's."""
    return _read_identity(store, f"{RANKS}/{rank}")


def _read_identity(store: Store, name: str) -> RankIdentity | None:
    try:
        return RankIdentity.read(store, name)
    except (FileNotFoundError, RunError, ValueError):  # removed in the meantime, or not a rank's file
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:  # NFS: removed in the meantime
            return None
        raise


def _claim_name(name: str, generation: int) -> str:
    return f"{_CLAIMS}/{name}.{generation:06d}"


def _started(pid: int) -> int | None:
    """Return when the process `pid` started, as `RankIdentity.started`; None if there is none, or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # from field 3 on: proc(5)
        return None if fields[0] == "Z" else int(fields[19])
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:  # not Linux
        return int(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def _host() -> str:
    return re.sub(r"[^\w-]", "_", socket.gethostname().partition(".")[0])  # becomes part of file names


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()
