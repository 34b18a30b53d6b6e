"""Digests that identify the weights and the other files of a model in the fingerprint of a run."""

import hashlib
from pathlib import Path
from typing import Any

from preprocess.checkpoints.parts import FILES

_BLOCK_BYTES = 1 << 24


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of the content of `path`."""
    digest = hashlib.sha256()
    _update(digest, path)
    return digest.hexdigest()


def sha256_of_folder(folder: Path) -> str:
    """Return the sha256 of the names, sizes and contents of the model's files in `folder`, weights among them."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()}):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        _update(digest, path)
    return digest.hexdigest()


def _update(digest: Any, path: Path) -> None:
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
