"""The figures of parity that `benchmarks/holistic.py` prints."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from preprocess.holistic.landmarks import HolisticLandmarks

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_parity_tells_distances_and_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sys.modules.pop("holistic", None)
    import holistic

    shapes = {"pose": 33, "face": 468, "left_hand": 21, "right_hand": 21}
    reference = {part: np.zeros((2, num_points, 2)) for part, num_points in shapes.items()}
    reference["left_hand"][:] = np.nan
    points = {part: torch.zeros(2, num_points, 3) for part, num_points in shapes.items()}
    points["pose"][..., :2] = torch.tensor([3.0, 4.0])
    presence = torch.tensor([[True, True, False, True], [True, True, True, True]])
    found = HolisticLandmarks(**points, visibility=torch.zeros(2, 33), presence=presence)

    parity = holistic._parity(found, reference)
    assert parity == "12.5 % flips; p50 p99: pose 5.000 5.00, face 0.000 0.00, right_hand 0.000 0.00"
    assert holistic._parity(found, {}) == "no reference"
    nowhere = "0.0 % flips; p50 p99: pose 0.000 0.00, face 0.000 0.00, left_hand 0.000 0.00, right_hand 0.000 0.00"
    assert holistic._parity(found, holistic._points_of(found)) == nowhere
