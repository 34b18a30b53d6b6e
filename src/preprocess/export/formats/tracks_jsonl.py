"""Tracks as one JSON object per video.

For each split two files:

| file                    | content                           |
|-------------------------|-----------------------------------|
| {split}.jsonl           | the object below, one per line    |
| {split}_statistics.json | `statistics.py`                   |

| field       | type   | meaning                                                                                      |
|-------------|--------|----------------------------------------------------------------------------------------------|
| video_path  | str    | relative to the corpus root                                                                  |
| text_prompt | str    |                                                                                              |
| video_info  | object | as in the samples' json: `width`, `height`, `fps`, `num_frames`, `duration`, …               |
| frames      | list   | for each frame taken `frame_idx`, `timestamp` and `objects`, as in the samples' tracks.jsonl |

A line holds all frames of a video: 0.8 GB for 5 objects in two hours of video. It is written frame by frame.
"""

import json
from pathlib import Path

from datamodules.samples.tracks import TrackSample, TrackSamples
from preprocess.export.source import Source
from preprocess.export.split_files import write_splits

SAMPLES = TrackSamples


def export(source: Source[TrackSample], dest: Path) -> list[Path]:
    """Write the files of the table above to `dest`.

    Args:
        source: a run of tracks.
        dest: folder to write to.

    Raises:
        ConfigError: a file exists.
        RunError: a shard is damaged.
    """
    return write_splits(source, dest, [".jsonl"], lambda split, path: _write_split(path, source, split))


def _write_split(path: Path, source: Source[TrackSample], split: str) -> None:
    with open(path, "wb") as file:
        for sample in source.samples(split):
            head = {"video_path": sample.meta["path"], "text_prompt": sample.meta["prompt"]}
            text = json.dumps({**head, "video_info": sample.meta["video_info"]}, ensure_ascii=False)
            file.write(text.encode(errors="replace")[:-1] + b', "frames": [')
            for number, line in enumerate(sample.lines.raw()):
                file.write((b", " if number else b"") + line.rstrip(b"\n"))
            file.write(b"]}\n")
