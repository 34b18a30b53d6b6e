"""The simulated file system: its content, what survives a crash, and what an NFS client has cached.

A local file system belongs to one machine. If the machine crashes, any part of the changes that were not fsynced
survives: any length of a file, with or without zeros for the rest; any subset of the changes of a folder, except that a
rename never removes the old name without adding the new one.

An NFS server makes every change of a folder durable at once. Its clients send written data when a file is fsynced or
closed. For `cache_seconds` they reuse the names (missing ones, too), listings and modification times that they last
saw, apart from their own changes. A file that is removed while it is open is kept as `.nfs…`.
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
    """Return the OSError with the error number `code` for an operation on `path`."""
    return OSError(code, os.strerror(code), path)


class File:
    """The inode of a file: its bytes, and how many of them are durable or visible to other NFS clients.

    Attributes:
        data: the bytes as their last writer sees them.
        kept: number of bytes at the start that survive a crash.
        shown: number of bytes at the start that other NFS clients see.
        links: number of names.
        modified_ns: modification time in ns since the epoch.
        writer: machine of the last write.
        opened: how often a machine has the file open, by the machine's number.
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
    """A name that was added to a folder, or removed from it, since the folder was last fsynced."""

    name: str
    inode: "File | Folder | None"
    needs: "Change | None" = None  # survives only if that change does: both belong to one rename
    survives: bool | None = None  # None: not drawn yet


@dataclass(slots=True)
class Folder:
    """A folder: its current names, the durable ones, and the changes between the two."""

    number: int
    path: str
    entries: "dict[str, File | Folder]" = field(default_factory=dict)
    durable: "dict[str, File | Folder]" = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)


class Clock:
    """The simulated time: `now` is in seconds since the start."""

    def __init__(self) -> None:
        self.now = 0.0


