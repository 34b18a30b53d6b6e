"""`grounded-sam2`: tracks as Grounded-SAM-2's tracking demos write them. `dest` becomes a folder of

| file                                  | what                                                       |
|---------------------------------------|------------------------------------------------------------|
| {key}/json_data/mask_{frame:05d}.json | the object below, of each frame taken, from 0              |
| {key}/mask_data/mask_{frame:05d}.npy  | uint16 [H, W]: the `obj_id` at each px, 0 where nothing is |
| statistics.json                       | {split: see `statistics.py`}                               |

| field                   | meaning                                                                          |
|-------------------------|----------------------------------------------------------------------------------|
| mask_name               | `mask_{frame:05d}.npy`                                                           |
| mask_height, mask_width | px                                                                               |
| promote_type            | `mask`                                                                           |
| labels                  | {obj_id as text: {`instance_id`, `class_name`, `x1`, `y1`, `x2`, `y2`, `logit`}} |

`logit` is the score. `x2` and `y2` are the last px of the mask, as theirs are. Where masks overlap, the npy has the
greatest `obj_id`, as theirs does; it has no ids above 65535.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import ConfigError
from datamodules.run.folder import Run
from datamodules.samples.track_lines import LineObject, TrackLine, mask_of
from datamodules.samples.tracks import TrackSample
from preprocess.export.destination import whole_folder
from preprocess.export.mirror import as_json
from preprocess.export.reading import planned_splits, track_samples
from preprocess.export.statistics import counts

_MAX_ID = np.iinfo(np.uint16).max


def export(run: Run, dest: Path) -> list[Path]:
    """Write the folder of the table above.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` holds something, or a video has an object above 65535.
        RunError: these are no track samples, or a shard is damaged.
    """
    splits = planned_splits(run)
    with whole_folder(dest) as partial:
        for sample in (each for split in splits for each in track_samples(run, split)):
            _write_video(partial / sample.key, sample)
        (partial / "statistics.json").write_bytes(as_json({split: counts(run, split) for split in splits}))
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
            "labels": {str(each["obj_id"]): _label(each) for each in line["objects"]},
        }
        (folder / "json_data" / f"{stem}.json").write_text(json.dumps(document, indent=4), "utf-8")


def _write_mask(path: Path, line: TrackLine, size: tuple[int, int], key: str) -> None:
    ids = np.zeros(size, np.uint16)
    for each in line["objects"]:
        if each["obj_id"] > _MAX_ID:
            raise ConfigError(f"{key} has the object {each['obj_id']}, and this format none above {_MAX_ID}")
        ids[mask_of(each["mask"])] = each["obj_id"]
    np.save(path, ids)


def _label(each: LineObject) -> dict[str, Any]:
    x1, y1, x2, y2 = each["bbox"]
    box = {"x1": x1, "y1": y1, "x2": x2 - 1, "y2": y2 - 1}
    return {"instance_id": each["obj_id"], "class_name": each["label"], **box, "logit": each["score"]}
