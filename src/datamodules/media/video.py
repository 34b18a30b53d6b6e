"""Videos to RGB frames, through decord, one thread: the parallelism is in the DataLoader's workers."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.errors import DecodeError, MissingError
from datamodules.media.sampling import at_rate


class Video:
    """One video, opened in the process that reads it: a decoder does not survive a fork.

    Args:
        path: the file.
        fps: frames per second to take; None: every frame.

    Attributes:
        average_fps_from_header: frames per second, as the container says.
        num_frames_from_header: frames, as the container's index says; files promise more than they hold.

    Raises:
        MissingError: it is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: it is empty, or decord finds no video stream in it.
    """

    def __init__(self, path: Path, fps: float | None = None) -> None:
        import decord

        try:
            with open(path, "rb") as file:  # decord would not tell a broken mount from a broken video
                if not file.read(1):
                    raise DecodeError(f"{path.name} is empty (0 bytes)")
        except FileNotFoundError as error:
            raise MissingError(f"{path.name} is missing") from error
        except IsADirectoryError as error:
            raise DecodeError(f"{path.name} is a folder") from error
        self._errors = (decord.DECORDError, RuntimeError, IndexError)  # decord raises all three on damaged files
        decord.logging.set_level(decord.logging.QUIET)
        self.path, self._fps = path, fps
        try:
            self._reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
            self.num_frames_from_header = len(self._reader)
            self.average_fps_from_header = float(self._reader.get_avg_fps())
            self._wanted = self._select(fps)
        except self._errors as error:
            raise DecodeError(f"{path.name} does not open as a video: {_first_words(error)}") from error

    def _select(self, fps: float | None) -> NDArray[np.int64]:
        if fps is None:
            return np.arange(self.num_frames_from_header)
        return at_rate(self._reader.get_frame_timestamp(range(self.num_frames_from_header))[:, 0], fps)

    @property
    def fps(self) -> float:
        """Frames per second of what `frames` yields: what was asked for, or the header's average if that is less."""
        return min(self._fps or self.average_fps_from_header, self.average_fps_from_header)

    def frames(self) -> Iterator[Tensor]:
        """The wanted frames in order, each decoded once: uint8 [3, H, W], RGB, upright.

        Raises:
            DecodeError: the file ends, or breaks, before the last wanted frame; both counts are named.
        """
        done = position = 0
        try:
            for wanted in self._wanted.tolist():
                if wanted > position:
                    self._reader.skip_frames(wanted - position)
                frame = self._reader.next().asnumpy()
                position = wanted + 1
                done += 1
                yield torch.from_numpy(frame).permute(2, 0, 1)
        except (*self._errors, StopIteration) as error:
            raise DecodeError(
                f"{self.path.name} breaks after {done} of {len(self._wanted)} frames: {_first_words(error)}"
            ) from error

    def __enter__(self) -> "Video":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._reader  # decord keeps decoded frames until the reader goes (dmlc/decord #208)


def _first_words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "st_nb >= 0" in text:
        return "it has no video stream that decord decodes"
    return re.sub(r"\[\d\d:\d\d:\d\d\] \S+: ", "", text)[:160] or "no frame came"  # decord puts the time in front
