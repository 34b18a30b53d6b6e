"""`mot`: boxes of tracks as MOTChallenge has them (2D MOT 2015). `dest` becomes a folder of

| file                      | what                                                                                 |
|---------------------------|--------------------------------------------------------------------------------------|
| {split}/{key}/gt/gt.txt   | `frame,id,x,y,width,height,1,1,1` of each object of each frame, as a ground truth:   |
|                           | it counts, it is of class 1, all of it is to be seen                                 |
| {split}/{key}/det/det.txt | the same as results: `frame,id,x,y,width,height,conf,-1,-1,-1`                       |
| {split}/{key}/seqinfo.ini | `name`, `imDir`, `frameRate` of the frames taken, `seqLength`, `imWidth`, …          |
| statistics.json           | {split: see `statistics.py`}                                                         |

`frameRate` comes from the times of the frames taken. If there is one frame, or one time, it is the video's; 0: unknown.

Frames, ids and px are counted from 1: the px at the upper left is (1, 1). `conf` is the score, 0 to 1; readers of a
ground truth take that column for a flag, and drop what is 0 as an integer. Masks and labels are not in it. A `%` in a
name is doubled in the .ini, as Python's configparser wants it.
"""

import configparser
from pathlib import Path

import numpy as np

from datamodules.media.sampling import frame_rate
from datamodules.run.folder import Run
from datamodules.samples.tracks import TrackSample
from preprocess.export.destination import whole_folder
from preprocess.export.mirror import as_json
from preprocess.export.reading import planned_splits, track_samples
from preprocess.export.statistics import counts


def export(run: Run, dest: Path) -> list[Path]:
    """Write the folder of the table above.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` holds something.
        RunError: these are no track samples, or a shard is damaged.
    """
    splits = planned_splits(run)
    with whole_folder(dest) as partial:
        for split in splits:
            for sample in track_samples(run, split):
                _write_video(partial / split / sample.key, sample)
        (partial / "statistics.json").write_bytes(as_json({split: counts(run, split) for split in splits}))
    return [dest]


def _write_video(folder: Path, sample: TrackSample) -> None:
    for name in ("gt", "det"):
        (folder / name).mkdir(parents=True)
    times = []
    with open(folder / "gt" / "gt.txt", "x") as truth, open(folder / "det" / "det.txt", "x") as results:
        for line in sample.lines:
            times.append(line["timestamp"])
            for each in line["objects"]:
                x1, y1, x2, y2 = each["bbox"]
                values = (line["frame_idx"] + 1, each["obj_id"], x1 + 1, y1 + 1, x2 - x1, y2 - y1)
                print(*values, 1, 1, 1, sep=",", file=truth)
                print(*values, each["score"], -1, -1, -1, sep=",", file=results)
    info = configparser.ConfigParser()
    info.optionxform = str  # type: ignore[assignment, method-assign]  # keeps capitals
    video = sample.meta["video_info"]
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
