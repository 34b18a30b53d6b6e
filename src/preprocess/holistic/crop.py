"""Crops of image regions, bit by bit as OpenCV's remap makes them for MediaPipe (`ImageToTensorCalculator`).

Coordinates are rounded to 1/32 px, and four pixels are weighted with integers, in units of 1/1024; the result is uint8,
before it is scaled for a network. `torch.nn.functional.grid_sample` interpolates in floating point instead.

A coordinate is the sum of a value for the column of the crop and a value for its row, as in cv::warpAffine. Both are
integers, in 1/65536 px; sums in float64, as in cv::warpPerspective, take longer and round 1 of 4,000 differently.

| function         | runs                                                                                              |
|------------------|---------------------------------------------------------------------------------------------------|
| `crop`           | in torch, on a device, many regions of many images at once. Red, green and blue of a pixel are    |
|                  | packed into one int64, 20 bits apart, so that one product and one sum compute all three: 255 *    |
|                  | 1024 has 18 bits.                                                                                 |
| `crop_by_opencv` | on the CPU, one region of one image: `cv2.remap` with the same coordinates, eight times as fast.  |
|                  | `cv2.warpPerspective` would compute them itself, which OpenCV 5 does in floating point.           |
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocess.holistic.arrays import Array, clip, device_of, namespace_of
from preprocess.holistic.networks import Border
from preprocess.holistic.regions import Region

MAX_SIDE_PX = 32_766  # of an image: from SHRT_MAX on, OpenCV refuses it, in MediaPipe too

_LANE_BITS = 20  # of one colour in an int64
_ONES = 1 + (1 << _LANE_BITS) + (1 << 2 * _LANE_BITS)
_STEPS = 32  # per pixel: cv::INTER_TAB_SIZE
_UNITS = 1 << 16  # of coordinates, per pixel
_TO_STEPS = 11  # bits from 1/65536 px to 1/32 px
_MAX_PX = 2.0**22  # of a region's centre and side, so that its coordinates are exact in float64
_INT32 = np.iinfo(np.int32)  # its upper half are whole px, which remap takes as int16; no image extends further


class PackedImages(NamedTuple):
    """N images of any sizes, as rows of packed pixels.

    Attributes:
        pixels: int64 [N, P]: red, green and blue of each pixel, 20 bits apart. The first width * height are the image,
            row by row.
        width: int64 [N], px.
        height: int64 [N], px.
    """

    pixels: Tensor
    width: Tensor
    height: Tensor


def pack(values: Tensor) -> Tensor:
    """Return pixels uint8 [N, 3, P] packed into int64 [N, P]; see `PackedImages`."""
    red, green, blue = values.long().unbind(1)
    return red | green << _LANE_BITS | blue << 2 * _LANE_BITS


def crop(images: PackedImages, region: Region, side: int, border: Border) -> Tensor:
    """Return uint8 [N, K, 3, side, side]: K regions of each of N images.

    Args:
        images: N images.
        region: regions [N, K].
        side: of the crops, in px.
        border: the value outside of an image.
    """
    x_along, x_down, y_along, y_down = _coordinates(region, side)
    x = (x_along[..., None, :] + x_down[..., None]) >> _TO_STEPS
    y = (y_along[..., None, :] + y_down[..., None]) >> _TO_STEPS
    columns = _taps(x, images.width, border)
    rows = _taps(y, images.height, border)
    total = torch.zeros_like(x, dtype=torch.int64)
    for row, row_weight in rows:
        for column, column_weight in columns:
            indices = row * images.width[:, None, None, None] + column
            pixel = images.pixels.gather(1, indices.flatten(1)).view_as(indices)
            total = total + pixel * (row_weight * column_weight)
    total = (total + (_STEPS**2 // 2) * _ONES) >> 10
    return torch.stack([(total >> _LANE_BITS * colour & 0xFF).byte() for colour in range(3)], 2)


def scaled(values: Tensor, minimum: float, dtype: torch.dtype) -> Tensor:
    """Return uint8 `values` scaled to the range from `minimum` to 1, a net's input; the first two axes become one."""
    return (values.flatten(0, 1).float() * ((1 - minimum) / 255) + minimum).to(dtype)


def crop_by_opencv(image: NDArray[np.uint8], region: Region, side: int, border: Border) -> NDArray[np.uint8]:
    """Return uint8 [side, side, 3]: a region of one image.

    Args:
        image: uint8 [H, W, 3], with sides of up to `MAX_SIDE_PX`.
        region: one region [1].
        side: of the crop, in px.
        border: the value outside of the image.
    """
    import cv2  # here, because the pass in torch, which imports this module, does not need it

    x, y = _sums_in_int32(_coordinates(region, side)[:, 0])
    first = cv2.merge([(values >> 16).astype(np.int16) for values in (x, y)])
    fraction, fraction_y = (values.astype(np.uint16) >> _TO_STEPS for values in (x, y))
    fraction_y *= _STEPS
    fraction += fraction_y
    mode = {"zero": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE}[border]
    cropped: Any = cv2.remap(image, first, fraction, cv2.INTER_LINEAR, borderMode=mode)
    return cropped  # type: ignore[no-any-return]


def _sums_in_int32(coordinates: NDArray[np.int64]) -> Iterator[NDArray[np.int32]]:
    """Yield x and y, int32 [side, side], of `_coordinates` [4, side]; the nearest value where they do not fit."""
    fits = np.abs(coordinates).max() < 1 << 30  # nearly always, and several times as fast
    x_along, x_down, y_along, y_down = coordinates.astype(np.int32) if fits else coordinates
    for along, down in ((x_along, x_down), (y_along, y_down)):
        total = along + down[:, None]
        yield total if fits else total.clip(_INT32.min, _INT32.max).astype(np.int32)


def _coordinates(region: Region, side: int) -> Array:
    """Return where in the image the px of the crops are, in 1/65536 px, plus 1/64 px, so that shifts round to 1/32 px.

    Returns:
        int64 [4, ..., side]: summands of x for each column and for each row of the crops, and likewise of y.
    """
    xp = namespace_of(region.side)
    steps = xp.arange(side, dtype=xp.float64, device=device_of(region.side)) / side
    size = clip(region.side, greatest=_MAX_PX)[..., None] * _UNITS
    cos, sin = (function(region.rotation)[..., None] * size for function in (xp.cos, xp.sin))
    center = clip(region.center, -_MAX_PX, _MAX_PX) * _UNITS + _UNITS / _STEPS / 2
    x, y = center[..., :1] + (sin - cos) / 2, center[..., 1:] - (cos + sin) / 2
    parts = xp.stack([x + steps * cos, -steps * sin, y + steps * sin, steps * cos])
    return xp.astype(xp.round(parts), xp.int64)


def _taps(values: Tensor, size: Tensor, border: Border) -> list[tuple[Tensor, Tensor]]:
    """Return (index, weight in 1/32) of both pixels next to `values`, in 1/32 px, along an axis of `size` [N] px."""
    last = (size - 1)[:, None, None, None]
    first, fraction = values >> 5, values & (_STEPS - 1)
    taps = []
    for index, weight in ((first, _STEPS - fraction), (first + 1, fraction)):
        inside = torch.minimum(index.clamp(min=0).long(), last)
        taps.append((inside, weight * (inside == index) if border == "zero" else weight))
    return taps
