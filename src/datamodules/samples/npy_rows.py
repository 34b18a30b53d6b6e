"""An `.npy` file that grows row by row on the disk, for arrays that are too large for the memory."""

from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


class NpyRows:
    """An `.npy` file without a name: it is gone when it is closed, or with this process.

    NumPy leaves room in the header for the digits of the first dimension, so the rows can be written behind the place
    of the header before their number is known. The bytes are those of `np.save`.

    Args:
        folder: on the disk that holds the file; made if it is missing.
        dtype: NumPy's name of the type, such as `<f4`.
        row_shape: shape of one row.

    Raises:
        OSError: the file cannot be written; also raised by `append` and `file`.
    """

    def __init__(self, folder: Path, dtype: str, row_shape: Sequence[int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._dtype, self._row_shape = np.dtype(dtype), tuple(row_shape)
        self._num_rows = 0
        self._file: BinaryIO = TemporaryFile(dir=folder)
        self._file.seek(len(self._header()))

    def append(self, rows: NDArray[Any]) -> None:
        """Append `rows`, an array of the shape [N, *row_shape]."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self._num_rows += len(rows)

    def file(self) -> BinaryIO:
        """Return the file, complete; nothing can be appended any more."""
        self._file.seek(0)
        self._file.write(self._header())
        return self._file

    def close(self) -> None:
        """Remove the file."""
        with suppress(OSError):  # of a full disk, which `append` has reported
            self._file.close()

    def _header(self) -> bytes:
        shape = (self._num_rows, *self._row_shape)
        described: dict[str, Any] = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        header = BytesIO()
        npy.write_array_header_1_0(header, described)
        return header.getvalue()
