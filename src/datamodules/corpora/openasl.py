"""OpenASL (Shi et al., EMNLP 2022): American Sign Language, sentences of videos on YouTube.

The list is `data/openasl-v1.0.tsv` of https://github.com/chevalierNoir/OpenASL, the videos are those that its
`prep/download.py` stores as `{yid}.mp4`:

| column         | meaning                                                                       |
|----------------|-------------------------------------------------------------------------------|
| vid            | becomes `sentence_id`, and after the split the key                            |
| yid            | YouTube's id of the video                                                     |
| start, end     | of the sentence in the video, as `HH:MM:SS.mmm`                               |
| raw-text       | English; becomes `text`                                                       |
| tokenized-text | not used                                                                      |
| gloss          | not used: English words, found by a model                                     |
| split          | train, valid or test                                                          |

`data/bbox-v1.0.json` has the signer's box for each `vid`, found by a face detector: left, top, right, bottom as shares
of the width and height. It becomes `box`, which `--model.person box` of the keypoints pipeline follows.
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from datamodules.corpora.csv_rows import Quoting
from datamodules.corpora.sentences import SentenceColumns, Sentences
from datamodules.corpora.text_lists import list_sha256, open_list
from datamodules.errors import CorpusError


class OpenASL(Sentences):
    """The sentences of OpenASL, in the order of the list.

    Args:
        root: folder or URL of the videos.
        sentences: the list, `openasl-v1.0.tsv`.
        boxes: the boxes, `bbox-v1.0.json`; None: sentences have no `box`.
        max_items: list at most this many sentences, from the beginning; None: all.
        quoting: meaning of quotes in the list, `auto`, `none` or `csv`: see `csv_rows`.

    Raises:
        CorpusError: the list or the boxes cannot be read.
    """

    language: ClassVar[str] = "ase"
    columns: ClassVar[SentenceColumns] = SentenceColumns(
        video="yid", id="vid", start="start", stop="end", text="raw-text", split="split"
    )

    def __init__(
        self,
        root: str,
        sentences: str,
        boxes: str | None = None,
        max_items: int | None = None,
        quoting: Quoting = "auto",
    ) -> None:
        super().__init__(root, {"sentences": sentences}, max_items, quoting)
        self.boxes_sha256 = list_sha256(boxes, "--data.boxes") if boxes else None
        self._boxes = _read_boxes(boxes) if boxes else None

    def meta(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item's meta, with the signer's box; None if it is not known."""
        meta = super().meta(values)
        return meta if self._boxes is None else {**meta, "box": self._boxes.get(values["vid"])}


def _read_boxes(path: str) -> dict[str, Any]:
    try:
        with open_list(path) as file:
            boxes = json.load(file)
    except ValueError as error:
        raise CorpusError(f"--data.boxes {path} cannot be read: {error}") from error
    if not isinstance(boxes, dict):
        raise CorpusError(f"--data.boxes {path} is not an object with a box for each sentence, as bbox-v1.0.json is")
    return boxes
