"""Tracking: objects that a text names, carried through videos. Samples: `datamodules.samples.tracks`."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from torch import Tensor

from datamodules.corpus import Item
from datamodules.errors import ConfigError, EnvironmentFailure, ExtractError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.loading.request import FrameRequest
from datamodules.run.files import make_folder
from datamodules.run.result import EMPTY, OK
from datamodules.samples.drawing.tracks import DrawnObject, draw_objects
from datamodules.samples.tracks import TrackSample, TrackSamples
from preprocess.draw.video import VideoWriter
from preprocess.job.extractor import Extractor
from preprocess.tracking.backend import TrackedObject, TrackingBackend, VideoTracker
from preprocess.tracking.prompt import classes_of
from preprocess.tracking.recording import Recording, described

_FACTS = (
    "pixel_aspect_ratio", "num_skipped_frames",
    "num_frames_from_header", "duration_seconds_from_header", "average_fps_from_header",
)  # fmt: skip  # of `VideoFacts`, for `video_info`
_log = logging.getLogger(__name__)


class Tracking(Extractor):
    """Detection and segmentation of what a prompt names, with one identity for each object of a video.

    Args:
        backend: the models: `preprocess.tracking.grounded.GroundedSam2`, `preprocess.tracking.sam3.Sam3`.
        prompt: what to look for, as `car. person.`; a video's own, from the corpus, comes before it.
        batch_size: frames that are handed over at once and detected in one batch, at most. It bounds memory, and
            does not change which objects are tracked.

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
        self._videos: dict[tuple[int, int], _Video] = {}  # by shard and row
        self._drawings: Path | None = None

    def setup(self, stage: str) -> None:
        """Load the weights onto the rank's device."""
        self.backend.load(self.trainer.strategy.root_device)

    def provenance(self) -> dict[str, str]:
        """What the models are, and the versions of what runs them."""
        return self.backend.provenance()

    def draw_to(self, folder: Path) -> None:
        """Draw each video's objects over it, to `folder`/{key}.mp4."""
        self._drawings = folder

    def extract(self, batch: Batch) -> list[Any]:
        """None for each frame: what is found is written down, and with the video's last frame becomes its sample.

        Raises:
            ExtractError: the item is no video, or there is no prompt for it.
            EnvironmentFailure: the disk is full.
        """
        place, first = (batch["shard"], batch["rows"][0]), batch["frame_idx"][0]
        opened = self.rank.open.get(batch["shard"])
        if opened is None or place[1] in opened.spool.results:  # another rank has committed it; or it has failed
            return [None] * len(batch["rows"])
        item, frames = opened.items[batch["rows"][0]], list(batch["frames"])
        self.validate(item)
        with _disk():
            if first == 0:
                self.release(*place)
                self._videos[place] = self._begin(item, frames[0])
            self._videos[place].add(first, frames, batch["pts_seconds"])
        return [None] * len(batch["rows"])

    def validate(self, item: Item) -> None:
        """Nothing, if it is a video with a prompt, and what else is told of it can be kept.

        Raises:
            ExtractError: it is not; or the corpus tells of it what has another meaning here.
        """
        super().validate(item)
        if item.frames:
            raise ExtractError(f"{item.path} is no video, and objects are tracked through these")
        self.backend.check(classes_of(self._prompt(item)))

    def assemble(self, item: Item, results: Sequence[Any], summary: ItemSummary) -> TrackSample:
        """The sample of what was written down."""
        video = next(each for each in self._videos.values() if each.key == item.key)
        with _disk():
            files = video.finish()
        if video.recording.num_frames != summary.num_frames:
            raise ValueError(
                f"{video.recording.num_frames} of {summary.num_frames} frames of {item.key} are written down"
            )
        video_facts = summary.video
        assert video_facts is not None
        assert summary.size is not None
        meta = {
            **item.meta,
            "path": item.path,
            "prompt": self._prompt(item),
            "video_info": {
                "width": summary.size[1],
                "height": summary.size[0],
                "fps": video_facts["fps"],
                "num_frames": video_facts["num_frames"],
                "duration": video_facts["duration_seconds"],
                **{name: value for name, value in video_facts.items() if name in _FACTS},
            },
            "num_frames": summary.num_frames,
            "num_objects": len(video.recording.obj_ids),
            "backend": type(self.backend).__name__,
        }
        _log.info(
            "%s: %s frames in %.1f s (%.1f frames/s), %d objects, %s",
            item.key,
            f"{summary.num_frames:,}",
            video.seconds,
            summary.num_frames / video.seconds,
            meta["num_objects"],
            self.device,
        )
        return TrackSample(item.key, meta, files)

    def status(self, sample: TrackSample) -> str:
        """Return `ok`; or `empty`: nothing of the prompt was found in the video."""
        return OK if sample.meta["num_objects"] else EMPTY

    def release(self, shard: int, row: int) -> None:
        """Drop a video's state, and what is drawn of it if that is not whole."""
        if video := self._videos.pop((shard, row), None):
            video.close()

    def _begin(self, item: Item, frame: Tensor) -> "_Video":
        tracker = self.backend.start(classes_of(self._prompt(item)))
        drawing = None
        if self._drawings:
            path, size = self._drawings / f"{item.key}.mp4", (frame.shape[1], frame.shape[2])
            make_folder(self._drawings, path.parent)
            drawing = VideoWriter(path, size, self.rank.scratch / f"{uuid4().hex}.mp4")
        return _Video(item.key, tracker, Recording(self.rank.scratch), drawing)

    def _prompt(self, item: Item) -> str:
        prompt = item.meta.get("prompt", self.hparams["prompt"])
        if not isinstance(prompt, str):
            raise ExtractError("there is no prompt for it: set --model.prompt, or give it one in the video list")
        return prompt


