"""Masks of tracks as PNGs and as text, in the format of MOTS (multi-object tracking and segmentation).

`dest` becomes a folder of

| file                                      | content                                                              |
|-------------------------------------------|----------------------------------------------------------------------|
| {split}/{key}/instances/{frame:06d}.png   | 16 bits: 1000 times the class plus the object's number, in each px;  |
|                                           | 0 is background                                                      |
| {split}/{key}/gt/gt.txt                   | the same masks, a line for each object of each frame: `frame id      |
|                                           | class height width rle`, where `id` is the value in the PNG          |
| {split}/{key}/seqinfo.ini                 | the sequence; see `seqinfo.py`                                       |
| classes.json                              | {label: class}                                                       |
| statistics.json                           | {split: see `statistics.py`}                                         |

Frames count from 1, as in MOTSChallenge. The classes of MOTS are 1 for `car` and 2 for `pedestrian`, and here also for
`person`. Other labels are numbered from 3 in the order in which they come, without 10, the region that MOTS ignores.

A px belongs to one object in MOTS. Where masks overlap, it is given to the one with the highest score, and an object
that is covered in a frame is left out of it.
"""

from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.errors import ConfigError
from datamodules.samples.track_lines import LineObject, mask_of, rle_of
from datamodules.samples.tracks import TrackSample, TrackSamples
from preprocess.export.destination import whole_folder
from preprocess.export.json_text import as_json
from preprocess.export.seqinfo import write_seqinfo
from preprocess.export.source import Source

SAMPLES = TrackSamples

_CLASS_STEP = 1000  # the value of a px is class * 1000 + number
_IGNORED_CLASS = 10
_MAX_CLASS = 64  # with any number below 1000, its values fit into 16 bits


def export(source: Source[TrackSample], dest: Path) -> list[Path]:
    """Write the folder of the table above.

    Args:
        source: a run of tracks.
        dest: a new or empty folder.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` is not empty, a video has an object above 999, or there are more than 64 classes.
        RunError: a shard is damaged.
    """
    classes = _Classes()
    with whole_folder(dest) as folder:
        for split in source.splits:
            for sample in source.samples(split):
                _write_video(folder / split / sample.key, sample, classes)
        (folder / "classes.json").write_bytes(as_json(classes.ids))
        statistics = {split: source.statistics(split) for split in source.splits}
        (folder / "statistics.json").write_bytes(as_json(statistics))
    return [dest]


class _Classes:
    """The numbers of the labels, over all splits."""

    def __init__(self) -> None:
        self.ids = {"car": 1, "pedestrian": 2, "person": 2}
        self._next = 3

    def value(self, entry: LineObject, key: str) -> int:
        """Return the value of the px of an object of the video `key`.

        Raises:
            ConfigError: 16 bits cannot hold it, or it would be of another class.
        """
        if not 0 <= entry["obj_id"] < _CLASS_STEP:
            raise ConfigError(f"{key} has the object {entry['obj_id']}: MOTS cannot hold ids above {_CLASS_STEP - 1}")
        if entry["label"] not in self.ids:
            if self._next > _MAX_CLASS:
                raise ConfigError(f"{key} has one class too many, {entry['label']!r}: MOTS holds {_MAX_CLASS}")
            self.ids[entry["label"]] = self._next
            self._next += 1 + (self._next + 1 == _IGNORED_CLASS)
        return self.ids[entry["label"]] * _CLASS_STEP + entry["obj_id"]


def _write_video(folder: Path, sample: TrackSample, classes: _Classes) -> None:
    for name in ("instances", "gt"):
        (folder / name).mkdir(parents=True)
    size = sample.meta["video_info"]["height"], sample.meta["video_info"]["width"]
    timestamps = []
    with open(folder / "gt" / "gt.txt", "x", encoding="ascii") as text:
        for line in sample.lines:
            timestamps.append(line["timestamp"])
            frame = line["frame_idx"] + 1
            instances = np.zeros(size, np.uint16)
            objects = [(entry["score"], classes.value(entry, sample.key), entry["mask"]) for entry in line["objects"]]
            for _, value, mask in sorted(objects, key=lambda values: values[0]):
                instances[mask_of(mask)] = value
            Image.fromarray(instances).save(folder / "instances" / f"{frame:06d}.png")
            _write_objects(text, frame, instances)
    write_seqinfo(folder, sample, timestamps)


def _write_objects(file: TextIO, frame: int, instances: NDArray[np.uint16]) -> None:
    """Write a line for each object of a frame, by its id."""
    for value in np.unique(instances[instances > 0]).tolist():
        rle = rle_of(instances == value)
        print(frame, value, value // _CLASS_STEP, *rle["size"], rle["counts"], file=file)
