"""Whom Holistic follows where several people are in the picture: only a part of each frame is given to it.

Holistic takes the most prominent person of each frame, which may be another one from frame to frame. Its detector was
made for one person: with two in the picture, it mostly reports one. So the part is chosen without it, the same in all
frames of an item:

| person      | part of the frames                                                                      |
|-------------|-----------------------------------------------------------------------------------------|
| any         | all of them                                                                             |
| left, right | this half of the image                                                                  |
| box         | the item's `box` in the corpus: left, top, right, bottom as shares of width and height; |
|             | or its `box_px`, the same in pixels                                                     |
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from datamodules.corpus import Item
from datamodules.errors import ExtractError
from datamodules.loading.request import FrameTransform, GroupTransform
from datamodules.samples.keypoint_layouts import Layout
from preprocess.holistic.frame_results import Crop, Result
from preprocess.holistic.litert_landmarker import GROUP

Person = Literal["any", "left", "right", "box"]

_HALVES: dict[Person, tuple[float, ...]] = {"left": (0, 0, 0.5, 1), "right": (0.5, 0, 1, 1)}


def crop_of(person: Person, item: Item, width: int, height: int) -> Crop:
    """Return the part of the frames of an item that is searched, rounded outwards and cut at the frame.

    Raises:
        ExtractError: the corpus has no box for the item, or none in the frame.
    """
    size = np.array((width, height, width, height))
    is_in_px = person == "box" and item.meta.get("box_px") is not None
    box: Any = item.meta["box_px"] if is_in_px else _HALVES.get(person, item.meta.get("box"))
    is_box = isinstance(box, (list, tuple)) and len(box) == 4 and all(isinstance(share, (int, float)) for share in box)
    if not is_box:
        raise ExtractError(
            f"--model.person box needs left, top, right, bottom in the corpus, but its box is {box!r:.80}"
        )
    box_px = np.clip(np.array(box, float) * (1 if is_in_px else size), 0, size)
    if not (box_px[0] < box_px[2] and box_px[1] < box_px[3]):  # also of NaN, which is below nothing
        raise ExtractError(f"its box {list(box)!r:.80} has no part of the frame: give left, top, right, bottom")
    left, top = np.floor(box_px[:2]).astype(int).tolist()
    right, bottom = np.ceil(box_px[2:]).astype(int).tolist()
    return left, top, right, bottom


class FollowTransform:
    """Runs another step on the part of the frames that belongs to one person, in a DataLoader worker.

    Args:
        make: makes the other step, whose results are `Result`.
        person: whom to follow.
        layout: of the results.
    """

    num_frames = GROUP

    def __init__(self, make: Callable[[], FrameTransform | GroupTransform], person: Person, layout: Layout) -> None:
        self._step, self._person, self._columns = make(), person, list(layout.part_columns)
        self._item: Item | None = None

    def start(self, item: Item) -> None:
        """See `FrameTransform`."""
        self._step.start(item)
        self._item = item

    def results(self, frames: Sequence[Tensor]) -> list[Result]:
        """Return the result of each frame, uint8 [3, H, W], in px of the whole frame.

        Raises:
            ExtractError: see `crop_of`; or the other step cannot handle a frame.
        """
        assert self._item is not None
        height, width = frames[0].shape[1:]
        left, top, right, bottom = crop = crop_of(self._person, self._item, width, height)
        parts = [frame[:, top:bottom, left:right].contiguous() for frame in frames]
        results = self._step.results(parts) if isinstance(self._step, GroupTransform) else map(self._step, parts)
        return [self._in_frame(result, crop) for result in results]

    def _in_frame(self, result: Result, crop: Crop) -> Result:
        is_present = result.presence[self._columns, None] > 0  # points of absent parts stay zeros
        origin = np.array([*crop[:2], 0], np.float32)
        return result._replace(keypoints=result.keypoints + origin * is_present, crop=crop)
