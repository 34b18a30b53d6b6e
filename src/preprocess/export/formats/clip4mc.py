"""`clip4mc`: clips as CLIP4MC's own training code opens them (`load_processed_data_new`). `dest` becomes a folder of

| file                                   | what                                                                        |
|----------------------------------------|-----------------------------------------------------------------------------|
| sample_{idx:06d}_{vid}/video_input.pkl | uint8 [T, H, W, 3], BGR: their reader turns the channels round              |
| sample_{idx:06d}_{vid}/text_input.pkl  | {"tokens": int64 [77]}                                                      |
| sample_{idx:06d}_{vid}/size.json       | list of float, as many in all samples: their training stacks them           |
| dataset_info.json                      | {"train": [folder, …], "val": …, "test": …}: absolute paths, which their    |
|                                        | reader opens as they are; the split `dev` is `val`                          |
| index.json                             | the same, by the names of the folders: stays true when `dest` is moved      |
| statistics.json                        | {split: see `statistics.py`}                                                |

`idx` counts the samples of all splits from 0. What cannot stand in a name is percent-encoded in `vid`, which is the
item's key if the corpus gives none. Their reader takes every (T // 16)-th frame, so T is a multiple of 16.
"""

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from datamodules.errors import ConfigError
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from preprocess.export.destination import whole_folder
from preprocess.export.reading import clip_samples, planned_splits, refuse_other_kinds
from preprocess.export.statistics import counts

if TYPE_CHECKING:
    from datamodules.samples.clips import ClipSample

_SPLITS = {"dev": "val"}
_NUM_FRAMES = 16  # that their model takes
_PROTOCOL = 4  # of pickle; Python 3.4
_MAX_VID = 200  # characters, all ASCII; file systems allow 255 a name


def export(run: Run, dest: Path) -> list[Path]:
    """Write the folder of the table above.

    Returns:
        Its three JSON files.

    Raises:
        ConfigError: `dest` holds something; or a sample has no tokens, no sizes or another number of them than the
            first (both checked before anything is written), or a number of frames that their reader does not take.
        RunError: these are no clip samples, or a shard is damaged.
    """
    dest = Path(os.path.abspath(dest))
    _require_tokens_and_sizes(run)
    folders: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    with whole_folder(dest) as partial:
        for split in planned_splits(run):
            listed = folders.setdefault(_SPLITS.get(split, split), [])
            for sample in clip_samples(run, split):
                name = _name(sum(map(len, folders.values())), sample)
                _write(partial / name, sample)
                listed.append(name)
        paths = {split: [str(dest / name) for name in names] for split, names in folders.items()}
        (partial / "dataset_info.json").write_text(json.dumps(paths, indent=1) + "\n")
        (partial / "index.json").write_text(json.dumps(folders, indent=1) + "\n")
        statistics = {split: counts(run, split) for split in planned_splits(run)}
        (partial / "statistics.json").write_text(json.dumps(statistics, indent=1) + "\n")
    return [dest / name for name in ("dataset_info.json", "index.json", "statistics.json")]


def _require_tokens_and_sizes(run: Run) -> None:
    first, num_sizes = "", 0
    for sample in (sample for split in planned_splits(run) for sample in _without_frames(run, split)):
        if sample.tokens is None:
            raise ConfigError(f"{sample.key} has no tokens, and CLIP4MC wants them: run the pipeline with a tokenizer")
        found = len(sample.meta.get("size") or ())
        first, num_sizes = (first, num_sizes) if first else (sample.key, found)
        if not found or found != num_sizes:
            what = f"{found} sizes, and {first} has {num_sizes}" if found else "no sizes"
            raise ConfigError(
                f"{sample.key} has {what}: CLIP4MC's training needs as many for every sample. Give them in the pairs' "
                "'size' and run the pipeline again, or take another --format"
            )


def _without_frames(run: Run, split: str) -> "Iterator[ClipSample]":
    """The samples of `split`; the content of their frames is not read."""
    from datamodules.samples.clips import ClipSamples

    refuse_other_kinds(run, ClipSamples.__name__)
    for key, files in CommittedSamples(run, split).opened() if run.outcome(split).committed else ():
        small = {name: file.read() if name in ("json", "tokens.npy") else b"" for name, file in files.items()}
        yield ClipSamples().decode(key, small)


def _name(idx: int, sample: "ClipSample") -> str:
    vid = quote(str(sample.meta.get("vid") or sample.key), safe="")
    return f"sample_{idx:06d}_{vid[:_MAX_VID]}"


def _write(folder: Path, sample: "ClipSample") -> None:
    if len(sample.frames) == 0 or len(sample.frames) % _NUM_FRAMES:
        raise ConfigError(
            f"{sample.key} has {len(sample.frames)} frames, of which CLIP4MC's reader does not take {_NUM_FRAMES}: "
            f"run the pipeline with num_frames {_NUM_FRAMES}, or a multiple"
        )
    folder.mkdir()
    bgr = np.ascontiguousarray(sample.frames[..., ::-1])
    (folder / "video_input.pkl").write_bytes(pickle.dumps(bgr, _PROTOCOL))
    (folder / "text_input.pkl").write_bytes(pickle.dumps({"tokens": sample.tokens}, _PROTOCOL))
    (folder / "size.json").write_text(json.dumps([float(size) for size in sample.meta["size"]]) + "\n")
