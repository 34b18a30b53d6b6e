"""Images of a corpus in an object store, fetched into memory before they are decoded."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from typing import NamedTuple

from datamodules.corpus import Item
from datamodules.daemon_threads import DaemonThreads
from datamodules.loading.fetching import Fetching, error_of
from datamodules.media.content import member_content, require_content, require_small
from datamodules.objects import FileFacts, join, read_object
from datamodules.run.drift import require_same

_MAX_THREADS = 16
_HEADER_BYTES = 512  # of a member of a tar, before its content
_WAIT_SECONDS = 1.0  # between two calls of `on_wait`

_Fetched = tuple[bytes, FileFacts]


class _Image(NamedTuple):
    """An image that is or will be fetched: frame `frame_idx` of `item`, of about `num_bytes`."""

    item: Item
    frame_idx: int
    num_bytes: int

    @property
    def key(self) -> tuple[str, int]:
        return self.item.key, self.frame_idx


class ImageFetcher:
    """Fetches images in the order in which they are needed, several at once, within the limits of `fetching`.

    Args:
        root: folder or URL that the items' paths are relative to.
        fetching: the limits.
    """

    def __init__(self, root: str, fetching: Fetching) -> None:
        self._root, self._fetching = root, fetching
        self._threads: DaemonThreads | None = None
        self._expected: Iterator[_Image] = iter(())
        self._next: _Image | None = None
        self._started: deque[tuple[_Image, Future[_Fetched]]] = deque()

    def expect(self, items: Iterable[Item]) -> None:
        """Fetch the images of `items` from now on: they are asked for in this order. Others are dropped."""
        while self._started:
            self._started.popleft()[1].cancel()
        self._expected = (image for item in items for image in _images(item))
        self._next = next(self._expected, None)

    def contents(self, item: Item, on_wait: Callable[[], None]) -> Iterator[bytes]:
        """Yield the contents of the images of `item`.

        Args:
            item: one of those that are expected, not before another one that comes later.
            on_wait: called at least every second while an image is awaited.

        Raises:
            MissingError, ChangedError: an object is missing, or is not the one that was planned.
            DecodeError: an image is empty or larger than 2 GiB.
            OSError: the store refuses an object.
            EnvironmentFailure: the store does not answer, or refuses the credentials.
        """
        facts = []
        for frame_idx, name in enumerate(item.frames):
            if len(item.frames) == 1:
                require_small(item.cost, name)
            try:
                content, fact = self._fetch(item, frame_idx, on_wait)
            except OSError as error:
                raise error_of(item, error) from error
            facts.append(fact)
            if len(item.frames) == 1:  # of several, the whole is compared
                require_same(item, facts)
            if item.start_byte is None:
                yield require_content(content, name)
            else:
                yield member_content(content, item.path.rpartition("/")[2], name, item.start_byte, item.cost)
        if len(item.frames) > 1:
            require_same(item, facts)

    def _fetch(self, item: Item, frame_idx: int, on_wait: Callable[[], None]) -> _Fetched:
        """Return one image, and what the store says of its object; start to fetch those after it."""
        key = item.key, frame_idx
        while self._started and self._started[0][0].key != key:
            self._started.popleft()[1].cancel()  # an item failed before its last image was asked for
        while not self._started and self._next is not None and self._next.key != key:
            self._next = next(self._expected, None)
        self._start()
        assert self._started, f"the item {item.key} was not expected"
        _, future = self._started.popleft()
        while not wait([future], _WAIT_SECONDS).done:
            on_wait()
        return future.result()

    def _start(self) -> None:
        """Start to fetch the next images, within the limits."""
        limits = self._fetching
        num_bytes = sum(image.num_bytes for image, _ in self._started)
        while (image := self._next) is not None:
            is_within = len(self._started) < limits.images and num_bytes + image.num_bytes <= limits.image_bytes
            if self._started and not is_within:
                return
            self._threads = self._threads or DaemonThreads(min(limits.images, _MAX_THREADS))
            self._started.append((image, self._threads.submit(partial(_read, self._root, image))))
            num_bytes += image.num_bytes
            self._next = next(self._expected, None)


def _images(item: Item) -> Iterator[_Image]:
    if item.problem is None:
        for frame_idx in range(len(item.frames)):
            yield _Image(item, frame_idx, item.cost // len(item.frames))


def _read(root: str, image: _Image) -> _Fetched:
    """Fetch an image. Of a member of a tar, the header before it comes too."""
    item, url = image.item, join(root, image.item.path)
    if item.start_byte is not None:
        return read_object(url, item.version, item.start_byte - _HEADER_BYTES, _HEADER_BYTES + item.cost)
    # the ETag of a sequence is a hash of those of its images, which are compared when all have been fetched
    version = item.version if len(item.frames) == 1 else None
    return read_object(join(url, item.frames[image.frame_idx]), version)
