"""One line per sample with its json, of any kind of sample that has one.

For each split two files:

| file                    | content                                                            |
|-------------------------|--------------------------------------------------------------------|
| {split}.jsonl           | one JSON object per line: the `key` of a sample, then its json     |
| {split}_statistics.json | `statistics.py`                                                    |
"""

import json
from pathlib import Path
from typing import Any

from datamodules.errors import RunError
from datamodules.samples.fields import read_json
from preprocess.export.source import Source
from preprocess.export.split_files import write_splits


def export(source: Source[Any], dest: Path) -> list[Path]:
    """Write the files of the table above to `dest`.

    Args:
        source: a run of any kind of sample.
        dest: folder to write to.

    Raises:
        ConfigError: a file exists.
        RunError: the samples have no json, or a shard is damaged.
    """
    return write_splits(source, dest, [".jsonl"], lambda split, path: _write_split(path, source, split))


def _write_split(path: Path, source: Source[Any], split: str) -> None:
    committed = source.committed(split)
    with open(path, "w", encoding="utf-8", newline="\n", errors="replace") as file:
        for key, files in committed.opened() if committed else ():
            if "json" not in files:
                raise RunError(f"{key} has no json, which this format needs: it has {', '.join(files)}")
            try:
                line = {"key": key} | read_json(files["json"]) | {"key": key}  # first, and of the item
            except (ValueError, TypeError) as error:
                raise RunError(f"{key}.json is not a JSON object: {error}; run `preprocess verify`") from error
            print(json.dumps(line, ensure_ascii=False), file=file)
