"""Holistic on one CPU core: by LiteRT, image by image and in groups, by MediaPipe's graph, and in torch.

All take turns for every image, so that noise of the machine meets all of them. Times are CPU time of the process, which
has one thread. The least and the median of the rounds are taken for each image, then the mean over the images.
"""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from torch import Tensor

from datamodules.malloc import keep_freed_memory
from holistic_parity import Points, mediapipe_points, parity, presence_of
from measuring import print_table, print_verdict
from preprocess.holistic import litert, litert_landmarker
from preprocess.holistic.crop import crop_by_opencv
from preprocess.holistic.landmarker import HolisticLandmarker
from preprocess.holistic.landmarks import HolisticLandmarks
from preprocess.mediapipe_graph import HolisticGraph

_LEAST_RATIO, _LEAST_SHARE = 1.25, 0.85
_MEDIAPIPE, _LITERT, _TORCH = "MediaPipe's graph", "litert", "torch"
_GROUPED = f"litert, groups of {litert_landmarker.GROUP}"
_KINDS = ("nobody", "no hands", "one hand", "both hands")  # of images, by what MediaPipe detects

Way = Callable[[Sequence[Tensor]], Any]


class Turn(NamedTuple):
    """CPU seconds of one call, for an image or a group.

    Attributes:
        whole: from the call to the result.
        networks: of these, within LiteRT's `invoke`.
        crops: of these, for making the networks' inputs by OpenCV.
    """

    whole: float
    networks: float
    crops: float


def measure_cpu(images: Sequence[Tensor], rounds: int, with_torch: bool) -> None:
    """Print times, shares, parity and verdicts for images uint8 [3, H, W]."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    spent = {"networks": 0.0, "crops": 0.0}
    landmarker = _timed_landmarker(spent)
    reference = mediapipe_points([_rows(image) for image in images])
    kinds = by_kind(images, reference)
    with HolisticGraph() as graph:
        ways: dict[str, Way] = {_MEDIAPIPE: lambda some: [graph(_rows(image)) for image in some], _LITERT: landmarker}
        if with_torch:
            ways[_TORCH] = HolisticLandmarker.load("cpu", backend="torch")
        keep_freed_memory()  # as in the workers
        turns = take_turns(kinds, ways, rounds, spent)
    _print_turns(turns, {kind: len(some) for kind, some in kinds.items()})
    _print_parity(images, ways, reference)
    _print_verdicts(turns)


def _rows(image: Tensor) -> NDArray[np.uint8]:
    rows: NDArray[np.uint8] = image.permute(1, 2, 0).numpy()
    return rows


def by_kind(images: Sequence[Tensor], reference: Points) -> dict[str, list[Tensor]]:
    """Return the images by what MediaPipe detects in them; see `_KINDS`."""
    kinds: dict[str, list[Tensor]] = {kind: [] for kind in _KINDS}
    for image, presence in zip(images, presence_of(reference), strict=True):
        kinds[_KINDS[1 + presence[2:].sum() if presence[0] else 0]].append(image)
    return {kind: some for kind, some in kinds.items() if some}


def _timed_landmarker(spent: dict[str, float]) -> HolisticLandmarker:
    """Return LiteRT's landmarker. It adds the CPU seconds within its networks and crops to `spent`."""

    class TimedInterpreter(Interpreter):  # type: ignore[misc]
        invoke = _timed(Interpreter.invoke, spent, "networks")

    setattr(litert, "Interpreter", TimedInterpreter)  # noqa: B010
    setattr(litert_landmarker, "crop_by_opencv", _timed(crop_by_opencv, spent, "crops"))  # noqa: B010
    return HolisticLandmarker.load("cpu")


