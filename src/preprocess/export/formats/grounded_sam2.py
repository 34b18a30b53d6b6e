"""Tracks as Grounded-SAM-2's tracking demos write them.

`dest` becomes a folder of

| file                                  | content                                                     |
|---------------------------------------|-------------------------------------------------------------|
| {key}/json_data/mask_{frame:05d}.json | the object below, for each frame taken, from 0              |
| {key}/mask_data/mask_{frame:05d}.npy  | uint16 [H, W]: the `obj_id` at each px, 0 for no object     |
| statistics.json                       | {split: see `statistics.py`}                                |

| field                   | meaning                                                                          |
|-------------------------|----------------------------------------------------------------------------------|
| mask_name               | `mask_{frame:05d}.npy`                                                           |
| mask_height, mask_width | px                                                                               |
| promote_type            | `mask`                                                                           |
| labels                  | {obj_id as text: {`instance_id`, `class_name`, `x1`, `y1`, `x2`, `y2`, `logit`}} |

`logit` is the score. `x2` and `y2` are the last px of the mask, as in their files. Where masks overlap, the npy has the
greatest `obj_id`, as theirs does; it cannot hold ids above 65535.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import ConfigError
from datamodules.samples.track_lines import LineObject, TrackLine, mask_of
from datamodules.samples.tracks import TrackSample, TrackSamples
from preprocess.export.destination import whole_folder
from preprocess.export.json_text import as_json
from preprocess.export.source import Source

SAMPLES = TrackSamples
_MAX_ID = np.iinfo(np.uint16).max


def export(source: Source[TrackSample], dest: Path) -> list[Path]:
    """Write the folder of the table above.

    Args:
        source: a run of tracks.
        dest: a new or empty folder.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` is not empty, or a video has an object above 65535.
        RunError: a shard is damaged.
    """
    with whole_folder(dest) as partial:
        for sample in (sample for split in source.splits for sample in source.samples(split)):
            _write_video(partial / sample.key, sample)
        statistics = {split: source.statistics(split) for split in source.splits}
        (partial / "statistics.json").write_bytes(as_json(statistics))
    return [dest]


def _write_video(folder: Path, sample: TrackSample) -> None:
    for name in ("json_data", "mask_data"):
        (folder / name).mkdir(parents=True)
    height, width = (sample.meta["video_info"][name] for name in ("height", "width"))
    for line in sample.lines:
        stem = f"mask_{line['frame_idx']:05d}"
        _write_mask(folder / "mask_data" / f"{stem}.npy", line, (height, width), sample.key)
        document = {
            "mask_name": f"{stem}.npy",
            "mask_height": height,
            "mask_width": width,
            "promote_type": "mask",
            "labels": {str(entry["obj_id"]): _label(entry) for entry in line["objects"]},
        }
        (folder / "json_data" / f"{stem}.json").write_text(json.dumps(document, indent=4), "utf-8")


def _write_mask(path: Path, line: TrackLine, size: tuple[int, int], key: str) -> None:
    ids = np.zeros(size, np.uint16)
    for entry in line["objects"]:
        if entry["obj_id"] > _MAX_ID:
            raise ConfigError(f"{key} has the object {entry['obj_id']}: this format cannot hold ids above {_MAX_ID}")
        ids[mask_of(entry["mask"])] = entry["obj_id"]
    np.save(path, ids)


def _label(entry: LineObject) -> dict[str, Any]:
    x1, y1, x2, y2 = entry["bbox"]
    box = {"x1": x1, "y1": y1, "x2": x2 - 1, "y2": y2 - 1}
    return {"instance_id": entry["obj_id"], "class_name": entry["label"], **box, "logit": entry["score"]}
