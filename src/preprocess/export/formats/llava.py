"""Conversations about images, as LLaVA and the tools that take its JSON are fine-tuned on.

| file in `dest`  | content                                                                                            |
|-----------------|----------------------------------------------------------------------------------------------------|
| {split}.json    | a list of the objects below: LLaVA's `--data_path`                                                 |
| images/{image}  | the images, if the run stores them: `sub/a.jpg` for `sub/a.png` stored as JPEG                     |
| statistics.json | {split: see `statistics.py`}, and `empty`: number of captions without text, which are left out     |

| field of an object | meaning                                                                                         |
|--------------------|-------------------------------------------------------------------------------------------------|
| id                 | key of the item                                                                                 |
| image              | path of the image, relative to `images`, or to the corpus if the run stores no images: LLaVA's  |
|                    | `--image_folder`                                                                                |
| conversations      | [{"from": "human", "value": "<image>\\n" and prompt}, {"from": "gpt", "value": caption}]        |
| status             | `ok` or `truncated`                                                                             |

LLaVA puts an image wherever a text says `<image>`, so captions and prompts with this word are refused.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.errors import ConfigError
from datamodules.samples.captions import CaptionSample, CaptionSamples
from preprocess.export.destination import whole_folder
from preprocess.export.image_tree import create, image_path, stored_path
from preprocess.export.json_text import as_json, write_list
from preprocess.export.source import Source

SAMPLES = CaptionSamples

_IMAGE = "<image>"


def export(source: Source[CaptionSample], dest: Path, prompt: str | None = None) -> list[Path]:
    """Write the folder of the table above.

    Args:
        source: a run of captions.
        dest: a new or empty folder.
        prompt: what the human asks; without it, the prompt that the caption was made with.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` is not empty, or a caption or prompt contains `<image>`.
        RunError: a shard is damaged, a path leads out of `dest`, or two images have the same path.
    """
    empty: Counter[str] = Counter()
    with whole_folder(dest) as folder:
        for split in source.splits:
            with open(folder / f"{split}.json", "x", encoding="utf-8", newline="\n", errors="replace") as file:
                write_list(file, _conversations(source, split, folder, prompt, empty))
                file.write("\n")
        described = {split: {**source.statistics(split), "empty": empty[split]} for split in source.splits}
        create(folder, PurePosixPath("statistics.json"), as_json(described), "all")
    return [dest]


def _conversations(
    source: Source[CaptionSample], split: str, folder: Path, prompt: str | None, empty: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Yield the objects of a split, write their images below `folder`, and count the captions without text."""
    for sample in source.samples(split):
        if not sample.caption.strip():
            empty[split] += 1
            continue
        question = (sample.meta.get("prompt") or "") if prompt is None else prompt
        if _IMAGE in question or _IMAGE in sample.caption:
            raise ConfigError(
                f"{sample.key} has {_IMAGE} in its caption or prompt, which LLaVA replaces with an image. "
                "Leave it out with --exclude, or set --prompt"
            )
        yield {
            "id": sample.key,
            "image": str(_written(sample, folder / "images")),
            "conversations": [
                {"from": "human", "value": f"{_IMAGE}\n{question}".rstrip("\n")},
                {"from": "gpt", "value": sample.caption},
            ],
            "status": sample.meta.get("status"),
        }


def _written(sample: CaptionSample, folder: Path) -> PurePosixPath:
    """Write the image below `folder`, if it is stored. Returns its path there, or else its path in the corpus."""
    if sample.image is None:
        return image_path(sample.key, sample.meta)
    path = stored_path(sample.key, sample.meta, sample.image_ending)
    create(folder, path, sample.image, sample.key)
    return path
