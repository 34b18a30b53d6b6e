"""The `seqinfo.ini` of a sequence, as MOTChallenge and MOTS describe it.

`frameRate` comes from the times of the frames taken. With a single frame, or a single time, it is that of the video; 0
means unknown. A `%` in a name is doubled, as Python's configparser expects.
"""

import configparser
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.media.sampling import frame_rate
from datamodules.samples.tracks import TrackSample


def write_seqinfo(folder: Path, sample: TrackSample, timestamps: Sequence[float]) -> None:
    """Write the file of `sample` to `folder`; `timestamps` are those of the frames taken, in s."""
    video = sample.meta["video_info"]
    info = configparser.ConfigParser()
    info.optionxform = str  # type: ignore[assignment, method-assign]  # keeps capitals
    info["Sequence"] = {
        "name": sample.key.replace("%", "%%"),
        "imDir": "img1",
        "frameRate": f"{frame_rate(np.array(timestamps), video['fps']) or video['fps'] or 0:g}",
        "seqLength": str(len(timestamps)),
        "imWidth": str(video["width"]),
        "imHeight": str(video["height"]),
        "imExt": ".jpg",
    }
    with open(folder / "seqinfo.ini", "x", encoding="utf-8") as file:
        info.write(file, space_around_delimiters=False)
