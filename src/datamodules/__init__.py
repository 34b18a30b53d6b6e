"""All of Framemill that reads: corpora to frames, shards to batches. Training code imports this, and nothing else.

What it offers is loaded when it is first used, so that importing this package needs neither torch nor lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.card import features_of
    from datamodules.datamodule import FramesDataModule

__all__ = ["FramesDataModule", "features_of"]
_MODULES = {"FramesDataModule": "datamodules.datamodule", "features_of": "datamodules.card"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
