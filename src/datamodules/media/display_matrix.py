"""The display matrix: how the header of a video turns and mirrors its frames."""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


def display_matrix(frame: "VideoFrame") -> NDArray[np.int32] | None:
    """Return a decoded frame's display matrix.

    Args:
        frame: of PyAV.

    Returns:
        int32 [2, 2], in units of 1/65536; None if the file has none.
    """
    # not `frame.side_data`: frame and container would refer to each other, and live until the garbage collector runs
    matrix = _side_data_container()(frame).get("DISPLAYMATRIX")
    return None if matrix is None else np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2]


def is_turned(matrix: NDArray[np.int32] | None) -> bool:
    """Whether a display matrix turns a frame by 90 or 270 degrees, so that its stored rows become columns."""
    return matrix is not None and bool(abs(matrix[0, 1]) > abs(matrix[0, 0]))


def apply_display_matrix(pixels: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Turn and mirror `pixels`, [H, W, 3], by multiples of 90 degrees: x' = a x + c y, y' = b x + d y."""
    (a, b), (c, d) = matrix
    if is_turned(matrix):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


@cache
def _side_data_container() -> Any:
    """Return PyAV's class of a frame's side data, changed to accept every kind of it.

    PyAV 18 has names for 28 of FFmpeg's kinds, and raises ValueError at a frame that has another one (31: EXIF).
    Python's enums ask `_missing_` for unknown values; here it gives them a name.
    """
    from av.sidedata.sidedata import SideDataContainer, Type

    def unnamed(cls: type[Type], value: int) -> Any:
        kind: Any = object.__new__(cls)
        kind._name_, kind._value_ = f"UNNAMED_{value}", value
        return kind

    Type._missing_ = classmethod(unnamed)  # type: ignore[assignment]
    return SideDataContainer
