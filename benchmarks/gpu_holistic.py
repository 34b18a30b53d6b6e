"""Part `holistic` of `gpu.py`: images per second in every way to run it, parity, memory, and share of the limit."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from gpu_part import Measurement, Peak, Setting
from gpu_results import COPY, Figures
from gpu_traffic import traffic_per_image
from holistic_parity import parity
from preprocess.holistic import crop, torch_landmarker
from preprocess.holistic.landmarks import HolisticLandmarks
from preprocess.holistic.networks import HolisticOptions
from preprocess.holistic.replay import Replay
from preprocess.holistic.torch_landmarker import Precision, TorchLandmarker

_IN_TORCH = "graph, crops in torch"  # all other ways crop by the kernel in Triton, on a GPU where that works
_LAYOUTS = {"graph, contiguous": torch.contiguous_format, "graph, channels_last": torch.channels_last}
_WAYS = {  # whether compiled, and whether captured as a CUDA graph
    "eager": (False, False),
    "graph": (False, True),
    **dict.fromkeys((_IN_TORCH, *_LAYOUTS), (False, True)),
    "compiled": (True, False),
    "compiled + graph": (True, True),
}
_SIZE = (260, 210)  # height and width in px, as in PHOENIX-2014-T
_COPY_BYTES = 1 << 30


class _Case(NamedTuple):
    precision: Precision
    way: str
    batch: int


# the most important first; what is compiled takes minutes, and comes last
_CASES = [
    *(_Case(precision, "graph", 64) for precision in ("fp32", "fp16")),
    *(_Case(precision, "eager", 64) for precision in ("fp32", "fp16")),
    *(_Case(precision, _IN_TORCH, 64) for precision in ("fp32", "fp16")),
    _Case("fp16", "graph, contiguous", 64),  # in the layout that the landmarker does not choose
    _Case("fp32", "graph, channels_last", 64),
    *(_Case(precision, "graph", batch) for batch in (128, 32, 256) for precision in ("fp32", "fp16")),
    *(_Case(precision, "eager", 256) for precision in ("fp32", "fp16")),
    *(_Case(precision, "compiled + graph", 64) for precision in ("fp16", "fp32")),
    *(_Case(precision, "compiled + graph", 128) for precision in ("fp16", "fp32")),
    *(_Case(precision, "compiled", 64) for precision in ("fp16", "fp32")),
]
_TINY_CASES = [_Case("fp32", _IN_TORCH, 1)]


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Yield the measurements of this part."""
    yield COPY, partial(_copy, setting)
    for case in _TINY_CASES if setting.tiny else _CASES:
        yield f"{case.precision}, {case.way}, batch {case.batch}", partial(_measure, setting, case)


def _copy(setting: Setting) -> Figures:
    """Measure the bytes that a copy within the device's memory reads and writes."""
    source = torch.empty(_COPY_BYTES >> 10 * setting.tiny, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    step = partial(target.copy_, source)
    step()
    return Figures(setting.rate(step, 1) * 2 * source.numel() / 1e9, "GB")


def _measure(setting: Setting, case: _Case) -> Figures:
    if case.way == _IN_TORCH:
        with patch.object(crop, "_has_triton", lambda: False):
            return _measure_pass(setting, case)
    return _measure_pass(setting, case)


def _measure_pass(setting: Setting, case: _Case) -> Figures:
    landmarker = _landmarker(setting, case.precision, _LAYOUTS.get(case.way))
    images = _images(setting, case.batch)
    is_compiled, is_graph = _WAYS[case.way]
    traffic = traffic_per_image(lambda size: landmarker(images[:1].expand(size, -1, -1, -1)), case.batch)
    with Peak(setting) as peak:
        run = Replay(landmarker, is_compiled, is_graph)
        run(images)
    rate = setting.rate(partial(run, images), case.batch)
    note = _parity(setting, run, case.batch)
    moved = traffic.fused if is_compiled else traffic.eager
    return Figures(rate, "images", moved / 1e6, peak.megabytes / case.batch, note)


@lru_cache(maxsize=2)
def _landmarker(setting: Setting, precision: Precision, layout: torch.memory_format | None) -> TorchLandmarker:
    """Return a landmarker on the device, in `layout` or in the one that it chooses."""
    names = HolisticOptions().networks
    if setting.models:  # not by `find_models`, which needs more packages
        models = {name: setting.models / f"{name}.tflite" for name in names}
    else:
        from preprocess.holistic.models import find_models

        models = find_models(names)
    with patch.object(torch_landmarker, "_fastest_layout", lambda *_: layout) if layout else nullcontext():
        return TorchLandmarker(models, precision, device=setting.device)


@lru_cache(maxsize=1)
def _reference(path: Path | None) -> dict[str, Any]:
    """Return images, uint8 [N, H, W, 3], and MediaPipe's points of each part; without a file, images of noise."""
    if path is None:
        return {"photos": np.random.default_rng(0).integers(0, 256, (1, *_SIZE, 3), np.uint8)}
    with np.load(path) as file:
        return dict(file)


def _images(setting: Setting, number: int, start: int = 0) -> Tensor:
    """Return uint8 [number, 3, H, W] on the device: images of the reference from `start` on, again and again."""
    photos = _reference(setting.reference)["photos"]
    places = np.arange(start, start + number) % len(photos)
    return torch.from_numpy(photos[places]).permute(0, 3, 1, 2).contiguous().to(setting.device)


def _parity(setting: Setting, run: Callable[[Tensor], HolisticLandmarks], batch: int) -> str:
    """Return how far the landmarks of the reference's images are from MediaPipe's, as text."""
    if setting.reference is None:
        return "no reference"
    reference = _reference(setting.reference)
    number = 2 if setting.tiny else len(reference["photos"])
    found = [run(_images(setting, batch, start)) for start in range(0, number, batch)]
    landmarks = HolisticLandmarks(*(torch.cat(parts)[:number] for parts in zip(*found, strict=True)))
    return parity(landmarks, {name: values[:number] for name, values in reference.items()})
