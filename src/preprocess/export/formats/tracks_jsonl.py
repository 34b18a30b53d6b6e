"""`tracks-jsonl`: tracks as one JSON object a video. For each split two files:

| file                    | what                         |
|-------------------------|------------------------------|
| {split}.jsonl           | the object below, one a line |
| {split}_statistics.json | `statistics.py`              |

| field       | type   | meaning                                                                                      |
|-------------|--------|----------------------------------------------------------------------------------------------|
| video_path  | str    | relative to the corpus root                                                                  |
| text_prompt | str    |                                                                                              |
| video_info  | object | as in the samples' json: `width`, `height`, `fps`, `num_frames`, `duration`, …               |
| frames      | list   | of each frame taken: `frame_idx`, `timestamp` and `objects`, as in the samples' tracks.jsonl |

A line holds all frames of a video, and is as long: 0.8 GB for 5 objects through two hours.
"""

import json
from pathlib import Path

from datamodules.run.folder import Run
from preprocess.export.formats.jsonl import write_splits
from preprocess.export.reading import track_samples


def export(run: Run, dest: Path) -> list[Path]:
    """Write the files of the table above to `dest`.

    Raises:
        ConfigError: a file exists.
        RunError: these are no track samples, or a shard is damaged.
    """
    return write_splits(run, dest, _write_split)


def _write_split(path: Path, run: Run, split: str) -> None:
    with open(path, "wb") as file:
        for sample in track_samples(run, split):
            told = {"video_path": sample.meta["path"], "text_prompt": sample.meta["prompt"]}
            head = json.dumps({**told, "video_info": sample.meta["video_info"]}, ensure_ascii=False)
            file.write(head.encode(errors="replace")[:-1] + b', "frames": [')
            for number, line in enumerate(sample.lines.raw()):
                file.write((b", " if number else b"") + line.rstrip(b"\n"))
            file.write(b"]}\n")
