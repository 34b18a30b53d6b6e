"""Checkpoints of transformers: what is in their folder, what it lacks, and what identifies them."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from datamodules.errors import ConfigError
from datamodules.hub import find_folder


class Part(NamedTuple):
    """A part of a checkpoint.

    Attributes:
        name: in messages.
        patterns: of its files, of which there must be one.
    """

    name: str
    patterns: tuple[str, ...]


CONFIG = Part("config", ("config.json",))
PROCESSOR = Part("processor", ("processor_config.json", "preprocessor_config.json"))
# without any of these, transformers makes a tokenizer up, without a word
TOKENIZER = Part("tokenizer", ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken"))
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

_WEIGHTS = ("*.safetensors", "*.bin")
_OF_HUB = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py", "*.safetensors")
_ALL = (*_OF_HUB, "*.bin")
_BLOCK_BYTES = 1 << 24


def find_checkpoint(name: str, option: str, parts: Sequence[Part], revision: str | None = None) -> Path:
    """The folder `name`, or that of the hub's cache, which has these parts, and weights.

    Args:
        name: a folder, or a name on the Hugging Face hub.
        option: that gave it, for messages.
        parts: which it must have.
        revision: branch, tag or commit on the hub; None: its main branch.

    Raises:
        ConfigError: there is none, or a part of it is missing.
    """
    wanted = [part.name for part in parts]
    advice = f"give a folder with its {', '.join(wanted)} and weights"
    folder = find_folder(name, option, _OF_HUB, partial(_is_whole, parts=parts), advice, revision)
    if lacks := lacking(folder, parts):
        raise ConfigError(f"{option} {name}: {folder} has no {lacks}")
    return folder


def lacking(folder: Path, parts: Sequence[Part]) -> str | None:
    """What `folder` lacks of these parts, and of weights; None: nothing."""
    for name, patterns in parts:
        if not _has(folder, patterns):
            return f"{name}: neither {' nor '.join(patterns)}" if len(patterns) > 1 else f"{name}: no {patterns[0]}"
    for index in folder.glob("*.index.json"):
        try:
            files = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"weights that can be read: {index.name} is damaged"
        if missing := sorted(file for file in files if not (folder / file).is_file()):
            return f"{missing[0]}, which {index.name} names"
    return None if _has(folder, _WEIGHTS) else f"weights: neither {' nor '.join(_WEIGHTS)}"


def sha256_of(folder: Path) -> str:
    """Of all files that matter, weights among them, and of their names."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _ALL for path in folder.glob(pattern)}):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _has(folder: Path, patterns: Iterable[str]) -> bool:
    return any(path.is_file() for pattern in patterns for path in folder.glob(pattern))


def _is_whole(folder: Path, parts: Sequence[Part]) -> bool:
    return lacking(folder, parts) is None
