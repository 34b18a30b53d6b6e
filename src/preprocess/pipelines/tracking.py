"""Tracking: objects that a text names, carried through videos. Samples: `datamodules.samples.tracks`."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.loading.request import FrameRequest
from datamodules.run.files import VIDEOS
from datamodules.run.result import EMPTY, OK
from datamodules.run.store import Store
from datamodules.samples.drawing.tracks import DrawnObject, draw_objects
from datamodules.samples.track_lines import LineObject
from datamodules.samples.tracks import TrackSample, TrackSamples
from preprocess.draw.video import StoredVideoWriter, VideoWriter
from preprocess.job.assembly import Assembly, disk_errors
from preprocess.job.extractor import Extractor
from preprocess.tracking.backend import TrackingBackend, VideoTracker
from preprocess.tracking.prompt import classes_of
from preprocess.tracking.recording import Recording, described

_INCLUDED_FACTS = (
    "pixel_aspect_ratio", "num_skipped_frames",
    "num_frames_from_header", "duration_seconds_from_header", "average_fps_from_header",
)  # fmt: skip  # the `VideoFacts` that `video_info` includes
_log = logging.getLogger(__name__)


class Tracking(Extractor):
    """Detection and segmentation of what a prompt names, with one identity for each object of a video.

    Args:
        backend: the models: `preprocess.tracking.grounded.GroundedSam2`, `preprocess.tracking.sam3.Sam3`.
        prompt: what to look for, as `car. person.`; a `prompt` that the corpus gives for a video takes precedence.
        batch_size: maximum number of frames in one call of `extract`, and in one batch of the detector. It bounds
            memory, and does not change which objects are tracked.

    Raises:
        ConfigError: the prompt names nothing, or what the backend cannot look for; or batch_size is below 1.
    """

    samples = TrackSamples()
    reserved_fields = frozenset({"path", "video_info", "num_frames", "num_objects", "backend"})

    def __init__(self, backend: TrackingBackend, prompt: str | None = None, batch_size: int = 16) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"{batch_size = }: use 1 or more")
        if prompt is not None:
            try:
                backend.check(classes_of(prompt))
            except ExtractError as error:
                raise ConfigError(f"--model.prompt: {error}") from error
        self.save_hyperparameters()
        self.backend = backend
        self.frames = FrameRequest(batch_size)
        self._drawings: Store | None = None

    def setup(self, stage: str) -> None:
        """Load the weights onto the rank's device."""
        self.backend.load(self.rank_device)

    def provenance(self) -> dict[str, str]:
        """What the models are, and the versions of what runs them."""
        return self.backend.provenance()

    def draw_to(self, store: Store) -> None:
        """Draw each video's objects over it, to `videos/{key}.mp4` in `store`."""
        self._drawings = store

    def extract(self, batch: Batch) -> list["_Tracked"]:
        """Return for each frame what `_TrackAssembly.add` needs.

        The tracker may decide a frame's objects only some frames later (`VideoTracker.delay`). The result of the last
        frame of a batch therefore holds the objects of all frames that are decided in that batch.
        """
        assembly = batch["assemblies"][0]  # the frames of a batch are of one video
        assert isinstance(assembly, _TrackAssembly)
        return assembly.track(batch["frame_idx"][0], list(batch["frames"]), batch["pts_seconds"])

    def validate(self, item: Item) -> None:
        """Check that `item` is a video with a prompt, and that its corpus fields have no reserved names.

        Raises:
            ExtractError: one of these checks failed.
        """
        super().validate(item)
        if item.frames:
            raise ExtractError(f"{item.path} is not a video, and tracking needs one")
        self.backend.check(classes_of(self._prompt(item)))

    def open_assembly(self, item: Item, scratch: Callable[[], Path]) -> "_TrackAssembly":
        """Start a tracker for a video, and the files that its tracks are written to.

        Raises:
            ExtractError: the item is no video, or there is no prompt for it.
            EnvironmentFailure: the disk is full.
        """
        self.validate(item)
        prompt = self._prompt(item)
        tracker = self.backend.start(classes_of(prompt))
        meta = {**item.meta, "path": item.path, "prompt": prompt, "backend": type(self.backend).__name__}
        open_drawing = None
        if self._drawings:
            open_drawing = partial(StoredVideoWriter, self._drawings, f"{VIDEOS}/{item.key}.mp4", scratch())
        with disk_errors():
            return _TrackAssembly(item.key, meta, tracker, Recording(scratch()), open_drawing)

    def status(self, sample: TrackSample) -> str:
        """Return `ok`; or `empty`: nothing of the prompt was found in the video."""
        return OK if sample.meta["num_objects"] else EMPTY

    def _prompt(self, item: Item) -> str:
        prompt = item.meta.get("prompt", self.hparams["prompt"])
        if not isinstance(prompt, str):
            raise ExtractError("the video has no prompt: set --model.prompt, or add a prompt for it to the video list")
        return prompt


