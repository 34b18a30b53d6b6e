"""The parts of a model folder: config, processor, tokenizer and weights."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple


class Part(NamedTuple):
    """A part of a model folder.

    Attributes:
        name: of the part, for messages.
        patterns: glob patterns of its files. The folder must have a file that matches at least one of them.
    """

    name: str
    patterns: tuple[str, ...]


CONFIG = Part("config", ("config.json",))
PROCESSOR = Part("processor", ("processor_config.json", "preprocessor_config.json"))
# transformers makes up a tokenizer, without a warning, where all of these are missing
TOKENIZER = Part("tokenizer", ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken"))
WEIGHTS = Part("weights", ("*.safetensors", "*.bin"))
# glob patterns of the files that are downloaded from the hub (pickles, *.bin, are not), and of all that are opened
HUB_FILES = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py", "*.safetensors")
FILES = (*HUB_FILES, "*.bin")


def missing_part(folder: Path, parts: Sequence[Part]) -> str | None:
    """Return which of `parts`, or of the weights, `folder` does not have; None if it is complete.

    The text continues a message that ends in "has no".
    """
    for part in parts:
        if not _has(folder, part.patterns):
            return _described(part)
    for index in folder.glob("*.index.json"):  # names the files that large weights are split into
        try:
            files = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
            if outside := sorted(file for file in files if Path(file).name != file):
                return f"weights of its own: {index.name} names {outside[0]!r}, which is outside the folder"
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"readable weights: {index.name} is damaged"
        if missing := sorted(file for file in files if not (folder / file).is_file()):
            return f"{missing[0]}, which {index.name} names"
    return None if _has(folder, WEIGHTS.patterns) else _described(WEIGHTS)


def _described(part: Part) -> str:
    if len(part.patterns) == 1:
        return f"{part.name}: no {part.patterns[0]}"
    return f"{part.name}: neither {' nor '.join(part.patterns)}"


def _has(folder: Path, patterns: Iterable[str]) -> bool:
    return any(path.is_file() for pattern in patterns for path in folder.glob(pattern))
