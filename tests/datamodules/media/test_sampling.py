import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import ConfigError
from datamodules.media.sampling import at_rate


@pytest.mark.parametrize(
    ("pts", "fps", "wanted"),
    [
        (np.arange(10) / 10, 5, [0, 2, 4, 6, 8]),
        (np.arange(10) / 10, 10, list(range(10))),
        (np.arange(10) / 10, 1000, list(range(10))),
        (np.arange(10) / 10, 1, [0]),
        (np.arange(11) / 10, 1, [0, 10]),
        (3 + np.arange(10) / 10, 5, [0, 2, 4, 6, 8]),
        (np.arange(60) * 1001 / 30000, 29.97, list(range(60))),
        (np.array([0, 0.1, 0.9, 1.0]), 2, [0, 1, 3]),
        (np.array([0.0]), 5, [0]),
        (np.array([]), 5, []),
    ],
)
def test_the_frames_on_show_at_the_times_are_taken(pts, fps, wanted):
    assert at_rate(pts, fps).tolist() == wanted


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=50), st.floats(0.1, 100))
def test_indices_ascend_begin_with_the_first_and_come_once(gaps, fps):
    pts = np.cumsum(gaps)
    indices = at_rate(pts, fps)
    assert indices[0] == 0
    assert (np.diff(indices) > 0).all()
    assert len(indices) <= len(pts)
    assert len(indices) <= (pts[-1] - pts[0]) * fps + 2


@pytest.mark.parametrize("fps", [0, -5.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_fails(fps):
    with pytest.raises(ConfigError, match="give a rate above 0"):
        at_rate(np.arange(3), fps)
