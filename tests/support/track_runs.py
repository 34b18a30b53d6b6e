"""Videos of moving shapes whose tracks are known, and small complete runs of them, for tests of what reads a run."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from datamodules.corpus import Corpus, Item
from datamodules.media.sampling import AtRate, between
from datamodules.media.video import Video
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.samples.track_lines import TrackLine, line_of, rle_of
from datamodules.samples.tracks import TrackSample, TrackSamples

REASON = "its prompt is empty"
TRACKS = "datamodules.samples.tracks.TrackSamples"


class Shape(NamedTuple):
    """An object in a frame; `mask` bool [H, W], `bbox` half-open."""

    obj_id: int
    label: str
    score: float
    mask: NDArray[np.bool_]
    bbox: list[int]


@dataclass(frozen=True)
class Shapes:
    """A red box (1, a car) that goes right; a blue disc (2, a person), from the third frame to the third last."""

    num_frames: int = 12
    size: tuple[int, int] = (64, 96)  # height, width; even
    times: Callable[[int], int] = lambda k: 40 * k  # pts of frame k in 1/1000 s

    def at(self, k: int) -> list[Shape]:
        """The objects of the video's frame k, as they are drawn."""
        y, x = np.mgrid[: self.size[0], : self.size[1]]
        left = 4 + 5 * k
        shapes = [(1, "car", (x >= left) & (x < left + 20) & (y >= 10) & (y < 22))]
        if 2 <= k < self.num_frames - 2:
            shapes.append((2, "person", (x - 70 + 4 * k) ** 2 + (y - 38) ** 2 <= 81))
        found = []
        for obj_id, label, mask in shapes:
            if mask.any():
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                bbox = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
                found.append(Shape(obj_id, label, round(0.9 - 0.01 * k, 4), mask, bbox))
        return found

    def picture(self, k: int) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] of frame k: the shapes over a gray of the value `gray_of(k)`."""
        pixels = np.full((*self.size, 3), gray_of(k), np.uint8)
        for shape in self.at(k):
            pixels[shape.mask] = (200, 20, 20) if shape.label == "car" else (20, 20, 200)
        return pixels

    def write(self, path: Path) -> Path:
        """Write the video, H.264."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as file:
            stream = file.add_stream("libx264", rate=25, options={"crf": "1", "g": "5", "threads": "1"})
            stream.height, stream.width = self.size
            stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 1000)
            for k in range(self.num_frames):
                frame = av.VideoFrame.from_ndarray(self.picture(k), format="rgb24")
                frame.pts, frame.time_base = self.times(k), Fraction(1, 1000)
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        return path


def gray_of(k: int) -> int:
    """Return a value that distinguishes neighbouring frames."""
    return 40 + (k * 37) % 120


@dataclass
class TrackItems(Corpus):
    """The videos `{split}/{name}.mp4` of shapes below `root`; `options` are what all items have besides."""

    root: str
    videos: Mapping[str, Shapes]
    options: Mapping[str, Any] = field(default_factory=dict)

    def items(self) -> Iterator[Item]:
        for key in self.videos:
            yield Item(key, key.partition("/")[0], f"{key}.mp4", cost=10, **self.options)

    def frames(self, item: Item) -> list[tuple[int, float]]:
        """(place in the video, time in seconds) of each frame taken of an item."""
        pts = Video(Path(self.root, item.path)).pts_seconds
        indices = between(pts, item.start_seconds, item.stop_seconds)
        if item.fps:
            indices = indices[AtRate(item.fps).indices(pts[indices])]
        return [(int(k), round(float(pts[k]), 6)) for k in indices]

    def lines(self, item: Item) -> list[TrackLine]:
        """Return the shapes that an item shows."""
        return [
            {"frame_idx": frame_idx, "timestamp": seconds, "objects": [
                {"obj_id": s.obj_id, "label": s.label, "score": s.score, "bbox": s.bbox, "mask": rle_of(s.mask)}
                for s in self.videos[item.key].at(k)
            ]}
            for frame_idx, (k, seconds) in enumerate(self.frames(item))
        ]  # fmt: skip

    def sample(self, item: Item) -> TrackSample:
        """Return the sample of an item."""
        height, width = self.videos[item.key].size
        num_frames = self.videos[item.key].num_frames
        info = {"width": width, "height": height, "fps": 25.0, "num_frames": num_frames, "duration": num_frames / 25}
        lines = self.lines(item)
        num_objects = len({each["obj_id"] for line in lines for each in line["objects"]})
        facts = {"path": item.path, "prompt": "car. person.", "video_info": info, "num_objects": num_objects}
        return made_sample(item.key, lines, {**item.meta, **facts, "backend": "made"})


def made_sample(key: str, lines: list[TrackLine], meta: dict[str, Any]) -> TrackSample:
    """Return the sample of these lines."""
    found = [(line["frame_idx"], each["obj_id"], each["bbox"]) for line in lines for each in line["objects"]]
    arrays = {
        "boxes.npy": np.array([bbox for *_, bbox in found], np.float32).reshape(-1, 4),
        "obj_ids.npy": np.array([obj_id for _, obj_id, _ in found], np.int32),
        "frame_idx.npy": np.array([frame_idx for frame_idx, *_ in found], np.int32),
    }
    files: dict[str, bytes | BinaryIO] = {
        "tracks.jsonl": b"".join(map(line_of, lines)),
        **{name: _npy(array) for name, array in arrays.items()},
    }
    return TrackSample(key, meta, files)


def write_videos(root: Path, *keys: str, **options: Any) -> TrackItems:
    """Videos of shapes `{key}.mp4`, each a frame longer than the one before; and the corpus of them."""
    num_frames, others = options.pop("num_frames", 12), {n: options.pop(n) for n in ("size", "times") if n in options}
    videos = {key: Shapes(num_frames + place, **others) for place, key in enumerate(keys)}
    for key, shapes in videos.items():
        shapes.write(root / f"{key}.mp4")
    return TrackItems(str(root), videos, options)


def make_track_run(folder: Path, corpus: TrackItems, failed: tuple[str, ...] = ()) -> Run:
    """A complete run over `corpus` in shards of two; items with a key in `failed` are failures."""
    listed = {"class_path": "support.track_runs.TrackItems", "init_args": {"root": corpus.root}}
    run = open_or_plan(
        folder, corpus, {"samples": {"class_path": TRACKS}, "corpus": listed}, ShardSize(max_items=2, min_shards=1)
    )
    with Rank(run) as rank:
        while opened := rank.lease():
            for row, item in enumerate(opened.items):
                if item.key in failed:
                    rank.add(opened.shard.number, Result(row, reason=REASON, reason_class="extract"), {})
                else:
                    sample, kind = corpus.sample(item), TrackSamples()
                    result = Result(row, num_frames=len(corpus.frames(item)), metrics=kind.metrics_of(sample))
                    rank.add(opened.shard.number, result, kind.encode(sample))
    return run


def _npy(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()
