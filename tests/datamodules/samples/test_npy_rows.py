from pathlib import Path

import numpy as np
import pytest

from datamodules.samples.arrays import to_npy
from datamodules.samples.npy_rows import NpyRows


@pytest.mark.parametrize("num_appends", [0, 1, 12])
@pytest.mark.parametrize(("dtype", "row_shape"), [("<f4", (4,)), ("<i4", ()), ("<f2", (3, 5))])
def test_rows_that_are_appended_give_the_bytes_of_the_whole_array(
    tmp_path: Path, dtype: str, row_shape: tuple[int, ...], num_appends: int
) -> None:
    values = np.arange(10 * num_appends * int(np.prod(row_shape))).reshape(10 * num_appends, *row_shape).astype(dtype)
    rows = NpyRows(tmp_path / "scratch", dtype, row_shape)
    for start in range(0, len(values), 10):
        rows.append(values[start : start + 10])
    file = rows.file()
    file.seek(0)
    assert file.read() == to_npy(values)
    rows.close()
    assert list((tmp_path / "scratch").iterdir()) == []
