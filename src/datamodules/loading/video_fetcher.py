"""Videos of a corpus in an object store, fetched into files before they are decoded.

A rank fetches the videos of the tickets that it hands to its workers, in this order, into its scratch folder:

| path             | content                                                                      |
|------------------|------------------------------------------------------------------------------|
| `{id}.part`      | a video that is being fetched                                                |
| `{id}/{name}`    | a video, with the name of its object, which messages show                    |
| `{id}.failed`    | JSON: why it could not be fetched, see `_KINDS`                              |

`id` is a hash of the URL and the ETag. Tickets of several parts of one video share its file. It is deleted when the
last of them has been delivered.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from datamodules.corpus import Item
from datamodules.errors import ChangedError, EnvironmentFailure, FramemillError, MissingError
from datamodules.loading.fetching import DaemonThreads, Fetching, error_of
from datamodules.objects import download, join
from datamodules.run.drift import require_same
from datamodules.run.files import write_whole

_POLL_SECONDS, _RETRY_SECONDS = 0.02, 1.0
_MAX_NAME_BYTES = 255  # ext4, XFS
_KINDS: dict[str, type[Exception]] = {
    "missing": MissingError,
    "changed": ChangedError,
    "io": OSError,
    "environment": EnvironmentFailure,
}


class _DroppedError(Exception):
    """A video is not needed any more while it is being fetched."""


@dataclass
class _Video:
    """A video that is in the scratch folder, or on its way there.

    Attributes:
        num_bytes: by its plan.
        users: (shard, row) of the items that need it.
    """

    num_bytes: int
    users: set[tuple[int, int]] = field(default_factory=set)


class VideoFetcher:
    """Fetches the videos of a rank's tickets.

    Args:
        root: folder or URL that the items' paths are relative to.
        fetching: limits on the videos.
        num_workers: number of workers that the videos are for.
        scratch: returns the rank's scratch folder.
    """

    def __init__(self, root: str, fetching: Fetching, num_workers: int, scratch: Callable[[], Path]) -> None:
        self._root, self._fetching, self._scratch = root, fetching, scratch
        self._max_videos = fetching.videos * max(1, num_workers)
        self._videos: dict[str, _Video] = {}  # by id
        self._ids: dict[tuple[int, int], str] = {}  # by (shard, row)
        self._threads: DaemonThreads | None = None

    def has_room(self, item: Item) -> bool:
        """Return whether the video of `item` is within the limits, besides those that are here or on their way."""
        if not self._videos or _id(self._root, item) in self._videos:
            return True
        num_bytes = sum(video.num_bytes for video in self._videos.values())
        return len(self._videos) < self._max_videos and num_bytes + item.cost <= self._fetching.video_bytes

    def start(self, shard: int, row: int, item: Item) -> str:
        """Start to fetch the video of an item, unless it is here already; return the folder for `wait_for_video`."""
        folder, name = self._scratch() / "videos", _id(self._root, item)
        if name not in self._videos:
            folder.mkdir(exist_ok=True)
            video = self._videos[name] = _Video(item.cost)
            self._threads = self._threads or DaemonThreads(self._max_videos)
            future = self._threads.submit(
                lambda: _fetch(self._root, item, folder, lambda: self._require_needed(name, video))
            )
            future.add_done_callback(partial(_report_crash, folder, name))
        self._videos[name].users.add((shard, row))
        self._ids[shard, row] = name
        return str(folder)

    def discard(self, shard: int, row: int) -> None:
        """Delete the video of an item that has been delivered, or is to be fetched anew, unless others need it."""
        name = self._ids.pop((shard, row), None)
        if name is None:
            return
        self._videos[name].users.discard((shard, row))
        if not self._videos[name].users:
            del self._videos[name]
            _delete(self._scratch() / "videos", name)

    def _require_needed(self, name: str, video: _Video) -> None:
        if self._videos.get(name) is not video:
            raise _DroppedError


def wait_for_video(folder: str, root: str, item: Item, on_wait: Callable[[], None]) -> Path:
    """Wait until the rank has fetched the video of `item` and return its path.

    Args:
        folder: that `VideoFetcher.start` returned.
        root: folder or URL that the item's path is relative to.
        item: whose video it is.
        on_wait: called at least every second.

    Raises:
        MissingError, ChangedError, OSError, EnvironmentFailure: see `ImageFetcher.contents`; or the scratch folder is
            gone or full.
    """
    path, failure = _path(folder, root, item), Path(folder, f"{_id(root, item)}.failed")
    while not path.exists():
        on_wait()
        with suppress(FileNotFoundError):
            raise _read_failure(failure)
        if not os.path.isdir(folder):
            raise EnvironmentFailure(f"the scratch folder {folder} is gone. Rerun the same command")
        time.sleep(_POLL_SECONDS)
    return path


def fetch_video(folder: str, root: str, item: Item, on_wait: Callable[[], None]) -> Path:
    """Fetch the video of `item` into a folder and return its path; see `wait_for_video`."""
    _fetch(root, item, Path(folder), on_wait)
    return wait_for_video(folder, root, item, on_wait)


def _fetch(root: str, item: Item, folder: Path, on_wait: Callable[[], None]) -> None:
    """Fetch the video of an item into `folder`, or write there why it cannot be fetched."""
    name, path = _id(root, item), _path(str(folder), root, item)
    part = folder / f"{name}.part"
    try:
        with _writing(folder):
            path.parent.mkdir(exist_ok=True)
            file = open(part, "wb", buffering=0)
        with file:
            facts = download(join(root, item.path), item.version, partial(_write, file), on_wait)
        require_same(item, [facts])
        with _writing(folder):
            os.rename(part, path)
        on_wait()  # raises if the video was deleted in the meantime
    except _DroppedError:
        _delete(folder, name)
    except OSError as error:
        _write_failure(folder, name, error_of(item, error))
    except FramemillError as error:
        _write_failure(folder, name, error)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn an OSError of the scratch folder into an EnvironmentFailure: the object is not to blame."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFailure(
            f"the scratch folder {folder} cannot be written to: {error.strerror}. Finished work is safe. Free space, "
            "or lower --data.fetching.video_bytes, and rerun the same command"
        ) from error


def _write(file: BinaryIO, content: bytes) -> None:
    with _writing(Path(file.name).parent):
        while content:  # an unbuffered write may be partial
            content = content[file.write(content) :]


def _write_failure(folder: Path, name: str, error: BaseException) -> None:
    """Write why a video could not be fetched, again and again if the disk is full: its worker waits for this."""
    kind = next((kind for kind, cls in _KINDS.items() if isinstance(error, cls)), "environment")
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    while True:
        with suppress(OSError):
            (folder / f"{name}.part").unlink(missing_ok=True)
            write_whole(folder / f"{name}.failed", json.dumps([kind, reason]).encode())
            return
        time.sleep(_RETRY_SECONDS)


def _report_crash(folder: Path, name: str, future: "Future[None]") -> None:
    """Tell the worker that waits for a video of an error that no code expected."""
    if error := future.exception():
        _write_failure(folder, name, error)


def _read_failure(path: Path) -> Exception:
    kind, reason = json.loads(path.read_bytes())
    return OSError(None, reason) if kind == "io" else _KINDS[kind](reason)


def _delete(folder: Path, name: str) -> None:
    shutil.rmtree(folder / name, ignore_errors=True)
    for ending in ("part", "failed"):
        (folder / f"{name}.{ending}").unlink(missing_ok=True)


def _id(root: str, item: Item) -> str:
    identity = f"{join(root, item.path)}\n{item.version}"
    return hashlib.blake2b(identity.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _path(folder: str, root: str, item: Item) -> Path:
    """Return the path of a video's file. A name that is too long keeps its end, which has the extension."""
    name = item.path.rpartition("/")[2].encode(errors="surrogatepass")[-_MAX_NAME_BYTES:].decode(errors="ignore")
    return Path(folder, _id(root, item), name)
