"""`coco-video`: tracks as YouTube-VIS has them, which is COCO's JSON for videos. For each split two files:

| file                    | what                                                                   |
|-------------------------|------------------------------------------------------------------------|
| {split}.json            | {"info", "licenses", "videos", "annotations", "categories"}, see below |
| {split}_statistics.json | `statistics.py`                                                        |

| field of a video | meaning                                                                           |
|------------------|-----------------------------------------------------------------------------------|
| id               | from 1, over all splits                                                           |
| width, height    | px                                                                                |
| length           | L, the frames taken                                                               |
| file_names       | `{key}/{frame:05d}.jpg`, from 0: names for the frames, which are not written here |
| key, path        | of the item; its video, relative to the corpus root                               |

| field of an annotation | meaning                                                        |
|------------------------|----------------------------------------------------------------|
| id                     | from 1, over all splits; one object of one video               |
| video_id, category_id  |                                                                |
| iscrowd                | 0                                                              |
| width, height, length  | of its video                                                   |
| obj_id                 | of the object in its video                                     |
| segmentations          | list of L: COCO's run lengths, or null where the object is not |
| bboxes                 | list of L: [x, y, width, height] in px, or null                |
| areas                  | list of L: px of the mask, or null                             |
| score                  | the mean of its frames' scores, 0 to 1                         |

A category has `id`, `name` (the label) and `supercategory`; a label has one id in all splits.

An annotation is of one object over all frames, a line of tracks.jsonl of one frame with all objects: so each object's
frames are gone through by themselves, and no more stands in memory than one frame, and some numbers for each box.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from datamodules.errors import RunError
from datamodules.run.folder import Run
from datamodules.samples.track_lines import LineObject, Rle, TrackLine
from datamodules.samples.tracks import TrackSample
from preprocess.export.destination import all_or_none
from preprocess.export.reading import planned_splits, track_samples
from preprocess.export.statistics import counts

_INFO = {"description": "tracks by Framemill, in the format of YouTube-VIS"}


def export(run: Run, dest: Path) -> list[Path]:
    """Write the files of the table above to `dest`.

    Raises:
        ConfigError: a file exists.
        RunError: these are no track samples, or a shard is damaged.
    """
    splits = planned_splits(run)
    paths = [dest / f"{split}{ending}" for split in splits for ending in (".json", "_statistics.json")]
    numbers = _Numbers()
    with all_or_none(paths) as partials:
        for split, videos, described in zip(splits, partials[::2], partials[1::2], strict=True):
            with open(videos, "w", encoding="utf-8", newline="\n", errors="replace") as file:
                _write_split(file, run, split, numbers)
            described.write_text(json.dumps(counts(run, split), indent=1) + "\n")
    return paths


class _Numbers:
    """The ids that have been given."""

    def __init__(self) -> None:
        self.videos = self.annotations = 0
        self.categories: dict[str, int] = {}

    def category(self, label: str) -> int:
        return self.categories.setdefault(label, len(self.categories) + 1)


def _write_split(file: TextIO, run: Run, split: str, numbers: _Numbers) -> None:
    before = numbers.videos
    file.write(f'{{"info": {json.dumps(_INFO)}, "licenses": [],\n"videos": ')
    _write_list(file, (_video(sample, numbers) for sample in track_samples(run, split)))
    file.write(',\n"annotations": ')
    tracks = (
        partial(_write_track, sample=sample, video_id=video_id, obj_id=obj_id, numbers=numbers)
        for video_id, sample in enumerate(track_samples(run, split), before + 1)
        for obj_id in np.unique(sample.array("obj_ids.npy")).tolist()
    )
    _write_list(file, tracks)
    file.write(',\n"categories": ')
    categories = (
        {"id": number, "name": label, "supercategory": "object"} for label, number in numbers.categories.items()
    )
    _write_list(file, categories)
    file.write("}\n")


def _write_list(file: TextIO, values: Iterable[dict[str, Any] | Callable[[TextIO], None]]) -> None:
    """A JSON list; of each value a line, which is its JSON, or what it writes itself."""
    file.write("[")
    for place, value in enumerate(values):
        file.write(",\n" if place else "\n")
        if callable(value):
            value(file)
        else:
            file.write(json.dumps(value, ensure_ascii=False))
    file.write("]")


def _video(sample: TrackSample, numbers: _Numbers) -> dict[str, Any]:
    numbers.videos += 1
    info, length = sample.meta["video_info"], len(sample.lines)
    names = [f"{sample.key}/{frame_idx:05d}.jpg" for frame_idx in range(length)]
    size = {"width": info["width"], "height": info["height"], "length": length}
    return {"id": numbers.videos, **size, "file_names": names, "key": sample.key, "path": sample.meta["path"]}


def _write_track(file: TextIO, sample: TrackSample, video_id: int, obj_id: int, numbers: _Numbers) -> None:
    """The annotation of one object."""
    rows = np.flatnonzero(sample.array("obj_ids.npy") == obj_id)
    frames, boxes = sample.array("frame_idx.npy")[rows].tolist(), sample.array("boxes.npy")[rows]
    numbers.annotations += 1
    length = len(sample.lines)
    if frames != sorted(set(frames)) or not 0 <= frames[0] <= frames[-1] < length:
        raise RunError(f"{sample.key}.frame_idx.npy is damaged: it has others than {length:,} frames in order")
    track = _Track(sample, obj_id, frames)
    info = sample.meta["video_info"]
    head = {
        "id": numbers.annotations,
        "video_id": video_id,
        "category_id": numbers.category(track.label),
        "iscrowd": 0,
        "width": info["width"],
        "height": info["height"],
        "length": length,
        "obj_id": obj_id,
    }
    file.write(json.dumps(head)[:-1])
    sizes = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).astype(int).tolist()
    for name, values in (("segmentations", track.masks()), ("bboxes", sizes), ("areas", track.areas)):
        file.write(f', "{name}": [')
        _write_where(file, zip(frames, values, strict=True), length)
        file.write("]")
    file.write(f', "score": {round(track.score_sum / len(frames), 4)}}}')


class _Track:
    """One object of a video in the frames it is in; areas and scores are known when `masks` has ended."""

    def __init__(self, sample: TrackSample, obj_id: int, frames: list[int]) -> None:
        self._sample, self._obj_id, self._frames = sample, obj_id, frames
        self.label = self._in(sample.lines.read(frames[0])[0])["label"]
        self.areas: list[int] = []
        self.score_sum = 0.0

    def masks(self) -> Iterator[Rle]:
        """Its masks, in order."""
        from pycocotools import mask as coco

        wanted = set(self._frames)
        for line in self._sample.lines.since(self._frames[0]):
            if line["frame_idx"] in wanted:
                found = self._in(line)
                self.areas.append(int(coco.area(found["mask"])))
                self.score_sum += found["score"]
                yield found["mask"]
            if line["frame_idx"] == self._frames[-1]:
                return

    def _in(self, line: TrackLine) -> LineObject:
        found = next((each for each in line["objects"] if each["obj_id"] == self._obj_id), None)
        if found is None:
            where = f"frame {line['frame_idx']} of {self._sample.key}"
            raise RunError(f"{where} has no object {self._obj_id}, as its obj_ids.npy says; run `preprocess verify`")
        return found


def _write_where(file: TextIO, values: Iterable[tuple[int, Any]], length: int) -> None:
    """The items of a list of `length`: (place, value) in order, and null between them."""
    done = 0
    for place, value in values:
        file.write("null, " * (place - done) + json.dumps(value) + (", " if place + 1 < length else ""))
        done = place + 1
    file.write(", ".join(["null"] * (length - done)))
