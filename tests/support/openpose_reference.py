"""A plain implementation of OpenPose's decoding, one image and one pair at a time, as a reference.

Written from the paper and from what pytorch-openpose and ControlNet do (`src/body.py`): enlarged maps, SciPy's filter,
loops. It shares no code with `preprocess.pose.decoding`.
"""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

# as printed there: joints from 1, and channels of the fields from 19
LIMB_SEQUENCE = (
    (2, 3), (2, 6), (3, 4), (4, 5), (6, 7), (7, 8), (2, 9), (9, 10), (10, 11), (2, 12), (12, 13), (13, 14), (2, 1),
    (1, 15), (15, 17), (1, 16), (16, 18), (3, 17), (6, 18),
)  # fmt: skip
MAP_INDEX = (
    (31, 32), (39, 40), (33, 34), (35, 36), (41, 42), (43, 44), (19, 20), (21, 22), (23, 24), (25, 26), (27, 28),
    (29, 30), (47, 48), (49, 50), (53, 54), (51, 52), (55, 56), (37, 38), (45, 46),
)  # fmt: skip

Peak = tuple[int, int, float, int]  # x, y, score, number


def plain_decode(
    pafs: NDArray[Any], heatmaps: NDArray[Any], size: tuple[int, int], stride: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(people [P, 18, 3] in px, scores [P]) of maps [38, h, w] and [19, h, w] of an image of `size` (height, width)."""
    field, heat = enlarge(pafs, size, stride), enlarge(heatmaps, size, stride)
    peaks: list[list[Peak]] = []
    for joint in range(18):
        peaks.append(find_peaks(heat[:, :, joint], sum(map(len, peaks))))
    connections = [connect(field[:, :, [c - 19 for c in MAP_INDEX[k]]], peaks, k) for k in range(19)]
    return put_together(connections, [peak for found in peaks for peak in found])


def enlarge(maps: NDArray[Any], size: tuple[int, int], stride: int) -> NDArray[Any]:
    """[H, W, C] of [C, h, w]."""
    values = np.ascontiguousarray(maps.transpose(1, 2, 0))
    values = cv2.resize(values, (0, 0), fx=stride, fy=stride, interpolation=cv2.INTER_CUBIC)[: size[0], : size[1]]
    return cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def find_peaks(heat: NDArray[Any], first: int) -> list[Peak]:
    blurred = gaussian_filter(heat, sigma=3)
    bordered = np.zeros((blurred.shape[0] + 2, blurred.shape[1] + 2), blurred.dtype)
    bordered[1:-1, 1:-1] = blurred
    above, below = bordered[:-2, 1:-1], bordered[2:, 1:-1]
    left, right = bordered[1:-1, :-2], bordered[1:-1, 2:]
    is_peak = (blurred > above) & (blurred >= below) & (blurred > left) & (blurred >= right) & (blurred > 0.1)
    places = zip(*np.nonzero(is_peak), strict=True)
    return [(int(x), int(y), float(heat[y, x]), first + number) for number, (y, x) in enumerate(places)]


def connect(field: NDArray[Any], peaks: list[list[Peak]], limb: int) -> list[tuple[int, int, float]]:
    """(peak, peak, score) of each limb."""
    starts, ends = (peaks[joint - 1] for joint in LIMB_SEQUENCE[limb])
    candidates = []
    for start in starts:
        for end in ends:
            score = along(field, start, end)
            if score is not None:
                candidates.append((start[3], end[3], score))
    candidates.sort(key=lambda candidate: candidate[2], reverse=True)
    chosen: list[tuple[int, int, float]] = []
    for a, b, score in candidates:
        if a not in [other[0] for other in chosen] and b not in [other[1] for other in chosen]:
            chosen.append((a, b, score))
    return chosen


def along(field: NDArray[Any], start: Peak, end: Peak) -> float | None:
    vector = np.subtract(end[:2], start[:2])
    norm = max(0.001, math.sqrt(vector[0] ** 2 + vector[1] ** 2))
    vector = vector / norm
    points = list(zip(np.linspace(start[0], end[0], 10), np.linspace(start[1], end[1], 10), strict=True))
    values = [float(np.dot(field[round(y), round(x)], vector)) for x, y in points]
    score = sum(values) / 10 + min(0.5 * field.shape[0] / norm - 1, 0)
    return score if sum(value > 0.05 for value in values) > 8 and score > 0 else None


def put_together(
    connections: list[list[tuple[int, int, float]]], candidates: list[Peak]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    subset = -np.ones((0, 20))  # 18 numbers of peaks, the score, how many there are
    for limb, (joint_a, joint_b) in enumerate(LIMB_SEQUENCE):
        a, b = joint_a - 1, joint_b - 1
        for start, end, score in connections[limb]:
            found = [row for row in range(len(subset)) if subset[row][a] == start or subset[row][b] == end]
            if len(found) == 2 and not ((subset[found[0], :18] >= 0) & (subset[found[1], :18] >= 0)).any():
                subset[found[0], :18] += subset[found[1], :18] + 1
                subset[found[0], 18:] += subset[found[1], 18:]
                subset[found[0], 18] += score
                subset = np.delete(subset, found[1], 0)
            elif found and subset[found[0]][b] < 0:
                subset[found[0]][b] = end
                subset[found[0]][19] += 1
                subset[found[0]][18] += candidates[end][2] + score
            elif not found and limb < 17:
                row = -np.ones(20)
                row[a], row[b], row[19] = start, end, 2
                row[18] = candidates[start][2] + candidates[end][2] + score
                subset = np.vstack([subset, row])
    kept = [row for row in subset if row[19] >= 4 and row[18] / row[19] >= 0.4]
    people = np.zeros((len(kept), 18, 3))
    for person, row in zip(people, kept, strict=True):
        for joint, number in enumerate(row[:18].astype(int)):
            if number >= 0:
                person[joint] = candidates[number][:3]
    return people, np.array([row[18] / row[19] for row in kept])
