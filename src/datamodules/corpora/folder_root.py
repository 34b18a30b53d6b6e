"""The root of a corpus in a folder."""

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from datamodules.corpora.frame_files import list_frames
from datamodules.corpora.object_listing import Lookup
from datamodules.corpora.paths import relative_to, stat_path
from datamodules.corpora.root import Frames, Root
from datamodules.corpora.skipped import Skipped
from datamodules.corpora.walk import File, walk
from datamodules.object_store import is_url
from datamodules.objects import FileFacts, open_input


class FolderRoot(Root):
    """A folder. Its lists may also name files elsewhere, by absolute paths and URLs."""

    def __init__(self, folder: str) -> None:
        self._folder, self._objects = folder, Lookup()

    def join(self, path: str) -> str:
        return os.path.join(self._folder, path)

    def relative(self, path: str) -> str:
        return (relative_to(self._folder, path) or path) if path.startswith("/") else path

    def walk(self, suffixes: Collection[str], skipped: Skipped, below: str = "") -> Iterator[File]:
        return walk(self._folder, suffixes, skipped, below)

    def stat(self, path: str) -> FileFacts:
        return self._objects.stat(path) if is_url(path) else FileFacts(*stat_path(self._folder, path))

    def frames(self, folder: str, skipped: Skipped | None = None) -> Frames:
        return Frames(*list_frames(Path(self._folder, folder), skipped), version=None)

    def open(self, path: str) -> BinaryIO:
        return open_input(self.join(path))

    def files(self, pattern: str) -> list[str]:
        return self._matches(pattern, _is_file)

    def folders(self, pattern: str) -> list[str]:
        return self._matches(pattern, Path.is_dir)

    def is_folder(self, path: str) -> bool:
        return os.path.isdir(self.join(path))

    def _matches(self, pattern: str, is_wanted: Callable[[Path], bool]) -> list[str]:
        paths = (path.relative_to(self._folder) for path in Path(self._folder).glob(pattern) if is_wanted(path))
        return [str(path) for path in sorted(paths) if not any(part.startswith(".") for part in path.parts)]


def _is_file(path: Path) -> bool:
    """Whether `path` is a file, or a link without a target, which becomes a failure."""
    return path.is_file() or (path.is_symlink() and not path.exists())
