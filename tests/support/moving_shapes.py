"""Videos of moving shapes whose masks are known, and a fake detector and segmenter that answer from these masks.

A frame shows its number in its first pixel; the stand-ins know the truth by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from preprocess.tracking.tracks import Detection, mask_ious

SIZE = (40, 60)  # height, width
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Shape:
    """A rectangle, or an ellipse, seen on the frames of `seen` (half-open spans), and partly behind earlier shapes.

    Its box at frame k is `start` moved by k times `step`, x and y, px.
    """

    label: str
    score: float
    start: Box
    step: tuple[int, int] = (0, 0)
    seen: tuple[tuple[int, int], ...] = ((0, 1000),)
    is_round: bool = False

    def whole(self, number: int) -> Tensor:
        """Return the mask without occlusion."""
        mask = torch.zeros(SIZE, dtype=torch.bool)
        if not any(first <= number < stop for first, stop in self.seen):
            return mask
        x1, y1, x2, y2 = (self.start[i] + number * self.step[i % 2] for i in range(4))
        y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
        if self.is_round:
            across, down = (x + 0.5 - (x1 + x2) / 2) / (x2 - x1), (y + 0.5 - (y1 + y2) / 2) / (y2 - y1)
            return across**2 + down**2 <= 0.25
        return (x >= x1) & (x < x2) & (y >= y1) & (y < y2)


# one stays, one leaves at frame 20, one enters at frame 12, and two of one class cross
SHAPES = (
    Shape("car", 0.9, (2, 2, 14, 10)),
    Shape("person", 0.8, (40, 2, 46, 12), (1, 0), ((0, 20),)),
    Shape("ball", 0.7, (20, 14, 28, 22), (0, 0), ((12, 1000),), is_round=True),
    Shape("dog", 0.6, (0, 26, 10, 36), (2, 0)),
    Shape("dog", 0.5, (50, 28, 59, 34), (-2, 0), is_round=True),
)


def masks_at(shapes: Sequence[Shape], number: int) -> list[Tensor]:
    """Return the visible mask of each shape on a frame, bool [H, W]."""
    return _masks_at(tuple(shapes), number)


@cache
def _masks_at(shapes: tuple[Shape, ...], number: int) -> list[Tensor]:
    covered, masks = torch.zeros(SIZE, dtype=torch.bool), []
    for shape in shapes:
        whole = shape.whole(number)
        masks.append(whole & ~covered)
        covered |= whole
    return masks


def box_of(mask: Tensor) -> Box:
    """Return the half-open box of the set pixels of `mask`."""
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def frames_of(shapes: Sequence[Shape], num_frames: int) -> list[Tensor]:
    """Return a frame, uint8 [3, H, W], with every shape in its own shade."""
    frames = []
    for number in range(num_frames):
        frame = torch.full((3, *SIZE), 10, dtype=torch.uint8)
        for place, mask in enumerate(masks_at(shapes, number)):
            frame[:, mask] = 60 + 30 * place
        frame[:, 0, 0] = number
        frames.append(frame)
    return frames


def score_at(shape: Shape, number: int) -> float:
    """Return the score of a detection of `shape`; it differs from frame to frame."""
    return shape.score + number / 10000


@dataclass
class TrueDetector:
    """Detects what is seen; `calls` are the numbers of the frames it was asked for together."""

    shapes: Sequence[Shape]
    is_found: dict[int, set[int]] = field(default_factory=dict)  # of a frame: which shapes; all if it is not there
    copies: int = 1  # detections of each, the second and later ones larger by a pixel and of lower scores
    calls: list[list[int]] = field(default_factory=list)

    def __call__(self, frames: Sequence[Tensor]) -> list[list[Detection]]:
        numbers = [int(frame[0, 0, 0]) for frame in frames]
        self.calls.append(numbers)
        return [self._at(number) for number in numbers]

    def _at(self, number: int) -> list[Detection]:
        found = []
        for place, (shape, mask) in enumerate(zip(self.shapes, masks_at(self.shapes, number), strict=True)):
            if mask.any() and place in self.is_found.get(number, range(len(self.shapes))):
                box = tuple(float(side) for side in box_of(mask))
                scores = [score_at(shape, number) - 0.01 * copy for copy in range(self.copies)]
                found += [Detection(shape.label, score, box) for score in scores]  # type: ignore[arg-type]
        return found


@dataclass
class Remembered:
    """The shape with index `place`, which drifts from the truth with each frame since its last correction."""

    place: int
    corrected: int


@dataclass
class TrueSegmenter:
    """Makes the true masks; those that are followed drift by `drift` px a frame to the right until corrected.

    `fails_at`: the number of a call, of `propagate` and `segment` together, that runs out of memory.
    """

    shapes: Sequence[Shape]
    drift: int = 0
    fails_at: int | None = None
    num_calls: int = 0
    followed: list[tuple[int, int]] = field(default_factory=list)  # frame and shape of each mask
    number: int = 0

    def set_frame(self, frame_idx: int, frame: Tensor) -> None:
        assert int(frame[0, 0, 0]) == frame_idx
        self.number = frame_idx

    def segment(self, box: Sequence[float]) -> tuple[Remembered, Tensor]:
        self._count()
        x1, y1, x2, y2 = (round(side) for side in box)
        boxed = torch.zeros(SIZE, dtype=torch.bool)
        boxed[y1:y2, x1:x2] = True
        masks = masks_at(self.shapes, self.number)
        boxes = [torch.zeros(SIZE, dtype=torch.bool) for _ in masks]
        for mask, filled in zip(masks, boxes, strict=True):
            if mask.any():
                left, top, right, bottom = box_of(mask)
                filled[top:bottom, left:right] = True
        place = int(mask_ious([boxed], boxes)[0].argmax())
        return Remembered(place, self.number), masks[place]

    def propagate(self, memory: Remembered) -> Tensor:
        self._count()
        self.followed.append((self.number, memory.place))
        mask = masks_at(self.shapes, self.number)[memory.place]
        return mask.roll(self.drift * (self.number - memory.corrected), dims=1)

    def correct(self, memory: Remembered, seen: Remembered) -> None:
        memory.place, memory.corrected = seen.place, seen.corrected

    def _count(self) -> None:
        self.num_calls += 1
        if self.num_calls == self.fails_at:
            raise torch.OutOfMemoryError("out of memory, once")
