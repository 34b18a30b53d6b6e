"""Vision-language checkpoints: what is in their folder, whether it can be used, and what identifies it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoProcessor, __version__

from datamodules.errors import ConfigError
from datamodules.hub import find_folder

_CONFIG = ("config.json",)
_PROCESSOR = ("processor_config.json", "preprocessor_config.json")
# of its tokenizer: without any of these, transformers makes one up, without a word
_TOKENIZER = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken")
_WEIGHTS = ("*.safetensors", "*.bin")
_OF_HUB = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py", "*.safetensors")
_ALL = (*_OF_HUB, "*.bin")
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Checkpoint:
    """A model with its processor, found and looked at; nothing of its weights is in memory.

    Attributes:
        name: as it was given: a folder, or a name on the Hugging Face hub.
        folder: where its files are.
        trust_remote_code: whether code that it brings may be run.
    """

    name: str
    folder: Path
    trust_remote_code: bool

    @classmethod
    def find(cls, name: str, revision: str | None = None, trust_remote_code: bool = False) -> "Checkpoint":
        """The checkpoint called `name`.

        Raises:
            ConfigError: there is none; a part of it is missing; it is no model that makes texts of images and texts, or
                one that only its own code can run.
        """
        if revision and Path(name).is_dir():
            raise ConfigError(f"--model.revision {revision} is one of the Hugging Face hub, but {name} is a folder")
        advice = "give a folder with its config, processor, tokenizer and weights"
        folder = find_folder(name, "--model.model", _OF_HUB, _is_whole, advice, revision)
        if lacking := _lacking(folder):
            raise ConfigError(f"--model.model {name}: {folder} has no {lacking}")
        found = cls(name, folder, trust_remote_code)
        if type(found.config()) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not trust_remote_code:
            raise ConfigError(f"--model.model {name} makes no texts of images and texts: it is a {found._type()}")
        return found

    @property
    def commit(self) -> str | None:
        """On the hub; None if it is not known, because a folder was given."""
        return None if self.folder == Path(self.name) else self.folder.name

    def identity(self) -> str:
        """The commit; or the sha256 of all files that matter, weights among them."""
        return self.commit or _sha256(self.folder)

    def config(self) -> Any:
        """The model's configuration.

        Raises:
            ConfigError: transformers does not know this kind of model, or only its own code can run it.
        """
        return self._loaded(AutoConfig, "config")

    def processor(self) -> Any:
        """The processor, new; it pads nothing.

        Raises:
            ConfigError: it cannot be made, or has no tokenizer, or takes no images.
        """
        processor = self._loaded(AutoProcessor, "processor")
        for part in ("tokenizer", "image_processor"):
            if getattr(processor, part, None) is None:
                raise ConfigError(
                    f"--model.model {self.name}: its processor, {type(processor).__name__}, has no {part}"
                )
        return processor

    def _loaded(self, auto_class: Any, what: str) -> Any:
        try:  # told either way: else it asks on standard input
            return auto_class.from_pretrained(self.folder, trust_remote_code=self.trust_remote_code)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            message = " ".join(str(error).split())
            if "trust_remote_code" in message:
                raise ConfigError(
                    f"--model.model {self.name} runs by code of its own (type {self._type()}): read it in "
                    f"{self.folder}, and if you trust it, set --model.trust_remote_code true"
                ) from error
            raise ConfigError(
                f"--model.model {self.name}: transformers {__version__} cannot load its {what}: {message[:300]}"
            ) from error

    def _type(self) -> str:
        try:
            return str(json.loads((self.folder / "config.json").read_text("utf-8")).get("model_type"))
        except (ValueError, AttributeError):
            return "damaged config.json"


def _has(folder: Path, patterns: Iterable[str]) -> bool:
    return any(path.is_file() for pattern in patterns for path in folder.glob(pattern))


def _lacking(folder: Path) -> str | None:
    """What `folder` lacks; None: nothing."""
    for patterns, what in ((_CONFIG, "config"), (_PROCESSOR, "processor"), (_TOKENIZER, "tokenizer")):
        if not _has(folder, patterns):
            return f"{what}: neither {' nor '.join(patterns)}" if len(patterns) > 1 else f"{what}: no {patterns[0]}"
    for index in folder.glob("*.index.json"):
        try:
            parts = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"weights that can be read: {index.name} is damaged"
        if missing := sorted(part for part in parts if not (folder / part).is_file()):
            return f"{missing[0]}, which {index.name} names"
    return None if _has(folder, _WEIGHTS) else f"weights: neither {' nor '.join(_WEIGHTS)}"


def _is_whole(folder: Path) -> bool:
    return _lacking(folder) is None


def _sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _ALL for path in folder.glob(pattern)}):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()
