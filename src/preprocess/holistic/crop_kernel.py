"""Crops for networks as one kernel in Triton, on GPUs: `crop.crop` and `crop.scaled`, bit by bit.

The kernel reads the images' bytes and writes the networks' inputs. In torch, integers and coordinates of 950 bytes per
px of a crop go through memory in between.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# px of one program; a fused product and sum would be rounded once, where torch rounds both
_LAUNCH: dict[str, Any] = {"block": 512, "enable_fp_fusion": False}


def network_input_by_triton(
    pixels: Tensor,
    start: Tensor,
    width: Tensor,
    height: Tensor,
    coordinates: Tensor,
    is_zero: bool,
    minimum: float,
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> Tensor:
    """Return the input of a network; see `crop.network_input`.

    Args:
        pixels: uint8 [P], with `start`, `width` and `height` the images; see `crop.FlatImages`.
        start: int64 [N], contiguous like the next two.
        width: int64 [N], px.
        height: int64 [N], px.
        coordinates: int64 [4, N, K, side] of the px of the crops; see `crop.coordinates`.
        is_zero: whether values outside of an image are 0, instead of the nearest pixel's.
        minimum: what the value 0 of a pixel becomes; 255 becomes 1.
        dtype: of the result.
        layout: of the result in memory.
    """
    _, num_images, num_regions, side = coordinates.shape
    shape = (num_images * num_regions, 3, side, side)
    out = torch.empty(shape, dtype=dtype, device=pixels.device, memory_format=layout)
    programs = (len(out), triton.cdiv(side * side, _LAUNCH["block"]))
    values = (pixels, start, width, height, coordinates.contiguous(), out, minimum, (1 - minimum) / 255)
    on_device: Any = torch.cuda.device_of(pixels)  # type: ignore[no-untyped-call]
    with on_device:  # Triton launches on the current device
        _crop[programs](
            *values,
            num_regions=num_regions,
            side=side,
            is_zero=is_zero,
            colour_stride=out.stride(1),
            px_stride=out.stride(3),
            **_LAUNCH,
        )
    return out


def compile_kernel() -> Any:
    """Return the kernel as Triton compiles it, which shows that Triton works here; nothing runs on the GPU."""
    tensors = [torch.uint8, *[torch.int64] * 4, torch.float32]
    constants = {"num_regions": 1, "side": 1, "is_zero": True, "colour_stride": 1, "px_stride": 1}
    return _crop.warmup(*tensors, 0.5, 0.5, **constants, grid=(1, 1), **_LAUNCH)


@triton.jit
def _crop(
    pixels,
    starts,
    widths,
    heights,
    coordinates,
    out,
    minimum,
    scale,
    num_regions: tl.constexpr,
    side: tl.constexpr,
    is_zero: tl.constexpr,
    colour_stride: tl.constexpr,
    px_stride: tl.constexpr,
    block: tl.constexpr,
):
    """Compute `block` px of one region's crop, in all three colours; the programs are (region, block)."""
    region = tl.program_id(0).to(tl.int64)
    image = region // num_regions
    at = tl.program_id(1) * block + tl.arange(0, block)  # index of a px of the crop
    is_in_crop = at < side * side
    along = coordinates + region * side + at % side
    down = coordinates + region * side + at // side
    plane = tl.num_programs(0).to(tl.int64) * side  # of one of the four coordinates
    x = tl.load(along, is_in_crop) + tl.load(down + plane, is_in_crop)
    y = tl.load(along + 2 * plane, is_in_crop) + tl.load(down + 3 * plane, is_in_crop)
    width = tl.load(widths + image)
    height = tl.load(heights + image)
    column, right, column_weight, right_weight = _taps(x, width, is_zero)
    row, below, row_weight, below_weight = _taps(y, height, is_zero)
    first = pixels + tl.load(starts + image)
    for colour in tl.static_range(3):
        values = first + colour * width * height
        total = tl.load(values + row * width + column, is_in_crop).to(tl.int32) * (row_weight * column_weight)
        total += tl.load(values + row * width + right, is_in_crop).to(tl.int32) * (row_weight * right_weight)
        total += tl.load(values + below * width + column, is_in_crop).to(tl.int32) * (below_weight * column_weight)
        total += tl.load(values + below * width + right, is_in_crop).to(tl.int32) * (below_weight * right_weight)
        value = ((total + 512) >> 10).to(tl.float32) * scale + minimum
        place = out + region * 3 * side * side + colour * colour_stride + at * px_stride
        tl.store(place, value.to(out.dtype.element_ty), is_in_crop)


@triton.jit
def _taps(values, size, is_zero: tl.constexpr):
    """Return the indices of both pixels next to `values`, in 1/65536 px, along an axis; and their weights."""
    first = values >> 16
    second_weight = (values >> 11 & 31).to(tl.int32)
    first_weight = 32 - second_weight
    inside = tl.minimum(tl.maximum(first, 0), size - 1)
    second_inside = tl.minimum(tl.maximum(first + 1, 0), size - 1)
    if is_zero:
        first_weight = tl.where(inside == first, first_weight, 0)
        second_weight = tl.where(second_inside == first + 1, second_weight, 0)
    return inside, second_inside, first_weight, second_weight
