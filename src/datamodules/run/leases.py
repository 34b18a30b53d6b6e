"""Leases: who works on what, told by files alone, so that ranks may be unequal, vanish, and join at any time.

A rank has one file, `ranks/{rank}`; a claim on the shard `name` is a hard link to it, `leases/{name}.{generation}`.
Linking fails if the name exists, so a claim has one winner; and because all links share one modification time, touching
the rank's file is the heartbeat of every claim it holds. Taking a claim over means creating the next generation.

Claims only save work, they decide nothing: two ranks on one shard waste time and no more (see `commit.py`).
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

_RANK = re.compile(r"[^/.\0][^/\0]*")  # of one file: hosts may have any other names
_CLAIM = re.compile(r"(.+)\.([0-9]{6,})", re.DOTALL)  # `Leases._path`


@dataclass(frozen=True)
class RankIdentity:
    """What a rank's file says: enough for a rank of the same machine to see that its process is gone.

    Attributes:
        rank: unique name, `{host}-{pid}-{random}`.
        machine: changes with the host, its boot and the process-id namespace (containers).
        pid: process id on that machine.
        started: when that process started, in clock ticks since the boot; process ids are reused.
    """

    rank: str
    machine: str
    pid: int
    started: int

    @classmethod
    def of_this_process(cls) -> "RankIdentity":
        """A new identity; a process that asks twice is two ranks."""
        pid = os.getpid()
        host = re.sub(r"[^\w-]", "_", socket.gethostname().partition(".")[0])  # it becomes part of file names
        rank = f"{host}-{pid}-{os.urandom(3).hex()}"
        return cls(rank, _machine(), pid, _started(pid) or 0)

    @classmethod
    def read(cls, path: Path) -> "RankIdentity":
        """Return the identity in the file `path`, of a rank or a claim.

        Raises:
            OSError: it cannot be read.
            RunError, ValueError: it is no such file, a link, or has a name that cannot be that of a file in `ranks/`.
        """
        if path.is_symlink():  # ranks make hard links; a symbolic one may be circular, or lead where nobody may look
            raise ValueError("it is a symbolic link")
        identity = build(cls, load(read_file(path)))
        if not _RANK.fullmatch(identity.rank):
            raise ValueError(f"{identity.rank!r:.100} cannot be the name of a rank")
        return identity

    def has_died(self) -> bool:
        """Whether its process is known to be gone; False where this machine cannot know."""
        return self.machine == _machine() and _started(self.pid) != self.started


@dataclass(frozen=True)
class Claim:
    """One claim file, as found.

    Attributes:
        name: what is claimed.
        generation: 0, and one more each time it was taken over or backed up.
        holder: the rank that holds it; None if its file cannot be read.
        dead: the holder's process is gone, or its heartbeat stands still.
    """

    name: str
    generation: int
    holder: RankIdentity | None
    dead: bool


class Leases:
    """This process's claims in the folder `folder`, and its view of the others'.

    Args:
        folder: `work/` of the run; `ranks/` and `leases/` are made in it.
        stale_seconds: a heartbeat that stands still this long, by this process's clock, is a dead rank's. File servers
            cache modification times for some seconds (NFS: up to 60).
        clock: seconds, monotonic.

    Raises:
        EnvironmentFailure: the folder is not writable, or its file system has no hard links.
    """

    def __init__(self, folder: Path, stale_seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.identity = RankIdentity.of_this_process()
        self._stale_seconds = stale_seconds
        self._clock = clock
        self._ranks, self._claims = folder / "ranks", folder / "leases"
        self._last_beat: dict[str, tuple[int, float]] = {}  # rank: its file's mtime in ns, when we first saw that
        self._held: dict[str, int] = {}
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
        """Show that this rank lives; call it several times within `stale_seconds`."""
        os.utime(self._file)

    @contextmanager
    def beating(self, seconds: float = 2.0) -> Iterator[None]:
        """Beat every `seconds` from a thread while the block runs."""
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
        """Try to become the holder of `name` in `generation`; False if another rank was faster."""
        path = self._path(name, generation)
        try:
            os.link(self._file, path)
        except FileExistsError:
            if not _same_file(self._file, path):  # a file server may answer a repeated request for a link that it made
                return False
        except OSError as error:
            raise EnvironmentFailure(
                f"cannot create a hard link in {self._claims}: {error}; runs need a file system that has them"
            ) from error
        self._held[name] = generation
        return True

    def release(self, name: str) -> None:
        """Give up `name`; a claim that is no longer there is no error."""
        self._path(name, self._held.pop(name)).unlink(missing_ok=True)

    def clear(self, name: str) -> None:
        """Remove every claim on `name`, which is done."""
        self._held.pop(name, None)
        for path in self._claims.glob(f"{name}.*"):
            remove(path)

    def claimed(self) -> set[str]:
        """Everything that has a claim, dead or alive: one listing."""
        return {name for _, name, _ in self._found()}

    def list_claims(self) -> dict[str, list[Claim]]:
        """Every claim there is, by name, in order of generation; reads each."""
        claims: dict[str, list[Claim]] = {}
        for path, name, generation in self._found():
            holder, dead = self._holder(path)
            claims.setdefault(name, []).append(Claim(name, generation, holder, dead))
        return claims

    def _found(self) -> Iterator[tuple[Path, str, int]]:
        """(file, name, generation) of every claim, in order of generation."""
        for path in sorted(self._claims.glob("[!.]*")):  # NFS keeps removed files that are open as `.nfs…`
            if match := _CLAIM.fullmatch(path.name):
                yield path, match[1], int(match[2])

    def is_dead(self, rank: str) -> bool:
        """Whether the rank of that name has ended, as far as can be known."""
        return self._holder(self._ranks / rank)[1]

    def has_died_here(self, rank: str) -> bool:
        """Whether the process of that rank is known to be gone, while its machine is up: this one."""
        holder, _ = self._holder(self._ranks / rank)
        return holder is not None and holder.has_died()

    def at_work(self) -> set[str]:
        """The other ranks that are not dead and have beaten within `stale_seconds`, by the file system's clock.

        Tells at once; `list_claims` and `is_dead` trust no clock but their own, and have to look on for so long.
        """
        self.beat()
        latest = self._file.stat().st_mtime
        names = set()
        for path in self._ranks.glob("*"):
            with suppress(FileNotFoundError):  # it left meanwhile
                is_other = path != self._file and not path.suffix and not is_dead(path)
                if is_other and latest - path.stat().st_mtime <= self._stale_seconds:
                    names.add(path.name)
        return names

    def close(self) -> None:
        """Give up everything held, and be no rank any more."""
        for name in list(self._held):
            self.release(name)
        self._file.unlink(missing_ok=True)

    def _path(self, name: str, generation: int) -> Path:
        return self._claims / f"{name}.{generation:06d}"

    def _holder(self, path: Path) -> tuple[RankIdentity | None, bool]:
        try:
            identity = RankIdentity.read(path)
            modified = path.stat().st_mtime_ns
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):  # released between listing and reading
                return None, True
            raise
        except (RunError, ValueError):  # of no rank, or of one that was killed within its very first write
            return None, True
        now = self._clock()
        seen, since = self._last_beat.get(identity.rank, (None, now))
        if seen != modified:
            since = now
            self._last_beat[identity.rank] = modified, since
        return identity, identity.has_died() or now - since > self._stale_seconds


def is_dead(path: Path) -> bool:
    """Whether the rank whose file is `path` is known to be dead."""
    try:
        return RankIdentity.read(path).has_died()
    except OSError:
        return not path.exists()
    except (RunError, ValueError):  # of no rank, or of one that was killed within its very first write
        return True


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except FileNotFoundError:  # released meanwhile; any other error is one: a claim of one's own would never be let go
        return False


def _started(pid: int) -> int | None:
    """When the process `pid` started; None if there is none, or only what its parent has not yet buried."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # from the third on: proc(5)
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