class FileSystem:
    """All files below `/run`, as machines see and change them.

    Args:
        cache_seconds: how long NFS clients reuse what they saw; None: a local file system.
        choose: returns a number from 0 to its argument - 1.
        clock: of the world.

    Attributes:
        appeared: called after a link or rename with the path of the folder and the new name.
    """

    def __init__(self, cache_seconds: float | None, choose: Callable[[int], int], clock: Clock) -> None:
        self._clock = clock
        self.cache_seconds = cache_seconds
        self.appeared: Callable[[str, str], None] = lambda folder, name: None
        self._choose = choose
        self._numbers = 1
        self._root, run = Folder(0, ""), Folder(1, "/run")
        self._root.durable["run"] = self._root.entries["run"] = run
        self.folders = {"": self._root, "/run": run}

    # Reading

    def lookup(self, machine: "Machine", path: str) -> File | Folder | None:
        """Return what `machine` sees at `path`, which on NFS may be an earlier state; None if nothing."""
        parent, _, name = path.rpartition("/")
        folder = self.folders.get(parent)
        if folder is None:
            return None
        if self.cache_seconds is None:
            return folder.entries.get(name)
        inode, until = machine.names.get((folder.number, name), (None, -1.0))
        if until < self._clock.now:
            inode = self._refresh(machine, folder, name)
        return inode

    def names(self, machine: "Machine", path: str) -> list[str]:
        """Return the names in the folder `path`, in no order; none if it is missing."""
        folder = self.folders.get(path)
        if folder is None:
            return []
        if self.cache_seconds is None:
            return list(folder.entries)
        names, until = machine.listings.get(folder.number, ([], -1.0))
        if until < self._clock.now:
            names = list(folder.entries)
            machine.listings[folder.number] = names, self._clock.now + self.cache_seconds
        return names

    def modified_ns(self, machine: "Machine", file: File) -> int:
        """Return the modification time of `file` that `machine` sees, in ns since the epoch."""
        if self.cache_seconds is None:
            return file.modified_ns
        modified, until = machine.times.get(file.number, (0, -1.0))
        if until < self._clock.now:
            modified = file.modified_ns
            machine.times[file.number] = modified, self._clock.now + self.cache_seconds
        return modified

    def content(self, machine: "Machine", file: File) -> bytes:
        """Return the bytes of `file` that `machine` sees."""
        return bytes(file.data if file.writer is machine or self.cache_seconds is None else file.data[: file.shown])

    def is_stale(self, machine: "Machine", file: File) -> bool:
        """Return whether an NFS server has removed `file`, which a client may still have open."""
        return self.cache_seconds is not None and not file.links

    # Changing

    def create(self, machine: "Machine", path: str, truncate: bool, exclusive: bool = False) -> File:
        """Return the file at `path`, created if it is missing."""
        folder, name = self._parent_and_name(path)
        file = self._refresh(machine, folder, name)
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
        """Write `data` at `offset`."""
        file.data[offset : offset + len(data)] = data
        file.kept, file.writer = min(file.kept, offset), machine
        self.touch(machine, file)

    def touch(self, machine: "Machine", file: File) -> None:
        """Set the modification time to now."""
        file.modified_ns = self._stamp()
        machine.times.pop(file.number, None)

    def make_folder(self, machine: "Machine", path: str) -> None:
        """Create the folder `path`."""
        folder, name = self._parent_and_name(path)
        if self._refresh(machine, folder, name) is not None:
            raise failure(errno.EEXIST, path)
        made = Folder(self._number(), path)
        self.folders[path] = made
        self._set(machine, folder, name, made)

    def remove_folder(self, machine: "Machine", path: str) -> None:
        """Remove the empty folder `path`."""
        folder, name = self._parent_and_name(path)
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
        folder, name = self._parent_and_name(target)
        if self.lookup(machine, target) is not None or self._refresh(machine, folder, name) is not None:
            raise failure(errno.EEXIST, target)
        self._set(machine, folder, name, file)
        self.appeared(*target.rsplit("/", 1))

    def rename(self, machine: "Machine", source: str, target: str) -> None:
        """Rename the file `source`, replacing a file of the new name."""
        file = self._existing(machine, source)
        old, old_name = self._parent_and_name(source)
        new, new_name = self._parent_and_name(target)
        if self._refresh(machine, new, new_name) is file:  # two names of one file: POSIX renames nothing
            return
        if old.entries.get(old_name) is not file:
            self._refresh(machine, old, old_name)
            raise failure(errno.ENOENT, source)
        added = self._set(machine, new, new_name, file)
        self._set(machine, old, old_name, None, added)
        self.appeared(*target.rsplit("/", 1))

    def unlink(self, machine: "Machine", path: str) -> None:
        """Remove the name `path`; on NFS a file that is open keeps a name `.nfs…`."""
        file = self._existing(machine, path)
        folder, name = self._parent_and_name(path)
        if folder.entries.get(name) is not file:
            self._refresh(machine, folder, name)
            raise failure(errno.ENOENT, path)
        is_open = self.cache_seconds is not None and file.links == 1 and file.opened.get(machine.number, 0)
        if is_open and name.startswith(".nfs"):
            raise failure(errno.EBUSY, path)
        if is_open:
            self._set(machine, folder, f".nfs{file.number:08x}", file)
        self._set(machine, folder, name, None)

    def close(self, machine: "Machine", file: File, writes: bool = True) -> None:
        """Close `file` once on `machine`; with `writes`, send its cached data to the server."""
        file.opened[machine.number] -= 1
        if self.cache_seconds is not None:
            if writes and file.writer is machine:
                file.shown = len(file.data)
            for folder in self.folders.values() if not file.opened[machine.number] else ():
                if folder.entries.get(f".nfs{file.number:08x}") is file:
                    self._set(machine, folder, f".nfs{file.number:08x}", None)

    # Durability

    def sync(self, inode: File | Folder) -> None:
        """fsync a file or folder."""
        if isinstance(inode, File):
            inode.kept = inode.shown = len(inode.data)
            return
        for change in inode.pending:
            change.survives = True
            if change.needs:
                change.needs.survives = True
        inode.durable, inode.pending = dict(inode.entries), []

    def crash(self, machine: "Machine") -> None:
        """Drop what is lost if `machine` crashes now."""
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
        """Restore `folder` and everything below it from what is on disk."""
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
        """Cut a file somewhere in the bytes that are not fsynced, or replace the rest by zeros."""
        lost = self._choose(len(file.data) - file.kept + 1)
        if lost:
            zeros = lost if self._choose(2) else 0
            file.data[len(file.data) - lost :] = bytes(zeros)
        file.kept, file.writer = len(file.data), None

    def _files(self) -> list[File]:
        files = {
            inode.number: inode
            for folder in self.folders.values()
            for inode in folder.entries.values()
            if isinstance(inode, File)
        }
        return list(files.values())

    # Helpers

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
            machine.names[folder.number, name] = inode, self._clock.now + self.cache_seconds
            machine.listings.pop(folder.number, None)
        return change

    def _refresh(self, machine: "Machine", folder: Folder, name: str) -> File | Folder | None:
        """Return what has the name in `folder` now, and cache it on an NFS client."""
        inode = folder.entries.get(name)
        if self.cache_seconds is not None:
            machine.names[folder.number, name] = inode, self._clock.now + self.cache_seconds
        return inode

    def _existing(self, machine: "Machine", path: str) -> File:
        file = self.lookup(machine, path)
        if not isinstance(file, File):
            raise failure(errno.ENOENT, path)
        return file

    def _parent_and_name(self, path: str) -> tuple[Folder, str]:
        parent, _, name = path.rpartition("/")
        if parent not in self.folders:
            raise failure(errno.ENOENT, path)
        return self.folders[parent], name

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _stamp(self) -> int:
        return _EPOCH_NS + int(self._clock.now * 1e9)


def _enter(names: dict[str, File | Folder], name: str, inode: File | Folder | None) -> None:
    if inode is None:
        names.pop(name, None)
    else:
        names[name] = inode
