"""Tracking with GroundingDINO, which detects objects, and SAM 2 or EdgeTAM, which propagates their masks."""

from functools import partial
from importlib.metadata import version

import torch

from preprocess.tracking.backend import TrackingBackend
from preprocess.tracking.detection import Detector
from preprocess.tracking.options import Identity, Thresholds, Weights
from preprocess.tracking.sam2 import Segmenter
from preprocess.tracking.side_stream import SideStream, Start, at_once
from preprocess.tracking.tracks import Tracks

_PACKAGES = ("transformers", "tokenizers", "torchvision", "scipy")
_NUM_BATCHES = 4  # of detection; more are smaller, and use the GPU less well
_THRESHOLDS, _IDENTITY, _WEIGHTS = Thresholds(), Identity(), Weights()


class GroundedSam2(TrackingBackend):
    """Detects with GroundingDINO and segments with SAM 2 or EdgeTAM, both on the rank's device.

    On a GPU, objects are detected while the frames before are segmented: in up to four parts of a batch.

    Args:
        detector: a GroundingDINO; see `Detector`.
        segmenter: a SAM 2 or EdgeTAM; see `Segmenter`.
        thresholds: the lowest probabilities of a detection.
        identity: which masks are the same object.
        max_memory_frames: how many conditioning frames of an object are kept; see `Segmenter`.
        weights: how the weights of both models are loaded.

    Raises:
        ConfigError: a model cannot be found, is incomplete, or has another type; or a number is out of range.
    """

    def __init__(
        self,
        detector: str,
        segmenter: str,
        thresholds: Thresholds = _THRESHOLDS,
        identity: Identity = _IDENTITY,
        max_memory_frames: int = 4,
        weights: Weights = _WEIGHTS,
    ) -> None:
        self.detector, self.segmenter, self.thresholds, self.identity = detector, segmenter, thresholds, identity
        self.max_memory_frames, self.weights = max_memory_frames, weights
        self._detector = Detector(detector, thresholds, weights)
        self._segmenter = Segmenter(segmenter, max_memory_frames, weights)
        self._start: Start = at_once
        self._num_batches = 1

    def load(self, device: torch.device) -> None:
        """See `Backend`."""
        self._detector.load(device)
        self._segmenter.load(device)
        if device.type == "cuda":
            self._start, self._num_batches = SideStream(device), _NUM_BATCHES

    def check(self, classes: tuple[str, ...]) -> None:
        """See `TrackingBackend`."""
        self._detector.query(classes)

    def start(self, classes: tuple[str, ...]) -> Tracks[object]:
        """See `TrackingBackend`."""
        detect = partial(self._detector.detect, self._detector.query(classes))
        return Tracks(detect, self._segmenter.start(), self.identity, self._start, self._num_batches)

    def provenance(self) -> dict[str, str]:
        """See `Backend`."""
        versions = {name: version(name) for name in _PACKAGES}
        return {**self._detector.provenance(), **self._segmenter.provenance(), **versions}
