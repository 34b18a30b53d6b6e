import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from preprocess.report.histogram import Histogram

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False) | st.integers(-5, 5).map(float)


def test_counts_and_statistics_are_exact() -> None:
    histogram = Histogram(whole=True)
    histogram.add(np.array([1, 2, 2, np.nan, 5]))
    histogram.add(np.array([5, np.inf]))
    assert histogram.to_json() == {
        "num_values": 5, "num_unknown": 2, "least": 1.0, "greatest": 5.0, "mean": 3.0,
        "width": 1.0, "start": 1.0, "counts": [1, 2, 0, 0, 2],
    }  # fmt: skip


def test_without_values_there_are_no_bins() -> None:
    histogram = Histogram()
    histogram.add(np.array([np.nan]))
    assert histogram.to_json() == {"num_values": 0, "num_unknown": 1}


@pytest.mark.parametrize("value", [0.0, 1.0, -0.25, 1e12, 1e-9])
def test_equal_values_are_in_one_bin(value: float) -> None:
    histogram = Histogram()
    histogram.add(np.full(3, value))
    document = histogram.to_json()
    assert document["counts"] == [3]
    assert document["start"] <= value < document["start"] + document["width"]


def test_a_late_extreme_joins_bins_and_loses_no_count() -> None:
    histogram = Histogram()
    histogram.add(np.linspace(0, 1, 1000))
    histogram.add(np.array([1e15]))
    document = histogram.to_json()
    assert document["counts"][0] == 1000
    assert document["counts"][-1] == 1
    assert sum(document["counts"]) == 1001
    assert len(document["counts"]) <= 512


@settings(max_examples=60, deadline=None)
@example([[511.0], [-5e-324]])
@example([[-1.7e308], [1.7e308]])
@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=20), min_size=1, max_size=5))
def test_the_order_and_division_of_the_numbers_do_not_matter(parts: list[list[float]]) -> None:
    whole, divided = Histogram(), Histogram()
    numbers = np.array([number for part in parts for number in part])
    whole.add(np.sort(numbers))
    for part in reversed(parts):
        divided.add(np.array(part))
    one, other = whole.to_json(), divided.to_json()
    assert one.pop("mean") == pytest.approx(other.pop("mean"), abs=1e-6)
    if one["width"] == other["width"]:  # a first part of equal numbers may have chosen narrower bins, never wider ones
        assert one == other
    counts, start, width = np.array(other["counts"]), other["start"], other["width"]
    assert len(counts) <= 512
    bins = (np.floor_divide(numbers, width) - start / width).astype(int)  # exact, as the width is a power of two
    assert np.array_equal(np.bincount(bins, minlength=len(counts)), counts)
