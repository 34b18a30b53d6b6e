"""Small folders and tars of images for the tests of what reads them."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image


def image_bytes(value: int = 0, ending: str = "png", size: tuple[int, int] = (8, 6)) -> bytes:
    """A gray image of `size` (width, height), every pixel `value`."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(buffer, {"jpg": "jpeg"}.get(ending, ending), lossless=True)
    return buffer.getvalue()


def write_tree(root: Path, *names: str, content: bytes = b"x") -> Path:
    """Files of these names, relative to `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_tar(path: Path, members: Mapping[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of these files, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
