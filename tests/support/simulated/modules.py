"""Stand-ins for what the modules of `datamodules.run` import; they act on the simulated world.

`installed()` replaces globals of these modules (`os`, `time`, `threading`, `open`, `Path`, …); their code is unchanged.
`Here.world` is the world on which the stand-ins act.
"""

import errno
import fnmatch
import io
import itertools
import posixpath
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from datamodules import object_store
from datamodules.run import (
    bucket,
    cleanup,
    commit,
    extension,
    failure_limit,
    files,
    leases,
    listing,
    open_shard,
    opening,
    plan_part,
    plan_rows,
    planning,
    rank,
    schedule,
    shard_files,
    spool,
    store,
)
from datamodules.run.plan_summary import Summary
from support.simulated.bucket import Client
from support.simulated.choices import LOST, UNSURE
from support.simulated.files import File, Folder, failure
from support.simulated.world import Killed, World


class Here:
    """Holds the world on which the stand-ins act."""

    world: World


class RawFile(io.RawIOBase):
    """An open file in the mode `r`, `w`, `x` or `x+`, always binary."""

    def __init__(self, path: str, mode: str) -> None:
        world = Here.world
        self.path, self.mode, self.process = path, mode, world.process  # first: `close` is called if opening fails
        world.step(f"open {mode}", path)
        if mode == "r":
            file = _reopened(path)
            if not isinstance(file, File):
                raise failure(errno.ENOENT, path)
            self.file = file
        else:
            self.file = world.files.create(world.machine, path, truncate=mode == "w", exclusive="x" in mode)
        self._offset = 0
        self._error: OSError | None = None  # of the next write, because this one was partial
        self.file.opened[world.machine.number] = self.file.opened.get(world.machine.number, 0) + 1
        self.process.opened.append(self)

    def readable(self) -> bool:
        return self.mode in ("r", "x+")

    def writable(self) -> bool:
        return self.mode != "r"

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return Os.descriptor(self.file, self.path)

    def readinto(self, buffer: Any) -> int:
        Here.world.step("read", self.path)
        content = self._content()[self._offset : self._offset + len(buffer)]
        buffer[: len(content)] = content
        self._offset += len(content)
        return len(content)

    def readall(self) -> bytes:
        Here.world.step("read", self.path)
        content = self._content()[self._offset :]
        self._offset += len(content)
        return content

    def write(self, data: Any) -> int:
        if not self.process.alive:  # a buffer that is flushed when it is garbage-collected
            return len(data)
        if self._error:
            error, self._error = self._error, None
            raise error
        world, content = Here.world, bytes(data)
        try:
            world.step("write", self.path)
        except (OSError, Killed) as error:
            part = content[: world.choices.choose(len(content) + 1)]  # written before the failure
            self._put(part)
            if not part or isinstance(error, Killed):
                raise
            self._error = error
            return len(part)
        self._put(content)
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset += len(self._content()) if self.process.alive else 0
        elif whence == io.SEEK_CUR:
            offset += self._offset
        self._offset = offset
        return offset

    def tell(self) -> int:
        return self._offset

    def close(self) -> None:
        if not self.closed:
            super().close()
            if self in self.process.opened:
                self.process.opened.remove(self)
                Here.world.files.close(self.process.machine, self.file)

    def _put(self, data: bytes) -> None:
        if self.mode == "x+":
            self._offset = len(self.file.data)
        Here.world.files.write(self.process.machine, self.file, self._offset, data)
        self._offset += len(data)

    def _content(self) -> bytes:
        files = Here.world.files
        if files.is_stale(self.process.machine, self.file):
            raise failure(errno.ESTALE, self.path)
        return files.content(self.process.machine, self.file)


def simulated_open(path: Any, mode: str = "r", encoding: str = "utf-8") -> Any:
    """Stand-in for `open`."""
    raw = RawFile(str(path), mode.replace("b", ""))
    if "b" not in mode:
        return io.TextIOWrapper(io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw), encoding=encoding)
    if mode == "rb":
        return io.BufferedReader(raw)
    return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)


