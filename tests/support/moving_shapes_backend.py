"""A tracking backend that gives the true masks of videos of `moving_shapes`, which are stored without loss."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from torch import Tensor

from datamodules.errors import ExtractError
from preprocess.tracking.backend import TrackedObject, TrackingBackend, VideoTracker
from preprocess.tracking.options import Identity
from preprocess.tracking.stepping import SteppedTracker
from preprocess.tracking.tracks import Tracks
from support.moving_shapes import SHAPES, SIZE, Shape, TrueDetector, TrueSegmenter, frames_of


class TrueBackend(TrackingBackend):
    """Finds the shapes whose labels the prompt names; `fails_at`: see `TrueSegmenter`; `delay`: see `VideoTracker`."""

    def __init__(self, detection_frequency: int = 1, fails_at: int | None = None, delay: int = 0) -> None:
        self.detection_frequency, self.fails_at, self.delay = detection_frequency, fails_at, delay

    def load(self, device: torch.device) -> None:
        """Load nothing."""

    def check(self, classes: tuple[str, ...]) -> None:
        """A class of more than 20 letters is too long."""
        if long := [name for name in classes if len(name) > 20]:
            raise ExtractError(f"{long[0]!r} is too long")

    def start(self, classes: tuple[str, ...]) -> VideoTracker:
        """Start a video of all shapes that have these labels."""
        shapes = shapes_of(classes)
        segmenter = TrueSegmenter(shapes, fails_at=self.fails_at)
        return _Delayed(Tracks(TrueDetector(shapes), segmenter, Identity(self.detection_frequency)), self.delay)

    def provenance(self) -> dict[str, str]:
        """Of which there is one."""
        return {"truth": "1"}


class _Delayed(SteppedTracker):
    """Gives what `tracks` finds `delay` frames late."""

    def __init__(self, tracks: Tracks[Any], delay: int) -> None:
        super().__init__(delay)
        self._tracks = tracks
        self._found: list[list[TrackedObject]] = []

    def prepare(self, frames: Mapping[int, Tensor]) -> None:
        self._tracks.prepare(frames)

    def step(self, place: int, frame: Tensor) -> list[TrackedObject]:
        self._found.append(self._tracks.step(place, frame))
        return self._found.pop(0) if len(self._found) > self.delay else []

    def finish(self) -> list[list[TrackedObject]]:
        return self._found


def shapes_of(classes: Sequence[str]) -> list[Shape]:
    """Return the shapes with these labels."""
    return [shape for shape in SHAPES if shape.label in classes]


def write_video(path: Path, num_frames: int, labels: Sequence[str], times: Sequence[int] | None = None) -> Path:
    """The shapes with these labels, FFV1; `times` of the frames, in 1/1000 s, are those of 25 a second if not given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt, stream.codec_context.time_base = "bgr0", Fraction(1, 1000)
        for number, frame in enumerate(frames_of(shapes_of(labels), num_frames)):
            picture = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).numpy(), format="rgb24")
            picture.pts, picture.time_base = times[number] if times else 40 * number, Fraction(1, 1000)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return path


class SteadyBackend(TrackingBackend):
    """Finds five objects that stay where they are, whatever is shown."""

    def load(self, device: torch.device) -> None:
        """Load nothing."""

    def check(self, classes: tuple[str, ...]) -> None:
        """Accept classes of any length."""

    def start(self, classes: tuple[str, ...]) -> VideoTracker:
        """Start a video."""
        return _Steady()

    def provenance(self) -> dict[str, str]:
        """None."""
        return {}


class _Steady:
    delay = 0

    def finish(self) -> list[list[TrackedObject]]:
        return []

    def track(self, first: int, frames: Sequence[Tensor]) -> list[list[TrackedObject]]:
        found = []
        for frame in frames:
            masks = torch.zeros(5, *frame.shape[1:], dtype=torch.bool)
            for place in range(5):
                masks[place, 2 * place : 2 * place + 9, 5:20] = True
            found.append([TrackedObject(place + 1, "thing", 0.5, masks[place]) for place in range(5)])
        return found


def write_gray_video(path: Path, num_frames: int) -> Path:
    """Frames that are all the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "bgr0"
        picture = av.VideoFrame(SIZE[1], SIZE[0], "bgr0")
        for plane in picture.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        for number in range(num_frames):
            picture.pts = number
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return path
