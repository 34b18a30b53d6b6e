"""Holistic in torch on a GPU: images per second by precision, way and batch size, and the bound of the memory."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from holistic_images import photos
from holistic_parity import parity
from measuring import print_table, print_verdict
from preprocess.holistic.landmarks import HolisticLandmarks
from preprocess.holistic.models import HOLISTIC, find_models
from preprocess.holistic.replay import Replay
from preprocess.holistic.torch_landmarker import Precision, TorchLandmarker

LEAST = {"fp32": 3000.0, "fp16": 6000.0}  # targets on an H200, images/s
WAYS = {"eager": (False, False), "graph": (False, True), "compiled": (True, False), "compiled + graph": (True, True)}
_PHOENIX_FRAMES = 947_756
_TRAFFIC_MB = {False: 512, True: 250}  # of an image in fp32, by whether compiled


class Row(NamedTuple):
    """Measurement of one way to run the model on a GPU."""

    precision: Precision
    way: str
    batch: int
    per_second: float
    of_bound: float
    parity: str


def measure_gpu(options: argparse.Namespace) -> None:
    """Print the table and the verdicts of a GPU; see `holistic.py`."""
    assert torch.cuda.is_available(), "this machine has no GPU"
    bandwidth = _bandwidth()
    print(f"{torch.cuda.get_device_name()}: a copy moves {bandwidth / 1e12:.2f} TB/s")
    reference = _reference(options.reference)
    rows = []
    for precision in options.precisions:
        landmarker = TorchLandmarker(find_models(HOLISTIC, options.models), precision).to("cuda")
        for way in options.ways:
            for batch in options.batches:
                rows.append(_gpu_row(landmarker, precision, way, batch, reference, bandwidth, options))
                print(rows[-1], file=sys.stderr, flush=True)
    columns = ("", "batch", "images/s", "of the bound", "to MediaPipe's landmarks, px")
    lines = [
        (f"{row.precision}, {row.way}", f"{row.batch}", f"{row.per_second:,.0f}", f"{row.of_bound:.0%}", row.parity)
        for row in rows
    ]
    print_table(columns, lines)
    for precision in options.precisions:
        best = max(row.per_second for row in rows if row.precision == precision)
        hours = _PHOENIX_FRAMES / best / 3600
        target = f"≥ {LEAST[precision]:,.0f} images/s {precision} (H200)"
        print_verdict(target, f"{best:,.0f}, PHOENIX-2014-T in {hours:.2f} h", best >= LEAST[precision])


def _reference(path: Path | None) -> dict[str, Any]:
    """Return the images and MediaPipe's points of a file of `--make-reference`; without one, only the images."""
    if path is None:
        return {"photos": photos()}
    with np.load(path) as file:
        return dict(file)


def _gpu_row(
    landmarker: TorchLandmarker,
    precision: Precision,
    way: str,
    batch: int,
    reference: dict[str, Any],
    bandwidth: float,
    options: argparse.Namespace,
) -> Row:
    compiled, cuda_graph = WAYS[way]
    run = Replay(landmarker, compiled, cuda_graph)
    originals = reference["photos"]
    places = np.arange(max(batch, len(originals))) % len(originals)
    images = torch.from_numpy(originals[places]).permute(0, 3, 1, 2).contiguous().cuda()
    landmarks = [run(images[start : start + batch]) for start in range(0, len(images) - batch + 1, batch)]
    number = min(len(originals), batch * len(landmarks))
    joined = HolisticLandmarks(*(torch.cat(parts)[:number] for parts in zip(*landmarks, strict=True)))
    seen = {name: values[:number] for name, values in reference.items()}

    def step() -> None:
        run(images[:batch])
        torch.cuda.synchronize()

    step()
    per_second = median(_timed(step, batch, options.seconds) for _ in range(options.rounds))
    traffic = _TRAFFIC_MB[compiled] * 1e6 / (2 if precision == "fp16" else 1)
    return Row(precision, way, batch, per_second, per_second * traffic / bandwidth, parity(joined, seen))


def _timed(step: Callable[[], Any], images: int, seconds: float) -> float:
    """Return the images per second of `step`, which processes `images` of them, over about `seconds`."""
    started, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < seconds:
        step()
        done += images
    return done / spent


def _bandwidth() -> float:
    """Return the bytes that a copy within the GPU reads and writes per second."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def step() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    step()
    return 2 * source.numel() * _timed(step, 1, 1.0)
