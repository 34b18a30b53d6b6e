"""A folder, or a list, of videos."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.listing import limit, list_sha256, read_list, stat_listed, walk
from datamodules.errors import ConfigError, CorpusError
from datamodules.line.item import Corpus, Item, check_split, key_from_path
from datamodules.media.suffixes import VIDEO_SUFFIXES


class Videos(Corpus):
    """The videos below a folder, by path; or those of a list, in its order.

    Args:
        root: the folder; paths of a list are relative to it, unless they are absolute.
        video_list: a text file with a path a line; blank lines and lines that begin with `#` are skipped.
        split: the split all of them belong to.
        fps: frames per second to take; None: every frame.
        max_items: at most this many videos; None: all.

    Raises:
        ConfigError: fps is not above 0.
        CorpusError: the list cannot be read.
    """

    def __init__(
        self,
        root: str,
        video_list: str | None = None,
        split: str = "train",
        fps: float | None = None,
        max_items: int | None = None,
    ) -> None:
        if fps is not None and not 0 < fps < math.inf:
            raise ConfigError(f"--data.fps {fps}: give a rate above 0, or leave it out for every frame")
        self.root, self.video_list, self.split, self.fps, self.max_items = root, video_list, split, fps, max_items
        self.video_list_sha256 = list_sha256(video_list, "--data.video_list") if video_list else None

    def items(self) -> Iterator[Item]:
        """The videos; keys are their paths without ending.

        Raises:
            CorpusError: the folder or the list is missing, or a listed video is.
        """
        check_split(self.split)
        if not Path(self.root).is_dir():
            raise CorpusError(f"--data.root {self.root} is no folder")
        paths = self._listed() if self.video_list else walk(self.root, VIDEO_SUFFIXES)
        for path, stat in limit(paths, self.max_items):
            key = key_from_path(os.path.splitext(path)[0].lstrip("/"))
            yield Item(
                key=key, split=self.split, path=path, fps=self.fps, cost=stat.st_size, modified=stat.st_mtime, meta={}
            )

    def _listed(self) -> Iterator[tuple[str, os.stat_result]]:
        assert self.video_list
        for number, path in read_list(self.video_list, "--data.video_list"):
            yield path, stat_listed(self.root, path, f"{self.video_list}, line {number}")
