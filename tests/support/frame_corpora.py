"""Small corpora of real files, and ranks that read them, for the tests of frames, loader and DataModule."""

import queue
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from datamodules.corpus import Item
from datamodules.loading.loader import FrameLoader
from datamodules.loading.request import FrameRequest
from datamodules.loading.stream import FrameStream
from datamodules.loading.tickets import Ticket
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from support.runs import make_run


def write_image(path: Path, value: int, size: tuple[int, int] = (8, 6)) -> None:
    """A gray image of `size` (width, height), every pixel `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def write_video(path: Path, num_frames: int, fps: int = 25, gop: int = 10, size: tuple[int, int] = (64, 48)) -> None:
    """An H.264 video whose frame k is gray, of the value `gray_of(k)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1", "g": str(gop)})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for k in range(num_frames):
            pixels = np.full((size[1], size[0], 3), gray_of(k), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def gray_of(frame_idx: int) -> int:
    """Return a value that distinguishes neighbouring frames after lossy coding."""
    return 20 + (frame_idx * 37) % 200


def write_corpus(root: Path) -> list[Item]:
    """Seven images (one of another size, one missing, one empty), two sequences (one broken), two videos (one text)."""
    items = []
    for k in range(7):
        path = root / "images" / f"{k}.png"
        if k == 4:
            path.write_bytes(b"")
        elif k != 5:
            write_image(path, 10 * k, (8, 6) if k != 2 else (5, 9))
        items.append(Item(f"images/{k}", "train", "images", (f"{k}.png",), cost=1))
    for name in ("whole", "broken"):
        for k in range(5):
            write_image(root / name / f"{k}.png", 100 + k)
        items.append(Item(name, "train", name, tuple(f"{k}.png" for k in range(5)), cost=5))
    (root / "broken" / "3.png").write_text("no image")
    write_video(root / "video.mp4", 23)
    (root / "text.mp4").write_text("no video")
    items += [Item(name, "train", f"{name}.mp4", cost=9) for name in ("video", "text")]
    return items


def corpus_run(root: Path, folder: Path, per_shard: int = 20, copies: int = 1) -> Run:
    """A run over `copies` of `write_corpus`, each item of a shard of at most `per_shard`."""
    items = write_corpus(root)
    return make_run(
        folder,
        [Item(f"{n}/{i.key}", i.split, i.path, i.frames, cost=i.cost) for n in range(copies) for i in items],
        per_shard,
    )


def consume(
    run: Run,
    root: Path | str,
    num_workers: int,
    slice_frames: int = 4,
    pause: float = 0.0,
    timeout_seconds: float = 120.0,
) -> list[Any]:
    """Work as a rank until the run is done; items become samples of their frames' gray values. Returns the batches."""
    batches = []
    values: dict[tuple[int, int], list[int]] = {}
    with Rank(run) as rank:
        request = FrameRequest(slice_frames)
        for batch in FrameLoader(rank, str(root), request, num_workers, timeout_seconds=timeout_seconds):
            batches.append(batch)
            for row, frame in zip(batch["rows"], batch.get("frames", []), strict=True):
                values.setdefault((batch["shard"], row), []).append(int(frame.float().mean().round()))
            for summary in batch["summaries"]:
                frames = values.pop((batch["shard"], summary.row), [])
                if summary.reason:
                    result = Result(summary.row, reason=summary.reason, reason_class=summary.reason_class)
                    rank.add(batch["shard"], result, {})
                else:
                    result = Result(summary.row, num_frames=summary.num_frames)
                    rank.add(batch["shard"], result, {"json": str(frames).encode()})
            time.sleep(pause)
    return batches


def consume_in_process(folder: Path, root: Path, num_workers: int, pause: float) -> None:
    """Call `consume` as the target of a process."""
    consume(Run(folder), root, num_workers, pause=pause)


def image_items(root: Path, count: int) -> list[Item]:
    """Items of `count` gray images, written to `root`; every pixel of image k is k."""
    for k in range(count):
        write_image(root / "i" / f"{k}.png", k)
    return [Item(f"i/{k}", "train", "i", (f"{k}.png",), cost=1) for k in range(count)]


class NoMonitor:
    """An `ActivityMonitor` that records nothing."""

    def mark_active(self, shard: int, rows: Sequence[int]) -> None:
        """Ignore it."""

    def mark_idle(self) -> None:
        """Ignore it."""


def slices(
    corpus: tuple[Run, Path], *tickets: Any, slice_frames: int = 4, transform: Any = None, **request: Any
) -> list[Any]:
    """The batches of tickets of the first shard, each given by its rows, as one process reads them."""
    run, root = corpus
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for rows in (*tickets, None):
        waiting.put(rows and Ticket(0, rows))
    frame_request = FrameRequest(slice_frames, transform, **request)
    return list(FrameStream(run.plan, str(root), waiting, frame_request, NoMonitor()))


def summaries_of(batches: Sequence[Any]) -> dict[int, Any]:
    """Return the summaries in `batches` by row."""
    return {summary.row: summary for batch in batches for summary in batch["summaries"]}
