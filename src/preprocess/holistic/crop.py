"""Regions cut out of images, value by value as OpenCV's remap does it for MediaPipe (`ImageToTensorCalculator`).

Coordinates are rounded to 1/32 px, and four pixels are weighted in whole numbers, of 1/1024: so the result is uint8
before it is scaled for a model. `torch.nn.functional.grid_sample` computes something else.

A pixel's red, green and blue are held in one int64, 20 bits apart, so that one product and one sum do for all three:
255 · 1024 has 18 bits.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from preprocess.holistic.regions import Region

Border = Literal["zero", "replicate"]

_LANE = 20  # bits from colour to colour
_ONES = 1 + (1 << _LANE) + (1 << 2 * _LANE)
_STEPS = 32  # of a pixel: cv::INTER_TAB_SIZE
_FAR_PX = 2.0**22  # keeps coordinates of any region within an int32


class Pictures(NamedTuple):
    """Images of any sizes, one after the other's rows.

    Attributes:
        pixels: int64 [N, P]: red, green and blue of each pixel, 20 bits apart; row after row, in the first
            width · height places.
        width: int64 [N], px.
        height: int64 [N], px.
    """

    pixels: Tensor
    width: Tensor
    height: Tensor


def pack(values: Tensor) -> Tensor:
    """int64 [N, P], as `Pictures` holds pixels, of uint8 [N, 3, P]."""
    red, green, blue = values.long().unbind(1)
    return red | green << _LANE | blue << 2 * _LANE


def crop(pictures: Pictures, region: Region, side: int, border: Border) -> Tensor:
    """uint8 [N, K, 3, side, side]: each image's regions [N, K].

    Args:
        pictures: N images.
        region: K squares of each.
        side: of the results, px.
        border: what lies outside of an image: `zero`, or the nearest of its pixels.
    """
    x, y = _coordinates(region, side)
    columns = _taps(x, pictures.width, border)
    rows = _taps(y, pictures.height, border)
    total = torch.zeros_like(x, dtype=torch.int64)
    for row, above in rows:
        for column, left in columns:
            places = row * pictures.width[:, None, None, None] + column
            tap = pictures.pixels.gather(1, places.flatten(1)).view_as(places)
            total = total + tap * (above * left)
    total = (total + (_STEPS**2 // 2) * _ONES) >> 10
    return torch.stack([(total >> _LANE * colour & 0xFF).byte() for colour in range(3)], 2)


def scaled(values: Tensor, least: float, dtype: torch.dtype) -> Tensor:
    """uint8 values from `least` to 1, as a net wants them; the first two axes become one."""
    return (values.flatten(0, 1).float() * ((1 - least) / 255) + least).to(dtype)


def _coordinates(region: Region, side: int) -> tuple[Tensor, Tensor]:
    """int32 [N, K, side, side] each: where each value comes from, x and y in 1/32 px."""
    steps = torch.arange(side, device=region.side.device, dtype=torch.float64)
    along, down = steps, steps[:, None]
    size = region.side.clamp(max=_FAR_PX)[..., None, None] * _STEPS
    cos, sin = (function(region.rotation)[..., None, None] * size for function in (torch.cos, torch.sin))
    x, y = (each[..., None, None] * _STEPS for each in region.center.clamp(-_FAR_PX, _FAR_PX).unbind(-1))
    across = (x + (sin - cos) / 2) + along * (cos / side) - down * (sin / side)
    below = (y - (cos + sin) / 2) + along * (sin / side) + down * (cos / side)
    return across.round().int(), below.round().int()  # halves to the even one, as cvRound does


def _taps(values: Tensor, size: Tensor, border: Border) -> list[tuple[Tensor, Tensor]]:
    """The two pixels next to each value in 1/32 px, along an axis of `size` [N] px, and their weights in 1/32."""
    last = (size - 1)[:, None, None, None]
    first, fraction = values >> 5, values & (_STEPS - 1)
    taps = []
    for place, weight in ((first, _STEPS - fraction), (first + 1, fraction)):
        inside = torch.minimum(place.clamp(min=0).long(), last)
        taps.append((inside, weight * (inside == place) if border == "zero" else weight))
    return taps
