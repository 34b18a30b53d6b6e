"""Pairs of a video and a text, from a list in JSON, JSON Lines, CSV, TSV or Parquet (see `rows.py`).

| meta of an item | meaning                                                                                       |
|-----------------|-----------------------------------------------------------------------------------------------|
| transcript      | the text; empty where the row has none, which costs that item if the pipeline needs one        |
| others          | the other columns, or those of `Columns.meta`, by their names, as they are; but not the video |

A video that does not exist, a malformed row and wrong values (a time that is not a number, a path that leads out of the
folder) cost their item alone. A list that cannot be read on after such a place stops the listing.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from datamodules.corpora.csv_rows import Quoting
from datamodules.corpora.listing import faulty_row, key_of_place, limit, require_existing
from datamodules.corpora.paths import look_at, relative_to
from datamodules.corpora.row import Row, Rows
from datamodules.corpora.rows import read_rows
from datamodules.corpora.text_lists import list_sha256
from datamodules.corpora.values import as_meta, as_name, as_seconds, as_text
from datamodules.corpus import Corpus, Item, check_split, key_from_path
from datamodules.errors import ConfigError, CorpusError

SplitMode = Literal["all_train", "fraction", "column"]


@dataclass(frozen=True)
class Columns:
    """What the columns of a list, or the keys of its objects, are called.

    Args:
        video: path of the video, relative to the folder of the videos, or absolute and in that folder.
        text: the text; null, "" and, as pandas writes a missing value, `nan` and `NaN` are none.
        id: makes the item's key, so no two rows may have the same; None: the row's number does.
        start: where the part of the video that is meant begins, in seconds or as `HH:MM:SS.mmm` since its first frame;
            None, also as a value: at that.
        stop: where it ends, half-open, likewise; None: with the video.
        meta: those that become meta besides the text; None: all but the video.
    """

    video: str = "video"
    text: str = "text"
    id: str | None = "id"
    start: str | None = None
    stop: str | None = None
    meta: list[str] | None = None

    @property
    def needed(self) -> list[str]:
        """Those that every row has to have, whatever becomes meta."""
        return [name for name in (self.video, self.text, self.id, self.start, self.stop) if name is not None]


@dataclass(frozen=True)
class Split:
    """Which split each pair belongs to.

    Args:
        mode: `all_train`: all to `train`. `fraction`: by chance; what a pair gets depends on `seed` and its key alone,
            so it keeps that when others come, go, or change places. `column`: what the row says.
        fractions: of `fraction`, the share of each split; together 1.
        seed: of `fraction`.
        column: of `column`, where the row says it.

    Raises:
        ConfigError: the mode or the fractions are no such thing.
    """

    mode: SplitMode = "all_train"
    fractions: dict[str, float] = field(default_factory=lambda: {"train": 0.9, "val": 0.05, "test": 0.05})
    seed: int = 0
    column: str = "split"

    def __post_init__(self) -> None:
        if self.mode not in get_args(SplitMode):
            raise ConfigError(f"--data.split.mode {self.mode}: choose from {', '.join(get_args(SplitMode))}")
        shares = self.fractions.values()
        if not all(share >= 0 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise ConfigError(f"--data.split.fractions {self.fractions}: give shares from 0 to 1 that are 1 together")
        for name in self.fractions:
            try:
                check_split(name)
            except CorpusError as error:
                raise ConfigError(f"--data.split.fractions {self.fractions}: {error}") from error

    def of(self, key: str, row: Mapping[str, Any]) -> str:
        """The split of the pair `key`.

        Raises:
            CorpusError: what the row says cannot name a split.
        """
        if self.mode == "all_train":
            return "train"
        if self.mode == "column":
            return check_split(as_name(self.column, row[self.column]))
        shares = sorted(self.fractions.items())  # as the fingerprint, which knows no order
        draw = int.from_bytes(hashlib.blake2b(f"{self.seed}/{key}".encode(), digest_size=8).digest(), "big") / 2**64
        for name, share in shares[:-1]:
            if draw < share:
                return name
            draw -= share
        return shares[-1][0]


_COLUMNS, _ALL_TRAIN = Columns(), Split()
_NO_SPLIT = "unknown"  # of a row that does not name one


class Pairs(Corpus):
    """The pairs of a list, in its order.

    Args:
        root: the folder of the videos.
        pairs: the list; its ending says what it is: .json, .jsonl, .ndjson, .csv, .tsv or .parquet.
        columns: what the list calls what is needed.
        split: which split each pair belongs to.
        max_items: at most this many pairs, from the beginning; None: all.
        quoting: what quotes are in a .csv or .tsv: `auto`, `none` or `csv`; see `rows.py`.

    Raises:
        ConfigError: quoting is none of these.
        CorpusError: the list cannot be read.
    """

    def __init__(
        self,
        root: str,
        pairs: str,
        columns: Columns = _COLUMNS,
        split: Split = _ALL_TRAIN,
        max_items: int | None = None,
        quoting: Quoting = "auto",
    ) -> None:
        if quoting not in get_args(Quoting):
            raise ConfigError(f"--data.quoting {quoting}: choose from {', '.join(get_args(Quoting))}")
        self.quoting = quoting
        self._pairs, self._columns, self._split = pairs, columns, split
        self.root, self.columns, self.split, self.max_items = root, asdict(columns), asdict(split), max_items
        self.pairs_sha256 = list_sha256(pairs, "--data.pairs")  # another list is another run; where it lies is not

    def items(self) -> Iterator[Item]:
        """The pairs; keys are the ids, or the numbers of the rows, from `00000001`.

        A row that is malformed, or whose values are wrong, costs its item alone. It has the key of its place if it has
        no id, and the split `unknown` if it does not name one.

        Raises:
            CorpusError: the folder or the list is missing, the list cannot be read on, or no video of all exists.
            ConfigError: the ending of the list says nothing of what it is.
        """
        folder = f"--data.{self.root_option} {self.root}"
        if not Path(self.root).is_dir():
            raise CorpusError(f"{folder} is no folder")
        rows = enumerate(limit(self._rows(), self.max_items), 1)
        yield from require_existing((self._item(number, row) for number, row in rows), self._pairs, folder)

    def _rows(self) -> Rows:
        """The rows as `columns` names them."""
        columns, meta = self._columns, self._columns.meta
        by_row = [self._split.column] if self._split.mode == "column" else []
        return read_rows(self._pairs, None if meta is None else [*columns.needed, *by_row, *meta], self.quoting)

    def _path(self, video: str) -> str:
        """Path of the video that a row names, relative to `root`."""
        return video

    def _item(self, number: int, row: Row) -> Item:
        columns, split, values = self._columns, self._split, row.values
        key = f"{number:08d}" if columns.id is None else key_of_place(row.where)
        split_name = _NO_SPLIT if split.mode == "column" else split.of(key, values)
        try:
            of_split = [split.column] if split.mode == "column" else []
            row.require(*columns.needed, *of_split, hint=": see --data.columns")
            if columns.id is not None:
                key = key_from_path(as_name(columns.id, values[columns.id]))
            split_name = split.of(key, values)
            return self._usable(key, split_name, values)
        except CorpusError as error:
            return faulty_row(row.where, error, key, split_name, values.get(columns.video))

    def _usable(self, key: str, split: str, row: dict[str, Any]) -> Item:
        """The item of a row; CorpusError if a value of it is wrong."""
        columns = self._columns
        start, stop = (as_seconds(name, row[name]) if name else None for name in (columns.start, columns.stop))
        if stop is not None and stop <= (start or 0.0):
            raise CorpusError(f"{columns.stop} = {stop:g} is not after {columns.start} = {start or 0:g}")
        path = self._path(as_text(columns.video, row[columns.video]))
        if path.startswith("/"):
            path = relative_to(self.root, path) or path
        cost, modified = _look_at(self.root, path)
        return Item(
            key=key,
            split=split,
            path=path,
            start_seconds=start,
            stop_seconds=stop,
            cost=cost,
            modified=modified,
            meta=self._meta(row),
        )

    def _meta(self, row: dict[str, Any]) -> dict[str, Any]:
        columns = self._columns
        names = row if columns.meta is None else columns.meta
        meta = as_meta({name: row.get(name) for name in names if name not in (columns.video, columns.text)})
        if "transcript" in meta:
            raise CorpusError(f"it has a 'transcript' besides the text {columns.text!r}: leave it out of columns.meta")
        text = row[columns.text]
        return {"transcript": "" if text is None else as_text(columns.text, text), **meta}


def _look_at(root: str, path: str) -> tuple[int, float | None]:
    """(size in bytes, modification time) of a video; 0 and None if there is none, so that its item fails when read."""
    if path in ("", "."):
        raise CorpusError(f"{path!r} names no video")
    if path.startswith("/") or re.match(r"[A-Za-z]:[/\\]", path) or ".." in re.split(r"[/\\]", path):
        raise CorpusError(f"{path!r} leads out of the folder of the videos: name a file in it")
    return look_at(root, path)
