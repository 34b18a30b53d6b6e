"""Checkpoints that tracking uses: found, looked at, and loaded such that nothing of the weights is made up."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor, __version__
from transformers.utils import logging

from datamodules.errors import ConfigError
from datamodules.model_files import refusing
from preprocess.checkpoints.files import CONFIG, DTYPES, PROCESSOR, Part, find_checkpoint, sha256_of

# buffers that older releases saved, and which are computed
_COMPUTED = ("position_ids", "relative_position_index", "num_batches_tracked")


@dataclass(frozen=True)
class ModelFolder:
    """A model with its processor, found and looked at; nothing of its weights is in memory.

    Attributes:
        name: as it was given: a folder, or a name on the Hugging Face hub.
        option: that gave it, for messages.
        folder: where its files are.
    """

    name: str
    option: str
    folder: Path

    @classmethod
    def find(cls, name: str, option: str, types: Sequence[str], parts: Sequence[Part] = ()) -> "ModelFolder":
        """The checkpoint called `name`.

        Args:
            name: a folder, or a name on the hub.
            option: that gave it, for messages.
            types: `model_type` in its config: one of these.
            parts: which it must have besides config, processor and weights.

        Raises:
            ConfigError: there is none; a part of it is missing; it is a model of another type.
        """
        found = cls(name, option, find_checkpoint(name, option, (CONFIG, PROCESSOR, *parts)))
        model_type = found.config().model_type
        if model_type not in types:
            raise ConfigError(f"{option} {name} is a {model_type} model: give one of type {' or '.join(types)}")
        return found

    def identity(self) -> str:
        """The commit on the hub; or the sha256 of all files that matter, weights among them."""
        return sha256_of(self.folder) if self.folder == Path(self.name) else self.folder.name

    def config(self) -> Any:
        """The model's configuration.

        Raises:
            ConfigError: transformers cannot read it.
        """
        return self._loaded(AutoConfig, "config")

    def processor(self) -> Any:
        """The processor, new.

        Raises:
            ConfigError: transformers cannot make it.
        """
        return self._loaded(AutoProcessor, "processor")

    def load(self, model_class: Any, dtype: str, device: torch.device) -> Any:
        """The model with its weights, as they are used: on `device`, learning nothing.

        Args:
            model_class: of transformers.
            dtype: of `DTYPES`; `auto`: as the checkpoint says.
            device: of the rank.

        Raises:
            ConfigError: the weights are not those of this class and configuration, or the memory does not hold them.
        """
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        wanted = DTYPES.get(dtype) or self.config().dtype or torch.float32
        with refusing(f"{self.option} {self.name} cannot be loaded on {device}"):  # damaged files, GPU memory, …
            model, info = model_class.from_pretrained(self.folder, dtype=wanted, output_loading_info=True)
            model.to(device)
        unexpected = [key for key in info["unexpected_keys"] if not key.endswith(_COMPUTED)]
        for keys, what in ((info["missing_keys"], "lack"), (unexpected, "have besides")):
            if keys:
                refuse_keys(f"{self.option} {self.name}", model_class, what, keys)
        return model.eval()

    def _loaded(self, auto_class: Any, what: str) -> Any:
        with refusing(f"{self.option} {self.name}: transformers {__version__} cannot load its {what}"):
            # always with the option, without which transformers asks on standard input
            return auto_class.from_pretrained(self.folder, trust_remote_code=False)


def refuse_keys(what: str, model_class: Any, how: str, keys: Sequence[str]) -> None:
    """Say which weights are not those of a class.

    Raises:
        ConfigError: always.
    """
    first, *others = sorted(keys)
    more = f" and {len(others)} more" if others else ""
    raise ConfigError(
        f"{what}: its weights {how} {first}{more}, so they are not those of {model_class.__name__} as its config has it"
    )
