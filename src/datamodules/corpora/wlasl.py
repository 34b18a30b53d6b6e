"""WLASL (Li et al., WACV 2020): American Sign Language, single signs of many signers.

The list is `WLASL_v0.3.json` of https://github.com/dxli94/WLASL (`start_kit`, whose README describes it): objects with
a `gloss` and its `instances`, of which these are used:

| key                    | meaning                                                                              |
|------------------------|--------------------------------------------------------------------------------------|
| video_id               | becomes `sentence_id`, and after the split the key                                   |
| signer_id              | becomes `signer`                                                                     |
| split                  | train, val or test                                                                   |
| bbox                   | left, top, right, bottom of the signer in px; becomes `box_px`, which                |
|                        | `--model.person box` of the keypoints pipeline follows                               |
| url                    | of the video that the sign is from                                                   |
| frame_start, frame_end | of the sign in that video at 25 frames a second, from 1, both included; -1: its end  |

The gloss becomes `glosses`.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

from datamodules.corpora.row import Row
from datamodules.corpora.sentences import SentenceColumns, Sentences
from datamodules.corpora.youtube import youtube_id
from datamodules.errors import CorpusError

_FPS = 25  # at which frames are counted


class Wlasl(Sentences):
    """The signs of WLASL, in the order of the list.

    Args:
        root: folder or URL of the videos.
        signs: the list, `WLASL_v0.3.json`.
        raw: the videos are as `video_downloader.py` stores them, and a sign is a part of its video. False: they are
            cut, as by `preprocess.py` or as the authors send them: `{video_id}.mp4`.
        num_glosses: list the first glosses alone: 100, 300, 1000 or 2000 make WLASL100 … WLASL2000; None: all.
        max_items: list at most this many signs, from the beginning; None: all.

    Raises:
        CorpusError: the list cannot be read.
    """

    language: ClassVar[str] = "ase"
    columns: ClassVar[SentenceColumns] = SentenceColumns(
        video="video_id", id="video_id", glosses="gloss", signer="signer_id", split="split"
    )

    def __init__(
        self, root: str, signs: str, raw: bool = False, num_glosses: int | None = None, max_items: int | None = None
    ) -> None:
        super().__init__(root, {"signs": signs}, max_items)
        self.raw, self.num_glosses = raw, num_glosses

    def rows(self, path: str) -> Iterator[Row]:
        """Yield a row for each instance of the glosses."""
        for gloss in islice(super().rows(path), self.num_glosses):
            instances = gloss.values.get("instances")
            if not isinstance(instances, list) or not all(isinstance(instance, dict) for instance in instances):
                problem = gloss.problem or "it has no list of instances"
                yield gloss._replace(values={}, problem=problem)
                continue
            for number, instance in enumerate(instances, 1):
                yield Row(f"{gloss.where}-{number}", {**instance, "gloss": gloss.values.get("gloss")})

    def video_path(self, values: Mapping[str, Any], split: str) -> str:
        """Return the path of the cut video, or of the one that the sign is a part of."""
        video = youtube_id(values.get("url")) if self.raw else None
        return f"{video}.mp4" if video else super().video_path(values, split)

    def part(self, values: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """Return the part from half a frame before the first to half a frame after the last, which rounding spares."""
        if not self.raw:
            return None, None
        first, last = (values.get(name) for name in ("frame_start", "frame_end"))
        if not isinstance(first, int) or not isinstance(last, int) or not (0 < first <= last or last == -1):
            raise CorpusError(f"its frames are {first!r:.80} to {last!r:.80}: give whole numbers from 1 on, or -1 last")
        return max((first - 1.5) / _FPS, 0.0), None if last == -1 else (last - 0.5) / _FPS

    def meta(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item's meta, with the signer's box."""
        return {**super().meta(values), "box_px": values.get("bbox")}
