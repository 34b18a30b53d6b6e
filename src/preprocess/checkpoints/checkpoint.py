"""What a backend needs of a model, in whatever form it is stored."""

from typing import Any, Protocol

import torch

from preprocess.checkpoints.dtypes import Dtype


class Checkpoint(Protocol):
    """A stored model, found and checked, whose weights are not in memory yet: a `ModelFolder`, or a file."""

    def identity(self) -> str:
        """Return what identifies the weights, for the fingerprint of a run: a commit or a sha256."""
        ...

    def config(self) -> Any:
        """Return the model's configuration, of transformers.

        Raises:
            ConfigError: the configuration is damaged, or transformers does not know this kind of model.
        """
        ...

    def processor(self) -> Any:
        """Return a new processor of transformers, which makes the model's inputs.

        Raises:
            ConfigError: transformers cannot make it.
        """
        ...

    def load(self, model_class: Any, dtype: Dtype, device: torch.device) -> Any:
        """Return the model with its weights on `device`, in evaluation mode.

        Raises:
            ConfigError: the weights do not belong to this class and configuration, or do not fit into memory.
        """
        ...
