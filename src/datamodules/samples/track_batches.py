"""Tensors of the objects in the lines of tracks, for training batches."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datamodules.samples.batching import stack
from datamodules.samples.track_lines import TrackLine, mask_of

if TYPE_CHECKING:
    from torch import Tensor


def object_tensors(lines: Sequence[TrackLine], size: tuple[int, int], info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a batch about the objects of one sample.

    Args:
        lines: of T frames.
        size: (height, width) in px of the frames in the batch.
        info: the sample's `video_info`, with the width and height in px of the frames that were tracked.

    Returns:
        `boxes` float32 [T, N, 4], `scores` float32 [T, N], `present` bool [T, N], `masks` bool [T, N, H, W], `obj_ids`
        int64 [N], ascending, and `labels`, a list of N.
    """
    import torch

    labels = {entry["obj_id"]: entry["label"] for line in lines for entry in line["objects"]}
    columns = {obj_id: column for column, obj_id in enumerate(sorted(labels))}
    shape = (len(lines), len(columns))
    boxes, scores = torch.zeros(*shape, 4), torch.zeros(shape)
    present, masks = torch.zeros(shape, dtype=torch.bool), torch.zeros(*shape, *size, dtype=torch.bool)
    scale = torch.tensor([size[1] / info["width"], size[0] / info["height"]] * 2)
    for row, line in enumerate(lines):
        for entry in line["objects"]:
            index = row, columns[entry["obj_id"]]
            boxes[index] = torch.tensor(entry["bbox"]) * scale
            scores[index], present[index] = entry["score"], True
            masks[index] = _resized(mask_of(entry["mask"]), size)
    return {
        "boxes": boxes,
        "scores": scores,
        "present": present,
        "masks": masks,
        "obj_ids": torch.tensor(list(columns), dtype=torch.int64),
        "labels": [labels[obj_id] for obj_id in columns],
    }


def pad_objects(values: "Sequence[Tensor]", num_objects: int, dim: int) -> "Tensor | list[Tensor]":
    """Return `values`, padded with zeros to `num_objects` in the dimension `dim`, and stacked."""
    import torch

    shapes = ([*value.shape[:dim], num_objects - value.shape[dim], *value.shape[dim + 1 :]] for value in values)
    return stack([torch.cat([value, value.new_zeros(shape)], dim) for value, shape in zip(values, shapes, strict=True)])


def _resized(mask: NDArray[np.bool_], size: tuple[int, int]) -> "Tensor":
    """Return bool [H, W] of `size`: each pixel is the nearest one of `mask`."""
    import torch

    pixels = torch.from_numpy(mask)
    if mask.shape == size:
        return pixels
    return torch.nn.functional.interpolate(pixels[None, None].byte(), size, mode="nearest-exact")[0, 0].bool()
