"""Checkpoints of transformers: what is in their folder, what it lacks, and what identifies them."""

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from datamodules.errors import ConfigError
from datamodules.hub import find_folder
from datamodules.model_files import refusing


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
_TEMPLATES = "additional_chat_templates/*"  # which transformers opens, but captions do not use
_BLOCK_BYTES = 1 << 24
_MAX_TEXT_BYTES = 1 << 28  # of a file that is not weights; tokenizers have tens of megabytes
# numbers in config.json of modules that transformers makes one by one, also where no weights are for them
_COUNTS = re.compile(r"(?:.*_)?(?:layers?|depths?|blocks?|stages?|experts?)(?:_per_\w+)?")
_MAX_COUNT = 10_000
_MAX_LABELS = 1_000_000


def find_checkpoint(name: str, option: str, parts: Sequence[Part], revision: str | None = None) -> Path:
    """The folder `name`, or that of the hub's cache, which has these parts, and weights.

    Args:
        name: a folder, or a name on the Hugging Face hub.
        option: that gave it, for messages.
        parts: which it must have.
        revision: branch, tag or commit on the hub; None: its main branch.

    Raises:
        ConfigError: there is none, a part of it is missing, or a file of it is not one to open.
    """
    wanted = [part.name for part in parts]
    advice = f"give a folder with its {', '.join(wanted)} and weights"
    folder = find_folder(name, option, _OF_HUB, partial(_is_whole, parts=parts), advice, revision)
    if lacks := lacking(folder, parts):
        raise ConfigError(f"{option} {name}: {folder} has no {lacks}")
    _require_sound(folder, f"{option} {name}")
    return folder


def load_pickle(path: Path, what: str, mmap: bool = False) -> Any:
    """Return what `torch.save` wrote to `path`, its tensors on the CPU; none of the code that it names is run.

    Args:
        path: of the file.
        what: it is, to begin messages with.
        mmap: leave the tensors in the file, which has to be of torch's zip format, until they are used.

    Raises:
        ConfigError: it is damaged, needs code, or is compressed.
    """
    _require_uncompressed(path, what)
    with refusing(f"{what} cannot be read"):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def is_plain_tensor(value: object) -> TypeGuard[Tensor]:
    """Return whether `value` is a tensor with all its values in memory: not sparse, nested, quantized or on meta."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return False
    return not (value.is_meta or value.is_nested or value.is_quantized)


def lacking(folder: Path, parts: Sequence[Part]) -> str | None:
    """What `folder` lacks of these parts, and of weights; None: nothing."""
    for name, patterns in parts:
        if not _has(folder, patterns):
            return f"{name}: neither {' nor '.join(patterns)}" if len(patterns) > 1 else f"{name}: no {patterns[0]}"
    for index in folder.glob("*.index.json"):
        try:
            files = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
            if elsewhere := sorted(file for file in files if Path(file).name != file):
                return f"weights of its own: {index.name} names {elsewhere[0]!r}, which is not in it"
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"weights that can be read: {index.name} is damaged"
        if missing := sorted(file for file in files if not (folder / file).is_file()):
            return f"{missing[0]}, which {index.name} names"
    return None if _has(folder, _WEIGHTS) else f"weights: neither {' nor '.join(_WEIGHTS)}"


def sha256_of(folder: Path) -> str:
    """Of all files that matter, weights among them, and of their names."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _ALL for path in folder.glob(pattern) if path.is_file()}):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _has(folder: Path, patterns: Iterable[str]) -> bool:
    return any(path.is_file() for pattern in patterns for path in folder.glob(pattern))


def _require_sound(folder: Path, what: str) -> None:
    """Raise ConfigError if opening a file of `folder`, or making the model of its config.json, might do harm."""
    for path in (path for pattern in (*_ALL, _TEMPLATES) for path in folder.glob(pattern) if path.exists()):
        if not path.is_file():  # but a FIFO, a device
            raise ConfigError(f"{what}: {path} is not a regular file")
        if path.suffix == ".bin":
            _require_uncompressed(path, f"{what}: {path}")
        elif path.suffix != ".safetensors" and path.stat().st_size > _MAX_TEXT_BYTES:
            raise ConfigError(f"{what}: {path} is larger than {_MAX_TEXT_BYTES >> 20} MB, too large for what it is")
    with refusing(f"{what}: {folder / 'config.json'} cannot be read"):
        config = json.loads((folder / "config.json").read_text("utf-8"))
    values = [("", config)]
    while values:
        name, value = values.pop()
        if isinstance(value, dict):
            values += value.items()
        elif isinstance(value, list):
            values += ((name, each) for each in value)
        elif isinstance(value, str) and name.endswith("_implementation") and "/" in value:
            raise ConfigError(
                f"{what}: {folder / 'config.json'} has {name} = {value!r}, code of the hub, which is not run"
            )
        elif isinstance(value, (int, float)) and value > _limit(name):
            raise ConfigError(f"{what}: {folder / 'config.json'} has {name} = {value}, more than {_limit(name):,}")


def _limit(name: str) -> float:
    """Return the largest value that the field `name` of a config.json may have."""
    return _MAX_LABELS if name == "num_labels" else _MAX_COUNT if _COUNTS.fullmatch(name) else float("inf")


def _require_uncompressed(path: Path, what: str) -> None:
    """Raise ConfigError if `path` is a compressed zip archive, which `torch.save` does not write."""
    with refusing(f"{what} cannot be read"):
        if not zipfile.is_zipfile(path):  # torch's old format, or damaged
            return
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(member.file_size for member in archive.infolist())
    if num_bytes > path.stat().st_size:
        raise ConfigError(f"{what} is compressed ({num_bytes:,} bytes of content), which torch.save does not do")


def _is_whole(folder: Path, parts: Sequence[Part]) -> bool:
    return lacking(folder, parts) is None
