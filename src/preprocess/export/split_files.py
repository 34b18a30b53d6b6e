"""Files for each split of a run, with the statistics of the split beside them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from preprocess.export.destination import all_or_none
from preprocess.export.source import Source

_STATISTICS = "_statistics.json"


def write_splits(source: Source[Any], dest: Path, endings: Sequence[str], write: Callable[..., None]) -> list[Path]:
    """Write `{split}{ending}` to `dest` for each split and each of `endings`, and `{split}_statistics.json`.

    Args:
        source: the run.
        dest: folder to write to; made if it is missing.
        endings: of the files of a split, as `.jsonl`.
        write: called with a split and the path of each of its files, which it writes.

    Returns:
        The files, split by split.

    Raises:
        ConfigError: a file exists.
    """
    endings = (*endings, _STATISTICS)
    files = [dest / f"{split}{ending}" for split in source.splits for ending in endings]
    with all_or_none(files) as partials:
        for index, split in enumerate(source.splits):
            *paths, statistics = partials[index * len(endings) : (index + 1) * len(endings)]
            write(split, *paths)
            statistics.write_text(json.dumps(source.statistics(split), indent=1) + "\n")
    return files
