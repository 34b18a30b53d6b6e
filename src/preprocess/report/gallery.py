"""The gallery of a report: what is shown of the chosen samples, and their images and videos.

| file in `media/` | what                                                                                    |
|------------------|-----------------------------------------------------------------------------------------|
| `{number}.mp4`   | H.264, each frame at its time: up to 100 frames of a sample, as its kind draws it       |
| `{number}.jpg`   | a frame from the middle of that; or an image, with what was made of it drawn over it    |

The files are numbered, because keys may be long or have characters that a URL or a file system does not allow.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image as PillowImage

from datamodules.corpus import Item
from datamodules.errors import FramemillError
from datamodules.printable import printable, printable_lines
from datamodules.run.folder import Run
from datamodules.run.parallel_reads import read_each
from datamodules.run.reader import open_sample
from datamodules.samples import SampleKind
from datamodules.samples.drawing import Drawing, Image, ImageDrawing, VideoDrawing, resized
from preprocess.draw.source import CorpusFrames
from preprocess.draw.video import VideoWriter
from preprocess.report.selection import Chosen

_SIDE_PX = 640  # longer side of an image or a video, at most
_QUALITY = 85  # of a JPEG
_MAX_FRAMES = 100  # of a video: 4 s at 25 frames per second
_MAX_TEXT = 20_000  # characters of a caption or a note
_MAX_CORPUS_FIELDS, _MAX_FIELD = 30, 300  # fields of the corpus, and characters of one


class Shown(NamedTuple):
    """A chosen row, with all that is needed to draw it in another thread.

    Attributes:
        number: of the sample in the gallery.
        item: as planned.
        row: of the table, by column, and `shard`: name of the shard with the sample.
        why: see `Chosen`.
    """

    number: int
    item: Item
    row: dict[str, Any]
    why: str


class Gallery:
    """Makes the entries of a gallery, and writes their media.

    Args:
        run: the run.
        kind: of its samples.
        media: folder to write to; it is made.
    """

    def __init__(self, run: Run, kind: SampleKind[Any], media: Path) -> None:
        self._run, self._kind, self._media = run, kind, media

    def entries(self, chosen: Sequence[Chosen]) -> Iterator[dict[str, Any]]:
        """Yield an entry for each chosen row, in order: what the page shows of it.

        A sample that cannot be read or drawn has a `problem` instead of media.
        """
        self._media.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                yield from pool.map(self._entry, self._shown(chosen))
            finally:
                pool.shutdown(cancel_futures=True)

    def _shown(self, chosen: Sequence[Chosen]) -> list[Shown]:
        """Return the chosen rows with their items and tables' rows; each table is read once."""
        order = {(row.shard, row.row): number for number, row in enumerate(chosen)}
        shards = [list(rows) for _, rows in groupby(sorted(chosen), lambda row: row.shard)]

        def read(rows: Sequence[Chosen]) -> list[Shown]:
            number, plan = rows[0].shard, self._run.plan
            values = self._run.rows(plan.shards[number].name).take([row for _, row, _ in rows]).to_pylist()
            items = [plan.item(number, row) for _, row, _ in rows]
            return [
                Shown(order[number, chosen.row], item, row, chosen.why)
                for chosen, item, row in zip(rows, items, values, strict=True)
            ]

        return sorted(chain.from_iterable(read_each(self._run.store, read, shards)), key=lambda shown: shown.number)

    def _entry(self, shown: Shown) -> dict[str, Any]:
        item, row = shown.item, shown.row
        entry: dict[str, Any] = {
            "key": item.key,
            "name": printable(item.key),
            "split": item.split,
            "source": printable(item.source),
            "status": row["status"],
            "reason_class": row["reason_class"],
            "reason": printable(row["reason"]) if row["reason"] else None,
            "why": shown.why,
            "shard": row["shard"],
            "numbers": _numbers(row),
            "corpus": dict(_corpus_fields(item)),
        }
        if row["reason_class"] is None:
            entry |= self._drawn(shown)
        return entry

    def _drawn(self, shown: Shown) -> dict[str, Any]:
        """Return what the kind of the sample draws, and write its media."""
        row = shown.row
        source = CorpusFrames(self._run, row["shard"], shown.item.key)
        try:
            tar = self._run.tar_file(row["shard"])
            _, files = open_sample(tar, row["tar_offset"], row["tar_bytes"], key=shown.item.key)
            members = files if self._kind.opens_files else {ending: file.read() for ending, file in files.items()}
            drawing = self._kind.draw(self._kind.decode(shown.item.key, members), source)
            drawn = self._write(f"{shown.number:05d}", drawing, row["num_frames"])
        except (FramemillError, OSError) as error:
            return {"problem": printable(str(error))}
        if source.problem:
            drawn["problem"] = printable(f"{source.problem} (after {source.num_read:,} frames)")
        return drawn

    def _write(self, name: str, drawing: Drawing, num_frames: int) -> dict[str, Any]:
        if isinstance(drawing, VideoDrawing):
            return self._write_video(name, drawing, num_frames)
        if isinstance(drawing, ImageDrawing):
            return {"image": self._write_image(name, drawing.image), "facts": []}
        return {
            "image": None if drawing.image is None else self._write_image(name, drawing.image),
            "text": printable_lines(drawing.text[:_MAX_TEXT]),
            "facts": [printable(fact) for fact in drawing.facts],
            "note": printable_lines(drawing.note[:_MAX_TEXT]),
            "problem": printable(drawing.missing) or None,
        }

    def _write_video(self, name: str, drawing: VideoDrawing, of_sample: int) -> dict[str, Any]:
        num_frames = min(drawing.num_frames, _MAX_FRAMES)
        size = _shrunk(drawing.size)
        path = self._media / f"{name}.mp4"
        poster = None
        with VideoWriter(path, size, preset="ultrafast") as video:
            for index, frame in enumerate(islice(drawing.frames, num_frames)):
                image = resized(frame.image, size)
                if index == num_frames // 2:
                    poster = self._write_image(name, image)
                if num_frames > 1:
                    video.add(image, frame.pts_seconds)
        return {
            "image": poster,
            "video": path.name if num_frames > 1 else None,
            "facts": [printable(fact) for fact in drawing.facts if fact],
            "legend": [{"text": text, "colour": f"rgb{colour}"} for text, colour in drawing.legend],
            "cut": f"the first {num_frames:,} of {of_sample:,} frames" if num_frames < of_sample else None,
        }

    def _write_image(self, name: str, image: Image) -> str:
        path = self._media / f"{name}.jpg"
        picture = PillowImage.fromarray(image)
        picture.thumbnail((2 * _SIDE_PX, 2 * _SIDE_PX))
        picture.save(path, "JPEG", quality=_QUALITY)
        return path.name


def _shrunk(size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width), both even, with the longer side at most `_SIDE_PX`."""
    scale = min(1.0, _SIDE_PX / max(size))
    height, width = (2 * max(1, round(side * scale / 2)) for side in size)
    return height, width


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a row that `Distributions` counts, by name."""
    names = ("seconds", "attempts") if row["reason_class"] else ("num_frames", "seconds", "attempts", "tar_bytes")
    return {**dict(row["metrics"] or ()), **{name: row[name] for name in names}}


def _corpus_fields(item: Item) -> Iterator[tuple[str, str]]:
    """Yield the fields that the corpus has for the item, as text."""
    for name, value in islice(item.meta.items(), _MAX_CORPUS_FIELDS):
        yield printable(name), printable(str(value)[:_MAX_FIELD])
