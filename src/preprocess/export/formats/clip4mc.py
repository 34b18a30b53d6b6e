"""Clips in the folders that CLIP4MC's training code opens (`load_processed_data_new`).

`dest` becomes a folder of

| file                                   | content                                                                     |
|----------------------------------------|-----------------------------------------------------------------------------|
| sample_{idx:06d}_{vid}/video_input.pkl | uint8 [T, H, W, 3], BGR: their reader reverses the channels                 |
| sample_{idx:06d}_{vid}/text_input.pkl  | {"tokens": int64 [77]}                                                      |
| sample_{idx:06d}_{vid}/size.json       | list of float, of equal length in all samples: their training stacks them   |
| dataset_info.json                      | {"train": [folder, …], "val": …, "test": …}: absolute paths, as their       |
|                                        | reader needs them; the split `dev` becomes `val`                            |
| index.json                             | the same with the names of the folders: still valid if `dest` is moved      |
| statistics.json                        | {split: see `statistics.py`}                                                |

`idx` counts the samples of all splits from 0. `vid` is the item's key if the corpus gives none; characters that cannot
be in a file name are percent-encoded. Their reader takes every (T // 16)-th frame, so T has to be a multiple of 16.
"""

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from datamodules.errors import ConfigError
from datamodules.samples.clips import ClipSample, ClipSamples
from preprocess.export.destination import whole_folder
from preprocess.export.source import Source

SAMPLES = ClipSamples
_SPLITS = {"dev": "val"}
_NUM_FRAMES = 16  # that their model takes
_PROTOCOL = 4  # of pickle; Python 3.4
_MAX_VID = 200  # characters, all ASCII; file systems allow 255 for a name


def export(source: Source[ClipSample], dest: Path) -> list[Path]:
    """Write the folder of the table above.

    Args:
        source: a run of clips.
        dest: a new or empty folder.

    Returns:
        Its three JSON files.

    Raises:
        ConfigError: `dest` is not empty; a sample has no tokens, no sizes, or another number of sizes than the first
            (both checked before anything is written); or its number of frames is not a multiple of 16.
        RunError: a shard is damaged.
    """
    dest = Path(os.path.abspath(dest))
    _require_tokens_and_sizes(source)
    folders: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    with whole_folder(dest) as partial:
        for split in source.splits:
            names = folders.setdefault(_SPLITS.get(split, split), [])
            for sample in source.samples(split):
                name = _name(sum(map(len, folders.values())), sample)
                _write(partial / name, sample)
                names.append(name)
        paths = {split: [str(dest / name) for name in names] for split, names in folders.items()}
        (partial / "dataset_info.json").write_text(json.dumps(paths, indent=1) + "\n")
        (partial / "index.json").write_text(json.dumps(folders, indent=1) + "\n")
        statistics = {split: source.statistics(split) for split in source.splits}
        (partial / "statistics.json").write_text(json.dumps(statistics, indent=1) + "\n")
    return [dest / name for name in ("dataset_info.json", "index.json", "statistics.json")]


def _require_tokens_and_sizes(source: Source[ClipSample]) -> None:
    first, num_expected = "", 0
    for sample in _without_frames(source):
        if sample.tokens is None:
            raise ConfigError(f"{sample.key} has no tokens, which CLIP4MC needs: run the pipeline with a tokenizer")
        num_sizes = len(sample.meta.get("size") or ())
        if not first:
            first, num_expected = sample.key, num_sizes
        if not num_sizes or num_sizes != num_expected:
            what = f"{num_sizes} sizes, and {first} has {num_expected}" if num_sizes else "no sizes"
            raise ConfigError(
                f"{sample.key} has {what}: CLIP4MC's training needs as many for every sample. Give them in the pairs' "
                "'size' and run the pipeline again, or take another --format"
            )


def _without_frames(source: Source[ClipSample]) -> Iterator[ClipSample]:
    """Yield all samples with empty files in place of their frames, which are not read."""
    for committed in filter(None, map(source.committed, source.splits)):
        for key, files in committed.opened():
            small = {name: file.read() if name in ("json", "tokens.npy") else b"" for name, file in files.items()}
            yield source.kind.decode(key, small)


def _name(idx: int, sample: ClipSample) -> str:
    vid = quote(str(sample.meta.get("vid") or sample.key), safe="")
    return f"sample_{idx:06d}_{vid[:_MAX_VID]}"


def _write(folder: Path, sample: ClipSample) -> None:
    if len(sample.frames) == 0 or len(sample.frames) % _NUM_FRAMES:
        raise ConfigError(
            f"{sample.key} has {len(sample.frames)} frames, and CLIP4MC's reader needs a multiple of {_NUM_FRAMES}: "
            f"run the pipeline with num_frames {_NUM_FRAMES}, or a multiple"
        )
    folder.mkdir()
    bgr = np.ascontiguousarray(sample.frames[..., ::-1])
    for name, value in (("video_input.pkl", bgr), ("text_input.pkl", {"tokens": sample.tokens})):
        with (folder / name).open("wb") as file:
            _Pickler(file, _PROTOCOL).dump(value)
    (folder / "size.json").write_text(json.dumps([float(size) for size in sample.meta["size"]]) + "\n")


class _Pickler(pickle.Pickler):
    """Pickles arrays so that numpy 1 and 2 read them: numpy 2 itself names `numpy._core`, which numpy 1 lacks."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not np.ndarray:
            return NotImplemented
        state = value.__reduce__()[2]
        return np.ndarray, (0,), state
