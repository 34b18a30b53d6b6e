"""The `.npy` files of samples: what a kind declares of them, reading and writing.

A shard may come from someone else, so a header is trusted only if the file has as many bytes as it claims. NumPy itself
would first allocate the memory that the header asks for.
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from tokenize import TokenError
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from datamodules.samples.content import Content, size_of

_MAX_BYTES = 4 << 30  # of the values of an array; the boxes of 5 objects in two hours of video have 0.02 GB
_PREFACE_BYTES = 10  # magic and version, and the length of the rest of the header in two bytes
_NO_HEADER = (
    ValueError,
    TypeError,
    SyntaxError,
    TokenError,
    RecursionError,
    MemoryError,
    OverflowError,
)  # raised by NumPy


@dataclass(frozen=True)
class Array:
    """The declaration of an array.

    Attributes:
        dtype: NumPy's name of the type.
        shape: length of each dimension; a letter stands for a length that is the same in all arrays of a sample.
    """

    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"


class Header(NamedTuple):
    """The header of an `.npy` file: shape, type and order of the values, and the offset at which they start."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Literal["C", "F"]
    start: int


def read_header(content: Content) -> Header:
    """Return the header of the `.npy` file `content`.

    Raises:
        ValueError: `content` is not an `.npy` file, has another number of bytes than its header says, or holds Python
            objects.
    """
    num_bytes = size_of(content)
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    file.seek(0)
    preface = file.read(_PREFACE_BYTES)
    shape, is_fortran, dtype = _parse_header(preface + file.read(int.from_bytes(preface[-2:], "little")))
    start = file.tell()
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"its values have the type {dtype!s:.200}")
    if not all(0 <= length <= _MAX_BYTES for length in shape) or math.prod(shape) * dtype.itemsize > _MAX_BYTES:
        raise ValueError(f"its shape is {list(shape)!s:.200}; at most {_MAX_BYTES:,} bytes are read")
    if math.prod(shape) * dtype.itemsize != num_bytes - start:
        raise ValueError(f"it has {num_bytes - start:,} bytes, which are not {dtype} {list(shape)!s:.200}")
    return Header(shape, dtype, "F" if is_fortran else "C", start)


# NumPy parses a header as Python's source code, which takes longer than to copy the values of a small array. There is
# one header for each array of a kind and number of frames.
@lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    """Return (shape, whether the order is Fortran's, type) of the header of an `.npy` file.

    Raises:
        ValueError: it cannot be read.
    """
    file = io.BytesIO(header)
    try:
        if npy.read_magic(file) != (1, 0):
            raise ValueError("its format is not version 1.0 of .npy")
        shape, is_fortran, dtype = npy.read_array_header_1_0(file)
    except _NO_HEADER as error:
        raise ValueError(f"its header cannot be read: {error!s:.200}") from error
    return shape, is_fortran, dtype


def read_array(content: Content) -> NDArray[Any]:
    """Return the array in the `.npy` file `content`, as a copy that can be changed.

    Raises:
        ValueError: see `read_header`.
    """
    shape, dtype, order, start = read_header(content)
    if not isinstance(content, bytes):
        content.seek(start)
        content, start = content.read(), 0
    return np.ndarray(shape, dtype, content, start, order=order).copy(order)


def read_rows(content: Content, start: int, stop: int) -> NDArray[Any]:
    """Return the rows from `start` to before `stop` of the array in the `.npy` file `content`; only these are read.

    Raises:
        ValueError: see `read_header`; or the file is in Fortran's order, in which rows do not lie together.
        IndexError: the array does not have these rows.
    """
    header = read_header(content)
    if header.order != "C" or not header.shape:
        raise ValueError(f"its shape is {list(header.shape)} in the order {header.order}, so it has no rows to read")
    if not 0 <= start <= stop <= header.shape[0]:
        raise IndexError(f"rows {start} to {stop} of an array of {header.shape[0]:,} rows")
    row_bytes = math.prod(header.shape[1:]) * header.dtype.itemsize
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    file.seek(header.start + start * row_bytes)
    values = bytearray(file.read((stop - start) * row_bytes))
    return np.ndarray((stop - start, *header.shape[1:]), header.dtype, values)


def to_npy(values: NDArray[Any]) -> bytes:
    """Return `values` as an `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()


def read_arrays(files: Mapping[str, Content], declared: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
    """Return the `declared` arrays of the sample with these `files`, by ending.

    Raises:
        ValueError: a file is damaged, or has another type or shape than declared.
        KeyError: a file is missing.
    """
    arrays: dict[str, NDArray[Any]] = {}
    lengths: dict[str, int] = {}
    for ending, array in declared.items():
        try:
            values = read_array(files[ending])
        except ValueError as error:
            raise ValueError(f"{ending} is damaged: {error}") from error
        if values.dtype != array.dtype or not _fits(values.shape, array.shape, lengths):
            raise ValueError(f"{ending} is {values.dtype} {list(values.shape)}, where {array} is needed")
        arrays[ending] = values
    return arrays


def _fits(shape: tuple[int, ...], declared: tuple[int | str, ...], lengths: dict[str, int]) -> bool:
    """Return whether `shape` is as `declared`. The length of a letter that is not in `lengths` yet is added."""
    known = (
        length if isinstance(length, int) else lengths.setdefault(length, own)
        for length, own in zip(declared, shape, strict=False)
    )
    return len(shape) == len(declared) and shape == tuple(known)
