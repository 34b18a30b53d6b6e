"""Keypoints as NumPy arrays, in the layout that code for PHOENIX-2014-T loads with `numpy.load`.

For each split two files:

| file                    | content                                               |
|-------------------------|-------------------------------------------------------|
| {split}_keypoints.npz   | the arrays below, N frames of all videos              |
| {split}_statistics.json | `statistics.py` and `keypoint_statistics.py`          |

| array       | type, shape         | meaning                                                                          |
|-------------|---------------------|----------------------------------------------------------------------------------|
| keypoints   | float32 [N, 143, 3] | x, y, z in px of 68 face points (dlib's order), 21 of the left hand, 21 of the   |
|             |                     | right hand, 33 of the pose; zeros where a part was not found                     |
| image_paths | str [N]             | relative to the corpus root; frame i of a video's sample is `{video}#{i}`        |
| video_ids   | str [N]             | the item's `name`, or its key if the corpus gives no names                       |
"""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from datamodules.errors import RunError
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from preprocess.export.destination import all_or_none
from preprocess.export.keypoint_statistics import KeypointStatistics
from preprocess.export.phoenix import PHOENIX_PARTS, FrameNames, phoenix_parts, require_face
from preprocess.export.source import Source

SAMPLES = KeypointSamples

_NUM_KEYPOINTS = sum(PHOENIX_PARTS.values())


def export(source: Source[KeypointSample], dest: Path) -> list[Path]:
    """Write the files of the table above to `dest`.

    Args:
        source: a run of keypoints.
        dest: folder to write to.

    Raises:
        ConfigError: a file exists, or the layout has no face.
        RunError: a shard is damaged.
    """
    require_face(source)
    paths = [dest / f"{split}_{file}" for split in source.splits for file in ("keypoints.npz", "statistics.json")]
    with all_or_none(paths) as partials:
        for split, npz, described in zip(source.splits, partials[::2], partials[1::2], strict=True):
            statistics = _write_npz(npz, source, split)
            described.write_text(json.dumps(statistics.to_json(), indent=1) + "\n")
    return paths


def _write_npz(path: Path, source: Source[KeypointSample], split: str) -> KeypointStatistics:
    counts = source.statistics(split)
    statistics, num_frames = KeypointStatistics(counts), counts["frames"]
    with zipfile.ZipFile(path, "w") as archive, FrameNames(path.parent) as names:
        written = 0
        with _array(archive, "keypoints", (num_frames, _NUM_KEYPOINTS, 3), np.dtype("<f4")) as file:
            for sample in source.samples(split):
                parts = phoenix_parts(sample)
                statistics.add(parts, sample.presence)
                names.add(sample)
                written += len(sample.keypoints)
                file.write(np.concatenate(list(parts.values()), axis=1, dtype="<f4").tobytes())
        if written != num_frames:
            raise RunError(f"{source.run.store}: {split} has {written:,} frames, its records count {num_frames:,}")
        dtype = np.dtype(f"<U{max(names.longest_path, 1)}")
        with _array(archive, "image_paths", (num_frames,), dtype) as file:
            for _, image_paths in names:
                file.write(np.array(image_paths, dtype).tobytes())
        dtype = np.dtype(f"<U{max(names.longest_id, 1)}")
        with _array(archive, "video_ids", (num_frames,), dtype) as file:
            for video_id, image_paths in names:
                file.write(np.full(len(image_paths), video_id, dtype).tobytes())
    return statistics


@contextmanager
def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[IO[bytes]]:
    """Yield a file in `archive` with the header of an array of `shape`; the block writes its values."""
    entry = zipfile.ZipInfo(f"{name}.npy")  # its date is fixed, so equal runs give equal files
    if dtype.kind == "U":  # four bytes per character, most of them 0
        entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as file:
        npy.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        yield file