class Path:
    """The part of `pathlib.Path` that a run uses, and three times as fast."""

    __slots__ = ("_path", "name")

    def __init__(self, path: "str | Path") -> None:
        self._path = str(path)
        self.name = self._path.rpartition("/")[2]

    def __truediv__(self, name: str) -> "Path":
        return Path(f"{self._path}/{name}" if name else self)

    def __str__(self) -> str:
        return self._path

    def __lt__(self, other: "Path") -> bool:
        return self._path < other._path

    @property
    def parent(self) -> "Path":
        return Path(self._path.rpartition("/")[0])

    @property
    def suffix(self) -> str:
        return "." + self.name.rpartition(".")[2] if "." in self.name else ""

    @property
    def stem(self) -> str:
        return self.name.removesuffix(self.suffix)

    def with_name(self, name: str) -> "Path":
        return self.parent / name

    def with_suffix(self, suffix: str) -> "Path":
        return self.with_name(self.stem + suffix)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        files, machine, path = Here.world.files, Here.world.machine, str(self)
        if parents and str(self.parent) not in files.folders:
            self.parent.mkdir(parents=True, exist_ok=True)
        try:
            _change("mkdir", path, files.make_folder, machine, path)
        except FileExistsError:
            if not exist_ok or path not in files.folders:
                raise

    def rmdir(self) -> None:
        _change("rmdir", str(self), Here.world.files.remove_folder, Here.world.machine, str(self))

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            Os.unlink(self)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def exists(self) -> bool:
        Here.world.step("exists", str(self))
        return Here.world.files.lookup(Here.world.machine, str(self)) is not None

    def is_symlink(self) -> bool:
        return False

    def is_file(self) -> bool:
        Here.world.step("is_file", str(self))
        return isinstance(Here.world.files.lookup(Here.world.machine, str(self)), File)

    def stat(self) -> Any:
        Here.world.step("stat", str(self))
        return _status(str(self))

    def samefile(self, other: Any) -> bool:
        Here.world.step("stat", str(self))
        Here.world.step("stat", str(other))
        return bool(_status(str(self)).st_ino == _status(str(other)).st_ino)

    def glob(self, pattern: str) -> Iterator["Path"]:
        Here.world.step("list", str(self))
        for name in Here.world.files.names(Here.world.machine, str(self)):
            if fnmatch.fnmatchcase(name, pattern):
                yield self / name

    def iterdir(self) -> Iterator["Path"]:
        return self.glob("*")

    def read_text(self, errors: str = "strict") -> str:
        raw = RawFile(str(self), "r")
        try:
            return raw.readall().decode(errors=errors)
        finally:
            raw.close()

    def write_text(self, text: str) -> int:
        with simulated_open(self, "w") as file:
            written: int = file.write(text)
        return written