class _Video:
    """One video's state.

    Attributes:
        seconds: spent on it so far.
    """

    def __init__(self, key: str, tracker: VideoTracker, recording: Recording, drawing: VideoWriter | None) -> None:
        self.key, self.recording = key, recording
        self._tracker, self._drawing = tracker, drawing
        self.seconds, self._num_drawn = 0.0, 0
        self._undecided: dict[int, tuple[float, Tensor | None]] = {}  # by frame: its time, and its image to draw on

    def add(self, first: int, frames: Sequence[Tensor], pts_seconds: Sequence[float | None]) -> None:
        """Track the next frames, and draw and write down those that are decided.

        Frames that were done before memory ran out are skipped.
        """
        started = time.monotonic()
        for number, (frame, seconds) in enumerate(zip(frames, pts_seconds, strict=True), first):
            if number >= self.recording.num_frames:
                assert seconds is not None
                self._undecided[number] = seconds, frame.cpu() if self._drawing else None
        self._write(max(0, first - self._tracker.delay), self._tracker.track(first, frames))
        self.seconds += time.monotonic() - started

    def _write(self, first: int, decided: Sequence[Sequence[TrackedObject]]) -> None:
        for number, objects in enumerate(decided, first):
            if number < self.recording.num_frames:
                continue
            seconds, frame = self._undecided[number]
            lines, masks = described(objects)
            if self._drawing and frame is not None and number == self._num_drawn:
                drawn = [DrawnObject(**{**line, "mask": mask}) for line, mask in zip(lines, masks, strict=True)]
                self._draw(frame, seconds, drawn)
                self._num_drawn += 1
            self.recording.add(seconds, lines)
            del self._undecided[number]

    def _draw(self, frame: Tensor, seconds: float, objects: Sequence[DrawnObject]) -> None:
        from av import FFmpegError

        assert self._drawing
        try:
            self._drawing.add(draw_objects(frame.permute(1, 2, 0).numpy(), objects), seconds)
        except FFmpegError as error:
            if isinstance(error, OSError):
                raise
            _log.warning("%s: its video cannot be drawn, but the tracks are kept: %s", self.key, error)
            self._drawing.discard()
            self._drawing = None

    def finish(self) -> dict[str, Any]:
        self._write(self.recording.num_frames, self._tracker.finish())
        if self._drawing:
            self._drawing.close()
            self._drawing = None
        return self.recording.files()

    def close(self) -> None:
        if self._drawing:
            self._drawing.discard()
        self.recording.close()


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFailure(
            f"tracks cannot be written to disk: {error}. Fix the problem and rerun the same command"
        ) from error
