"""What a sample kind gives `preprocess visualize` to show of a sample: a video, an image, or a text beside an image.

| drawing        | what `visualize` writes                                                    |
|----------------|----------------------------------------------------------------------------|
| `VideoDrawing` | a contact sheet (PNG), and an MP4 if there are several frames              |
| `ImageDrawing` | a PNG                                                                      |
| `TextDrawing`  | an entry of an HTML page, which holds all samples that are drawn           |

Images are uint8 [H, W, 3], RGB. The modules of this package draw for one kind each, and import what they draw with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # [H, W, 3], RGB
Colour = tuple[int, int, int]  # RGB, 0 to 255

MAX_FRAMES = 300  # that are drawn of one sample, where this is not a video of its own length
IMAGES_PER_SECOND = 25.0  # at which images without times are shown
_SIDES_PX = (520, 1280)  # least and most px of the longer side of a drawn frame: fine lines, and not too slow
_SLOWEST, _FASTEST = 0.01, 1000.0  # frames per second of a video, whatever rate a sample has


class SourceFrames(Protocol):
    """The frames that a sample was made of. They are read from the corpus, which may have moved or changed since."""

    def images(self, size: tuple[int, int]) -> Iterator[Image]:
        """Yield the frames, resized to `size` (height, width), then blank images without end.

        A frame that cannot be read ends the frames; the blank images say so.
        """
        ...

    def first(self) -> Image:
        """Return the first frame in its own size.

        Raises:
            DecodeError, OSError: it cannot be read.
        """
        ...


class DrawnFrame(NamedTuple):
    """An image of a video, and when it is shown, in seconds since any fixed time."""

    pts_seconds: float
    image: Image


class LegendEntry(NamedTuple):
    """A colour of a drawing, and a text that says what has this colour."""

    text: str
    colour: Colour


@dataclass(frozen=True)
class VideoDrawing:
    """Frames with what was made of them.

    Attributes:
        frames: in order of their times; they are drawn as they are asked for.
        num_frames: number of `frames`.
        size: (height, width) of each image, in px.
        facts: short texts above the contact sheet, such as `300 frames`.
        legend: the colours, at the right of these.
    """

    frames: Iterator[DrawnFrame]
    num_frames: int
    size: tuple[int, int]
    facts: Sequence[str] = ()
    legend: Sequence[LegendEntry] = ()


@dataclass(frozen=True)
class ImageDrawing:
    """One image."""

    image: Image


@dataclass(frozen=True)
class TextDrawing:
    """A text beside an image.

    Attributes:
        image: of any size; None if it cannot be read.
        text: what was made of it.
        facts: short texts below, such as `8x6 px`.
        note: a longer text below these, such as a prompt.
        missing: why there is no image.
    """

    image: Image | None
    text: str
    facts: Sequence[str] = ()
    note: str = ""
    missing: str = ""


Drawing = VideoDrawing | ImageDrawing | TextDrawing


def at_rate(images: Iterator[Image], frames_per_second: float) -> Iterator[DrawnFrame]:
    """Yield `images` at a constant rate, or at the nearest rate that a video can have."""
    rate = min(max(_SLOWEST, frames_per_second), _FASTEST)
    return (DrawnFrame(frame_idx / rate, image) for frame_idx, image in enumerate(images))


def display_size(height: int, width: int) -> tuple[int, int]:
    """Return (height, width), both even, at which frames of this size are drawn: the longer side has 520 to 1280 px."""
    longer = max(width, height)
    scale = min(max(longer, _SIDES_PX[0]), _SIDES_PX[1]) / longer
    return 2 * max(1, round(height * scale / 2)), 2 * max(1, round(width * scale / 2))


def resized(image: Image, size: tuple[int, int]) -> Image:
    """Return `image` at `size` (height, width)."""
    import cv2  # comes with mediapipe

    if image.shape[:2] == size:
        return image
    enlarges = size[1] > image.shape[1]
    interpolation = cv2.INTER_CUBIC if enlarges else cv2.INTER_AREA
    scaled: Any = cv2.resize(image, size[::-1], interpolation=interpolation)
    return scaled  # type: ignore[no-any-return]
