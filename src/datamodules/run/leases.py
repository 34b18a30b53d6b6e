"""Leases: which rank works on which shard. They are only files, so ranks may differ in speed, die, and join late.

A rank has one file, `ranks/{rank}`. A claim on the shard `name` is a hard link to it, `leases/{name}.{generation}`.

- Why hard links: creating one fails if its name exists, on NFS too, so a claim has one winner. A claim is never seen
  empty, because it shares the content of a file that is already written. All links of a file share one modification
  time, so touching the rank's file is the heartbeat of every claim that the rank holds.
- Why generations: a successor does not replace a dead rank's claim, because between its check and its deletion another
  successor may have claimed the shard, and that claim would be deleted. It creates the next generation instead, which
  again has one winner.
- Why the local clock: the clocks of machines and file servers differ. A rank only observes whether a modification time
  changes, and measures by its own clock how long it has not.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from datamodules.errors import EnvironmentFailure, RunError
from datamodules.run.files import read_file, remove
from datamodules.run.typed_json import build, load

_RANK = re.compile(r"[^/.\0][^/\0]*")  # one file name: host names differ, so the rest is free
_CLAIM = re.compile(r"(.+)\.([0-9]{6,})", re.DOTALL)  # what `Leases._path` makes


@dataclass(frozen=True)
class RankIdentity:
    """Content of a rank's file, from which a rank on the same machine can see whether its process has ended.

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
        host = re.sub(r"[^\w-]", "_", socket.gethostname().partition(".")[0])  # becomes part of file names
        rank = f"{host}-{pid}-{os.urandom(3).hex()}"
        return cls(rank, _machine(), pid, _started(pid) or 0)

    @classmethod
    def read(cls, path: Path) -> "RankIdentity":
        """Read the identity from `path`, the file of a rank or of a claim.

        Raises:
            OSError: the file cannot be read.
            RunError, ValueError: the file is not a rank's, is a symbolic link, or has a rank name that is no file name.
        """
        if path.is_symlink():  # ranks create hard links; a symbolic link may be circular or lead out of the run folder
            raise ValueError("it is a symbolic link")
        identity = build(cls, load(read_file(path)))
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
        folder: `work/` of the run; `ranks/` and `leases/` are created in it.
        stale_seconds: a rank is dead if its heartbeat has not changed for this long, by this process's clock. File
            servers cache modification times for some seconds (NFS: up to 60).
        clock: returns seconds and never goes back.

    Raises:
        EnvironmentFailure: the folder cannot be written to.
    """

    def __init__(self, folder: Path, stale_seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.identity = RankIdentity.of_this_process()
        self._stale_seconds = stale_seconds
        self._clock = clock
        self._ranks, self._claims = folder / "ranks", folder / "leases"
        # by rank: the modification time of its file in ns, and when, by `clock`, this process first saw that value
        self._last_beat: dict[str, tuple[int, float]] = {}
        self._held: dict[str, int] = {}  # by name: the generation that this rank claimed
        try:
            self._ranks.mkdir(parents=True, exist_ok=True)
            self._claims.mkdir(parents=True, exist_ok=True)
            self._file = self._ranks / self.identity.rank
            with open(self._file, "x") as file:
                file.write(json.dumps(vars(self.identity)))
        except OSError as error:
            raise EnvironmentFailure(f"the output folder cannot be written to: {error}") from error
        self.random = random.Random(self.identity.rank)

    def beat(self) -> None:
        """Write a heartbeat for this rank. Call it several times within `stale_seconds`."""
        os.utime(self._file)

    @contextmanager
    def beating(self, seconds: float = 2.0) -> Iterator[None]:
        """Write a heartbeat every `seconds` from a thread while the block runs."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(seconds):
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
            EnvironmentFailure: the file system has no hard links, or the folder cannot be written to.
        """
        path = self._path(name, generation)
        try:
            os.link(self._file, path)
        except FileExistsError:
            # NFS may repeat a request whose answer was lost, and then report this rank's own link as "exists"
            if not _same_file(self._file, path):
                return False
        except OSError as error:
            raise EnvironmentFailure(
                f"cannot create a hard link in {self._claims}: {error}. "
                "Use an --output.dir whose file system has hard links"
            ) from error
        self._held[name] = generation
        return True

    def release(self, name: str) -> None:
        """Give up the claim on `name`. It is no error if its file is already removed."""
        self._path(name, self._held.pop(name)).unlink(missing_ok=True)

    def clear(self, name: str) -> None:
        """Remove all claims on `name`, which is finished."""
        self._held.pop(name, None)
        for path in self._claims.glob(f"{name}.*"):
            remove(path)

    def claimed(self) -> set[str]:
        """Return the names that have a claim, of a living or a dead rank. Lists the folder once and reads no file."""
        return {name for _, name, _ in self._claim_files()}

    def list_claims(self) -> dict[str, list[Claim]]:
        """Return all claims by name, in order of generation. Reads every claim file."""
        claims: dict[str, list[Claim]] = {}
        for path, name, generation in self._claim_files():
            holder, dead = self._holder(path)
            claims.setdefault(name, []).append(Claim(name, generation, holder, dead))
        return claims

    def _claim_files(self) -> Iterator[tuple[Path, str, int]]:
        """Yield (file, name, generation) of every claim, in order of generation."""
        for path in sorted(self._claims.glob("[!.]*")):  # NFS keeps open files that are removed as `.nfs…`
            if match := _CLAIM.fullmatch(path.name):
                yield path, match[1], int(match[2])

    def is_dead(self, rank: str) -> bool:
        """Return whether the rank named `rank` has ended or its heartbeat has stopped."""
        return self._holder(self._ranks / rank)[1]

    def has_died_here(self, rank: str) -> bool:
        """Return whether the rank named `rank` ran on this machine, since its last boot, and its process has ended."""
        holder, _ = self._holder(self._ranks / rank)
        return holder is not None and holder.has_died()

    def at_work(self) -> set[str]:
        """Return the names of the other living ranks, whose last heartbeat is at most `stale_seconds` old.

        Compares modification times, all by the file server's clock, and so answers at once. `list_claims` and `is_dead`
        trust only this process's clock, and have to observe a rank for `stale_seconds` before they call it dead.
        """
        self.beat()
        now = self._file.stat().st_mtime
        names = set()
        for path in self._ranks.glob("*"):
            with suppress(FileNotFoundError):  # the rank ended in the meantime
                is_other = path != self._file and not path.suffix and not is_dead(path)
                if is_other and now - path.stat().st_mtime <= self._stale_seconds:
                    names.add(path.name)
        return names

    def close(self) -> None:
        """Give up all claims of this rank and remove its file."""
        for name in list(self._held):
            self.release(name)
        self._file.unlink(missing_ok=True)

    def _path(self, name: str, generation: int) -> Path:
        return self._claims / f"{name}.{generation:06d}"

    def _holder(self, path: Path) -> tuple[RankIdentity | None, bool]:
        """Return (identity in the file of a rank or claim, or None; whether that rank is dead)."""
        try:
            identity = RankIdentity.read(path)
            modified = path.stat().st_mtime_ns
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):  # released between listing and reading
                return None, True
            raise
        except (RunError, ValueError):  # not a rank's file, or its rank was killed while it wrote the file
            return None, True
        now = self._clock()
        seen, since = self._last_beat.get(identity.rank, (None, now))
        if seen != modified:  # a heartbeat, or the first look at this rank: both start the wait anew
            since = now
            self._last_beat[identity.rank] = modified, since
        return identity, identity.has_died() or now - since > self._stale_seconds


def is_dead(path: Path) -> bool:
    """Return whether the rank whose file is `path` is known to have ended."""
    try:
        return RankIdentity.read(path).has_died()
    except OSError:
        return not path.exists()
    except (RunError, ValueError):  # not a rank's file, or its rank was killed while it wrote the file
        return True


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except FileNotFoundError:  # released in the meantime; other errors propagate, or an own claim might be kept forever
        return False


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


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()
