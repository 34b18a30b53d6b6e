"""Refinement of points by their heatmaps (`RefineLandmarksFromHeatmapCalculator`)."""

from preprocess.holistic.arrays import Array, clip, device_of, namespace_of, sigmoid

KERNEL = 9  # px of the heatmap; the graph says 7, but mp.solutions loses that option and uses the default
_MIN_CONFIDENCE = 0.5  # min_confidence_to_refine, the default


def refine(points: Array, heatmaps: Array, kernel: int = KERNEL) -> Array:
    """Return `points` moved to the weighted mean of the heatmap around them, where its maximum is high enough.

    Args:
        points: float64 [N, P, 2]: x, y as fractions of the side.
        heatmaps: logits [N, H, W, P or more].
        kernel: side of the window around each point, in px of the heatmap.
    """
    xp = namespace_of(points)
    num_images, height, width, _ = heatmaps.shape
    num_points, reach = points.shape[1], kernel // 2
    steps = xp.arange(-reach, reach + 1, device=device_of(points))
    # truncated as in C++: points up to one pixel left of the heatmap, or above it, count as within it
    column, row = (xp.astype(xp.trunc(points[..., axis] * size), xp.int64) for axis, size in enumerate((width, height)))
    is_within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    window = xp.zeros_like(steps[:, None] + steps)
    columns, rows = column[..., None, None] + steps + window, row[..., None, None] + steps[:, None] + window
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    indices = clip(rows, 0, height - 1) * width + clip(columns, 0, width - 1)
    cells = (num_images, num_points, kernel**2)
    by_point = xp.permute_dims(xp.reshape(heatmaps, (num_images, height * width, -1)), (0, 2, 1))[:, :num_points]
    logits = xp.take_along_axis(by_point, xp.reshape(indices, cells), axis=2)
    confidence = sigmoid(xp.astype(logits, xp.float64)) * xp.reshape(inside, cells)
    total = clip(xp.sum(confidence, axis=-1), 1e-30)
    x, y = (
        xp.sum(confidence * xp.reshape(positions, cells), axis=-1) / size / total
        for positions, size in ((columns, width), (rows, height))
    )
    is_refined = is_within & (xp.max(confidence, axis=-1) >= _MIN_CONFIDENCE)
    return xp.where(is_refined[..., None], xp.stack([x, y], axis=-1), points)
