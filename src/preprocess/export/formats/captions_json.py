"""One JSON file per image, in a tree that mirrors the images.

`dest` becomes a folder of

| file                     | content                                                                             |
|--------------------------|-------------------------------------------------------------------------------------|
| {image}.json             | the object below; `sub/a.json` for `sub/a.jpg`, or `sub/a.jpg.json` if another      |
|                          | image is named `sub/a`                                                              |
| captions-statistics.json | {split: see `statistics.py`}                                                        |

| field    | type        | meaning                                                                                    |
|----------|-------------|--------------------------------------------------------------------------------------------|
| image    | str         | path of the image, relative to the corpus                                                  |
| caption  | str or null | null if the image failed                                                                   |
| model    | str or null | likewise                                                                                   |
| prompt   | str or null | likewise                                                                                   |
| status   | str         | `ok`, `truncated`, `empty`, `failed`                                                       |
| entities | list        | only of models that ground phrases                                                         |
| reason   | str         | only of a failure                                                                          |

Images of shards that are not committed have no file.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.run.failures import failures
from datamodules.samples.captions import CaptionSample, CaptionSamples
from preprocess.export.image_tree import beside, write_tree
from preprocess.export.json_text import as_json
from preprocess.export.source import Source

SAMPLES = CaptionSamples


def export(source: Source[CaptionSample], dest: Path) -> list[Path]:
    """Write the folder of the table above.

    Args:
        source: a run of captions.
        dest: a new or empty folder.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` is not empty.
        RunError: a shard is damaged, a path leads out of `dest`, or two images have the same path.
    """

    def files(split: str) -> Iterator[tuple[str, PurePosixPath, bytes]]:
        for key, meta, document in _documents(source, split):
            yield key, beside(key, meta, ".json"), as_json(document)

    return write_tree(source, dest, "captions-statistics.json", files)


def _documents(source: Source[CaptionSample], split: str) -> Iterator[tuple[str, Mapping[str, Any], dict[str, Any]]]:
    """Yield (key, fields that name its image, content of its file) of each image that has a caption or failed."""
    for sample in source.samples(split):
        document = {"image": sample.meta.get("image"), "caption": sample.caption}
        document |= {name: sample.meta.get(name) for name in ("model", "prompt", "status")}
        if sample.meta.get("entities") is not None:
            document["entities"] = sample.meta["entities"]
        yield sample.key, sample.meta, document
    for failure in failures(source.run, split=split):
        meta = failure.item.meta
        document = {"image": meta.get("image"), **dict.fromkeys(("caption", "model", "prompt"))}
        yield failure.item.key, meta, {**document, "status": "failed", "reason": failure.reason}
