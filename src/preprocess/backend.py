"""The base class of backends: the models of a pipeline that offers several, named in YAML as `backend: class_path`."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch


class Backend(ABC):
    """The models of a pipeline, loaded once per rank. Each pipeline adds what its backends compute.

    The constructor finds the models and checks all that can be checked without reading weights, because every command
    that reads the configuration calls it. Public attributes are its arguments: they go into the fingerprint.

    Attributes:
        not_from_folder: options of the constructor that run code or send data elsewhere; see
            `preprocess.job.extractor.Extractor`.
    """

    not_from_folder: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def load(self, device: torch.device) -> None:
        """Load the weights onto `device`, the rank's.

        Raises:
            ConfigError: weights are missing, do not fit the configuration, or do not fit into memory.
        """

    @abstractmethod
    def provenance(self) -> dict[str, str]:
        """Return weights and versions that change results, by name, for the fingerprint."""
