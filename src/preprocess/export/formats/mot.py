"""Boxes of tracks, in the format of MOTChallenge (2D MOT 2015).

`dest` becomes a folder of

| file                      | content                                                                              |
|---------------------------|--------------------------------------------------------------------------------------|
| {split}/{key}/gt/gt.txt   | `frame,id,x,y,width,height,1,1,1` for each object of each frame, as ground truth:    |
|                           | it is evaluated, of class 1, and fully visible                                       |
| {split}/{key}/det/det.txt | the same as results: `frame,id,x,y,width,height,conf,-1,-1,-1`                       |
| {split}/{key}/seqinfo.ini | `name`, `imDir`, `frameRate` of the frames taken, `seqLength`, `imWidth`, …          |
| statistics.json           | {split: see `statistics.py`}                                                         |

`frameRate` comes from the times of the frames taken. With a single frame, or a single time, it is that of the video; 0
means unknown.

Frames, ids and px count from 1: the upper left px is (1, 1). `conf` is the score, 0 to 1; readers of a ground truth
take that column for a flag, and drop rows whose integer value is 0. Masks and labels are left out. A `%` in a name is
doubled in the .ini, as Python's configparser expects.
"""

import configparser
from pathlib import Path

import numpy as np

from datamodules.media.sampling import frame_rate
from datamodules.samples.tracks import TrackSample, TrackSamples
from preprocess.export.destination import whole_folder
from preprocess.export.json_text import as_json
from preprocess.export.source import Source

SAMPLES = TrackSamples


def export(source: Source[TrackSample], dest: Path) -> list[Path]:
    """Write the folder of the table above.

    Args:
        source: a run of tracks.
        dest: a new or empty folder.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` is not empty.
        RunError: a shard is damaged.
    """
    with whole_folder(dest) as partial:
        for split in source.splits:
            for sample in source.samples(split):
                _write_video(partial / split / sample.key, sample)
        statistics = {split: source.statistics(split) for split in source.splits}
        (partial / "statistics.json").write_bytes(as_json(statistics))
    return [dest]


def _write_video(folder: Path, sample: TrackSample) -> None:
    for name in ("gt", "det"):
        (folder / name).mkdir(parents=True)
    times = []
    with open(folder / "gt" / "gt.txt", "x") as truth, open(folder / "det" / "det.txt", "x") as results:
        for line in sample.lines:
            times.append(line["timestamp"])
            for entry in line["objects"]:
                x1, y1, x2, y2 = entry["bbox"]
                values = (line["frame_idx"] + 1, entry["obj_id"], x1 + 1, y1 + 1, x2 - x1, y2 - y1)
                print(*values, 1, 1, 1, sep=",", file=truth)
                print(*values, entry["score"], -1, -1, -1, sep=",", file=results)
    video = sample.meta["video_info"]
    info = configparser.ConfigParser()
    info.optionxform = str  # type: ignore[assignment, method-assign]  # keeps capitals
    info["Sequence"] = {
        "name": sample.key.replace("%", "%%"),
        "imDir": "img1",
        "frameRate": f"{frame_rate(np.array(times), video['fps']) or video['fps'] or 0:g}",
        "seqLength": str(len(times)),
        "imWidth": str(video["width"]),
        "imHeight": str(video["height"]),
        "imExt": ".jpg",
    }
    with open(folder / "seqinfo.ini", "x", encoding="utf-8") as file:
        info.write(file, space_around_delimiters=False)
