"""`captions-json`: a JSON for each image, in a tree that mirrors the images'. `dest` becomes a folder of

| file                     | what                                                                                |
|--------------------------|-------------------------------------------------------------------------------------|
| {image}.json             | the object below; `sub/a.json` of `sub/a.jpg`, or `sub/a.jpg.json` where another    |
|                          | image is `sub/a`                                                                    |
| captions-statistics.json | {split: see `statistics.py`}                                                        |

| field    | type        | meaning                                                                                    |
|----------|-------------|--------------------------------------------------------------------------------------------|
| image    | str         | its path relative to the corpus                                                            |
| caption  | str or null | null if it failed                                                                          |
| model    | str or null | likewise                                                                                   |
| prompt   | str or null | likewise                                                                                   |
| status   | str         | `ok`, `truncated`, `empty`, `failed`                                                       |
| entities | list        | of models that ground them; else left out                                                  |
| reason   | str         | of a failure; else left out                                                                |

Images of shards that are not committed have none.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.run.folder import Run
from datamodules.run.retries import failures
from preprocess.export.mirror import as_json, beside, write_tree
from preprocess.export.reading import caption_samples


def export(run: Run, dest: Path) -> list[Path]:
    """Write the folder of the table above.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` holds something.
        RunError: these are no caption samples, a shard is damaged, or a path leads out of `dest` or is two images'.
    """

    def files(split: str) -> Iterator[tuple[str, PurePosixPath, bytes]]:
        for key, meta, document in _documents(run, split):
            yield key, beside(key, meta, ".json"), as_json(document)

    return write_tree(run, dest, "captions-statistics.json", files)


def _documents(run: Run, split: str) -> Iterator[tuple[str, Mapping[str, Any], dict[str, Any]]]:
    """(key, what tells its image, its JSON) of each image that is done."""
    for sample in caption_samples(run, split):
        told = {name: sample.meta.get(name) for name in ("model", "prompt", "status")}
        grounded = {"entities": sample.meta["entities"]} if sample.meta.get("entities") is not None else {}
        document = {"image": sample.meta.get("image"), "caption": sample.caption, **told, **grounded}
        yield sample.key, sample.meta, document
    for failure in failures(run, split=split):
        told = dict.fromkeys(("caption", "model", "prompt"))
        meta = failure.item.meta
        document = {"image": meta.get("image"), **told, "status": "failed", "reason": failure.reason}
        yield failure.item.key, meta, document
