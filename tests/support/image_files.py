"""Small folders and tars of images, for tests of their readers."""

import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def image_bytes(value: int = 0, ending: str = "png", size: tuple[int, int] = (8, 6)) -> bytes:
    """A gray image of `size` (width, height), every pixel `value`."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(buffer, {"jpg": "jpeg"}.get(ending, ending), lossless=True)
    return buffer.getvalue()


def write_tree(root: Path, *names: str, content: bytes = b"x") -> Path:
    """Write files of these names below `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_tar(path: Path, members: Mapping[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar of these files in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def tiff_of(
    values: np.ndarray[Any, Any], order: str = "<", num_bits: int = 8, tags: Mapping[int, tuple[int, int] | None] = {}
) -> bytes:
    """A gray TIFF of [H, W] values, without compression.

    Args:
        values: unsigned, of at most `num_bits` bits each.
        order: of its bytes, "<" or ">".
        num_bits: 1, 2, 4, 8, 12, 16 or 32 of a value; rows are padded to whole bytes.
        tags: by number, (type, value) of one value each, in place of the usual ones; None leaves it out.
    """
    height, width = values.shape
    if num_bits in (16, 32):
        strip = values.astype(f"{order}u{num_bits // 8}").tobytes()
    else:
        bits = (values[..., None] >> np.arange(num_bits)[::-1]) & 1
        strip = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    strip += bytes(len(strip) % 2)
    usual = {256: (3, width), 257: (3, height), 258: (3, num_bits), 259: (3, 1), 262: (3, 1), 273: (4, 8), 277: (3, 1)}
    entries = {**usual, 278: (3, height), 279: (4, len(strip)), **tags}
    packed = [
        struct.pack(order + ("HHLH2x" if entry[0] == 3 else "HHLL"), tag, entry[0], 1, entry[1])
        for tag, entry in sorted(entries.items())
        if entry is not None
    ]
    header = struct.pack(order + "2sHL", b"II" if order == "<" else b"MM", 42, 8 + len(strip))
    return header + strip + struct.pack(order + "H", len(packed)) + b"".join(packed) + bytes(4)
