"""Vision-language checkpoints: what is in their folder, whether it can be used, and what identifies it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoProcessor, __version__

from datamodules.errors import ConfigError
from datamodules.model_files import refusing
from preprocess.checkpoints.files import CONFIG, PROCESSOR, TOKENIZER, find_checkpoint, sha256_of

_PARTS = (CONFIG, PROCESSOR, TOKENIZER)
_BLIP = "blip"  # its `generate` overwrites each prompt's first token, padding or not, and drops its last


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
                one that only its own code can run, or BLIP.
        """
        if revision and Path(name).is_dir():
            raise ConfigError(f"--model.revision {revision} is one of the Hugging Face hub, but {name} is a folder")
        folder = find_checkpoint(name, "--model.model", _PARTS, revision)
        found = cls(name, folder, trust_remote_code)
        config = found.config()
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not trust_remote_code:
            raise ConfigError(f"--model.model {name} makes no texts of images and texts: it is a {found._type()}")
        if config.model_type == _BLIP:
            raise ConfigError(
                f"--model.model {name}: what BLIP says of an image depends on the other prompts of its batch: use a "
                "later model, such as BLIP-2"
            )
        return found

    @property
    def commit(self) -> str | None:
        """On the hub; None if it is not known, because a folder was given."""
        return None if self.folder == Path(self.name) else self.folder.name

    def identity(self) -> str:
        """The commit; or the sha256 of all files that matter, weights among them."""
        return self.commit or sha256_of(self.folder)

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
        with refusing(f"--model.model {self.name}: transformers {__version__} cannot load its {what}"):
            try:  # always with the option, without which transformers asks on standard input
                return auto_class.from_pretrained(self.folder, trust_remote_code=self.trust_remote_code)
            except ValueError as error:
                if "trust_remote_code" not in str(error):
                    raise
                raise ConfigError(
                    f"--model.model {self.name} runs by code of its own (type {self._type()}): read it in "
                    f"{self.folder}, and if you trust it, set --model.trust_remote_code true"
                ) from error

    def _type(self) -> str:
        try:
            return str(json.loads((self.folder / "config.json").read_text("utf-8")).get("model_type"))
        except (ValueError, AttributeError):
            return "damaged config.json"
