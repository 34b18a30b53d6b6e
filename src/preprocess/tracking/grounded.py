"""GroundingDINO finds what the prompt names, SAM 2 or EdgeTAM carries it through the video."""

from functools import partial
from importlib.metadata import version

import torch

from preprocess.tracking.detection import Detector
from preprocess.tracking.options import Identity
from preprocess.tracking.sam2 import Segmenter
from preprocess.tracking.tracks import Tracks

_DECIDE = ("transformers", "tokenizers", "torchvision", "scipy")


class GroundedSegmenter:
    """A `TrackingBackend`.

    Args:
        detector: finds objects.
        segmenter: makes their masks.
        identity: which of them are the same.
    """

    def __init__(self, detector: Detector, segmenter: Segmenter, identity: Identity) -> None:
        self._detector, self._segmenter, self._identity = detector, segmenter, identity

    def load(self, device: torch.device) -> None:
        """See `TrackingBackend`."""
        self._detector.load(device)
        self._segmenter.load(device)

    def check(self, classes: tuple[str, ...]) -> None:
        """See `TrackingBackend`."""
        self._detector.query(classes)

    def start(self, classes: tuple[str, ...]) -> Tracks[object]:
        """See `TrackingBackend`."""
        detect = partial(self._detector.detect, self._detector.query(classes))
        return Tracks(detect, self._segmenter.start(), self._identity)

    def ingredients(self) -> dict[str, str]:
        """See `TrackingBackend`."""
        versions = {name: version(name) for name in _DECIDE}
        return {**self._detector.ingredients(), **self._segmenter.ingredients(), **versions}
