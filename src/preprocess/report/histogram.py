"""Histograms of numbers that arrive part by part and whose range is not known before."""

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_BINS = 512


class Histogram:
    """Counts of numbers in at most 512 bins of equal width.

    The width is a power of two, the smallest with which all numbers fit, and bins begin at its multiples. So the result
    does not depend on how the numbers were divided into parts, memory does not depend on how many there are, and two
    histograms can be compared by joining bins.

    Args:
        whole: whether the numbers are whole: bins are then never narrower than 1.

    Attributes:
        num_values, num_unknown: how many numbers were added, and how many were not finite.
        exponent: the width of the bins is `2 ** exponent`.
    """

    def __init__(self, whole: bool = False) -> None:
        self.num_values = self.num_unknown = 0
        self.exponent: int | None = 0 if whole else None  # None: not known before the first two different numbers
        self._least, self._greatest, self._sum = math.inf, -math.inf, 0.0
        self._first_bin = 0
        self._counts = np.zeros(0, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Count `values`; those that are not finite are counted as unknown."""
        known = np.asarray(values, np.float64)
        known = known[np.isfinite(known)]
        self.num_unknown += len(values) - len(known)
        if not len(known):
            return
        self.num_values += len(known)
        self._sum += float(known.sum())
        self._least, self._greatest = min(self._least, float(known.min())), max(self._greatest, float(known.max()))
        self._widen()
        assert self.exponent is not None
        # not the floor of a quotient: that of the least negative numbers underflows to 0
        bins = np.floor_divide(known, math.ldexp(1.0, self.exponent)).astype(np.int64) - self._first_bin
        self._counts += np.bincount(bins, minlength=len(self._counts))

    def to_json(self) -> dict[str, Any]:
        """Return the counts and statistics for the page.

        Returns:
            `num_values`, `num_unknown`; with values also `least`, `greatest`, `mean`, `width` of a bin, `start` of the
            first bin, and `counts` of all bins.
        """
        document: dict[str, Any] = {"num_values": self.num_values, "num_unknown": self.num_unknown}
        if self.num_values:
            assert self.exponent is not None
            width = math.ldexp(1.0, self.exponent)
            document |= {
                "least": self._least,
                "greatest": self._greatest,
                "mean": self._sum / self.num_values,
                "width": width,
                "start": self._first_bin * width,
                "counts": self._counts.tolist(),
            }
        return document

    def _widen(self) -> None:
        """Join bins until all numbers from the least to the greatest fit into `_MAX_BINS`."""
        exponent = self._needed()
        first, last = self._ends(exponent)
        counts = np.zeros(last - first + 1, np.int64)
        if len(self._counts):
            assert self.exponent is not None
            shift = min(63, exponent - self.exponent)  # of an int64
            before = np.arange(self._first_bin, self._first_bin + len(self._counts)) >> shift
            np.add.at(counts, before - first, self._counts)
        self.exponent, self._first_bin, self._counts = exponent, first, counts

    def _needed(self) -> int:
        """Return the least exponent, not below the present one, with which the range fits."""
        span = min(self._greatest - self._least, sys.float_info.max)
        narrowest = math.frexp(max(span, abs(self._greatest) * 2**-40, 2.0**-40) / _MAX_BINS)[1] - 1
        exponent = narrowest if self.exponent is None else max(narrowest, self.exponent)
        while True:
            first, last = self._ends(exponent)
            if last - first < _MAX_BINS:
                return exponent
            exponent += 1

    def _ends(self, exponent: int) -> tuple[int, int]:
        """Return the bins of the least and the greatest number, where bins are `2 ** exponent` wide."""
        width = math.ldexp(1.0, exponent)
        return int(self._least // width), int(self._greatest // width)