class Os:
    """Stand-in for `os`."""

    O_RDONLY, SEEK_END = 0, io.SEEK_END
    _descriptors: dict[int, tuple[File | Folder, str]] = {}  # noqa: RUF012
    _random = itertools.count()

    @classmethod
    def reset(cls) -> None:
        """Forget all descriptors and random numbers, so that a story does not depend on earlier ones."""
        cls._descriptors, cls._random = {}, itertools.count()

    @staticmethod
    def link(source: Path, target: Path) -> None:
        _change("link", str(target), Here.world.files.link, Here.world.machine, str(source), str(target))

    @staticmethod
    def rename(source: Path, target: Path) -> None:
        _change("rename to", str(target), Here.world.files.rename, Here.world.machine, str(source), str(target))

    replace = rename
    path = posixpath

    @staticmethod
    def unlink(path: Path) -> None:
        _change("unlink", str(path), Here.world.files.unlink, Here.world.machine, str(path))

    @staticmethod
    def listdir(path: Path) -> list[str]:
        Here.world.step("list", str(path))
        if str(path) not in Here.world.files.folders:
            raise failure(errno.ENOENT, str(path))
        return list(Here.world.files.names(Here.world.machine, str(path)))

    @staticmethod
    def lstat(path: Path) -> Any:
        Here.world.step("stat", str(path))
        return _status(str(path))

    @staticmethod
    def pread(descriptor: int, size: int, offset: int) -> bytes:
        inode, path = Os._descriptors[descriptor]
        Here.world.step("read", path)
        return _visible(inode)[offset : offset + size]

    @classmethod
    def open(cls, path: Path, flags: int) -> int:
        name = str(path)
        inode = Here.world.files.folders.get(name) or _reopened(name)
        if inode is None:
            raise failure(errno.ENOENT, name)
        return cls.descriptor(inode, name)

    @classmethod
    def descriptor(cls, inode: File | Folder, path: str) -> int:
        """Return the descriptor of an open file or folder."""
        cls._descriptors[inode.number] = inode, path
        return inode.number

    @classmethod
    def fsync(cls, descriptor: int) -> None:
        inode, path = cls._descriptors[descriptor]
        Here.world.step("fsync", path)
        Here.world.files.sync(inode)

    @staticmethod
    def close(descriptor: int) -> None:
        pass

    @staticmethod
    def fstat(descriptor: int) -> Any:
        return SimpleNamespace(st_size=len(_visible(Os._descriptors[descriptor][0])))

    @staticmethod
    def geteuid() -> int:
        return 0

    @staticmethod
    def getpid() -> int:
        return Here.world.process.pid

    @classmethod
    def urandom(cls, size: int) -> bytes:
        return next(cls._random).to_bytes(size, "big")

    @staticmethod
    def uname() -> Any:
        return SimpleNamespace(nodename=f"machine{Here.world.machine.number}")


class Time:
    """Stand-in for `time`; the clocks of no two machines agree."""

    @staticmethod
    def monotonic() -> float:
        world = Here.world
        return world.now + 1000.0 * world.machine.number

    @staticmethod
    def time() -> float:
        world = Here.world
        return 1.7e9 + world.now - 7200.0 * world.machine.number

    @staticmethod
    def sleep(seconds: float) -> None:
        Here.world.pause(max(seconds, 1.0))  # 1 s at least, for fewer polls and so fewer steps


class NoFaultFile:
    """Stand-in for `FaultFile`: simulated processes leave no trace of what ended them."""

    def __init__(self, *_: object) -> None:
        """Create no file."""

    def arm(self) -> None:
        """Do nothing."""

    disarm = close = arm


