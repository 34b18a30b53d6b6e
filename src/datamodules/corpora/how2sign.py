"""How2Sign (Duarte et al., CVPR 2021): American Sign Language, sentences of long instructional videos.

The lists are those of the re-aligned release, `how2sign_realigned_{train,val,test}.csv` (https://how2sign.github.io,
"English Translation (manually re-aligned)"), which are separated by tabs:

| column          | meaning                                                                             |
|-----------------|-------------------------------------------------------------------------------------|
| VIDEO_ID        | of the YouTube video that the signers translated; becomes `source_id`               |
| VIDEO_NAME      | the video is `{VIDEO_NAME}.mp4` in `folder`                                         |
| SENTENCE_ID     | not used: it does not name the camera                                               |
| SENTENCE_NAME   | becomes `sentence_id`, and after the split the key                                  |
| START_REALIGNED | s, start of the sentence in the video                                               |
| END_REALIGNED   | s, its end                                                                          |
| SENTENCE        | English; becomes `text`                                                             |

The lists that are not re-aligned have START and END instead, and are refused: their times do not fit the signing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from datamodules.corpora.csv_rows import Quoting
from datamodules.corpora.sentences import SentenceColumns, Sentences, list_of_each


class How2Sign(Sentences):
    """The sentences of How2Sign, in the order of the lists.

    Args:
        root: folder or URL of the videos.
        sentences: path or URL of the lists, `how2sign_realigned_{split}.csv`; `{split}` in it stands for the split.
        splits: which of train, val and test.
        folder: folder of the videos below the root; `{split}` in it stands for the split.
        max_items: list at most this many sentences of each list; None: all.
        quoting: meaning of quotes in the lists, `auto`, `none` or `csv`: see `csv_rows`.

    Raises:
        ConfigError: several splits have the same list.
        CorpusError: a list cannot be read.
    """

    language: ClassVar[str] = "ase"
    columns: ClassVar[SentenceColumns] = SentenceColumns(
        video="VIDEO_NAME",
        id="SENTENCE_NAME",
        start="START_REALIGNED",
        stop="END_REALIGNED",
        text="SENTENCE",
    )

    def __init__(
        self,
        root: str,
        sentences: str,
        splits: Sequence[str] = ("train", "val", "test"),
        folder: str = "",
        max_items: int | None = None,
        quoting: Quoting = "auto",
    ) -> None:
        super().__init__(root, list_of_each(splits, sentences, "--data.sentences"), max_items, quoting)
        self.folder = folder

    def video_path(self, values: Mapping[str, Any], split: str) -> str:
        """Return the path of the video in the folder of its split."""
        folder = self.folder.replace("{split}", split).strip("/")
        return f"{folder}/{super().video_path(values, split)}".lstrip("/")

    def meta(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item's meta, with the id of the video that was translated."""
        return {**super().meta(values), "source_id": values.get("VIDEO_ID")}
