"""Points moved to the middle of what their heatmaps show around them (`RefineLandmarksFromHeatmapCalculator`)."""

import torch
from torch import Tensor

KERNEL = 9  # px of the heatmap; the graph says 7, but mp.solutions loses that option, and runs the default
_LEAST_CONFIDENCE = 0.5  # min_confidence_to_refine, the default


def refine(points: Tensor, heatmaps: Tensor, kernel: int = KERNEL) -> Tensor:
    """float64 [N, P, 2]: x, y as fractions of the side, refined where the heatmap is sure.

    Args:
        points: float64 [N, P, 2], likewise.
        heatmaps: [N, H, W, P or more] logits.
        kernel: side of the window around each point, px of the heatmap.
    """
    (height, width), reach = heatmaps.shape[1:3], kernel // 2
    steps = torch.arange(-reach, reach + 1, device=points.device)
    # towards 0, as C++ does it: points up to one pixel left of the heatmap, or above it, are within
    column, row = ((points[..., axis] * size).trunc().long() for axis, size in enumerate((width, height)))
    is_within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    window = torch.zeros_like(steps[:, None] + steps)
    columns, rows = column[..., None, None] + steps + window, row[..., None, None] + steps[:, None] + window
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    places = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    logits = heatmaps.flatten(1, 2).transpose(1, 2)[:, : points.shape[1]].gather(2, places.flatten(2))
    confidence = (logits.view_as(places).double().sigmoid() * inside).flatten(2)
    total = confidence.sum(-1)
    mean = torch.stack(
        [(confidence * places.flatten(2)).sum(-1) / size for places, size in ((columns, width), (rows, height))], -1
    )
    is_sure = is_within & (confidence.amax(-1) >= _LEAST_CONFIDENCE)
    return torch.where(is_sure[..., None], mean / total.clamp(min=1e-30)[..., None], points)
