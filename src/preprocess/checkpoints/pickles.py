"""Files that `torch.save` wrote. They may come from someone else, so no code that they contain is run."""

import zipfile
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from datamodules.errors import ConfigError
from datamodules.model_errors import raising_config_error


def load_pickle(path: Path, what: str, mmap: bool = False) -> Any:
    """Return what `torch.save` wrote to `path`, with its tensors on the CPU. Code that it names is not run.

    Args:
        path: the file.
        what: what the file is, to begin messages with.
        mmap: leave the tensors in the file until they are used. The file must have torch's zip format.

    Raises:
        ConfigError: the file is damaged, needs code, or is compressed.
    """
    require_uncompressed(path, what)
    with raising_config_error(f"{what} cannot be read"):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def is_state_dict(value: object) -> TypeGuard[dict[str, Tensor]]:
    """Return whether `value` is a dictionary of names to plain tensors; see `is_plain_tensor`."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and is_plain_tensor(tensor) for name, tensor in value.items()
    )


def is_plain_tensor(value: object) -> TypeGuard[Tensor]:
    """Return whether `value` is a tensor with all its values in memory: not sparse, nested, quantized or on meta."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return False
    return not (value.is_meta or value.is_nested or value.is_quantized)


def require_uncompressed(path: Path, what: str) -> None:
    """Check that `path` is not a compressed zip archive: `torch.save` writes none, and one could fill the memory.

    Raises:
        ConfigError: it is compressed, or cannot be read.
    """
    with raising_config_error(f"{what} cannot be read"):
        if not zipfile.is_zipfile(path):  # torch's old format, or damaged
            return
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(member.file_size for member in archive.infolist())
    if num_bytes > path.stat().st_size:
        raise ConfigError(f"{what} is compressed ({num_bytes:,} bytes of content), which torch.save does not do")
