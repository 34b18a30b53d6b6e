"""PHOENIX-2014-T (Camgöz et al., 2018): German sign language of weather forecasts, one folder of PNG frames a sentence.

Expected below `root`: `features/fullFrame-210x260px/{split}/{name}/images0001.png …` and
`annotations/manual/PHOENIX-2014-T.{split}.corpus.csv`, whose columns `name|video|start|end|speaker|orth|translation`
are separated by `|`. The `video` column is not used: it names a folder `1/` that does not exist.

| meta of an item | meaning                       |
|-----------------|-------------------------------|
| name            | of the sentence               |
| signer          | `Signer01` …                  |
| glosses         | `orth`: the signs, in capitals |
| translation     | spoken German                 |
"""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.corpora.listing import limit, list_frames
from datamodules.errors import CorpusError
from datamodules.line.item import Corpus, Item, key_from_path

_COLUMNS = ("name", "speaker", "orth", "translation")


class Phoenix2014T(Corpus):
    """The sentences of PHOENIX-2014-T, in the order of the annotation files.

    Args:
        root: the folder that holds `features` and `annotations` (`…/PHOENIX-2014-T`).
        splits: which of train, dev and test.
        max_items: at most this many sentences of each split; None: all.
    """

    def __init__(
        self, root: str, splits: Sequence[str] = ("train", "dev", "test"), max_items: int | None = None
    ) -> None:
        self.root, self.splits, self.max_items = root, list(splits), max_items

    def items(self) -> Iterator[Item]:
        """The sentences; keys are `{split}/{name}`.

        Raises:
            CorpusError: a folder or annotation file is missing, or a row has no frames.
        """
        if not Path(self.root).is_dir():
            raise CorpusError(f"--data.root {self.root} is no folder")
        for split in self.splits:
            yield from limit(self._sentences(split), self.max_items)

    def _sentences(self, split: str) -> Iterator[Item]:
        table = Path(self.root) / "annotations" / "manual" / f"PHOENIX-2014-T.{split}.corpus.csv"
        if not table.is_file():
            raise CorpusError(f"{table} is missing; name the splits that there are with --data.splits")
        with open(table, encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="|", quoting=csv.QUOTE_NONE)
            try:
                if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
                    raise CorpusError(f"{table} has no column {', '.join(missing)}; its header is {rows.fieldnames}")
                for row in rows:
                    yield self._item(split, row, f"{table}, line {rows.line_num}")
            except (UnicodeDecodeError, csv.Error) as error:
                raise CorpusError(f"{table} cannot be read: {error}") from error

    def _item(self, split: str, row: dict[str, str], where: str) -> Item:
        if any(row[name] is None for name in _COLUMNS):
            raise CorpusError(f"{where}: fewer fields than columns")
        name = row["name"]
        key = key_from_path(f"{split}/{name}")
        path = os.path.join("features", "fullFrame-210x260px", split, name)
        frames, size, modified = list_frames(Path(self.root) / path)
        if not frames:
            raise CorpusError(f"{where}: {name!r} has no frames in {Path(self.root) / path}")
        meta = {"name": name, "signer": row["speaker"], "glosses": row["orth"], "translation": row["translation"]}
        return Item(key=key, split=split, path=path, frames=frames, cost=size, modified=modified, meta=meta)
