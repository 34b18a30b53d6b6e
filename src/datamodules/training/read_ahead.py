"""Reading ahead: samples of a run in a bucket, fetched by several requests at once, before they are decoded.

A request takes some 20 ms whatever its size, longer than most samples take to decode. So a worker asks for all samples
of a batch at once, and for those of its next batch before it decodes the present one.
"""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from datamodules.daemon_threads import DaemonThreads
from datamodules.run.reader import CommittedSamples, SamplePlace, parse_sample
from datamodules.run.remote_tars import RemoteTars
from datamodules.samples import SampleKind

_GROUP_BYTES = 32 << 20  # of samples that are asked for together; a worker has two such groups in memory
_REQUEST_BYTES = 8 << 20  # of neighbouring samples that are joined to one request
_OPENED_BYTES = 8 << 20  # larger samples of kinds that open their files are read in parts, not fetched


class _Request(NamedTuple):
    """One request for samples that follow one another in a tar."""

    indices: list[int]
    start: SamplePlace
    content: "Future[bytes]"


class _Group(NamedTuple):
    """Samples that were asked for together."""

    indices: list[int]
    requests: list[_Request]


class ReadAhead:
    """Reads samples of a run in a bucket, several at once and ahead of need. Can be pickled.

    Args:
        committed: the samples.
        tars: reads `committed.tars`.
        kind: of the samples.
        num_requests: requests in flight, at most.
    """

    def __init__(self, committed: CommittedSamples, tars: RemoteTars, kind: SampleKind[Any], num_requests: int) -> None:
        self._committed, self._tars, self._kind, self.num_requests = committed, tars, kind, num_requests
        self._threads: DaemonThreads | None = None
        self._ahead: _Group | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_threads": None, "_ahead": None}

    def read(self, indices: Sequence[int], following: Sequence[int]) -> Iterator[Any]:
        """Yield the decoded samples of a batch, in order.

        Args:
            indices: of the batch.
            following: indices of the batch that will be read after it; they are asked for when this one is nearly done.

        Raises:
            RunError, EnvironmentFailure: see `RemoteTars.read` and `SampleKind.decode`.
        """
        groups = self._groups(indices)
        for group, after in zip(groups, [*groups[1:], *self._groups(following)[:1], []], strict=False):
            asked = self._ahead if self._ahead and self._ahead.indices == group else self._ask(group)
            self._ahead = self._ask(after) if after else None
            yield from self._decode(asked)

    def _groups(self, indices: Sequence[int]) -> list[list[int]]:
        """Divide a batch into groups of at most `_GROUP_BYTES`, or of one sample that has more."""
        groups: list[list[int]] = []
        num_bytes = 0
        for index in indices:
            size = 0 if self._is_opened(index) else self._committed.place(index).size
            if not groups or num_bytes + size > _GROUP_BYTES:
                groups.append([])
                num_bytes = 0
            groups[-1].append(index)
            num_bytes += size
        return groups

    def _is_opened(self, index: int) -> bool:
        return self._kind.opens_files and self._committed.place(index).size > _OPENED_BYTES

    def _ask(self, indices: list[int]) -> _Group:
        """Request the samples of a group, those that follow one another in a tar together."""
        self._threads = self._threads or DaemonThreads(self.num_requests)
        fetched = [index for index in indices if not self._is_opened(index)]
        runs = neighbours(self._committed, fetched, _REQUEST_BYTES)
        submit = self._threads.submit
        return _Group(
            indices, [_Request(of, at, submit(partial(self._tars.read, at.tar, at.size, at.offset))) for of, at in runs]
        )

    def _decode(self, group: _Group) -> Iterator[Any]:
        """Yield the samples of a group, in the order of the batch."""
        contents: dict[int, bytes] = {}
        for request in group.requests:
            content, start = request.content.result(), request.start.offset
            for index in request.indices:
                _, offset, size = self._committed.place(index)
                contents[index] = content[offset - start : offset - start + size]
        for index in group.indices:
            if index not in contents:
                yield self._committed.decode(index, self._kind)
                continue
            tar, offset, _ = self._committed.place(index)
            key, files = parse_sample(self._committed.tars[tar].location, offset, contents[index])
            opened: dict[str, Any] = {ending: io.BytesIO(file) for ending, file in files.items()}
            yield self._kind.decode(key, opened if self._kind.opens_files else files)


def neighbours(
    committed: CommittedSamples, indices: Sequence[int], max_bytes: int
) -> list[tuple[list[int], SamplePlace]]:
    """Join samples that follow one another in a tar to one place of at most `max_bytes`, or of one larger sample.

    Returns:
        (indices in the order of the tar, their place), in the order of the tars.
    """
    places = {index: committed.place(index) for index in indices}
    runs: list[tuple[list[int], SamplePlace]] = []
    for index in sorted(places, key=places.__getitem__):
        place = places[index]
        if runs:
            joined, start = runs[-1]
            size = place.offset + place.size - start.offset
            if (place.tar, place.offset) == (start.tar, start.offset + start.size) and size <= max_bytes:
                joined.append(index)
                runs[-1] = joined, start._replace(size=size)
                continue
        runs.append(([index], place))
    return runs
