"""CLIP4MC (Ding et al., 2023): clips of Minecraft videos, each with what is said in it.

`train_pairs.json` is a list of objects. Older files spell some keys differently; both are read, and meta has the newer.

| meta of an item | in older files   | meaning                                                          |
|-----------------|------------------|------------------------------------------------------------------|
| vid             |                  | name of the pair                                                 |
| text            | transcript clip  | `transcript` of the file: what is said                           |
| begin_time      | begin position   | s, where the clip starts in the original video                   |
| end_time        | end position     | s                                                                |
| duration        |                  | s                                                                |
| size            |                  | list of float                                                    |

The last four are null where a file lacks them. `clip_path` was written on another machine, so only its file name is
used.
"""

import re
from typing import Any, ClassVar

from datamodules.corpora.pairs import Columns, Pairs, Split
from datamodules.corpora.row import Rows
from datamodules.corpora.rows import read_rows
from datamodules.corpora.values import as_name

_NEWER = {"transcript clip": "transcript", "begin position": "begin_time", "end position": "end_time"}
_ALL_TRAIN = Split()


class Clip4MC(Pairs):
    """The pairs of CLIP4MC, in the order of the file.

    Args:
        pairs: `train_pairs.json`, or the same objects as JSON Lines.
        clips_dir: folder of the clips.
        split: how pairs are assigned to splits.
        max_items: list at most this many pairs, from the beginning; None: all.
        whole_videos: the files are whole videos, of which the part from `begin_time` to `end_time` is taken; False:
            they are clips already.
        numbered: keys are the numbers of the rows, for files with several rows of one `vid`; False: keys are the `vid`,
            and such files are refused.

    Raises:
        CorpusError: the list cannot be read.
    """

    root_option: ClassVar[str] = "clips_dir"

    def __init__(
        self,
        pairs: str,
        clips_dir: str,
        split: Split = _ALL_TRAIN,
        max_items: int | None = None,
        whole_videos: bool = False,
        numbered: bool = False,
    ) -> None:
        columns = Columns(
            video="clip_path",
            text="transcript",
            id=None if numbered else "vid",
            start="begin_time" if whole_videos else None,
            stop="end_time" if whole_videos else None,
            meta=["vid", "begin_time", "end_time", "duration", "size"],
        )
        super().__init__(clips_dir, pairs, columns, split, max_items)

    def rows(self) -> Rows:
        """Read the rows of the list, with the newer spelling of keys."""
        for row in read_rows(self._pairs):
            for older, newer in _NEWER.items():
                if older in row.values and row.values.get(newer) is None:
                    row.values[newer] = row.values[older]
            yield row

    def video_path(self, video: str) -> str:
        """Return the file name of a path that may be of Linux or Windows."""
        return re.split(r"[/\\]", video)[-1]

    def meta(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the item's meta, `vid` as text."""
        return {**super().meta(row), "vid": as_name("vid", row.get("vid"))}
