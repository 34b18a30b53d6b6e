"""Tracks drawn over the frames they were found in: masks, boxes, and what each is called; and films of these."""

import os
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.media.container import ffmpeg_url
from datamodules.printable import printable
from datamodules.samples.track_lines import TrackLine, mask_of

Picture = NDArray[np.uint8]  # [H, W, 3], RGB

_TIME_BASE = Fraction(1, 90_000)  # s; of MPEG: 24, 25, 29.97 and 30 frames a second are all exact in it
_X264 = {"crf": "20", "preset": "veryfast", "threads": "4", "bf": "0"}  # so that the last packet is the last frame
_MAX_LABEL = 80  # characters
_OPACITY = 0.45  # of a mask
_PALETTE_STEP = 5  # through a circle of 21 colours, so that ids that follow one another look different


class Drawn(NamedTuple):
    """An object to be drawn: `bbox` is x1, y1, x2, y2 in px, half-open; `mask` bool [H, W]."""

    obj_id: int
    label: str
    score: float
    bbox: Sequence[float]
    mask: NDArray[np.bool_]


def drawn_of(line: TrackLine) -> list[Drawn]:
    """The objects of a line of a `tracks.jsonl`."""
    return [
        Drawn(each["obj_id"], each["label"], each["score"], each["bbox"], mask_of(each["mask"]))
        for each in line["objects"]
    ]


def draw(frame: Picture, objects: Sequence[Drawn]) -> Picture:
    """A copy of `frame` with `objects`, each in the colour of its `obj_id`, the small above the large."""
    if not objects:
        return frame.copy()
    import supervision as sv

    pen = _pen(max(frame.shape[:2]))
    found = sv.Detections(
        xyxy=np.array([each.bbox for each in objects], np.float32) - (0, 0, 1, 1),  # it draws the last px too
        mask=np.stack([each.mask for each in objects]),
        tracker_id=np.array([each.obj_id for each in objects]),
    )
    scene: Any = np.ascontiguousarray(frame[..., ::-1])  # supervision draws in BGR, as OpenCV does
    for annotator in (pen.masks, pen.boxes):
        scene = annotator.annotate(scene, found)
    names = [f"{printable(each.label[:_MAX_LABEL])} #{each.obj_id}  {100 * each.score:.0f} %" for each in objects]
    scene = pen.labels.annotate(scene, found, names)
    return np.ascontiguousarray(scene[..., ::-1])


class _Pen(NamedTuple):
    masks: Any
    boxes: Any
    labels: Any


@lru_cache(maxsize=8)
def _pen(side_px: int) -> _Pen:
    """What draws on frames with such a longer side."""
    import matplotlib  # which supervision needs, and which brings a font for most alphabets
    import supervision as sv

    wheel = sv.ColorPalette.DEFAULT.colors
    colours = [wheel[place * _PALETTE_STEP % len(wheel)] for place in range(len(wheel))]
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


class TrackVideo:
    """An H.264 MP4 of frames with what was found in them, written frame by frame while a run goes on.

    It is written under a hidden name, and gets its own when it is closed; one to which no frame was added is not there.
    Used in a `with` statement, it is closed if that ends well, else discarded.

    Args:
        path: of the MP4; its folder is made. What is there is replaced.
        size: (height, width) of the frames, px. H.264 wants even ones: the last row or column of an odd one is doubled.
        partial: its name until it is closed, on the same file system; None: a hidden one beside `path`.

    Raises:
        OSError: it cannot be written; also of `add` and `close`.
    """

    def __init__(self, path: Path, size: tuple[int, int], partial: Path | None = None) -> None:
        self.path = path
        self._partial = partial or path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
        self._size, self._pad = size, ((0, size[0] % 2), (0, size[1] % 2), (0, 0))
        self._file: Any = None
        self._stream: Any = None
        self._begin_seconds = 0.0
        self._last_pts, self._duration = -1, _TIME_BASE.denominator // 25

    def __enter__(self) -> "TrackVideo":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def add(self, frame: Picture, pts_seconds: float, objects: Sequence[Drawn]) -> Picture:
        """Write a frame, uint8 [H, W, 3] RGB; it comes back as drawn.

        Args:
            frame: of the film's size.
            pts_seconds: when it is shown; ascending, and a tick later where two are equal. The film begins with the
                first one's.
            objects: what is drawn.
        """
        import av

        if self._file is None:
            self._open()
            self._begin_seconds = pts_seconds
        drawn = draw(frame, objects)
        pixels = np.pad(drawn, self._pad, "edge") if self._size[0] % 2 or self._size[1] % 2 else drawn
        video_frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        wanted = round((pts_seconds - self._begin_seconds) / _TIME_BASE)
        video_frame.time_base, video_frame.pts = _TIME_BASE, max(wanted, self._last_pts + 1)
        if self._last_pts >= 0:
            self._duration = video_frame.pts - self._last_pts
        self._last_pts = video_frame.pts
        self._mux(video_frame)
        return drawn

    def close(self) -> None:
        """Finish the file, and give it its name."""
        if self._file is None:
            return
        self._mux(None)
        self._file.close()
        self._file = None
        os.replace(self._partial, self.path)

    def discard(self) -> None:
        """Leave nothing."""
        if self._file is None:
            return
        with suppress(OSError):  # of a disk that is full
            self._file.close()
        self._file = None
        self._partial.unlink(missing_ok=True)

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._duration  # of the last frame, as of the one before; of others their times decide
            self._file.mux(packet)

    def _open(self) -> None:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = av.open(ffmpeg_url(self._partial), "w", format="mp4")
        self._stream = self._file.add_stream("libx264", rate=30, options=_X264)
        self._stream.pix_fmt = "yuv420p"
        self._stream.height, self._stream.width = (side + side % 2 for side in self._size)
        self._stream.codec_context.time_base = _TIME_BASE
