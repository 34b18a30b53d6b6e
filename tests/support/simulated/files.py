"""The simulated file system: its content, what survives a crash, and what an NFS client has cached.

A local file system is one machine's. When that crashes, of what was not fsynced any part survives: of a file any
length, with zeros in place of the rest or without; of a folder any subset of its changes, but for a rename, which never
removes the old name without adding the new one.

An NFS server keeps every change of a folder at once. Its clients write what they were given when a file is fsynced or
closed; until `cache_seconds` have passed they take names (also of what is not there), listings and modification times
to be as they last saw them, but for their own changes; they keep removed files that they have open as `.nfs…`.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.simulated.world import Machine

_EPOCH_NS = 1_700_000_000_000_000_000


def failure(code: int, path: str) -> OSError:
    """The error that an operation on `path` raises."""
    return OSError(code, os.strerror(code), path)


class File:
    """An inode: its bytes, and how many of them are fsynced, or with the server.

    Attributes:
        data: as its last writer sees it.
        kept: bytes at the start that survive a crash.
        shown: bytes at the start that other NFS clients see.
        writer: machine of the last write.
        opened: how often each machine has it open, by the machine's number.
    """

    __slots__ = ("data", "kept", "links", "modified_ns", "number", "opened", "shown", "writer")

    def __init__(self, number: int, modified_ns: int) -> None:
        self.number, self.modified_ns = number, modified_ns
        self.data = bytearray()
        self.kept = self.shown = self.links = 0
        self.writer: Machine | None = None
        self.opened: dict[int, int] = {}


@dataclass(slots=True)
class Change:
    """A name of a folder that was given to a file, or taken away, since the folder was last fsynced."""

    name: str
    inode: "File | Folder | None"
    needs: "Change | None" = None  # this change survives only if that one does: of one rename
    survives: bool | None = None  # None: chance decides


@dataclass(slots=True)
class Folder:
    """A folder: its names now, those that are on disk, and the changes between the two."""

    number: int
    path: str
    entries: "dict[str, File | Folder]" = field(default_factory=dict)
    durable: "dict[str, File | Folder]" = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)


class FileSystem:
    """All files below `/run`, as the operations of one machine after another see and change them.

    Args:
        cache_seconds: how long NFS clients believe what they saw; None: it is a local file system.
        choose: a number from 0 up to, and without, its argument.

    Attributes:
        now: seconds.
        appeared: called with the folder's path and a name that was linked, or renamed to.
    """

    def __init__(self, cache_seconds: float | None, choose: Callable[[int], int]) -> None:
        self.now = 0.0
        self.cache_seconds = cache_seconds
        self.appeared: Callable[[str, str], None] = lambda folder, name: None
        self._choose = choose
        self._numbers = 1
        self._root, run = Folder(0, ""), Folder(1, "/run")
        self._root.durable["run"] = self._root.entries["run"] = run
        self.folders = {"": self._root, "/run": run}

    # What a machine sees

    def look(self, machine: "Machine", path: str) -> File | Folder | None:
        """What is at `path`; on NFS perhaps what was."""
        place, _, name = path.rpartition("/")
        folder = self.folders.get(place)
        if folder is None:
            return None
        if self.cache_seconds is None:
            return folder.entries.get(name)
        found, until = machine.names.get((folder.number, name), (None, -1.0))
        if until < self.now:
            found = self._learn(machine, folder, name)
        return found

    def names(self, machine: "Machine", path: str) -> list[str]:
        """Return the names in the folder `path`, in no order; none if it is missing."""
        folder = self.folders.get(path)
        if folder is None:
            return []
        if self.cache_seconds is None:
            return list(folder.entries)
        names, until = machine.listings.get(folder.number, ([], -1.0))
        if until < self.now:
            names = list(folder.entries)
            machine.listings[folder.number] = names, self.now + self.cache_seconds
        return names

    def modified_ns(self, machine: "Machine", file: File) -> int:
        """When `file` was last written to or touched."""
        if self.cache_seconds is None:
            return file.modified_ns
        modified, until = machine.times.get(file.number, (0, -1.0))
        if until < self.now:
            modified = file.modified_ns
            machine.times[file.number] = modified, self.now + self.cache_seconds
        return modified

    def content(self, machine: "Machine", file: File) -> bytes:
        """The bytes of `file` that `machine` sees."""
        return bytes(file.data if file.writer is machine or self.cache_seconds is None else file.data[: file.shown])

    def is_stale(self, machine: "Machine", file: File) -> bool:
        """Whether the server knows nothing of an open `file` any more."""
        return self.cache_seconds is not None and not file.links

    # Changes

    def create(self, machine: "Machine", path: str, truncate: bool, exclusive: bool = False) -> File:
        """Return the file at `path`, created if it is missing."""
        folder, name = self._place(path)
        file = self._learn(machine, folder, name)
        if exclusive and file is not None:
            raise failure(errno.EEXIST, path)
        if isinstance(file, Folder):
            raise failure(errno.EISDIR, path)
        if file is None:
            file = File(self._number(), self._stamp())
            self._set(machine, folder, name, file)
        elif truncate:
            del file.data[:]
            file.kept = file.shown = 0
            self.touch(machine, file)
        return file

    def write(self, machine: "Machine", file: File, offset: int, data: bytes) -> None:
        """Put `data` at `offset`."""
        file.data[offset : offset + len(data)] = data
        file.kept, file.writer = min(file.kept, offset), machine
        self.touch(machine, file)

    def touch(self, machine: "Machine", file: File) -> None:
        """Set the modification time."""
        file.modified_ns = self._stamp()
        machine.times.pop(file.number, None)

    def make_folder(self, machine: "Machine", path: str) -> None:
        """mkdir."""
        folder, name = self._place(path)
        if self._learn(machine, folder, name) is not None:
            raise failure(errno.EEXIST, path)
        made = Folder(self._number(), path)
        self.folders[path] = made
        self._set(machine, folder, name, made)

    def remove_folder(self, machine: "Machine", path: str) -> None:
        """rmdir."""
        folder, name = self._place(path)
        removed = self.folders.get(path)
        if removed is None:
            raise failure(errno.ENOENT, path)
        if removed.entries:
            raise failure(errno.ENOTEMPTY, path)
        del self.folders[path]
        self._set(machine, folder, name, None)

    def link(self, machine: "Machine", source: str, target: str) -> None:
        """Give the file `source` one more name."""
        file = self._existing(machine, source)
        folder, name = self._place(target)
        if self.look(machine, target) is not None or self._learn(machine, folder, name) is not None:
            raise failure(errno.EEXIST, target)
        self._set(machine, folder, name, file)
        self.appeared(*target.rsplit("/", 1))

    def rename(self, machine: "Machine", source: str, target: str) -> None:
        """Rename the file `source`, replacing a file of the new name."""
        file = self._existing(machine, source)
        old, old_name = self._place(source)
        new, new_name = self._place(target)
        if self._learn(machine, new, new_name) is file:  # two names of one file: POSIX does nothing
            return
        if old.entries.get(old_name) is not file:
            self._learn(machine, old, old_name)
            raise failure(errno.ENOENT, source)
        added = self._set(machine, new, new_name, file)
        self._set(machine, old, old_name, None, added)
        self.appeared(*target.rsplit("/", 1))

    def unlink(self, machine: "Machine", path: str) -> None:
        """Take a name away."""
        file = self._existing(machine, path)
        folder, name = self._place(path)
        if folder.entries.get(name) is not file:
            self._learn(machine, folder, name)
            raise failure(errno.ENOENT, path)
        is_open = self.cache_seconds is not None and file.links == 1 and file.opened.get(machine.number, 0)
        if is_open and name.startswith(".nfs"):
            raise failure(errno.EBUSY, path)
        if is_open:
            self._set(machine, folder, f".nfs{file.number:08x}", file)
        self._set(machine, folder, name, None)

    def close(self, machine: "Machine", file: File, writes: bool = True) -> None:
        """Close `file` once on `machine`; with `writes`, its cached writes go to the server."""
        file.opened[machine.number] -= 1
        if self.cache_seconds is not None:
            if writes and file.writer is machine:
                file.shown = len(file.data)
            for folder in self.folders.values() if not file.opened[machine.number] else ():
                if folder.entries.get(f".nfs{file.number:08x}") is file:
                    self._set(machine, folder, f".nfs{file.number:08x}", None)

    # Lasting

    def sync(self, inode: File | Folder) -> None:
        """fsync."""
        if isinstance(inode, File):
            inode.kept = inode.shown = len(inode.data)
            return
        for change in inode.pending:
            change.survives = True
            if change.needs:
                change.needs.survives = True
        inode.durable, inode.pending = dict(inode.entries), []

    def crash(self, machine: "Machine") -> None:
        """Forget what is lost when `machine` crashes now."""
        if self.cache_seconds is not None:
            for file in self._files():
                if file.writer is machine:
                    del file.data[file.shown + self._choose(len(file.data) - file.shown + 1) :]
                    file.shown, file.writer = len(file.data), None
            return
        self.folders = {}
        self._recover(self._root)
        for file in self._files():
            self._tear(file)
            file.links = sum(file is inode for folder in self.folders.values() for inode in folder.entries.values())

    def _recover(self, folder: Folder) -> None:
        """Take `folder`, and what is below it, to be as it is on disk."""
        self.folders[folder.path] = folder
        for change in folder.pending:
            if self._survives(change):
                _enter(folder.durable, change.name, change.inode)
        folder.entries, folder.pending = dict(folder.durable), []
        for inode in folder.entries.values():
            if isinstance(inode, Folder):
                self._recover(inode)

    def _survives(self, change: Change) -> bool:
        if change.survives is None:
            change.survives = (change.needs is None or self._survives(change.needs)) and not self._choose(2)
        return change.survives

    def _tear(self, file: File) -> None:
        """Truncate a file somewhere in its unfsynced bytes, or replace these by zeros."""
        lost = self._choose(len(file.data) - file.kept + 1)
        if lost:
            zeros = lost if self._choose(2) else 0
            file.data[len(file.data) - lost :] = bytes(zeros)
        file.kept, file.writer = len(file.data), None

    def _files(self) -> list[File]:
        found = {
            inode.number: inode
            for folder in self.folders.values()
            for inode in folder.entries.values()
            if isinstance(inode, File)
        }
        return list(found.values())

    # Parts

    def _set(
        self, machine: "Machine", folder: Folder, name: str, inode: File | Folder | None, needs: Change | None = None
    ) -> Change:
        before = folder.entries.get(name)
        if isinstance(before, File):
            before.links -= 1
        if isinstance(inode, File):
            inode.links += 1
        _enter(folder.entries, name, inode)
        change = Change(name, inode, needs)
        if self.cache_seconds is None:
            folder.pending.append(change)
        else:
            machine.names[folder.number, name] = inode, self.now + self.cache_seconds
            machine.listings.pop(folder.number, None)
        return change

    def _learn(self, machine: "Machine", folder: Folder, name: str) -> File | Folder | None:
        inode = folder.entries.get(name)
        if self.cache_seconds is not None:
            machine.names[folder.number, name] = inode, self.now + self.cache_seconds
        return inode

    def _existing(self, machine: "Machine", path: str) -> File:
        file = self.look(machine, path)
        if not isinstance(file, File):
            raise failure(errno.ENOENT, path)
        return file

    def _place(self, path: str) -> tuple[Folder, str]:
        place, _, name = path.rpartition("/")
        if place not in self.folders:
            raise failure(errno.ENOENT, path)
        return self.folders[place], name

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _stamp(self) -> int:
        return _EPOCH_NS + int(self.now * 1e9)


def _enter(names: dict[str, File | Folder], name: str, inode: File | Folder | None) -> None:
    if inode is None:
        names.pop(name, None)
    else:
        names[name] = inode
