"""Pairs of a video and a text, from a list in JSON, JSON Lines, CSV, TSV or Parquet (see `rows`).

| meta of an item | meaning                                                                                       |
|-----------------|-----------------------------------------------------------------------------------------------|
| text            | the text; "" where the row has none, which fails the item if the pipeline needs a text        |
| others          | the other columns, or those of `Columns.meta`, by name, unchanged; without the video          |

A video that is missing, a malformed row and wrong values (a time that is not a number, a path that leads out of the
folder) fail alone. A list whose following rows cannot be read stops the listing.

A corpus of your own that is such a list needs a subclass that names its columns; `Clip4MC` is one.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal, get_args

from datamodules.corpora.csv_rows import Quoting
from datamodules.corpora.file_items import video_item
from datamodules.corpora.listing import faulty_row, key_of_row, require_existing
from datamodules.corpora.roots import open_root
from datamodules.corpora.row import Row, Rows
from datamodules.corpora.rows import read_rows
from datamodules.corpora.text_lists import list_sha256
from datamodules.corpora.values import as_meta, as_name, as_part, as_text
from datamodules.corpus import Corpus, Item, check_split, key_from_path
from datamodules.errors import ConfigError, CorpusError

SplitMode = Literal["all_train", "fraction", "column"]


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a list, or of the keys of its objects.

    Args:
        video: path of the video, relative to the folder of the videos, or absolute and in that folder; or a URL.
        text: the text; null, "" and, as pandas writes a missing value, `nan` and `NaN` mean none.
        id: makes the item's key, so it must be unique; None: the key is the row's number.
        start: start of the part of the video to take, in seconds or as `HH:MM:SS.mmm` since its first frame. None, or
            a missing value: the first frame.
        stop: end of that part, half-open. None, or a missing value: the end of the video.
        meta: columns that become meta besides the text; None: all but the video.
    """

    video: str = "video"
    text: str = "text"
    id: str | None = "id"
    start: str | None = None
    stop: str | None = None
    meta: list[str] | None = None

    @property
    def required(self) -> list[str]:
        """Columns that every row must have."""
        return [name for name in (self.video, self.text, self.id, self.start, self.stop) if name is not None]


@dataclass(frozen=True)
class Split:
    """How pairs are assigned to splits.

    Args:
        mode: `all_train`: all to `train`. `fraction`: at random, from `seed` and the pair's key alone, so a pair keeps
            its split when other pairs are added, removed or moved. `column`: as a column says.
        fractions: share of each split, for `fraction`; they sum to 1.
        seed: for `fraction`.
        column: name of the column, for `column`.

    Raises:
        ConfigError: the mode is unknown, or the fractions are not shares of splits.
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
            raise ConfigError(f"--data.split.fractions {self.fractions}: give shares from 0 to 1 whose sum is 1")
        for name in self.fractions:
            try:
                check_split(name)
            except CorpusError as error:
                raise ConfigError(f"--data.split.fractions {self.fractions}: {error}") from error

    def of(self, key: str, row: Mapping[str, Any]) -> str:
        """Return the split of a pair.

        Args:
            key: of the pair.
            row: its values by column, needed for `column`.

        Raises:
            CorpusError: the column's value cannot name a split.
        """
        if self.mode == "all_train":
            return "train"
        if self.mode == "column":
            return check_split(as_name(self.column, row[self.column]))
        shares = sorted(self.fractions.items())  # the fingerprint ignores their order, so the result must too
        draw = int.from_bytes(hashlib.blake2b(f"{self.seed}/{key}".encode(), digest_size=8).digest(), "big") / 2**64
        for name, share in shares[:-1]:
            if draw < share:
                return name
            draw -= share
        return shares[-1][0]


_COLUMNS, _ALL_TRAIN = Columns(), Split()
_NO_SPLIT = "unknown"  # split of a row whose column names none


class Pairs(Corpus):
    """The pairs of a list, in its order.

    Args:
        root: folder or URL of the videos.
        pairs: file or URL of the list, whose ending determines the format: .json, .jsonl, .ndjson, .csv, .tsv or
            .parquet.
        columns: names of the list's columns.
        split: how pairs are assigned to splits.
        max_items: list at most this many pairs, from the beginning; None: all.
        quoting: meaning of quotes in a .csv or .tsv, `auto`, `none` or `csv`: see `csv_rows`.

    Raises:
        ConfigError: quoting is not one of these.
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
        self.pairs_sha256 = list_sha256(pairs, "--data.pairs")  # another list is another run; its path does not matter

    def items(self) -> Iterator[Item]:
        """Yield the pairs. Keys are the ids, or the numbers of the rows, from `00000001`.

        A row that is malformed, or whose values are wrong, fails alone. Without an id its key is its line (`%line-12`),
        without a split its split is `unknown`.

        Raises:
            CorpusError: the folder or the list is missing, a row cannot be read and so the following ones cannot, or
                all videos are missing.
            ConfigError: the format of the list is unknown.
        """
        self._files = open_root(self)
        rows = enumerate(islice(self.rows(), self.max_items), 1)
        items = (self._item(number, row) for number, row in rows)
        yield from require_existing(items, self._pairs, f"--data.{self.root_option} {self.root}")

    def rows(self) -> Rows:
        """Read the rows of the list. A subclass may change their values."""
        columns, meta = self._columns, self._columns.meta
        of_split = [self._split.column] if self._split.mode == "column" else []
        return read_rows(self._pairs, None if meta is None else [*columns.required, *of_split, *meta], self.quoting)

    def video_path(self, video: str) -> str:
        """Return the path, relative to `root`, of the video that a row names. A subclass may add an extension."""
        return video

    def meta(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the item's meta from the values of a row. A subclass may add to it.

        Raises:
            CorpusError: a value or the name of a column is wrong.
        """
        columns = self._columns
        names = row if columns.meta is None else columns.meta
        meta = as_meta({name: row.get(name) for name in names if name not in (columns.video, columns.text)})
        if "text" in meta:
            raise CorpusError(f"it has a 'text' besides the text {columns.text!r}: leave it out of columns.meta")
        text = row[columns.text]
        return {"text": "" if text is None else as_text(columns.text, text), **meta}

    def _item(self, number: int, row: Row) -> Item:
        """Return the item of a row, or its failure."""
        columns, split, values = self._columns, self._split, row.values
        key = f"{number:08d}" if columns.id is None else key_of_row(row.where)
        split_name = _NO_SPLIT if split.mode == "column" else split.of(key, values)
        try:
            of_split = [split.column] if split.mode == "column" else []
            row.require(*columns.required, *of_split, hint=": see --data.columns")
            if columns.id is not None:
                key = key_from_path(as_name(columns.id, values[columns.id]))
            split_name = split.of(key, values)
            return self._usable_item(key, split_name, values)
        except CorpusError as error:
            return faulty_row(row.where, error, key, split_name, values.get(columns.video))

    def _usable_item(self, key: str, split: str, row: dict[str, Any]) -> Item:
        """Return the item of a row; raise CorpusError if a value is wrong."""
        columns = self._columns
        start, stop = as_part(row, columns.start, columns.stop)
        path = self.video_path(as_text(columns.video, row[columns.video]))
        return video_item(self._files, key, split, path, self.meta(row), start, stop)