class _Tracked(NamedTuple):
    """The result of one frame.

    Attributes:
        seconds: when the frame is shown, since the video's first.
        image: the frame, uint8 [3, H, W], on the CPU, if the video is drawn.
        decided: (lines, masks) of each frame that is decided now, in order; see `described`.
    """

    seconds: float
    image: Tensor | None
    decided: list[tuple[list[LineObject], NDArray[np.bool_]]]


class _TrackAssembly(Assembly):
    """One video: its tracker, and the files that its tracks go to as soon as they are decided.

    Args:
        key: the item's key.
        meta: fields of the sample's json that are known from the start.
        tracker: the state of the models.
        recording: where the tracks are written down.
        open_drawing: opens the output video, given the (height, width) of its frames; None: no video is drawn.
    """

    def __init__(
        self,
        key: str,
        meta: dict[str, Any],
        tracker: VideoTracker,
        recording: Recording,
        open_drawing: Callable[[tuple[int, int]], VideoWriter] | None,
    ) -> None:
        self._key, self._meta = key, meta
        self._tracker, self._recording, self._open_drawing = tracker, recording, open_drawing
        self._drawing: VideoWriter | None = None
        self._undecided: deque[tuple[float, Tensor | None]] = deque()  # time and image of each frame

    def track(self, first: int, frames: Sequence[Tensor], pts_seconds: Sequence[float | None]) -> list[_Tracked]:
        """Track the next frames, uint8 [3, H, W]. May be called again with fewer, when memory ran out."""
        decided = [described(objects) for objects in self._tracker.track(first, frames)]
        results = []
        for frame, seconds in zip(frames, pts_seconds, strict=True):
            assert seconds is not None  # only images have no time
            results.append(_Tracked(seconds, frame.cpu() if self._open_drawing else None, []))
        results[-1].decided.extend(decided)
        return results

    def add(self, frame_idx: int, result: _Tracked) -> None:
        """Write down, and draw, the frames that are decided with this one."""
        self._undecided.append((result.seconds, result.image))
        self._write(result.decided)

    def finish(self, summary: ItemSummary) -> TrackSample:
        """Write the last frames, and return the sample; its files stay on disk until they are copied into the shard."""
        self._write([described(objects) for objects in self._tracker.finish()])
        if self._undecided:
            raise ValueError(f"{len(self._undecided)} of {summary.num_frames} frames of {self._key} are not tracked")
        with disk_errors():
            if self._drawing:
                self._drawing.close()
                self._drawing = None
            files = self._recording.files()
        meta = {
            **self._meta,
            "video_info": _video_info(summary),
            "num_frames": summary.num_frames,
            "num_objects": len(self._recording.obj_ids),
        }
        return TrackSample(self._key, meta, files)

    def close(self) -> None:
        """Delete the recorded tracks, and the drawn video if it is incomplete."""
        if self._drawing:
            self._drawing.discard()
        self._recording.close()

    def _write(self, decided: Sequence[tuple[list[LineObject], NDArray[np.bool_]]]) -> None:
        for lines, masks in decided:
            seconds, image = self._undecided.popleft()
            with disk_errors():
                if self._open_drawing and image is not None:
                    self._draw(image, seconds, lines, masks)
                self._recording.add(seconds, lines)

    def _draw(self, image: Tensor, seconds: float, lines: Sequence[LineObject], masks: NDArray[np.bool_]) -> None:
        from av import FFmpegError

        assert self._open_drawing
        self._drawing = self._drawing or self._open_drawing((image.shape[1], image.shape[2]))
        try:
            drawn = [DrawnObject(**{**line, "mask": mask}) for line, mask in zip(lines, masks, strict=True)]
            self._drawing.add(draw_objects(image.permute(1, 2, 0).numpy(), drawn), seconds)
        except (FFmpegError, MemoryError) as error:
            if isinstance(error, OSError):
                raise
            _log.warning("%s: its video cannot be drawn, but the tracks are kept: %s", self._key, error)
            self._drawing.discard()
            self._drawing = self._open_drawing = None


def _video_info(summary: ItemSummary) -> dict[str, Any]:
    facts = summary.video
    assert facts is not None
    assert summary.size is not None
    return {
        "width": summary.size[1],
        "height": summary.size[0],
        "fps": facts["fps"],
        "num_frames": facts["num_frames"],
        "duration": facts["duration_seconds"],
        **{name: value for name, value in facts.items() if name in _INCLUDED_FACTS},
    }
