"""The files of an item, for the process that decodes them: in a folder, or objects of a store.

Images of a store are fetched into the memory of the process that decodes them, some ahead of need. Videos are fetched
into files: by the rank for its workers, or else by this process.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from datamodules.corpus import Item
from datamodules.loading.image_fetcher import ImageFetcher
from datamodules.loading.video_fetcher import fetch_video, wait_for_video
from datamodules.media.content import read_file, read_member
from datamodules.objects import is_remote, join
from datamodules.run.drift import require_unchanged


class ItemFiles:
    """The files of one item.

    Args:
        item: whose files they are.
        root: folder or URL that the item's paths are relative to.
        fetcher: fetches images of a store; it expects this item.
        videos: folder into which the rank fetches the video of a store; None: this process fetches it.
        on_wait: called while an object is awaited, at least every 15 s.
        scratch: folder for a video that this process fetches; None: the system's temporary folder.
    """

    def __init__(
        self,
        item: Item,
        root: str,
        fetcher: ImageFetcher,
        videos: str | None = None,
        on_wait: Callable[[], None] = lambda: None,
        scratch: Path | None = None,
    ) -> None:
        self._item, self._root, self._fetcher, self._videos, self._on_wait = item, root, fetcher, videos, on_wait
        self._scratch = scratch
        self._is_remote = is_remote(root, item.path)

    def require_unchanged(self) -> None:
        """Check that files in a folder are as they were planned. Objects are checked by the requests for them.

        Raises:
            MissingError, ChangedError, OSError: see `drift.require_unchanged`.
        """
        if not self._is_remote:
            require_unchanged(self._item, self._root)

    def images(self) -> Iterator[bytes]:
        """Yield the contents of the item's images.

        Raises:
            DecodeError, OSError, EnvironmentFailure: see `read_file`, `read_member` and `ImageFetcher.contents`.
        """
        item, path = self._item, Path(join(self._root, self._item.path))
        if self._is_remote:
            yield from self._fetcher.contents(item, self._on_wait)
            return
        for name in item.frames:
            if item.start_byte is None:
                yield read_file(path / name)
            else:
                yield read_member(path, name, item.start_byte, item.cost)

    def video(self) -> AbstractContextManager[Path]:
        """Return the path of the item's video, which exists until the context ends.

        Raises:
            MissingError, ChangedError, OSError, EnvironmentFailure: see `wait_for_video`.
        """
        if not self._is_remote:
            return nullcontext(Path(join(self._root, self._item.path)))
        if self._videos is not None:
            return nullcontext(wait_for_video(self._videos, self._item, self._on_wait))
        return self._fetched_video()

    @contextmanager
    def _fetched_video(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="framemill-video-", dir=self._scratch) as folder:
            yield fetch_video(folder, self._root, self._item, self._on_wait)