class Event:
    """Stand-in for `threading.Event`."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True
        Here.world.wake(self)

    def wait(self, seconds: float) -> bool:
        if not self._is_set:
            Here.world.pause(seconds, self)
        return self._is_set


class Lock:
    """Stand-in for `threading.Lock`."""

    def __init__(self) -> None:
        self._is_held = False

    def __enter__(self) -> None:
        while self._is_held:
            Here.world.pause(1e6, self)
        self._is_held = True

    def __exit__(self, *exception: object) -> None:
        self._is_held = False
        Here.world.wake(self)


class Thread:
    """Stand-in for `threading.Thread`."""

    def __init__(self, target: Callable[[], None], name: str, daemon: bool) -> None:
        self._target, self._name, self._done = target, name, Event()

    def start(self) -> None:
        Here.world.begin(Here.world.process, self._name, self._run)

    def join(self) -> None:
        while not self._done.wait(1e6):
            pass

    def _run(self) -> None:
        try:
            self._target()
        except OSError as error:  # Python prints it; the thread ends, the process does not
            Here.world.log(f"thread {self._name} ends: {error}")
        finally:
            self._done.set()


class Threading:
    """Stand-in for `threading`."""

    Event, Lock, Thread = Event, Lock, Thread


def _change(what: str, path: str, function: Callable[..., None], *args: Any) -> None:
    """Call `function`, which changes the name `path`, as one operation that may fail."""
    event = Here.world.change(what, path)
    function(*args)
    if event == LOST:  # the client repeats its request
        function(*args)
    elif event == UNSURE:
        raise failure(errno.EIO, path)


def _reopened(path: str) -> File | Folder | None:
    """Return what is at `path`; as an NFS client does, look it up again if the cached file is removed."""
    files, machine = Here.world.files, Here.world.machine
    inode = files.lookup(machine, path)
    if isinstance(inode, File) and files.is_stale(machine, inode):
        parent, _, name = path.rpartition("/")
        machine.names.pop((files.folders[parent].number, name), None)
        inode = files.lookup(machine, path)
    return inode


def _visible(inode: File | Folder) -> bytes:
    return Here.world.files.content(Here.world.machine, inode) if isinstance(inode, File) else b""


def _status(path: str) -> Any:
    inode = Here.world.files.lookup(Here.world.machine, path) or Here.world.files.folders.get(path)
    if inode is None:
        raise failure(errno.ENOENT, path)
    modified_ns = Here.world.files.modified_ns(Here.world.machine, inode) if isinstance(inode, File) else 0
    return SimpleNamespace(
        st_mtime_ns=modified_ns,
        st_mtime=modified_ns / 1e9,
        st_size=len(_visible(inode)),
        st_ino=inode.number,
        st_uid=0,
        st_mode=stat.S_IFREG | 0o600 if isinstance(inode, File) else stat.S_IFDIR | 0o700,
    )


def _started(pid: int) -> int | None:
    world = Here.world
    process = world.processes[pid - 1]
    return pid if process.alive and process.machine is world.machine else None


_encode = shard_files._encode_table
_tables: dict[str, bytes] = {}


def _encode_table(rows: list[dict[str, Any]]) -> bytes:
    key = repr(rows)
    if key not in _tables:
        _tables[key] = _encode(rows)
    return _tables[key]


_SILENT = SimpleNamespace(warning=lambda *_: None)  # stand-in for loggers
_STAND_INS: dict[ModuleType, dict[str, Any]] = {
    leases: {
        "os": Os,
        "open": simulated_open,
        "time": Time,
        "threading": Threading,
        "socket": SimpleNamespace(gethostname=lambda: Os.uname().nodename),
        "_machine": lambda: Here.world.machine.identity,
        "_started": _started,
    },
    store: {
        "os": Os,
        "open": simulated_open,
        "Path": Path,
        "require_own_folders": lambda _: None,  # no links
        "make_folder": lambda _, path: path.mkdir(parents=True, exist_ok=True),
    },
    shard_files: {"open": simulated_open, "_encode_table": _encode_table},
    spool: {"os": Os, "open": simulated_open},
    plan_part: {"Summary": SimpleNamespace(decode=lru_cache(Summary.decode)), "unpack": lru_cache(plan_rows.unpack)},
    extension: {"_log": _SILENT},
    planning: {"os": Os, "open": simulated_open, "is_folder": lambda _: True},
    listing: {"open": simulated_open},
    files: {"os": Os, "open": simulated_open, "open_regular": lambda path: simulated_open(path, "rb")},
    opening: {"Path": Path, "time": Time},
    rank: {"os": Os, "time": Time, "threading": Threading, "FaultFile": NoFaultFile},
    open_shard: {"time": Time},
    schedule: {"time": Time},
    commit: {"time": Time},
    cleanup: {"is_folder": lambda _: True},
    failure_limit: {"time": Time},
    bucket: {
        "os": Os,
        "open": simulated_open,
        "time": Time,
        "Path": Path,
        "random": SimpleNamespace(uniform=lambda low, high: high),
        "open_object_store": lambda url, option: Client(Here.world),
        "_log": _SILENT,
    },
    object_store: {"time": Time, "_require_unforked": lambda: None, "_log": _SILENT},
}


@contextmanager
def installed() -> Iterator[None]:
    """Replace globals of the modules of a run by the stand-ins while the block runs."""
    with ExitStack() as stack:
        for module, names in _STAND_INS.items():
            for name, stand_in in names.items():
                stack.enter_context(patch.object(module, name, stand_in, create=True))
        for module in (
            rank,
            opening,
            extension,
        ):  # the clock of `Leases` is a default value, which no stand-in replaces
            stack.enter_context(patch.object(module, "Leases", partial(leases.Leases, clock=Time.monotonic)))
        yield
