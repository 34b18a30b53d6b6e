"""Transforms of single frames, in DataLoader workers: without Lightning, which workers do not need."""

from torch import Tensor

from datamodules.corpus import Item
from datamodules.samples.clips import jpeg


class JpegTransform:
    """Encodes frames as JPEG in a DataLoader worker."""

    def start(self, item: Item) -> None:
        """Do nothing: no state is kept from frame to frame."""

    def __call__(self, frame: Tensor) -> bytes:
        """Return the JPEG of `frame`, uint8 [3, H, W]."""
        return jpeg(frame.permute(1, 2, 0).cpu().numpy())


class Drop:
    """A transform that discards each frame in the worker that decoded it."""

    def start(self, item: Item) -> None:
        """Do nothing: no state is kept between items."""

    def __call__(self, frame: Tensor) -> None:
        """Return None."""
