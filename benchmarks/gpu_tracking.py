"""Part `tracking` of `gpu.py`: GroundingDINO, and SAM 2.1 that follows objects, in frames of noise.

The models have the published sizes and random weights, so that boxes mean nothing; every object is followed to the end.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from gpu_part import Busy, Measurement, Peak, Setting
from gpu_results import Figures
from preprocess.tracking.detection import Detector
from preprocess.tracking.grounded import GroundedSam2
from preprocess.tracking.options import Identity, Thresholds, Weights
from preprocess.tracking.prompt import classes_of
from tracking_models import make_grounding_dino, make_sam2, save_grounding_dino, save_sam2

_SIZE, _TINY_SIZE = (720, 1280), (48, 64)  # height and width in px
_PROMPT = "car. person."
_NUM_OBJECTS, _DETECTION_FREQUENCY = 3, 8
_SLICE, _TINY_SLICE = 16, 2  # frames
_ALL = Thresholds(0.0, 0.0)  # random weights give low scores


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Yield the measurements of this part."""
    yield "GroundingDINO tiny, 720p", partial(_detect, setting)
    for size in ("tiny", "large"):
        name = f"SAM 2.1 {size}, 720p, {_NUM_OBJECTS} objects, detection at each {_DETECTION_FREQUENCY}th frame"
        yield name, partial(_track, setting, size)


def _frames(setting: Setting) -> list[torch.Tensor]:
    number, size = (_TINY_SLICE, _TINY_SIZE) if setting.tiny else (_SLICE, _SIZE)
    return list(torch.randint(0, 256, (number, 3, *size), dtype=torch.uint8, device=setting.device))


@torch.inference_mode()
def _detect(setting: Setting) -> Figures:
    frames = _frames(setting)
    with tempfile.TemporaryDirectory() as scratch, Peak(setting) as peak:
        folder = (make_grounding_dino if setting.tiny else save_grounding_dino)(Path(scratch))
        detector = Detector(str(folder), _ALL, _weights(setting))
        detector.load(torch.device(setting.device))
        query = detector.query(classes_of(_PROMPT))
        detector.detect(query, frames)
    with Busy(setting) as busy:
        rate = setting.rate(lambda: detector.detect(query, frames), len(frames))
    return Figures(rate, "frames", note=f"{peak.megabytes:,.0f} MB in all; {busy.note}")


@torch.inference_mode()
def _track(setting: Setting, size: str) -> Figures:
    frames = _frames(setting)
    identity = Identity(detection_frequency=_DETECTION_FREQUENCY, max_objects=_NUM_OBJECTS)
    with tempfile.TemporaryDirectory() as scratch, Peak(setting) as peak:
        dino, sam2 = Path(scratch, "dino"), Path(scratch, "sam2")
        if setting.tiny:
            make_grounding_dino(dino), make_sam2(sam2)
        else:
            save_grounding_dino(dino), save_sam2(sam2, size)
        backend = GroundedSam2(str(dino), str(sam2), _ALL, identity, weights=_weights(setting))
        backend.load(torch.device(setting.device))
        tracker = backend.start(classes_of(_PROMPT))
        first, num_objects = len(frames), len(tracker.track(0, frames)[-1])

    def step() -> None:
        nonlocal first, num_objects
        num_objects = len(tracker.track(first, frames)[-1])
        first += len(frames)

    with Busy(setting) as busy:
        rate = setting.rate(step, len(frames))
    note = f"{num_objects} objects on the last frame; {peak.megabytes:,.0f} MB in all; {busy.note}"
    return Figures(rate, "frames", note=note)


def _weights(setting: Setting) -> Weights:
    return Weights(dtype="fp32" if setting.tiny else "bf16")
