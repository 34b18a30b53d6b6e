"""Items of the videos and frame sequences that a list names."""

from collections.abc import Mapping
from typing import Any

from datamodules.corpora.root import Root
from datamodules.corpora.skipped import Skipped
from datamodules.corpora.values import require_below
from datamodules.corpus import Item
from datamodules.errors import CorpusError


def video_item(
    files: Root,
    key: str,
    split: str,
    path: str,
    meta: Mapping[str, Any],
    start_seconds: float | None = None,
    stop_seconds: float | None = None,
) -> Item:
    """Return the item of a video that a list names, or of a part of it. It may be missing: it fails when it is read.

    Args:
        files: the root of the corpus.
        key: of the item.
        split: of the item.
        path: of the video, relative to the root; or absolute, or a URL, and below the root.
        meta: of the item.
        start_seconds: of the part; None: the first frame.
        stop_seconds: of the part; None: the end.

    Raises:
        CorpusError: the path leads out of the root, or the file may not be looked up.
    """
    path = files.relative(path)
    require_below(path)
    facts = files.stat(path)
    return Item(
        key=key,
        split=split,
        path=path,
        start_seconds=start_seconds,
        stop_seconds=stop_seconds,
        cost=facts.num_bytes,
        modified=facts.modified,
        version=facts.version,
        meta=meta,
    )


def frames_item(files: Root, key: str, split: str, path: str, meta: Mapping[str, Any], skipped: Skipped) -> Item:
    """Return the item of a folder of frames that a list names.

    Args:
        files: the root of the corpus.
        key: of the item.
        split: of the item.
        path: of the folder, relative to the root.
        meta: of the item.
        skipped: counts the files that are left out.

    Raises:
        CorpusError: the path leads out of the root, the folder has no frames, or it cannot be read.
    """
    require_below(path)
    frames, size, modified, version = files.frames(path, skipped)
    if not frames:
        raise CorpusError(f"{path} has no frames")
    return Item(
        key=key, split=split, path=path, frames=frames, cost=size, modified=modified, version=version, meta=meta
    )
