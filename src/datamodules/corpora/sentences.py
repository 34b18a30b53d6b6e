"""Sentences, or single signs, of sign-language corpora: lists that say which video has which text, and where.

| meta of an item | meaning                                                                                       |
|-----------------|-----------------------------------------------------------------------------------------------|
| sentence_id     | name of the sentence or sign in its corpus                                                    |
| text            | in a spoken language; "" where a row has none. Missing in corpora without texts               |
| glosses         | the signs, separated by blanks. Missing in corpora without glosses                            |
| signer          | who signs. Missing in corpora that do not say                                                 |
| language        | the sign language in ISO 639-3: `ase` American, `gsg` German, `csl` Chinese                   |
| others          | what else a corpus knows, as its own module says                                              |

All sign-language corpora use these names; `samples.sentence_fields` has their types.

A corpus is a subclass that names the columns of its lists, and overrides the hooks (`rows`, `video_path`, `part`,
`meta`) where its lists say things in another way: `OpenASL` needs little more than the names.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, ClassVar, get_args

from datamodules.corpora.csv_rows import Quoting
from datamodules.corpora.file_items import frames_item, video_item
from datamodules.corpora.listing import faulty_row, key_of_row, repeated, require_existing
from datamodules.corpora.roots import open_root
from datamodules.corpora.row import Row, name_some
from datamodules.corpora.rows import read_rows
from datamodules.corpora.text_lists import list_sha256
from datamodules.corpora.values import as_meta, as_name, as_part, as_text
from datamodules.corpus import Corpus, Item, check_split, key_from_path
from datamodules.errors import ConfigError, CorpusError

_NO_SPLIT = "unknown"  # split of a row whose column names none


@dataclass(frozen=True)
class SentenceColumns:
    """Names of the columns of a list, or of the keys of its objects; None: the lists have no such column.

    Args:
        video: what `video_path` makes the path of the video from, or of the folder of frames.
        id: name of the sentence, unique in its split; None: the number of the row.
        start: start of the sentence in the video, in seconds or as `HH:MM:SS.mmm` since its first frame.
        stop: end of the sentence, half-open.
        text: see the module.
        glosses: see the module.
        signer: see the module.
        split: name of the sentence's split; None: each split has a list of its own.
    """

    video: str
    id: str | None = None
    start: str | None = None
    stop: str | None = None
    text: str | None = None
    glosses: str | None = None
    signer: str | None = None
    split: str | None = None

    @property
    def required(self) -> list[str]:
        """Columns that every row must have."""
        names = (self.video, self.id, self.start, self.stop, self.text, self.glosses, self.signer, self.split)
        return [name for name in names if name is not None]


class Sentences(Corpus):
    """The sentences of one or more lists, in their order.

    Two sentences of a video may overlap: each has its own frames, and a note counts them. A row that does not say what
    its sentence is (its id occurs twice in a split, a time is missing) becomes a failure.

    Args:
        root: folder or URL of the videos.
        lists: path or URL of the list of each split, by the split's name.
        max_items: list at most this many sentences of each list, from the beginning; None: all.
        quoting: meaning of quotes in a .csv or .tsv, `auto`, `none` or `csv`: see `csv_rows`.

    Raises:
        ConfigError: quoting is not one of these.
        CorpusError: a list cannot be read, or its name cannot name a split.

    Attributes:
        columns: names of the lists' columns.
        language: sign language of all sentences, in ISO 639-3.
        has_frames: whether each sentence is a folder of images, and not a part of a video.
    """

    columns: ClassVar[SentenceColumns]
    language: ClassVar[str]
    has_frames: ClassVar[bool] = False

    @abstractmethod
    def __init__(
        self, root: str, lists: Mapping[str, str], max_items: int | None = None, quoting: Quoting = "auto"
    ) -> None:
        if quoting not in get_args(Quoting):
            raise ConfigError(f"--data.quoting {quoting}: choose from {', '.join(get_args(Quoting))}")
        self.root, self.max_items, self.quoting = root, max_items, quoting
        self._lists = {check_split(name): path for name, path in lists.items()}
        # other lists are another run; their paths do not matter
        self.lists_sha256 = {name: list_sha256(path, "the list") for name, path in lists.items()}
        self._spans: dict[str, list[tuple[float, float]]] = defaultdict(list)  # start and stop by path of the video

    def items(self) -> Iterator[Item]:
        """Yield the sentences. Keys are `{split}/{sentence_id}`; a row that cannot be used fails alone.

        Raises:
            CorpusError: the folder or a list is missing or has other columns, a row cannot be read and so the
                following ones cannot, or all videos are missing.
        """
        self._files = open_root(self)
        self.skipped.clear()
        self._spans.clear()
        keys = (self._key(*numbered) for name in self._lists for numbered in self._numbered(name))
        is_repeated = repeated(key for key in keys if key is not None)
        rows = chain.from_iterable(islice(self._numbered(name), self.max_items) for name in self._lists)
        items = (self._item(*numbered, is_repeated(self._key(*numbered) or "")) for numbered in rows)
        yield from require_existing(items, ", ".join(self._lists.values()), f"--data.{self.root_option} {self.root}")

    def notes(self) -> list[str]:
        """Return what any corpus notes, and how many sentences overlap another one of the same video."""
        count = sum(map(_count_overlapping, self._spans.values()))
        note = f"{count:,} sentence{'s begin' if count != 1 else ' begins'} before another one of the same video ends"
        return [*super().notes(), *([f"{note}: each has all of its frames"] if count else [])]

    def rows(self, path: str) -> Iterator[Row]:
        """Read the rows of a list. A subclass may change their values, or read another format."""
        return read_rows(path, quoting=self.quoting)

    def video_path(self, values: Mapping[str, Any], split: str) -> str:
        """Return the path, relative to `root`, of the video of a row, or of its folder of frames.

        Args:
            values: of the row.
            split: of the row's sentence.

        Raises:
            CorpusError: a value is wrong.
        """
        return f"{as_name(self.columns.video, values[self.columns.video])}.mp4"

    def part(self, values: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """Return the start and the end of a row's sentence in its video, in s; None: those of the video.

        Raises:
            CorpusError: a time is missing or wrong.
        """
        start_column, stop_column = self.columns.start, self.columns.stop
        part = as_part(values, start_column, stop_column)
        for column, seconds in zip((start_column, stop_column), part, strict=True):
            if column is not None and seconds is None:  # the whole video would be taken for the sentence
                raise CorpusError(f"{column!r} is {values[column]!r}: a sentence needs a time there")
        return part

    def meta(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item's meta from the values of a row, without `sentence_id`. A subclass may add to it.

        Raises:
            CorpusError: a value is wrong.
        """
        columns = self.columns
        meta = {}
        for name, column in (("text", columns.text), ("glosses", columns.glosses)):
            if column is not None:
                meta[name] = "" if values[column] is None else as_text(column, values[column])
        if columns.signer is not None:
            meta["signer"] = as_name(columns.signer, values[columns.signer])
        return {**meta, "language": self.language}

    def _numbered(self, list_name: str) -> Iterator[tuple[str, int, Row]]:
        """Yield the name of a list, the number of a row in it, from 1, and the row."""
        path = self._lists[list_name]
        for number, row in enumerate(self.rows(path), 1):
            if number == 1 and row.problem is None:
                self._require_columns(path, row)
            yield list_name, number, row

    def _require_columns(self, path: str, row: Row) -> None:
        """Raise CorpusError if the first row of a list lacks a column: the list is of another release, or corpus."""
        expected = self.columns.required
        if missing := [name for name in expected if name not in row.values]:
            raise CorpusError(
                f"{path} has no column {name_some(missing)}. {type(self).__name__} expects {name_some(expected)}; "
                f"found {name_some(row.values)}. Is it another release?"
            )

    def _split(self, list_name: str, row: Row) -> str:
        column = self.columns.split
        return list_name if column is None else check_split(as_name(column, row.values.get(column)))

    def _id(self, number: int, row: Row) -> str:
        column = self.columns.id
        return f"{number:08d}" if column is None else as_name(column, row.values.get(column))

    def _key(self, list_name: str, number: int, row: Row) -> str | None:
        """Return the key of a row; None: it has none."""
        try:
            return f"{self._split(list_name, row)}/{key_from_path(self._id(number, row))}"
        except CorpusError:
            return None

    def _item(self, list_name: str, number: int, row: Row, is_repeated: bool) -> Item:
        """Return the item of a row, or its failure."""
        split = list_name if self.columns.split is None else _NO_SPLIT
        key = f"{split}/{key_of_row(row.where)}"
        try:
            row.require(*self.columns.required)
            split = self._split(list_name, row)
            key = f"{split}/{key_of_row(row.where)}"
            sentence_id = self._id(number, row)
            own_key = f"{split}/{key_from_path(sentence_id)}"
            if is_repeated:
                raise CorpusError(f"the split {split} has several sentences {sentence_id!r}: remove all but one")
            key = own_key
            return self._usable_item(key, split, sentence_id, row.values)
        except CorpusError as error:
            return faulty_row(row.where, error, key, split, row.values.get(self.columns.video))

    def _usable_item(self, key: str, split: str, sentence_id: str, values: dict[str, Any]) -> Item:
        """Return the item of a row; raise CorpusError if a value is wrong."""
        path, meta = self.video_path(values, split), as_meta({"sentence_id": sentence_id, **self.meta(values)})
        if self.has_frames:
            return frames_item(self._files, key, split, path, meta, self.skipped)
        start, stop = self.part(values)
        item = video_item(self._files, key, split, path, meta, start, stop)
        if start is not None and stop is not None:
            self._spans[item.path].append((start, stop))
        return item


def list_of_each(splits: Sequence[str], path: str, option: str) -> dict[str, str]:
    """Return the path of the list of each split.

    Args:
        splits: their names.
        path: of their lists; `{split}` in it stands for the split.
        option: that gives the path, for messages.

    Raises:
        ConfigError: there is no split, or several have the same list.
    """
    if not splits:
        raise ConfigError("--data.splits is empty: name at least one split")
    if len(splits) > 1 and "{split}" not in path:
        raise ConfigError(
            f"{option} {path} is one list for the splits {', '.join(splits)}: write {{split}} where the names of their "
            "lists differ, or choose one split by --data.splits"
        )
    return {split: path.replace("{split}", split) for split in splits}


def _count_overlapping(spans: list[tuple[float, float]]) -> int:
    """Return how many spans begin before an earlier one ends."""
    count, end = 0, 0.0
    for start, stop in sorted(spans):
        count += start < end
        end = max(end, stop)
    return count
