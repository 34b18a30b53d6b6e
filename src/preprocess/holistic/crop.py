"""Crops of image regions, bit by bit as OpenCV's remap makes them for MediaPipe (`ImageToTensorCalculator`).

Coordinates are rounded to 1/32 px, and four pixels are weighted with integers, in units of 1/1024; the result is uint8,
before it is scaled for a network. `torch.nn.functional.grid_sample` interpolates in floating point instead.

A coordinate is the sum of a value for the column of the crop and a value for its row, as in cv::warpAffine. Both are
integers, in 1/65536 px; sums in float64, as in cv::warpPerspective, take longer and round 1 of 4,000 differently.

| function         | runs                                                                                              |
|------------------|---------------------------------------------------------------------------------------------------|
| `crop`           | in torch, many regions of many images at once: the reference                                      |
| `network_input`  | the same and scaled for a network; on a GPU by one kernel in Triton (`crop_kernel`)               |
| `crop_by_opencv` | on the CPU, one region of one image: `cv2.remap` with the same coordinates, many times as fast.   |
|                  | `cv2.warpPerspective` would compute them itself, which OpenCV 5 does in floating point.           |
"""

import logging
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preprocess.holistic.arrays import Array, clip, device_of, namespace_of
from preprocess.holistic.networks import Border
from preprocess.holistic.regions import Region

MAX_SIDE_PX = 32_766  # of an image: from SHRT_MAX on, OpenCV refuses it, in MediaPipe too

_STEPS = 32  # per pixel: cv::INTER_TAB_SIZE
_UNITS = 1 << 16  # of coordinates, per pixel
_TO_STEPS = 11  # bits from 1/65536 px to 1/32 px
_MAX_PX = 2.0**22  # of a region's centre and side, so that its coordinates are exact in float64
_INT32 = np.iinfo(np.int32)  # its upper half are whole px, which remap takes as int16; no image extends further
_log = logging.getLogger(__name__)


class FlatImages(NamedTuple):
    """N images of any sizes, one after the other in one tensor.

    Attributes:
        pixels: uint8 [P]: of each image, all of its red, then green, then blue, row by row. More may follow.
        start: int64 [N]: index of the first value of each image in `pixels`.
        width: int64 [N], px.
        height: int64 [N], px.
    """

    pixels: Tensor
    start: Tensor
    width: Tensor
    height: Tensor


def network_input(
    images: FlatImages,
    region: Region,
    side: int,
    border: Border,
    minimum: float,
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> Tensor:
    """Return `dtype` [N * K, 3, side, side], from `minimum` to 1: K regions of each of N images; see `crop`, `scaled`.

    On a GPU it is one kernel, which computes the same bits. `layout` is that of the result in memory.
    """
    points = coordinates(region, side)
    if not points.is_cuda:
        return scaled(crop(images, points, border), minimum, dtype).contiguous(memory_format=layout)
    is_channels_last = layout == torch.channels_last  # an operator takes no layout
    values: Tensor = network_input_on_gpu(*images, points, border, minimum, dtype, is_channels_last)
    return values


def crop(images: FlatImages, coordinates: Tensor, border: str) -> Tensor:
    """Return uint8 [N, K, 3, side, side]: K regions of each of N images.

    Args:
        images: N images.
        coordinates: of the px of the crops [4, N, K, side]; see `coordinates`.
        border: the value outside of an image; see `Border`.
    """
    start, width, height = (values[:, None, None, None] for values in images[1:])
    x_along, x_down, y_along, y_down = coordinates
    columns = _taps(x_along[..., None, :] + x_down[..., None], width, border)
    rows = _taps(y_along[..., None, :] + y_down[..., None], height, border)
    taps = [
        (start + row * width + column, (row_weight * column_weight).int())
        for row, row_weight in rows
        for column, column_weight in columns
    ]
    colours = []
    for colour in range(3):
        total = torch.full_like(taps[0][1], _STEPS**2 // 2)
        for index, weight in taps:
            total += images.pixels.take(index + colour * width * height) * weight
        colours.append((total >> 10).byte())
    return torch.stack(colours, 2)


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

    x, y = _sums_in_int32(coordinates(region, side)[:, 0])
    first = cv2.merge([(values >> 16).astype(np.int16) for values in (x, y)])
    fraction, fraction_y = (values.astype(np.uint16) >> _TO_STEPS for values in (x, y))
    fraction_y *= _STEPS
    fraction += fraction_y
    mode = {"zero": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE}[border]
    cropped: Any = cv2.remap(image, first, fraction, cv2.INTER_LINEAR, borderMode=mode)
    return cropped  # type: ignore[no-any-return]


def _sums_in_int32(coordinates: NDArray[np.int64]) -> Iterator[NDArray[np.int32]]:
    """Yield x and y, int32 [side, side], of `coordinates` [4, side]; the nearest value where they do not fit."""
    fits = np.abs(coordinates).max() < 1 << 30  # nearly always, and several times as fast
    x_along, x_down, y_along, y_down = coordinates.astype(np.int32) if fits else coordinates
    for along, down in ((x_along, x_down), (y_along, y_down)):
        total = along + down[:, None]
        yield total if fits else total.clip(_INT32.min, _INT32.max).astype(np.int32)


def coordinates(region: Region, side: int) -> Array:
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


def _taps(values: Tensor, size: Tensor, border: str) -> list[tuple[Tensor, Tensor]]:
    """Return (index, weight in 1/32) of both pixels next to `values`, in 1/65536 px, along an axis of `size` px."""
    first, fraction = values >> 16, values >> _TO_STEPS & _STEPS - 1
    taps = []
    for index, weight in ((first, _STEPS - fraction), (first + 1, fraction)):
        inside = torch.minimum(index.clamp(min=0), size - 1)
        taps.append((inside, weight * (inside == index) if border == "zero" else weight))
    return taps


@cache
def _has_triton() -> bool:
    """Return whether Triton is installed and works; it compiles its launcher with the machine's C compiler."""
    try:
        from preprocess.holistic.crop_kernel import compile_kernel

        compile_kernel()
    except (ImportError, AssertionError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        _log.warning(
            "Triton does not work here (%s), so crops are computed in torch: the same values, but slower. "
            "It needs a C compiler and Python's headers",
            error,
        )
        return False
    return True


@torch.library.custom_op("framemill::network_input", mutates_args=())
def network_input_on_gpu(
    pixels: Tensor,
    start: Tensor,
    width: Tensor,
    height: Tensor,
    coordinates: Tensor,
    border: str,
    minimum: float,
    dtype: torch.dtype,
    is_channels_last: bool,
) -> Tensor:
    """Do what `network_input` does, by Triton where it works. torch.compile does not look into this."""
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    if _has_triton():
        from preprocess.holistic.crop_kernel import network_input_by_triton

        images = (pixels, start, width, height)
        return network_input_by_triton(*images, coordinates, border == "zero", minimum, dtype, layout)
    crops = crop(FlatImages(pixels, start, width, height), coordinates, border)
    return scaled(crops, minimum, dtype).contiguous(memory_format=layout)


@network_input_on_gpu.register_fake
def _(
    pixels: Tensor,
    start: Tensor,
    width: Tensor,
    height: Tensor,
    coordinates: Tensor,
    border: str,
    minimum: float,
    dtype: torch.dtype,
    is_channels_last: bool,
) -> Tensor:
    _, num_images, num_regions, side = coordinates.shape
    crops = pixels.new_empty(num_images * num_regions, 3, side, side, dtype=dtype)
    return crops.contiguous(memory_format=torch.channels_last if is_channels_last else torch.contiguous_format)
