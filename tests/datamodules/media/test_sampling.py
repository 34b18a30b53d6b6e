from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datamodules.errors import ConfigError, DecodeError
from datamodules.media.sampling import AtRate, AtTimes, Every, NearTimes, Uniform, between, frame_rate


@pytest.mark.parametrize(
    ("pts", "fps", "expected"),
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
def test_a_rate_takes_the_frames_on_screen_at_its_times(
    pts: NDArray[np.float64], fps: float, expected: list[int]
) -> None:
    assert AtRate(fps).indices(pts).tolist() == expected


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=50), st.floats(0.1, 100))
def test_a_rate_takes_ascending_indices_from_the_first_frame_on(gaps: list[float], fps: float) -> None:
    pts = np.cumsum(gaps)
    indices = AtRate(fps).indices(pts)
    assert indices[0] == 0
    assert (np.diff(indices) > 0).all()
    assert len(indices) <= len(pts)
    assert len(indices) <= (pts[-1] - pts[0]) * fps + 2


@pytest.mark.parametrize(
    ("pts", "nominal", "rate"),
    [
        ((np.arange(60) * 1001 / 30).round() / 1000, 29.97003, 29.97003),  # as Matroska rounds
        (np.arange(60) / 12.5, 25.0, 12.5),
        (np.arange(60) / 12.5, None, 12.5),
        (np.array([0, 0.04, 0.08, 2.08]), 25.0, 1.442308),
        (np.array([7.0]), 25.0, 25.0),
        (np.array([7.0]), None, None),
        (np.array([7.0, 7.0]), 25.0, None),
    ],
)
def test_the_frame_rate_is_the_nominal_one_if_the_times_agree(
    pts: NDArray[np.float64], nominal: float | None, rate: float | None
) -> None:
    assert frame_rate(pts, nominal) == rate


@pytest.mark.parametrize("fps", [0, -5.0, float("nan"), float("inf")])
def test_an_invalid_rate_fails(fps: float) -> None:
    with pytest.raises(ConfigError, match="give a rate above 0"):
        AtRate(fps)


@given(st.integers(1, 40), st.integers(1, 500))
def test_uniform_is_linspace_from_the_first_to_the_last(count: int, total: int) -> None:
    for short in ("fail", "repeat", "pad"):
        if total < count and short == "fail":
            with pytest.raises(DecodeError, match=f"it has {total} frames, and {count} are requested"):
                Uniform(count, short).indices(np.arange(total) / 25)
            continue
        indices = Uniform(count, short).indices(np.arange(total) / 25)
        if total < count and short == "pad":
            assert indices.tolist() == [*range(total), *([total - 1] * (count - total))]
        else:
            assert indices.tolist() == [int(index) for index in np.linspace(0, total - 1, count)]


def test_every_takes_each_step_from_the_first_frame() -> None:
    assert Every().indices(np.arange(5) / 25).tolist() == [0, 1, 2, 3, 4]
    assert Every(2).indices(np.arange(5) / 25).tolist() == [0, 2, 4]


def test_times_take_the_frame_on_screen() -> None:
    pts = np.array([0.0, 0.5, 0.6, 2.0])
    assert AtTimes([0.0, 0.49, 0.5, 1.9, 2.0, 2.4]).indices(pts).tolist() == [0, 0, 1, 2, 3, 3]
    assert AtTimes([0.0, 0.49, 0.5, 1.9, 2.0, 2.4]).indices(pts + 5.0).tolist() == [0, 0, 1, 2, 3, 3]  # part of a video
    with pytest.raises(DecodeError, match=r"it ends at 2\.500 s, and a frame at 2\.600 s is requested"):
        AtTimes([0.0, 2.6]).indices(pts)


def test_rounded_times_take_the_nearest_frame() -> None:
    pts = np.arange(300) * 1001 / 30000
    for digits in (3, 6):
        assert NearTimes(np.round(pts[7:90:3], digits).tolist()).indices(pts).tolist() == list(range(7, 90, 3))
    assert NearTimes([0.0, 0.0]).indices(np.array([0.0])).tolist() == [0, 0]
    with pytest.raises(DecodeError, match=r"it has no frame at 0\.015 s"):
        NearTimes([0.0, 0.015]).indices(pts)


def test_consecutive_parts_share_no_frame_and_leave_none_out() -> None:
    pts = np.arange(100) / 29.97
    parts = [between(pts, None, 1.0), between(pts, 1.0, 2.0), between(pts, 2.0, 3.0), between(pts, 3.0, None)]
    assert np.concatenate(parts).tolist() == list(range(100))
    with pytest.raises(DecodeError, match=r"it has no frame from 5 s to 6 s; the last is at 3\.303 s"):
        between(pts, 5.0, 6.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Every(0), "step = 0: give 1 for every frame"),
        (lambda: Uniform(0), "count = 0 must be 1 or more"),
        (lambda: Uniform(16, "loop"), "short = 'loop' one of fail, repeat, pad"),  # type: ignore[arg-type]
        (lambda: AtTimes([2.0, 1.0]), r"seconds = \[2\.0, 1\.0\]: give ascending times from 0 on"),
        (lambda: AtTimes([-1.0]), "give ascending times from 0 on"),
        (lambda: AtTimes([]), "give ascending times from 0 on"),
        (lambda: AtTimes([float("nan")]), "give ascending times from 0 on"),
    ],
)
def test_invalid_selections_fail(make: Callable[..., Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
