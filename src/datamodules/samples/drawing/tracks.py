"""Tracked objects over the frames of their video: masks, boxes, and labels with ids."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from datamodules.printable import printable
from datamodules.samples.drawing import DrawnFrame, Image, SourceFrames, VideoDrawing
from datamodules.samples.track_lines import TrackLine, TrackLines, mask_of

_MAX_LABEL = 80  # characters
_OPACITY = 0.45  # of a mask
_PALETTE_STEP = 5  # through a circle of 21 colours, so that successive ids look different


class DrawnObject(NamedTuple):
    """An object to draw: `bbox` is x1, y1, x2, y2 in px, half-open; `mask` bool [H, W]."""

    obj_id: int
    label: str
    score: float
    bbox: Sequence[float]
    mask: NDArray[np.bool_]


class Tracks(Protocol):
    """What is drawn: a `datamodules.samples.tracks.TrackSample`, which imports this module."""

    meta: dict[str, Any]

    @property
    def lines(self) -> TrackLines: ...


def draw_sample(sample: Tracks, source: SourceFrames) -> VideoDrawing:
    """Return every frame of `sample` in its own size, at its time, with the objects found in it."""
    info, lines = sample.meta["video_info"], sample.lines
    size = info["height"], info["width"]

    def frames() -> Iterator[DrawnFrame]:
        for line, image in zip(lines, source.images(size), strict=False):  # the images never end
            yield DrawnFrame(line["timestamp"], draw_objects(image, objects_of(line)))

    facts = [
        f"{len(lines):,} frames",
        f"{size[1]}x{size[0]} px",
        f"{sample.meta.get('num_objects')} objects",
        f'"{sample.meta["prompt"]}"',
    ]
    return VideoDrawing(frames(), len(lines), size, facts)


def objects_of(line: TrackLine) -> list[DrawnObject]:
    """Return the objects of one line of a `tracks.jsonl`."""
    return [
        DrawnObject(entry["obj_id"], entry["label"], entry["score"], entry["bbox"], mask_of(entry["mask"]))
        for entry in line["objects"]
    ]


def draw_objects(frame: Image, objects: Sequence[DrawnObject]) -> Image:
    """Return a copy of `frame` with `objects`, each in the colour of its `obj_id`, small ones above large ones."""
    if not objects:
        return frame.copy()
    import supervision as sv

    pen = _pen(max(frame.shape[:2]))
    detections = sv.Detections(
        # supervision draws the last px of a box too
        xyxy=np.array([drawn.bbox for drawn in objects], np.float32) - (0, 0, 1, 1),
        mask=np.stack([drawn.mask for drawn in objects]),
        tracker_id=np.array([drawn.obj_id for drawn in objects]),
    )
    scene: Any = np.ascontiguousarray(frame[..., ::-1])  # supervision draws in BGR, as OpenCV does
    for annotator in (pen.masks, pen.boxes):
        scene = annotator.annotate(scene, detections)
    names = [f"{printable(drawn.label[:_MAX_LABEL])} #{drawn.obj_id}  {100 * drawn.score:.0f} %" for drawn in objects]
    scene = pen.labels.annotate(scene, detections, names)
    return np.ascontiguousarray(scene[..., ::-1])


class _Pen(NamedTuple):
    """supervision's annotators."""

    masks: Any
    boxes: Any
    labels: Any


@lru_cache(maxsize=8)
def _pen(side_px: int) -> _Pen:
    """Return annotators for frames whose longer side has `side_px`."""
    import matplotlib  # which supervision needs, and which brings a font for most alphabets
    import supervision as sv

    wheel = sv.ColorPalette.DEFAULT.colors
    colours = [wheel[index * _PALETTE_STEP % len(wheel)] for index in range(len(wheel))]
    texts = [sv.Color.BLACK if 2 * c.r + 5 * c.g + c.b > 8 * 140 else sv.Color.WHITE for c in colours]  # by luminance
    palette, track = sv.ColorPalette(colours), sv.ColorLookup.TRACK
    return _Pen(
        sv.MaskAnnotator(palette, _OPACITY, track),
        sv.BoxAnnotator(palette, max(1, round(side_px / 500)), track),
        sv.RichLabelAnnotator(
            palette,
            track,
            sv.ColorPalette(texts),
            font_path=str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")),
            font_size=max(9, round(side_px / 80)),
            text_padding=max(2, round(side_px / 300)),
            smart_position=True,  # within the frame, and beside one another
        ),
    )
