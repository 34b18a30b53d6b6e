"""Boxes of tracks, in the format of MOTChallenge (2D MOT 2015).

`dest` becomes a folder of

| file                      | content                                                                              |
|---------------------------|--------------------------------------------------------------------------------------|
| {split}/{key}/gt/gt.txt   | `frame,id,x,y,width,height,1,1,1` for each object of each frame, as ground truth:    |
|                           | it is evaluated, of class 1, and fully visible                                       |
| {split}/{key}/det/det.txt | the same as results: `frame,id,x,y,width,height,conf,-1,-1,-1`                       |
| {split}/{key}/seqinfo.ini | `name`, `imDir`, `frameRate` of the frames taken, `seqLength`, …; see `seqinfo.py`    |
| statistics.json           | {split: see `statistics.py`}                                                         |

Frames, ids and px count from 1: the upper left px is (1, 1). `conf` is the score, 0 to 1; readers of a ground truth
take that column for a flag, and drop rows whose integer value is 0. Masks and labels are left out.
"""

from pathlib import Path

from datamodules.samples.tracks import TrackSample, TrackSamples
from preprocess.export.destination import whole_folder
from preprocess.export.json_text import as_json
from preprocess.export.seqinfo import write_seqinfo
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
    write_seqinfo(folder, sample, times)
