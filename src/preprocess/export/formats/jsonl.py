"""`jsonl`: what the json of each sample says, for any kind of sample that has one. For each split two files:

| file                    | what                                                               |
|-------------------------|--------------------------------------------------------------------|
| {split}.jsonl           | a JSON object a line for each sample: its `key`, then its json     |
| {split}_statistics.json | `statistics.py`                                                    |
"""

import json
from collections.abc import Callable
from pathlib import Path

from datamodules.errors import RunError
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples.fields import read_json
from preprocess.export.destination import all_or_none
from preprocess.export.reading import planned_splits
from preprocess.export.statistics import counts


def export(run: Run, dest: Path) -> list[Path]:
    """Write the files of the table above to `dest`.

    Raises:
        ConfigError: a file exists.
        RunError: the samples have no json, or a shard is damaged.
    """
    return write_splits(run, dest, _write_split)


def write_splits(run: Run, dest: Path, write_split: Callable[[Path, Run, str], None]) -> list[Path]:
    """What `write_split` writes for each split to its `{split}.jsonl` in `dest`; and the statistics.

    Raises:
        ConfigError: a file exists.
    """
    splits = planned_splits(run)
    paths = [dest / f"{split}{ending}" for split in splits for ending in (".jsonl", "_statistics.json")]
    with all_or_none(paths) as partials:
        for split, lines, described in zip(splits, partials[::2], partials[1::2], strict=True):
            write_split(lines, run, split)
            described.write_text(json.dumps(counts(run, split), indent=1) + "\n")
    return paths


def _write_split(path: Path, run: Run, split: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n", errors="replace") as file:
        for key, files in CommittedSamples(run, split).opened() if run.outcome(split).committed else ():
            if "json" not in files:
                raise RunError(f"{key} has no json, of which this format is made: it has {', '.join(files)}")
            try:
                line = {"key": key} | read_json(files["json"]) | {"key": key}
            except (ValueError, TypeError) as error:
                raise RunError(f"{key}.json is no JSON object: {error}; run `preprocess verify`") from error
            print(json.dumps(line, ensure_ascii=False), file=file)
