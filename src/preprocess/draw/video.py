"""H.264 videos of drawn frames, each shown at its time."""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from datamodules.media.container import ffmpeg_url
from datamodules.run.store import Store
from datamodules.samples.drawing import Image

_TIME_BASE = Fraction(1, 90_000)  # s; of MPEG: 24, 25, 29.97 and 30 frames a second are all exact in it
_X264 = {"crf": "20", "threads": "4", "bf": "0"}  # so that the last packet is the last frame


class VideoWriter:
    """Writes an MP4 frame by frame, for example while a run goes on.

    The file is written under a hidden name and gets its own when it is closed; without any frame it does not appear.
    In a `with` statement the file is closed if the block ends well, else discarded.

    Args:
        path: of the MP4; its folder is made. An existing file is replaced.
        size: (height, width) of the frames in px. H.264 needs even sizes: the last row or column of an odd one is
            doubled.
        preset: of x264: `ultrafast` takes a third of the time, and more bytes.

    Raises:
        OSError: the file cannot be written; also raised by `add` and `close`.
    """

    def __init__(self, path: Path, size: tuple[int, int], preset: str = "veryfast") -> None:
        self.path, self._preset = path, preset
        self._partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
        self._size, self._pad = size, ((0, size[0] % 2), (0, size[1] % 2), (0, 0))
        self._file: Any = None
        self._stream: Any = None
        self._begin_seconds = 0.0
        self._last_pts, self._duration = -1, _TIME_BASE.denominator // 25

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def add(self, image: Image, pts_seconds: float) -> None:
        """Write a frame.

        Args:
            image: uint8 [H, W, 3], RGB, of the video's size.
            pts_seconds: when it is shown; ascending. Of two equal times the second is shown a tick later. The video
                begins with its first frame.
        """
        import av

        if self._file is None:
            self._open()
            self._begin_seconds = pts_seconds
        pixels = np.pad(image, self._pad, "edge") if self._size[0] % 2 or self._size[1] % 2 else image
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        pts = round((pts_seconds - self._begin_seconds) / _TIME_BASE)
        frame.time_base, frame.pts = _TIME_BASE, max(pts, self._last_pts + 1)
        if self._last_pts >= 0:
            self._duration = frame.pts - self._last_pts
        self._last_pts = frame.pts
        self._mux(frame)

    def close(self) -> None:
        """Finish the file, and give it its name."""
        if self._file is None:
            return
        self._mux(None)
        self._file.close()
        self._file = None
        os.replace(self._partial, self.path)

    def discard(self) -> None:
        """Remove what was written."""
        if self._file is None:
            return
        with suppress(OSError):  # of a disk that is full
            self._file.close()
        self._file = None
        self._partial.unlink(missing_ok=True)

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._duration  # the last frame lasts as long as the one before; others until the next
            self._file.mux(packet)

    def _open(self) -> None:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = av.open(ffmpeg_url(self._partial), "w", format="mp4")
        self._stream = self._file.add_stream("libx264", rate=30, options={**_X264, "preset": self._preset})
        self._stream.pix_fmt = "yuv420p"
        self._stream.height, self._stream.width = (side + side % 2 for side in self._size)
        self._stream.codec_context.time_base = _TIME_BASE


class StoredVideoWriter(VideoWriter):
    """Writes an MP4 on a local disk, and moves it to the store of a run when it is closed.

    Args:
        store: of the run.
        name: of the MP4 in the store. An existing one is replaced.
        scratch: folder on the disk of `store.work`.
        size: see `VideoWriter`.
    """

    def __init__(self, store: Store, name: str, scratch: Path, size: tuple[int, int]) -> None:
        super().__init__(scratch / f"{os.urandom(8).hex()}.mp4", size)
        self._store, self._name = store, name

    def close(self) -> None:
        """Finish the file, and move it to the store."""
        if self._file is None:
            return
        super().close()
        with self._store.staged(self._name) as path:
            os.replace(self.path, path)
