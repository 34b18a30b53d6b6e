"""PHOENIX-2014-T (Camgöz et al., 2018): German sign language of weather forecasts, a folder of PNG frames a sentence.

Expected below `root`: `features/fullFrame-210x260px/{split}/{name}/images0001.png …` and
`annotations/manual/PHOENIX-2014-T.{split}.corpus.csv`, whose columns `name|video|start|end|speaker|orth|translation`
are separated by `|`. The `video` column is not used: it names a folder `1/` that does not exist.

| meta of an item    | meaning                                                                  |
|--------------------|--------------------------------------------------------------------------|
| sentence_id        | `name`: of the sentence                                                  |
| text               | `translation`: spoken German                                             |
| glosses            | `orth`: the signs, in capitals                                           |
| signer             | `speaker`: `Signer01` …                                                  |
| language           | `gsg`, German Sign Language                                              |
| num_missing_frames | int: how many numbers the names of the frames leave out; they start at 1 |
"""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, get_args

from datamodules.corpora.frame_files import count_missing
from datamodules.corpora.listing import faulty_row, key_of_row
from datamodules.corpora.root import Frames
from datamodules.corpora.roots import open_root
from datamodules.corpora.text_lists import open_list, read_lines
from datamodules.corpus import Corpus, Item, key_from_path
from datamodules.errors import ConfigError, CorpusError

Gaps = Literal["allow", "fail"]

_FRAMES = "features/fullFrame-210x260px"
_COLUMNS = ("name", "speaker", "orth", "translation")


class Phoenix2014T(Corpus):
    """The sentences of PHOENIX-2014-T, in the order of the annotation files.

    Args:
        root: the folder or URL that holds `features` and `annotations` (`…/PHOENIX-2014-T`).
        splits: which of train, dev and test.
        max_items: list at most this many sentences of each split; None: all.
        gaps: how to treat a sentence whose frames have gaps in their numbers. `allow`: use it; its
            `num_missing_frames` says how many are missing. `fail`: make it a failure.

    Raises:
        ConfigError: gaps is neither.
    """

    def __init__(
        self,
        root: str,
        splits: Sequence[str] = ("train", "dev", "test"),
        max_items: int | None = None,
        gaps: Gaps = "allow",
    ) -> None:
        if gaps not in get_args(Gaps):
            raise ConfigError(f"--data.gaps {gaps}: choose from {', '.join(get_args(Gaps))}")
        self.root, self.splits, self.max_items, self.gaps = root, list(splits), max_items, gaps
        self._num_with_gaps = 0

    def items(self) -> Iterator[Item]:
        """Yield the sentences. Keys are `{split}/{name}`; a sentence without usable frames or row has a problem.

        Raises:
            CorpusError: an annotation file cannot be read, or a split's folder of frames is missing.
        """
        self._files = open_root(self)
        self.skipped.clear()
        self._num_with_gaps = 0
        for split in self.splits:
            yield from islice(self._sentences(split), self.max_items)

    def notes(self) -> list[str]:
        """Return what any corpus notes, and how many sentences have gaps."""
        count = self._num_with_gaps
        gaps = f"{count:,} sentence{'s have' if count != 1 else ' has'} gaps in the numbers of the frames: "
        result = "each fails" if self.gaps == "fail" else "see num_missing_frames of each, or set --data.gaps fail"
        return [*super().notes(), *([gaps + result] if count else [])]

    def _sentences(self, split: str) -> Iterator[Item]:
        files, name = self._files, f"annotations/manual/PHOENIX-2014-T.{split}.corpus.csv"
        table = files.join(name)
        if not files.is_file(name):
            self._refuse_phoenix_2014()
            raise CorpusError(f"{table} is missing; name the splits that exist with --data.splits")
        if not files.is_folder(f"{_FRAMES}/{split}"):
            raise CorpusError(f"{files.join(f'{_FRAMES}/{split}')}, the folder of the frames, is missing")
        with open_list(table, newline="") as file:
            rows = csv.reader(read_lines(file, table), delimiter="|", quoting=csv.QUOTE_NONE)
            try:
                header = next(rows, [])
                if missing := [name for name in _COLUMNS if name not in header]:
                    raise CorpusError(f"{table} has no column {', '.join(missing)}; its header is {header!r:.200}")
                for fields in rows:
                    if fields:
                        yield self._item(split, header, fields, f"{table}, line {rows.line_num}")
            except (UnicodeError, csv.Error) as error:
                raise CorpusError(f"{table} cannot be read: {error}") from error

    def _item(self, split: str, header: Sequence[str], fields: Sequence[str], where: str) -> Item:
        row = dict(zip(header, fields, strict=False))
        name, key = row.get("name", ""), f"{split}/{key_of_row(where)}"
        try:
            key = key_from_path(f"{split}/{name}")
            if len(fields) > len(header) or any(column not in row for column in _COLUMNS):
                raise CorpusError("it has more or fewer fields than the header")
        except CorpusError as error:
            return faulty_row(where, error, key, split, name)
        path = f"{_FRAMES}/{split}/{name}"
        (frames, size, modified, version), problem = self._frames_of(path)
        num_missing = count_missing(frames)
        self._num_with_gaps += num_missing > 0
        if num_missing and self.gaps == "fail":
            problem = f"{num_missing} frames are missing: {path} has {len(frames)}, {frames[0]} to {frames[-1]}"
        return Item(
            key=key,
            split=split,
            path=path,
            frames=frames,
            cost=size,
            modified=modified,
            version=version,
            meta={
                "sentence_id": name,
                "text": row["translation"],
                "glosses": row["orth"],
                "signer": row["speaker"],
                "language": "gsg",
                "num_missing_frames": num_missing,
            },
            problem=problem,
        )

    def _frames_of(self, path: str) -> tuple[Frames, str | None]:
        """Return the frames in `path`, relative to the root, and why they cannot be used."""
        try:
            frames = self._files.frames(path, self.skipped)
        except CorpusError as error:
            return Frames((), 0, None, None), str(error)
        return frames, None if frames.names else f"{path} has no frames"

    def _refuse_phoenix_2014(self) -> None:
        """Raise CorpusError for PHOENIX-2014 (Koller et al., 2015), the older corpus without translations."""
        tables = self._files.files("annotations/manual/[dt]*.corpus.csv")  # dev, test, train; train.SI5
        releases = self._files.folders("phoenix-2014-*/annotations")  # multisigner, signerindependent-SI5
        if tables or releases:
            raise CorpusError(
                f"--data.root {self.root} is PHOENIX-2014 (…/{{split}}/{{name}}/1/*.png, "
                "annotations/manual/train.corpus.csv), not PHOENIX-2014-T. Run keypoints_phoenix_2014, or "
                "set --data.corpus datamodules.corpora.phoenix_2014.Phoenix2014"
            )
