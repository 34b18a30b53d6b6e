"""A model of transformers with its processor, in a folder of this machine or of the hub's cache."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor, __version__
from transformers.utils import logging

from datamodules.errors import ConfigError
from datamodules.hub import find_folder
from datamodules.model_errors import raising_config_error
from preprocess.checkpoints.digest import sha256_of_folder
from preprocess.checkpoints.dtypes import DTYPES, Dtype
from preprocess.checkpoints.parts import CONFIG, HUB_FILES, PROCESSOR, Part, missing_part
from preprocess.checkpoints.safety import require_safe

# buffers that older releases of transformers saved, and newer ones compute
_COMPUTED = ("position_ids", "relative_position_index", "num_batches_tracked")


@dataclass(frozen=True)
class ModelFolder:
    """A `Checkpoint` of transformers, found and checked; its weights are not in memory.

    Attributes:
        name: a folder or a name on the Hugging Face hub, as it was given.
        option: the option that gave the name, for messages.
        path: the folder of its files.
        trust_option: the option with which a user allows code of the checkpoint; None: it is never run.
        trust_remote_code: whether the user has allowed it.
    """

    name: str
    option: str
    path: Path
    trust_option: str | None = None
    trust_remote_code: bool = False

    @classmethod
    def find(
        cls,
        name: str,
        option: str,
        parts: Sequence[Part] = (),
        types: Sequence[str] = (),
        revision: str | None = None,
        trust_option: str | None = None,
        trust_remote_code: bool = False,
    ) -> "ModelFolder":
        """Return the folder or repository `name`; its files are downloaded if the hub's cache does not have them.

        Args:
            name: a folder, or a name on the Hugging Face hub.
            option: see the attributes.
            parts: parts that it must have besides config, processor and weights.
            types: accepted values of `model_type` in its config; (): any.
            revision: branch, tag or commit on the hub; None: its main branch.
            trust_option: see the attributes.
            trust_remote_code: see the attributes.

        Raises:
            ConfigError: there is no such model, it lacks a part, it has another type, or opening its files could do
                harm.
        """
        if revision and os.path.isdir(name):
            raise ConfigError(
                f"{option} {name} is a folder, which has no revision {revision}. Leave the revision out, or give a "
                "name on the Hugging Face hub"
            )
        required = (CONFIG, PROCESSOR, *parts)
        advice = f"Give a folder with its {', '.join(part.name for part in required)} and weights"
        path = find_folder(name, option, HUB_FILES, lambda folder: missing_part(folder, required), advice, revision)
        require_safe(path, f"{option} {name}")
        folder = cls(name, option, path, trust_option, trust_remote_code)
        if types and (model_type := folder.config().model_type) not in types:
            raise ConfigError(f"{option} {name} is a {model_type} model. Use one of type {' or '.join(types)}")
        return folder

    @property
    def commit(self) -> str | None:
        """The commit on the hub; None for a folder of the user, whose commit is not known."""
        return None if self.path == Path(self.name) else self.path.name

    def identity(self) -> str:
        """Return the commit on the hub, or the sha256 of all files that transformers opens, weights among them."""
        return self.commit or sha256_of_folder(self.path)

    def config(self) -> Any:
        """See `Checkpoint`."""
        return self._loaded(AutoConfig, "config")

    def processor(self) -> Any:
        """See `Checkpoint`."""
        return self._loaded(AutoProcessor, "processor")

    def dtype(self, dtype: Dtype) -> torch.dtype:
        """Return the dtype that `load` gives the weights; `auto`: the one in config.json, or else float32."""
        named: torch.dtype | None = DTYPES.get(dtype) or self.config().dtype
        return named or torch.float32

    def load(
        self, model_class: Any, dtype: Dtype, device: torch.device, allow_unexpected: bool = False, **options: Any
    ) -> Any:
        """Return the model with its weights on `device`, in evaluation mode.

        Args:
            model_class: a model class of transformers, or one of its auto classes.
            dtype: see `dtype`.
            device: of the rank.
            allow_unexpected: accept weights that the model does not have.
            options: other arguments of `from_pretrained`. A `device_map` has to put the model on `device`.

        Raises:
            ConfigError: the weights cannot be read, do not fit into memory, or are not those of this class and
                configuration: transformers would make up missing ones without an error.
        """
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        torch_dtype = self.dtype(dtype)
        # damaged files, shapes, an attention that is not installed, GPU memory, …
        with raising_config_error(f"{self.option} {self.name} cannot be loaded on {device}"):
            model, info = model_class.from_pretrained(
                self.path,
                dtype=torch_dtype,
                trust_remote_code=self.trust_remote_code,
                output_loading_info=True,
                **options,
            )
            if "device_map" not in options:
                model.to(device)
        unexpected = [key for key in info["unexpected_keys"] if not key.endswith(_COMPUTED)]
        require_same_names(
            f"{self.option} {self.name}", model_class, info["missing_keys"], () if allow_unexpected else unexpected
        )
        return model.eval()

    def _loaded(self, auto_class: Any, what: str) -> Any:
        with raising_config_error(f"{self.option} {self.name}: transformers {__version__} cannot load its {what}"):
            try:  # always with the argument: without it, transformers asks on standard input
                return auto_class.from_pretrained(self.path, trust_remote_code=self.trust_remote_code)
            except ValueError as error:
                if self.trust_option is None or "trust_remote_code" not in str(error):
                    raise
                raise ConfigError(
                    f"{self.option} {self.name} runs by code of its own. Read it in {self.path}, and if you trust it, "
                    f"set {self.trust_option} true"
                ) from error


def require_same_names(what: str, model_class: Any, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    """Check that stored weights are those of a model class.

    Args:
        what: where the weights are, to begin messages with.
        model_class: the class.
        missing: names of weights that the model has, but not the file.
        unexpected: names of weights that the file has, but not the model.

    Raises:
        ConfigError: there are such names.
    """
    for names, difference in ((missing, "lack"), (unexpected, "have besides")):
        if names:
            first, *others = sorted(names)
            more = f" and {len(others)} more" if others else ""
            raise ConfigError(
                f"{what}: its weights {difference} {first}{more}, so they are not those of {model_class.__name__} as "
                "its config has it"
            )
