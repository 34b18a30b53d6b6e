"""Inputs of networks to crop, small enough for Triton's interpreter.

`python -m support.crop_cases FILE` crops them by the kernel and saves the results, a list of tensors. With
`TRITON_INTERPRET=1` it does so on the CPU; the variable counts only if it is set before Triton is imported.
"""

import sys
from collections.abc import Iterator
from itertools import product
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor

from preprocess.holistic.crop import FlatImages, coordinates
from preprocess.holistic.networks import Border
from preprocess.holistic.regions import Region
from preprocess.holistic.torch_landmarker import flatten_images

_SIZES = ((40, 31), (9, 100), (1, 1))  # height, width
_SQUARES = [  # center x and y, side, rotation; two for each image
    (15.0, 20.0, 40.0, 0.0),
    (0.0, 30.3, 27.0, 1.2),  # half outside
    (80.0, 4.0, 11.0, -2.5),
    (1e30, -1e30, 50.0, 0.3),  # outside
    (0.5, 0.5, 3.0, pi),
    (-40.0, 0.0, 1e30, 0.0),  # larger than any image
]


class CropCase(NamedTuple):
    """Arguments of `network_input`."""

    images: FlatImages
    region: Region
    side: int
    border: Border
    minimum: float
    dtype: torch.dtype
    layout: torch.memory_format


def crop_cases(device: str = "cpu") -> Iterator[CropCase]:
    """Return cases with both borders, dtypes and layouts, and one and two regions for each image."""
    random = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=random) for size in _SIZES]
    squares = torch.tensor(_SQUARES, dtype=torch.float64).view(len(_SIZES), 2, 4)
    borders: tuple[Border, ...] = ("zero", "replicate")
    for border, dtype, num_regions in product(borders, (torch.float32, torch.float16), (1, 2)):
        chosen = squares[:, -num_regions:].to(device)
        region = Region(chosen[..., :2], chosen[..., 2], chosen[..., 3])
        minimum = -1.0 if border == "zero" else 0.0
        layout = torch.contiguous_format if num_regions == 1 else torch.channels_last
        yield CropCase(flatten_images(images, torch.device(device)), region, 23, border, minimum, dtype, layout)


def cropped_by_kernel(case: CropCase) -> Tensor:
    """Return the input of the network by the Triton kernel."""
    from preprocess.holistic.crop_kernel import network_input_by_triton

    images, region, side, border, minimum, dtype, layout = case
    return network_input_by_triton(*images, coordinates(region, side), border == "zero", minimum, dtype, layout)


if __name__ == "__main__":
    torch.save([cropped_by_kernel(case) for case in crop_cases()], sys.argv[1])
