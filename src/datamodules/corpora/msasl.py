"""MS-ASL (Vaezi Joze and Koller, BMVC 2019): American Sign Language, single signs of videos on YouTube.

The lists are `MSASL_{train,val,test}.json` of https://www.microsoft.com/en-us/research/project/ms-asl. Their objects
have no name, so the number of an object in its list becomes `sentence_id`:

| key                  | meaning                                                                          |
|----------------------|----------------------------------------------------------------------------------|
| url                  | of the video, which is `{YouTube's id}.mp4` below the root                       |
| start_time, end_time | s, of the sign in the video                                                      |
| text                 | the sign, by the name of its class; becomes `glosses`                            |
| label                | number of the class, from 0; becomes `label`                                     |
| signer_id            | becomes `signer`                                                                 |
| box                  | of the signer: top, left, bottom, right as shares of height and width. Becomes   |
|                      | `box` (left, top, right, bottom), which `--model.person box` follows             |
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from datamodules.corpora.sentences import SentenceColumns, Sentences, list_of_each
from datamodules.corpora.youtube import youtube_id
from datamodules.errors import CorpusError


class MsAsl(Sentences):
    """The signs of MS-ASL, in the order of the lists.

    Args:
        root: folder or URL of the videos.
        signs: path or URL of the lists, `MSASL_{split}.json`; `{split}` in it stands for the split.
        splits: which of train, val and test.
        max_items: list at most this many signs of each list, from the beginning; None: all.

    Raises:
        ConfigError: several splits have the same list.
        CorpusError: a list cannot be read.
    """

    language: ClassVar[str] = "ase"
    columns: ClassVar[SentenceColumns] = SentenceColumns(
        video="url", start="start_time", stop="end_time", glosses="text", signer="signer_id"
    )

    def __init__(
        self,
        root: str,
        signs: str,
        splits: Sequence[str] = ("train", "val", "test"),
        max_items: int | None = None,
    ) -> None:
        super().__init__(root, list_of_each(splits, signs, "--data.signs"), max_items)

    def video_path(self, values: Mapping[str, Any], split: str) -> str:
        """Return the path of the video of YouTube."""
        if (video := youtube_id(values["url"])) is None:
            raise CorpusError(f"'url' is {values['url']!r:.80}: it names no video of YouTube")
        return f"{video}.mp4"

    def meta(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item's meta, with the class and the signer's box."""
        box = values.get("box")
        if isinstance(box, list) and len(box) == 4:
            top, left, bottom, right = box
            box = [left, top, right, bottom]
        return {**super().meta(values), "label": values.get("label"), "box": box}
