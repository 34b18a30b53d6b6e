"""Videos of a corpus in an object store, fetched into files before they are decoded.

A rank fetches the videos of the tickets that it hands to its workers, in this order. Each has a folder of its own in
the rank's scratch folder:

| file           | content                                              |
|----------------|------------------------------------------------------|
| `part`         | the video while it is being fetched                  |
| `whole/{name}` | the video; its object's name, which messages show    |
| `failure`      | JSON: why it could not be fetched: [kind, reason]    |

Tickets of several parts of one video share its file. It is deleted when the last of them has been delivered.
"""

import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from datamodules.corpus import Item
from datamodules.daemon_threads import DaemonThreads
from datamodules.errors import ChangedError, EnvironmentFailure, FramemillError, MissingError
from datamodules.loading.fetching import Fetching, error_of
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
        folder: its folder.
        num_bytes: by its plan.
        users: (shard, row) of the items that need it.
    """

    folder: Path
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
        self._videos: dict[tuple[str, str | None], _Video] = {}  # by path and version
        self._numbers = count()
        self._threads: DaemonThreads | None = None

    def has_room(self, item: Item) -> bool:
        """Return whether the video of `item` is within the limits, besides those that are here or on their way."""
        if not self._videos or (item.path, item.version) in self._videos:
            return True
        num_bytes = sum(video.num_bytes for video in self._videos.values())
        return len(self._videos) < self._max_videos and num_bytes + item.cost <= self._fetching.video_bytes

    def start(self, shard: int, row: int, item: Item) -> str:
        """Start to fetch the video of an item, unless it is here already.

        Returns:
            The folder for `wait_for_video`.

        Raises:
            EnvironmentFailure: the scratch folder cannot be written to.
        """
        video = self._videos.get((item.path, item.version))
        is_new = video is None
        if video is None:
            folder = self._scratch() / "videos" / str(next(self._numbers))
            with _writing(folder):
                folder.mkdir(parents=True)
            video = self._videos[item.path, item.version] = _Video(folder, item.cost)
        video.users.add((shard, row))  # before the thread may ask whether the video is needed
        failure = video.folder / "failure"
        if is_new or failure.exists():  # another attempt asks the store again, though other parts keep the folder
            failure.unlink(missing_ok=True)
            self._threads = self._threads or DaemonThreads(self._max_videos)
            fetch = partial(_fetch, self._root, item, video.folder, partial(_require_needed, video))
            self._threads.submit(fetch).add_done_callback(partial(_report_crash, video.folder))
        return str(video.folder)

    def discard(self, shard: int, row: int) -> None:
        """Delete the video of an item that has been delivered, or is to be fetched anew, unless others need it."""
        for key, video in list(self._videos.items()):
            video.users.discard((shard, row))
            if not video.users:
                del self._videos[key]
                shutil.rmtree(video.folder, ignore_errors=True)


def wait_for_video(folder: str, item: Item, on_wait: Callable[[], None]) -> Path:
    """Wait until the video of `item` has been fetched and return its path.

    Args:
        folder: that `VideoFetcher.start` returned.
        item: whose video it is.
        on_wait: called while the video is awaited.

    Raises:
        MissingError, ChangedError, OSError, EnvironmentFailure: see `ImageFetcher.contents`; or the scratch folder is
            gone or full.
    """
    path = _path(Path(folder), item)
    while not path.exists():
        on_wait()
        with suppress(FileNotFoundError):
            raise _read_failure(Path(folder, "failure"))
        if not os.path.isdir(folder):
            raise EnvironmentFailure(f"the scratch folder {folder} is gone. Rerun the same command")
        time.sleep(_POLL_SECONDS)
    return path


def fetch_video(folder: str, root: str, item: Item, on_wait: Callable[[], None]) -> Path:
    """Fetch the video of `item` into a folder and return its path; see `wait_for_video`."""
    _fetch(root, item, Path(folder), on_wait)
    return wait_for_video(folder, item, on_wait)


def _fetch(root: str, item: Item, folder: Path, on_wait: Callable[[], None]) -> None:
    """Fetch the video of an item into `folder`, or write there why it cannot be fetched."""
    part, path = folder / "part", _path(folder, item)
    try:
        with _writing(folder):
            path.parent.mkdir(exist_ok=True)
            file = open(part, "wb", buffering=0)
        with file:
            facts = download(join(root, item.path), item.version, partial(_write, file), on_wait)
        require_same(item, [facts])
        with _writing(folder):
            os.rename(part, path)
    except _DroppedError:
        pass  # its folder has been deleted
    except OSError as error:
        _write_failure(folder, error_of(item, error))
    except FramemillError as error:
        _write_failure(folder, error)


def _require_needed(video: _Video) -> None:
    if not video.users:
        raise _DroppedError


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn an OSError of the scratch folder into an EnvironmentFailure, since the object did not cause it."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFailure(
            f"the scratch folder {folder} cannot be written to: {error.strerror}. Finished work is safe. Free space, "
            "or lower --data.fetching.video_bytes, and rerun the same command"
        ) from error


def _write(file: io.FileIO, content: bytes) -> None:
    with _writing(Path(os.fsdecode(file.name)).parent):
        while content:  # an unbuffered write may be partial
            content = content[file.write(content) :]


def _write_failure(folder: Path, error: BaseException) -> None:
    """Write why a video could not be fetched, again and again if the disk is full: its worker waits for this."""
    kind = next((kind for kind, cls in _KINDS.items() if isinstance(error, cls)), "environment")
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    while folder.is_dir():  # until it is dropped
        with suppress(OSError):
            (folder / "part").unlink(missing_ok=True)
            write_whole(folder / "failure", json.dumps([kind, reason]).encode())
            return
        time.sleep(_RETRY_SECONDS)


def _report_crash(folder: Path, future: "Future[None]") -> None:
    """Report an error that no code expected to the worker that waits for the video."""
    if error := future.exception():
        _write_failure(folder, error)


def _read_failure(path: Path) -> Exception:
    kind, reason = json.loads(path.read_bytes())
    return OSError(None, reason) if kind == "io" else _KINDS[kind](reason)


def _path(folder: Path, item: Item) -> Path:
    """Return the path of a video's file. A name that is too long keeps its end, which has the extension."""
    name = os.fsencode(item.path.rpartition("/")[2])[-_MAX_NAME_BYTES:].decode(errors="ignore")
    return folder / "whole" / name
