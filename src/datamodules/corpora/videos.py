"""A folder, or a list, of videos.

A list has a path a line; or, if its name ends in `.jsonl` or `.ndjson`, an object a line:

| field                       | type   | meaning                                                                       |
|-----------------------------|--------|-------------------------------------------------------------------------------|
| video                       | str    | path, relative to the folder of the videos, or absolute; an absolute one  |
|                             |        | in that folder becomes relative                                               |
| prompt                      | str    | what to look for in it; may be left out                                       |
| key                         | str    | of the item; may be left out: its path without ending. Several parts of one   |
|                             |        | video need a key each                                                         |
| start_seconds, stop_seconds | number | the part that is meant, half-open, since its first frame, or as  |
|                             |        | text `HH:MM:SS.mmm`; may be left out, or null: as the corpus says             |
| any other                   |        | kept; but it cannot be called as what a sample's json tells itself, as `path` |

`prompt` and all others are the item's meta. A listed video that is not there costs its item alone: it is listed, and
fails when it is to be read.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.corpora.listing import limit, list_sha256, look_at, read_list, relative_to, walk
from datamodules.corpora.rows import as_name, as_seconds, as_text, read_rows
from datamodules.errors import ConfigError, CorpusError
from datamodules.line.item import Corpus, Item, check_split, key_from_path
from datamodules.media.suffixes import VIDEO_SUFFIXES

_ROWS = (".jsonl", ".ndjson")
_NULL = ("prompt", None)  # as pandas writes what is missing
_NO_META = ("video", "key", "start_seconds", "stop_seconds")


class Videos(Corpus):
    """The videos below a folder, by path; or those of a list, in its order.

    Args:
        root: the folder; paths of a list are relative to it, unless they are absolute.
        video_list: a text file with a path a line, of which blank lines and those that begin with `#` are skipped; or
            JSON Lines, see the module.
        split: the split all of them belong to.
        fps: frames per second to take; None: every frame.
        max_items: at most this many videos; None: all.
        start_seconds: take no frame before this time, since the first one; None: from that on.
        stop_seconds: take no frame at or after this time; None: to the end.

    Raises:
        ConfigError: fps is not above 0, or the times are no part of a video.
        CorpusError: the list cannot be read.
    """

    def __init__(
        self,
        root: str,
        video_list: str | None = None,
        split: str = "train",
        fps: float | None = None,
        max_items: int | None = None,
        start_seconds: float | None = None,
        stop_seconds: float | None = None,
    ) -> None:
        if fps is not None and not 0 < fps < math.inf:
            raise ConfigError(f"--data.fps {fps}: give a rate above 0, or leave it out for every frame")
        for name, seconds in (("start", start_seconds), ("stop", stop_seconds)):
            if seconds is not None and not 0 <= seconds < math.inf:
                raise ConfigError(f"--data.{name}_seconds {seconds}: give seconds from 0 on, or leave it out")
        if stop_seconds is not None and stop_seconds <= (start_seconds or 0):
            raise ConfigError(f"--data.stop_seconds {stop_seconds:g} is not after the start, {start_seconds or 0:g}")
        self.root, self.video_list, self.split, self.fps, self.max_items = root, video_list, split, fps, max_items
        self.start_seconds, self.stop_seconds = start_seconds, stop_seconds
        self.video_list_sha256 = list_sha256(video_list, "--data.video_list") if video_list else None

    def items(self) -> Iterator[Item]:
        """The videos; keys are their paths without ending, unless the list says otherwise.

        Raises:
            CorpusError: the folder or the list is missing, a row is wrong (the message says which), two have one key,
                or no listed video of all is there.
        """
        check_split(self.split)
        if not Path(self.root).is_dir():
            raise CorpusError(f"--data.root {self.root} is no folder")
        yield from self._listed() if self.video_list else self._found()

    def _found(self) -> Iterator[Item]:
        for path, stat in limit(walk(self.root, VIDEO_SUFFIXES), self.max_items):
            yield self._item({"video": path}, stat.st_size, stat.st_mtime)

    def _listed(self) -> Iterator[Item]:
        assert self.video_list
        lines: dict[str, str] = {}  # by key, where it stands
        num_there = 0
        for where, row in limit(self._rows(), self.max_items):
            try:
                item = self._row_item(row)
            except CorpusError as error:
                raise CorpusError(f"{where}: {error}") from error
            if item.key in lines:
                raise CorpusError(f"{where}: {item.path} has the key {item.key!r} of {lines[item.key]}{self._way_out}")
            lines[item.key] = where
            num_there += item.modified is not None
            yield item
        if lines and not num_there:
            raise CorpusError(
                f"none of the {len(lines):,} videos of {self.video_list} is in --data.root {self.root}: "
                "is it the right folder?"
            )

    @property
    def _is_rows(self) -> bool:
        return os.path.splitext(self.video_list or "")[1].lower() in _ROWS

    @property
    def _way_out(self) -> str:
        return f": leave one out, or give each a 'key'{'' if self._is_rows else ', in a .jsonl'}"

    def _rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(where it stands, the object of the module's table) of each line."""
        assert self.video_list
        if self._is_rows:
            yield from read_rows(self.video_list)
        else:
            for number, path in read_list(self.video_list, "--data.video_list"):
                yield f"{self.video_list}, line {number}", {"video": path}

    def _row_item(self, row: dict[str, Any]) -> Item:
        if "video" not in row:
            raise CorpusError(f"it has no 'video', but {', '.join(map(repr, row)) or 'nothing'}")
        path = as_text("video", row["video"]).removeprefix("./")
        if path.startswith("/"):
            path = relative_to(self.root, path) or path
        prompt = row.get("prompt")
        if prompt is not None and as_text("prompt", prompt) != prompt:  # nan
            row = {**row, "prompt": None}
        return self._item({**row, "video": path}, *look_at(self.root, path))

    def _item(self, row: dict[str, Any], cost: int, modified: float | None) -> Item:
        path, name = row["video"], row.get("key")
        start, stop = (as_seconds(bound, row.get(bound)) for bound in ("start_seconds", "stop_seconds"))
        start, stop = self.start_seconds if start is None else start, self.stop_seconds if stop is None else stop
        if stop is not None and stop <= (start or 0.0):
            raise CorpusError(f"stop_seconds = {stop:g} is not after start_seconds = {start or 0:g}")
        return Item(
            key=key_from_path(os.path.splitext(path)[0].lstrip("/") if name is None else as_name("key", name)),
            split=self.split,
            path=path,
            fps=self.fps,
            start_seconds=start,
            stop_seconds=stop,
            cost=cost,
            modified=modified,
            meta={field: value for field, value in row.items() if field not in _NO_META and (field, value) != _NULL},
        )
