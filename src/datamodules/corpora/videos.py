"""A folder, or a list, of videos.

A list has a path a line. If its name ends in `.jsonl` or `.ndjson`, it has an object a line:

| field         | type   | meaning                                                                                  |
|---------------|--------|------------------------------------------------------------------------------------------|
| video         | str    | path, relative to `root` or absolute, or URL; one below `root` becomes relative          |
| prompt        | str    | optional: what to look for in the video                                                  |
| key           | str    | optional: key of the item; default: the path without extension. Rows that take several   |
|               |        | parts of one video need a key each                                                       |
| start_seconds | number | optional: half-open part of the video to take, since its first frame; or text            |
| stop_seconds  |        | `HH:MM:SS.mmm`. Missing or null: as the corpus says                                      |
| any other     |        | kept in the sample; the name must not be one that the pipeline writes, such as `path`    |

`prompt` and all other fields become the item's meta. A video that is missing, and a row whose values are wrong, fail
alone. Two rows with the same key stop the listing, because either may be meant.
"""

import math
import os
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from datamodules.corpora.listing import (
    ambiguous_stems,
    bare_path,
    faulty_row,
    key_of_file,
    key_of_row,
    require_any,
    require_existing,
)
from datamodules.corpora.roots import open_root
from datamodules.corpora.row import Row, Rows
from datamodules.corpora.rows import read_rows
from datamodules.corpora.text_lists import list_sha256, read_list
from datamodules.corpora.values import as_meta, as_name, as_seconds, as_text, require_part
from datamodules.corpora.walk import File
from datamodules.corpus import Corpus, Item, check_split, key_from_path
from datamodules.errors import ConfigError, CorpusError
from datamodules.media.suffixes import VIDEO_SUFFIXES

_ROW_ENDINGS = (".jsonl", ".ndjson")
_NO_PROMPT = ("prompt", None)  # as pandas writes a missing prompt
_NOT_META = ("video", "key", "start_seconds", "stop_seconds")


class Videos(Corpus):
    """The videos below a folder, by path; or those of a list, in its order.

    Args:
        root: folder or URL of the videos; relative paths of a list are below it.
        video_list: a text file with a path or URL a line (blank lines and lines that begin with `#` are skipped); or
            JSON Lines, see the module.
        split: the split of all videos.
        fps: frames per second to take; None: every frame.
        max_items: list at most this many videos; None: all.
        start_seconds: take no frame before this time, since the first frame; None: from the first frame on.
        stop_seconds: take no frame at or after this time; None: to the end.

    Raises:
        ConfigError: fps is not above 0, or the times are not a part of a video.
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
        """Yield the videos. Keys are their paths without extension, unless the list has others.

        Videos whose paths differ only by the extension keep it in their keys: `a%2Emp4`, `a%2Ewebm`.

        Raises:
            CorpusError: the folder or the list is missing, there are no videos, all listed videos are missing, or two
                rows have the same key.
        """
        check_split(self.split)
        self._files = open_root(self)
        self.skipped.clear()
        yield from self._listed_items(self._video_list) if self._video_list else self._folder_items()

    def _folder_items(self) -> Iterator[Item]:
        files = islice(self._files.walk(VIDEO_SUFFIXES, self.skipped), self.max_items)
        items = (self._item({}, file) for file in files)
        return require_any(items, "videos", self.root, VIDEO_SUFFIXES, self.skipped)

    def _listed_items(self, video_list: str) -> Iterator[Item]:
        # keys must not depend on `max_items`, so all rows are read to know which stems are ambiguous
        without_key = (row for row in self._rows(video_list) if row.values.get("key") is None)
        is_ambiguous = ambiguous_stems(map(self._path, without_key))
        rows = islice(self._rows(video_list), self.max_items)
        items = self._require_distinct((row.where, self._listed_item(row, is_ambiguous)) for row in rows)
        return require_existing(items, video_list, f"--data.root {self.root}")

    def _rows(self, video_list: str) -> Rows:
        """Read the rows of the list, with the fields of the module's table."""
        if _has_rows(video_list):
            return read_rows(video_list)
        lines = read_list(video_list, "--data.video_list")
        return (Row(f"{video_list}, line {number}", {"video": path}) for number, path in lines)

    def _listed_item(self, row: Row, is_ambiguous: Callable[[str], bool]) -> Item:
        key, path = key_of_row(row.where), self._path(row)
        try:
            row.require("video")
            as_text("video", row.values["video"])
            key = self._key(row.values.get("key"), path, is_ambiguous)
            values, prompt = row.values, row.values.get("prompt")
            if prompt is not None and as_text("prompt", prompt) != prompt:  # nan
                values = {**values, "prompt": None}
            return self._item(values, File(path, key, *self._files.stat(path)))
        except CorpusError as error:
            return faulty_row(row.where, error, key, self.split, path)

    def _path(self, row: Row) -> str:
        return self._files.relative(str(row.values.get("video", "")).removeprefix("./"))

    def _key(self, name: Any, path: str, is_ambiguous: Callable[[str], bool]) -> str:
        if name is not None:
            return key_from_path(as_name("key", name))
        return key_of_file(bare_path(path), is_ambiguous(path))

    def _item(self, row: dict[str, Any], file: File) -> Item:
        start, stop = (as_seconds(name, row.get(name)) for name in ("start_seconds", "stop_seconds"))
        start, stop = self.start_seconds if start is None else start, self.stop_seconds if stop is None else stop
        require_part("start_seconds", start, "stop_seconds", stop)
        return Item(
            key=file.key,
            split=self.split,
            path=file.path,
            fps=self.fps,
            start_seconds=start,
            stop_seconds=stop,
            cost=file.cost,
            modified=file.modified,
            version=file.version,
            meta=as_meta(
                {name: value for name, value in row.items() if name not in _NOT_META and (name, value) != _NO_PROMPT}
            ),
            problem=file.problem,
        )

    def _require_distinct(self, items: Iterator[tuple[str, Item]]) -> Iterator[Item]:
        """Yield the items of (location, item); raise CorpusError where two have the same key: either may be meant."""
        locations: dict[str, str] = {}  # by key
        for where, item in items:
            if item.key in locations:
                in_rows = "" if _has_rows(self._video_list or "") else ", in a .jsonl"
                raise CorpusError(
                    f"{where}: {item.path} has the key {item.key!r}, as {locations[item.key]} has. "
                    f"Remove one, or give each row a 'key'{in_rows}"
                )
            locations[item.key] = where
            yield item


def _has_rows(video_list: str) -> bool:
    """Whether the list has an object a line, and not a path."""
    return os.path.splitext(video_list)[1].lower() in _ROW_ENDINGS
