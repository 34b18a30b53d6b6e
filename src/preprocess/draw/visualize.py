"""`preprocess visualize`: some samples of a run as images, videos or an HTML page, as their kind draws them.

| file in `dest` | what                                                                                             |
|----------------|--------------------------------------------------------------------------------------------------|
| `{key}.png`    | a contact sheet: up to six frames, evenly spaced, with their numbers, counted from 0; or an image |
| `{key}.mp4`    | H.264, each frame at its time; not of a sample with one frame                                     |
| `samples.html` | the texts of all samples, each beside its image                                                   |

Which of these a kind has, and what they show, is up to `SampleKind.draw`. A `/` in a key is a folder. Frames that are
missing, or can no longer be decoded, are drawn as a blank image.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from datamodules.errors import ConfigError, RunError
from datamodules.media.container import error_text
from datamodules.run.folder import Run
from datamodules.run.kind import kind_of
from datamodules.run.reader import CommittedSamples
from datamodules.samples.drawing import ImageDrawing, VideoDrawing
from preprocess.draw.page import entry_of, page
from preprocess.draw.sheet import ContactSheet
from preprocess.draw.source import CorpusFrames
from preprocess.draw.video import VideoWriter

_PAGE = "samples.html"


def visualize(run: Run, dest: Path, num_samples: int = 4, split: str | None = None) -> list[Path]:
    """Draw some of a run's samples, evenly spaced over its committed ones.

    Args:
        run: a run of a kind that draws its samples.
        dest: a new or empty folder.
        num_samples: how many, at most.
        split: of this split only; None: of all.

    Returns:
        The files written; see the module's table.

    Raises:
        ConfigError: `dest` is not empty, `num_samples` is below 1, or the kind draws no samples.
        RunError: no shard is committed, or a sample cannot be drawn.
    """
    if num_samples < 1:
        raise ConfigError(f"--samples {num_samples}: give 1 or more")
    if os.path.lexists(dest) and (not dest.is_dir() or any(dest.iterdir())):
        raise ConfigError(f"{dest} is not empty: name a folder that is new or empty")
    kind, samples = kind_of(run), CommittedSamples(run, split)
    written: list[Path] = []
    entries: list[str] = []  # of the page
    for index in np.unique(np.linspace(0, len(samples) - 1, num_samples).round().astype(int)).tolist():
        sample = samples.decode(index, kind)
        drawing = kind.draw(sample, CorpusFrames.of_key(run, sample.key))
        if isinstance(drawing, VideoDrawing):
            written += _write_video(sample.key, drawing, dest)
        elif isinstance(drawing, ImageDrawing):
            written.append(_write_image(sample.key, drawing, dest))
        else:
            entries.append(entry_of(sample.key, drawing))
    if entries:
        written.append(_write_page(f"Samples of {run.store}", entries, dest))
    return written


def _write_video(key: str, drawing: VideoDrawing, dest: Path) -> list[Path]:
    """Write the contact sheet and, if there are several frames, the MP4."""
    sheet, png, mp4 = ContactSheet(key, drawing), dest / f"{key}.png", dest / f"{key}.mp4"
    has_video = drawing.num_frames > 1
    with _video_errors(key, drawing.size), VideoWriter(mp4, drawing.size) as video:
        for pts_seconds, image in drawing.frames:
            sheet.add(image)
            if has_video:
                video.add(image, pts_seconds)
    sheet.save(png)
    return [png, mp4] if has_video else [png]


@contextmanager
def _video_errors(key: str, size: tuple[int, int]) -> Iterator[None]:
    """Turn FFmpeg's errors, but for those of the disk, into RunError."""
    from av import FFmpegError

    try:
        yield
    except FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise RunError(
            f"{key}: no video of {size[1]}x{size[0]} px can be written ({error_text(error)}). H.264 has at most "
            "16,384 px a side"
        ) from error


def _write_image(key: str, drawing: ImageDrawing, dest: Path) -> Path:
    path = dest / f"{key}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(drawing.image).save(path)
    return path


def _write_page(title: str, entries: list[str], dest: Path) -> Path:
    dest.mkdir(parents=True, exist_ok=True)
    path = dest / _PAGE
    path.write_text(page(title, entries), "utf-8", "replace")
    return path
