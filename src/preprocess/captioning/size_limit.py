"""How large images are, at most, when a model gets them."""

import math
from typing import NamedTuple


class SizeLimit(NamedTuple):
    """The largest image that a model gets.

    Attributes:
        max_pixels: width times height in px; None: no limit.
        longest_edge: the longer side in px; None: no limit.
    """

    max_pixels: int | None = None
    longest_edge: int | None = None

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) within the limits, of the same shape as far as whole px allow, and never larger."""
        scale = 1.0
        if self.max_pixels:
            scale = min(scale, math.sqrt(self.max_pixels / (width * height)))
        if self.longest_edge:
            scale = min(scale, self.longest_edge / max(width, height))
        if scale == 1.0:
            return width, height
        return max(1, math.floor(width * scale + 1e-9)), max(1, math.floor(height * scale + 1e-9))
