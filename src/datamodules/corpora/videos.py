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
| any other                   |        | kept; but its name must not be one that the pipeline writes, as `path` |

`prompt` and all others are the item's meta. A video that does not exist, and a row whose values are wrong, cost their
item alone. Two rows with one key stop the listing, since either may be meant.
"""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datamodules.corpora.listing import (
    ambiguous_stems,
    faulty_row,
    key_of_file,
    key_of_place,
    limit,
    require_existing,
    require_found,
)
from datamodules.corpora.paths import look_at, relative_to
from datamodules.corpora.row import Row, Rows
from datamodules.corpora.rows import read_rows
from datamodules.corpora.text_lists import list_sha256, read_list
from datamodules.corpora.values import as_meta, as_name, as_seconds, as_text
from datamodules.corpora.walk import File, walk
from datamodules.corpus import Corpus, Item, check_split, key_from_path
from datamodules.errors import ConfigError, CorpusError
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
        self.root, self._video_list, self.split, self.fps, self.max_items = root, video_list, split, fps, max_items
        self.start_seconds, self.stop_seconds = start_seconds, stop_seconds
        self.video_list_sha256 = list_sha256(video_list, "--data.video_list") if video_list else None

    def items(self) -> Iterator[Item]:
        """The videos; keys are their paths without extension, unless the list says otherwise.

        Where two videos of a folder or list differ by it only, the keys of both keep it: `a%2Emp4`, `a%2Ewebm`. A row
        whose values are wrong costs its item alone.

        Raises:
            CorpusError: the folder or the list is missing, there are no videos, no listed one exists, or two rows have
                one key.
        """
        check_split(self.split)
        if not Path(self.root).is_dir():
            raise CorpusError(f"--data.root {self.root} is no folder")
        self.skipped.clear()
        yield from self._listed(self._video_list) if self._video_list else self._found()

    def _found(self) -> Iterator[Item]:
        files = limit(walk(self.root, VIDEO_SUFFIXES, self.skipped), self.max_items)
        items = (self._item({}, file) for file in files)
        return require_found(items, "videos", self.root, VIDEO_SUFFIXES, self.skipped)

    def _listed(self, video_list: str) -> Iterator[Item]:
        keyless = (row for row in self._rows(video_list) if row.values.get("key") is None)
        is_ambiguous = ambiguous_stems(map(self._path, keyless))
        rows = limit(self._rows(video_list), self.max_items)
        items = self._distinct((row.where, self._listed_item(row, is_ambiguous)) for row in rows)
        return require_existing(items, video_list, f"--data.root {self.root}")

    def _rows(self, video_list: str) -> Rows:
        """The rows of the list, with the fields of the module's table."""
        if _is_rows(video_list):
            return read_rows(video_list)
        lines = read_list(video_list, "--data.video_list")
        return (Row(f"{video_list}, line {number}", {"video": path}) for number, path in lines)

    def _listed_item(self, row: Row, is_ambiguous: Callable[[str], bool]) -> Item:
        key, path = key_of_place(row.where), self._path(row)
        try:
            row.require("video")
            as_text("video", row.values["video"])
            key = self._key(row.values.get("key"), path, is_ambiguous)
            values, prompt = row.values, row.values.get("prompt")
            if prompt is not None and as_text("prompt", prompt) != prompt:  # nan
                values = {**values, "prompt": None}
            return self._item(values, File(path, key, *look_at(self.root, path)))
        except CorpusError as error:
            return faulty_row(row.where, error, key, self.split, path)

    def _path(self, row: Row) -> str:
        path = str(row.values.get("video", "")).removeprefix("./")
        return (relative_to(self.root, path) or path) if path.startswith("/") else path

    def _key(self, name: Any, path: str, is_ambiguous: Callable[[str], bool]) -> str:
        if name is not None:
            return key_from_path(as_name("key", name))
        return key_of_file(path.lstrip("/"), is_ambiguous(path))

    def _item(self, row: dict[str, Any], file: File) -> Item:
        start, stop = (as_seconds(bound, row.get(bound)) for bound in ("start_seconds", "stop_seconds"))
        start, stop = self.start_seconds if start is None else start, self.stop_seconds if stop is None else stop
        if stop is not None and stop <= (start or 0.0):
            raise CorpusError(f"stop_seconds = {stop:g} is not after start_seconds = {start or 0:g}")
        return Item(
            key=file.key,
            split=self.split,
            path=file.path,
            fps=self.fps,
            start_seconds=start,
            stop_seconds=stop,
            cost=file.cost,
            modified=file.modified,
            meta=as_meta(
                {name: value for name, value in row.items() if name not in _NO_META and (name, value) != _NULL}
            ),
            problem=file.problem,
        )

    def _distinct(self, items: Iterator[tuple[str, Item]]) -> Iterator[Item]:
        """The items of (where it stands, item); CorpusError where two have one key, since either may be meant."""
        places: dict[str, str] = {}  # by key
        for where, item in items:
            if item.key in places:
                way_out = "" if _is_rows(self._video_list or "") else ", in a .jsonl"
                raise CorpusError(
                    f"{where}: {item.path} has the key {item.key!r} of {places[item.key]}: "
                    f"leave one out, or give each a 'key'{way_out}"
                )
            places[item.key] = where
            yield item


def _is_rows(video_list: str) -> bool:
    return os.path.splitext(video_list)[1].lower() in _ROWS