def _timed(function: Callable[..., Any], spent: dict[str, float], part: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        started = time.process_time()
        result = function(*args)
        spent[part] += time.process_time() - started
        return result

    return call


def take_turns(
    kinds: Mapping[str, Sequence[Tensor]], ways: Mapping[str, Way], rounds: int, spent: dict[str, float]
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Return the turns of each kind of images and each way, [rounds, images or groups, 3]; see `Turn`."""
    turns: dict[tuple[str, str], list[list[Turn]]] = defaultdict(list)
    for number in range(-1, rounds):  # the first one is a warm-up
        for kind, images in kinds.items():
            taken: dict[str, list[Turn]] = defaultdict(list)
            for start in range(0, len(images), litert_landmarker.GROUP):
                group = images[start : start + litert_landmarker.GROUP]
                for image in group:
                    for name in list(ways)[:: 1 if number % 2 else -1]:
                        taken[name].append(_turn(ways[name], [image], spent))
                taken[_GROUPED].append(_turn(ways[_LITERT], group, spent))
            for name in taken if number >= 0 else ():
                turns[kind, name].append(taken[name])
        print(f"round {number} of {rounds}", file=sys.stderr)
    return {key: np.array(values) for key, values in turns.items()}


def _turn(way: Way, images: Sequence[Tensor], spent: dict[str, float]) -> Turn:
    spent.update(networks=0.0, crops=0.0)
    started = time.process_time()
    way(images)
    return Turn(time.process_time() - started, spent["networks"], spent["crops"])


def milliseconds(turns: NDArray[np.float64], num_images: int) -> NDArray[np.float64]:
    """Return the least and the median of the rounds, in ms an image."""
    seconds = turns[..., 0]
    least, median = float(seconds.min(0).sum()), float(np.median(seconds, 0).sum())
    return np.array([1000 * least / num_images, 1000 * median / num_images])


def shares(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shares of networks, of crops, and of the rest in all turns."""
    whole, networks, crops = turns.sum((0, 1))
    parts: NDArray[np.float64] = np.array([networks, crops, whole - networks - crops]) / whole
    return parts


def _print_turns(turns: Mapping[tuple[str, str], NDArray[np.float64]], num_images: Mapping[str, int]) -> None:
    rows: list[tuple[str, ...]] = []
    for (kind, name), values in turns.items():
        reference, ours = (milliseconds(turns[kind, way], num_images[kind]) for way in (_MEDIAPIPE, name))
        of_litert = [f"{share:.1%}" for share in shares(values)] if values[..., 1].any() else ["–"] * 3
        figures = [f"{value:.1f}" for value in ours] + [f"{ratio:.3f} x" for ratio in reference / ours]
        rows.append((f"{kind} ({num_images[kind]}): {name}", *figures, *of_litert))
    columns = ("images (number): way", "ms, least", "median", "speed to MediaPipe's, least", "median")
    print_table((*columns, "networks", "crops", "rest"), rows)


def _print_parity(images: Sequence[Tensor], ways: Mapping[str, Way], reference: Points) -> None:
    together: HolisticLandmarks = ways[_LITERT](images)
    for name in set(ways) - {_MEDIAPIPE}:
        print(f"{name} to MediaPipe's landmarks: {parity(ways[name](images), reference)}")
    alone = [ways[_LITERT]([image]) for image in images]
    num_same = sum(
        all(torch.equal(mine[0], ours[row]) for mine, ours in zip(landmarks, together, strict=True))
        for row, landmarks in enumerate(alone)
    )
    target = "groups of images give the same bits as single ones"
    print_verdict(target, f"{num_same} of {len(images)} images", num_same == len(images))


def _print_verdicts(turns: Mapping[tuple[str, str], NDArray[np.float64]]) -> None:
    if ("both hands", _GROUPED) not in turns:
        print("litert with both hands: not measured, as no image shows any; give some by --images")
        return
    reference, ours = (milliseconds(turns["both hands", way], 1) for way in (_MEDIAPIPE, _GROUPED))
    least, median = reference / ours
    target = f"{_GROUPED} (as in the workers) ≥ {_LEAST_RATIO} x MediaPipe's graph with both hands"
    print_verdict(target, f"{least:.3f} x (least times), {median:.3f} x (medians)", median >= _LEAST_RATIO)
    (share, *_) = shares(turns["both hands", _GROUPED])
    print_verdict(f"≥ {_LEAST_SHARE:.0%} of its time in the networks", f"{share:.1%}", share >= _LEAST_SHARE)
