"""Heatmaps and part affinity fields of OpenPose's network, and how they are upsampled to the size of the images.

Upsampling and blurring are linear, so each is done along an axis by one matrix, which OpenCV and SciPy make. The maps
of joints are therefore never held in memory upsampled but not blurred, and fields are evaluated only along possible
limbs.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.samples.skeleton import JOINTS
from preprocess.device_copies import to_device

_SIGMA_PX = 3.0  # of the blur before peaks are searched for
_MAX_GATHERED = {"cpu": 1 << 17, "cuda": 1 << 26}  # cells of a map that are read at once: 512 kB stay in a CPU's cache


class Maps(NamedTuple):
    """The network's output for a batch of B images of one size, H x W px, at one scale.

    Attributes:
        pafs: part affinity fields, float [B, 38, h, w].
        heatmaps: float [B, 19, h, w]: of the 18 joints, and of where no joint is.
        rows: float32 [H, h], from `upsampling_matrix`: the rows of an image from those of a map.
        columns: float32 [W, w], likewise.
    """

    pafs: Tensor
    heatmaps: Tensor
    rows: NDArray[np.float32]
    columns: NDArray[np.float32]


@lru_cache(maxsize=64)
def upsampling_matrix(num_cells: int, used_px: int, size_px: int, stride: int) -> NDArray[np.float32]:
    """Return float32 [size_px, num_cells]: a line of an image as weighted sums of a line of a map.

    Args:
        num_cells: length of the map's line.
        used_px: how many of the `num_cells * stride` px that the network sees are image; the others are padding.
        size_px: length of the image's line.
        stride: px per cell.
    """
    import cv2

    cells: Any = np.eye(num_cells, dtype=np.float32)
    if stride > 1:
        cells = cv2.resize(cells, (num_cells, num_cells * stride), interpolation=cv2.INTER_CUBIC)
    cells = np.ascontiguousarray(cells.reshape(-1, num_cells)[:used_px])
    upsampled: Any = cv2.resize(cells, (num_cells, size_px), interpolation=cv2.INTER_CUBIC)
    return upsampled.reshape(size_px, num_cells)  # type: ignore[no-any-return]


class _SparseMatrix(NamedTuple):
    """An upsampling matrix without its zeros, which are most of it: T cells of the map for each of L px.

    Attributes:
        cells: int64 [L, T].
        weights: float32 [L, T].
    """

    cells: Tensor
    weights: Tensor


class Scale(NamedTuple):
    """`Maps` on their device, prepared for upsampling.

    Attributes:
        maps: see `Maps`.
        heatmaps: float [B * 18, h, w], of the joints alone.
        upsampling: matrices along y and x, to evaluate single points.
        blurring: float32 [H, h] and [w, W], upsampling and blur in one, to evaluate all points.
    """

    maps: Maps
    heatmaps: Tensor
    upsampling: tuple[_SparseMatrix, _SparseMatrix]
    blurring: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, maps: Maps) -> "Scale":
        """Return `maps` prepared for upsampling."""
        device, matrices = maps.heatmaps.device, (maps.rows, maps.columns)
        rows, columns = (_sparse(matrix, device) for matrix in matrices)
        blurred_rows, blurred_columns = (
            to_device(torch.from_numpy(_blurring_matrix(len(matrix))) @ torch.from_numpy(matrix), device)
            for matrix in matrices
        )
        heatmaps = maps.heatmaps[:, : len(JOINTS)].flatten(0, 1)
        return cls(maps, heatmaps, (rows, columns), (blurred_rows, blurred_columns.T.contiguous()))

    def blurred_heatmaps(self, part: slice) -> Tensor:
        """Return float32 [M, H, W]: a part of `heatmaps`, upsampled and blurred."""
        rows, columns = self.blurring
        blurred: Tensor = rows @ (self.heatmaps[part].float() @ columns)
        return blurred


def values_at(
    scales: Sequence[Scale], name: Literal["pafs", "heatmaps"], images: Tensor, channels: Tensor, points: Tensor
) -> Tensor:
    """Return float32 [N, C, K]: C channels of N images' maps, upsampled but not blurred, at K points.

    Args:
        scales: of the same images; the mean of them is returned.
        name: which maps.
        images: int64 [N].
        channels: int64 [N, C].
        points: int64 [N, K, 2]: y, x in px.
    """
    num_cells = max(y.cells.shape[1] * x.cells.shape[1] for y, x in (scale.upsampling for scale in scales))
    step = max(1, _MAX_GATHERED[images.device.type] // (channels.shape[1] * points.shape[1] * num_cells))
    values = [torch.zeros((0, channels.shape[1], points.shape[1]), device=images.device)]
    for start in range(0, len(images), step):
        part = [tensor[start : start + step] for tensor in (images, channels, points)]
        of_scales = [_values_of(getattr(scale.maps, name), scale.upsampling, *part) for scale in scales]
        values.append(torch.stack(of_scales).mean(0))
    return torch.cat(values)


def _values_of(
    maps: Tensor, upsampling: tuple[_SparseMatrix, _SparseMatrix], images: Tensor, channels: Tensor, points: Tensor
) -> Tensor:
    """Return what `values_at` returns, of the maps of one scale."""
    (rows, y_weights), (columns, x_weights) = (
        [tensor[points[..., axis]] for tensor in matrix] for axis, matrix in enumerate(upsampling)
    )  # four tensors [N, K, T]
    height, width = maps.shape[2:]
    cells = (rows[..., :, None] * width + columns[..., None, :]).flatten(2)
    weights = (y_weights[..., :, None] * x_weights[..., None, :]).flatten(2)
    starts = (images[:, None] * maps.shape[1] + channels) * (height * width)
    gathered = maps.reshape(-1)[starts[:, :, None, None] + cells[:, None]]
    return (gathered.float() * weights[:, None]).sum(-1)


def _sparse(matrix: NDArray[np.float32], device: torch.device) -> _SparseMatrix:
    num_taps = max(1, int(np.count_nonzero(matrix, axis=1).max()))
    cells = np.argsort(matrix == 0, axis=1, kind="stable")[:, :num_taps]
    weights = np.take_along_axis(matrix, cells, 1)
    return _SparseMatrix(to_device(torch.from_numpy(cells), device), to_device(torch.from_numpy(weights), device))


@lru_cache(maxsize=16)
def _blurring_matrix(size_px: int) -> NDArray[np.float32]:
    """Return float32 [size_px, size_px]: a blurred line as weighted sums of the line."""
    from scipy.ndimage import gaussian_filter1d

    blurring: NDArray[np.float32] = gaussian_filter1d(np.eye(size_px, dtype=np.float32), _SIGMA_PX, axis=0)
    return blurring
