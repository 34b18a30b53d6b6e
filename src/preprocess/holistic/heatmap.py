"""Refinement of points by their heatmaps (`RefineLandmarksFromHeatmapCalculator`)."""

import torch
from torch import Tensor

KERNEL = 9  # px of the heatmap; the graph says 7, but mp.solutions loses that option and uses the default
_MIN_CONFIDENCE = 0.5  # min_confidence_to_refine, the default


def refine(points: Tensor, heatmaps: Tensor, kernel: int = KERNEL) -> Tensor:
    """Return `points` moved to the weighted mean of the heatmap around them, where its maximum is high enough.

    Args:
        points: float64 [N, P, 2]: x, y as fractions of the side.
        heatmaps: logits [N, H, W, P or more].
        kernel: side of the window around each point, in px of the heatmap.
    """
    (height, width), reach = heatmaps.shape[1:3], kernel // 2
    steps = torch.arange(-reach, reach + 1, device=points.device)
    # truncated as in C++: points up to one pixel left of the heatmap, or above it, count as within it
    column, row = ((points[..., axis] * size).trunc().long() for axis, size in enumerate((width, height)))
    is_within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    window = torch.zeros_like(steps[:, None] + steps)
    columns, rows = column[..., None, None] + steps + window, row[..., None, None] + steps[:, None] + window
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    indices = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    logits = heatmaps.flatten(1, 2).transpose(1, 2)[:, : points.shape[1]].gather(2, indices.flatten(2))
    confidence = (logits.view_as(indices).double().sigmoid() * inside).flatten(2)
    total = confidence.sum(-1)
    mean = torch.stack(
        [(confidence * cells.flatten(2)).sum(-1) / size for cells, size in ((columns, width), (rows, height))], -1
    )
    is_refined = is_within & (confidence.amax(-1) >= _MIN_CONFIDENCE)
    return torch.where(is_refined[..., None], mean / total.clamp(min=1e-30)[..., None], points)
