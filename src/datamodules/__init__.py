"""All of Framemill that reads: corpora to frames, shards to batches. Training code imports this, and nothing else.

`FramesDataModule` is loaded when it is first used, so that importing this package needs neither torch nor lightning.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.datamodule import FramesDataModule

__all__ = ["FramesDataModule"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from datamodules import datamodule

        return getattr(datamodule, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
