"""`preprocess visualize`: skeletons or tracks over the frames they were found in; clips, as they are stored; captions.

| file in `dest` | what                                                                                   |
|----------------|----------------------------------------------------------------------------------------|
| `{key}.png`    | a contact sheet: up to six frames, evenly spaced, with their numbers, counted from 0   |
| `{key}.mp4`    | H.264, the first 300 frames at the sample's rate, 25 per second for images, 8 of clips |

Films of tracks have every frame, at its time and of its size (`tracks.py`).

Of poses the PNG is the image with its people drawn over it, and beside it these alone, as ControlNet takes them.

Of captions there is one file, `captions.html`: each beside its image, which is stored, or where it was.

A `/` in a key is a folder. Frames that are no longer there, or no longer decode, are drawn as an empty page.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import cv2  # comes with mediapipe
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from datamodules.corpus import Item
from datamodules.errors import ConfigError, DecodeError, RunError
from datamodules.loading.frames import frames_of
from datamodules.media.container import ffmpeg_url, said
from datamodules.media.decoding import Decoding
from datamodules.media.image import decode_image
from datamodules.printable import printable
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples.captions import CaptionSample, CaptionSamples
from datamodules.samples.clips import ClipSample, ClipSamples
from datamodules.samples.fields import size_of_frames
from datamodules.samples.keypoint_layouts import LAYOUTS, PARTS
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from datamodules.samples.pose import PoseSample, PoseSamples
from datamodules.samples.skeleton import draw, pose_map, resized
from datamodules.samples.tracks import TrackSample, TrackSamples
from preprocess.draw.page import Card, page
from preprocess.draw.video import TrackVideo, drawn_of
from preprocess.export.reading import kind_of
from preprocess.report.view import find

Picture = NDArray[np.uint8]  # [H, W, 3], RGB

COLOURS = {
    "pose": (0, 200, 170),
    "face": (255, 200, 70),
    "left_hand": (255, 90, 110),
    "right_hand": (80, 140, 255),
}


@dataclass(frozen=True)
class _Stroke:
    """How wide lines, and how large points are drawn, in px."""

    line_width: float
    point_radius: float

    def scaled(self, factor: float) -> "_Stroke":
        return _Stroke(self.line_width * factor, self.point_radius * factor)

    def grown(self, margin: float) -> "_Stroke":
        """For what lies below, and shows this much on each side."""
        return _Stroke(self.line_width + 2 * margin, self.point_radius + margin)


_HAND = _Stroke(2, 2.2)
_STROKES = {"pose": _Stroke(3, 4), "face": _Stroke(1.5, 1.2), "left_hand": _HAND, "right_hand": _HAND}  # at 520 px
_COVERED = {"face": range(11), "left_hand": (17, 19, 21), "right_hand": (18, 20, 22)}  # pose points drawn better there
_MIN_VISIBILITY = 0.5  # as in mediapipe/python/solutions/drawing_utils.py
_MAX_FRAMES = 300
_IMAGES_PER_SECOND = 25
_CLIP_FRAMES_PER_SECOND = 8
_SLOWEST, _FASTEST = 0.01, 1000  # frames per second of a film, whatever rate a sample's json has
_SIDES_PX = (520, 1280)  # a drawn frame's longer side
_HALO = (15, 20, 30)
_PAGE = (244, 246, 248)
_MAX_PX = 32_766  # what is drawn lies nearer: OpenCV takes 16 bits for a px
_SHIFT = 4  # OpenCV takes coordinates in 1/16 px

_SHEET_PX, _MARGIN_PX, _GAP_PX, _HEADER_PX, _FOOTER_PX = 1800, 32, 12, 84, 30
_MAX_LINE = 400  # characters, more than fit
_INK, _GREY = (30, 34, 40), (110, 118, 128)


def visualize(run: Run, dest: Path, num_samples: int = 4, split: str | None = None) -> list[Path]:
    """Draw some of a run's samples, evenly spaced over its committed ones.

    Args:
        run: a run of the keypoints, the clips, the captions, the tracking or the pose pipeline.
        dest: a new or empty folder.
        num_samples: how many, at most.
        split: of this split only; None: of all.

    Returns:
        The files written, see the module's table; a sample of one frame has no MP4.

    Raises:
        ConfigError: `dest` holds something, or `num_samples` is below 1.
        RunError: nothing is committed, or the samples are of none of these.
    """
    if num_samples < 1:
        raise ConfigError(f"{num_samples = }: give 1 or more")
    if os.path.lexists(dest) and (not dest.is_dir() or any(dest.iterdir())):
        raise ConfigError(f"{dest} is not empty: name a folder that is new or empty")
    samples = CommittedSamples(run, split)
    chosen = np.unique(np.linspace(0, len(samples) - 1, num_samples).round().astype(int))
    if kind_of(run) == CaptionSamples.__name__:
        return [_write_page(run, (CaptionSamples().decode(*samples[index]) for index in chosen.tolist()), dest)]
    written = []
    for index in chosen.tolist():
        if kind_of(run) == TrackSamples.__name__:
            written += _write_tracks(run, TrackSamples().decode(*samples.open(index)), dest)
            continue
        key, members = samples[index]
        if kind_of(run) == PoseSamples.__name__:
            written.append(_write_pose(run, PoseSamples().decode(key, members), dest))
            continue
        if kind_of(run) == ClipSamples.__name__:
            drawing = _of_clip(ClipSamples().decode(key, members))
        elif "keypoints.npy" in members:
            drawing = _of_keypoints(KeypointSamples().decode(key, members), _read(run, key))
        else:
            raise RunError(
                f"{run.folder} holds no keypoints, clips, captions, poses or tracks to draw: its samples have "
                f"{', '.join(members)}"
            )
        written += _write(drawing, dest)
    return written


def _write_page(run: Run, samples: Iterator[CaptionSample], dest: Path) -> Path:
    dest.mkdir(parents=True, exist_ok=True)
    path = dest / "captions.html"
    path.write_text(page(f"Captions of {run.folder}", (_card(run, sample) for sample in samples)), "utf-8", "replace")
    return path


def _card(run: Run, sample: CaptionSample) -> Card:
    try:
        if sample.image is not None:
            return Card(sample, decode_image(sample.image, sample.key).permute(1, 2, 0).numpy())
        return Card(sample, next(_read(run, sample.key)))
    except (DecodeError, OSError) as error:
        return Card(sample, None, f"the image is gone: {error}")


@dataclass(frozen=True)
class _Drawing:
    """What is drawn of one sample: `num_frames` pictures of `size` (width, height), and what is said of it above them.

    `rates` tells for each part in how many of the frames it was found, 0 to 1.
    """

    key: str
    pictures: Iterator[Picture]
    num_frames: int
    size: tuple[int, int]
    fps: float
    facts: list[str]
    rates: dict[str, float]


def _of_keypoints(sample: KeypointSample, frames: Iterator[Picture]) -> _Drawing:
    meta, num_frames = sample.meta, min(len(sample.keypoints), _MAX_FRAMES)
    height, width = _size_of(sample)
    if not num_frames or sample.keypoints.shape[1] not in LAYOUTS:
        shape = list(sample.keypoints.shape)
        raise RunError(f"{sample.key} has keypoints {shape}, without frames or of no known layout: it cannot be drawn")
    size = _size_drawn(width, height)
    facts = [*_facts(len(sample.keypoints), meta), f"{sample.keypoints.shape[1]} keypoints"]
    return _Drawing(
        key=sample.key,
        pictures=_pictures(sample, frames, size, num_frames),
        num_frames=num_frames,
        size=size,
        fps=meta.get("fps") or _IMAGES_PER_SECOND,
        facts=[*facts, meta["glosses"]] if "glosses" in meta else facts,
        rates=dict(zip(PARTS, sample.presence.mean(0).tolist(), strict=True)),
    )


def _size_of(sample: KeypointSample) -> tuple[int, int]:
    """(height, width) in px of the sample's frames; RunError if its json has none that an image can have."""
    try:
        return size_of_frames(sample.meta)
    except ValueError as error:
        raise RunError(f"{sample.key} cannot be drawn: {error}; run `preprocess verify`") from error


@contextmanager
def _film_errors(key: str, size: tuple[int, int]) -> Iterator[None]:
    """RunError if FFmpeg cannot write a film of this width and height."""
    from av import FFmpegError

    try:
        yield
    except FFmpegError as error:
        if isinstance(error, OSError):  # of the disk
            raise
        raise RunError(
            f"{key}: no film of {size[0]}x{size[1]} px can be written ({said(error)}): "
            "H.264 has at most 16,384 px a side"
        ) from error


def _write_pose(run: Run, sample: PoseSample, dest: Path) -> Path:
    height, width = sample.size("original")
    size = _size_drawn(width, height)
    keypoints = resized(sample.keypoints_in("original"), (height, width), size[::-1])
    picture = next(_frames_or_pages(_read(run, sample.key), size))
    path = dest / f"{sample.key}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([draw(picture, keypoints), pose_map(keypoints, size[::-1])], 1)).save(path)
    return path


def _of_clip(sample: ClipSample) -> _Drawing:
    height, width = sample.frames.shape[1:3]
    size = _size_drawn(width, height)
    return _Drawing(
        key=sample.key,
        pictures=(_resized(frame, size) for frame in sample.frames[:_MAX_FRAMES]),
        num_frames=min(len(sample.frames), _MAX_FRAMES),
        size=size,
        fps=_CLIP_FRAMES_PER_SECOND,
        facts=[*_facts(len(sample.frames), sample.meta), sample.meta.get("transcript") or ""],
        rates={},
    )


def _facts(num_frames: int, meta: dict[str, Any]) -> list[str]:
    return [f"{num_frames:,} frames", f"{meta.get('width')}x{meta.get('height')} px"]


def _made_by(run: Run, key: str) -> Run:
    """The run, or that of its retries, whose sample of this key stands."""
    shard, row = find(run, key)
    name = run.rows(shard.name, ["key"])["shard"][row].as_py()
    return next((retry for retry in run.retries if name in retry.committed()), run)


def _root(run: Run, item: Item) -> Path:
    """The corpus root below which `item` still is, of those that the plans record; else the first."""
    roots = [Path(root) for each in run.with_retries for root in each.plan.roots]
    if not roots:
        raise RunError(f"{run.folder} does not say where its corpus lay: give --root")
    return next((root for root in roots if os.path.exists(root / item.path)), roots[0])


def _write_tracks(run: Run, sample: TrackSample, dest: Path) -> list[Path]:
    info, lines = sample.meta["video_info"], sample.lines
    size = info["height"], info["width"]
    paths = [dest / f"{sample.key}.png", dest / f"{sample.key}.mp4"]
    with TrackVideo(paths[1], size) as film:
        frames = _frames_or_pages(_read(run, sample.key), (size[1], size[0]))
        facts = [*_facts(len(lines), info), f"{sample.meta.get('num_objects')} objects", f'"{sample.meta["prompt"]}"']
        drawing = _Drawing(
            key=sample.key,
            pictures=(film.add(next(frames), line["timestamp"], drawn_of(line)) for line in lines),
            num_frames=len(lines),
            size=(size[1], size[0]),
            fps=info.get("fps") or 0.0,
            facts=facts,
            rates={},
        )
        with _film_errors(sample.key, drawing.size):
            _write_sheet(drawing, drawing.pictures, paths[0])
    return paths


def _write(drawing: _Drawing, dest: Path) -> list[Path]:
    paths = [dest / f"{drawing.key}.png"]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    pictures = drawing.pictures
    if drawing.num_frames > 1:
        paths.append(dest / f"{drawing.key}.mp4")
        pictures = _filmed(pictures, paths[1], drawing.size, drawing.fps)
    _write_sheet(drawing, pictures, paths[0])
    return paths


def _write_sheet(drawing: _Drawing, pictures: Iterator[Picture], path: Path) -> None:
    wanted = np.unique(np.linspace(0, drawing.num_frames - 1, 6).round().astype(int)).tolist()
    panels: dict[int, Picture] = {}
    for frame_idx, picture in enumerate(pictures):
        if frame_idx in wanted:
            panels[frame_idx] = picture
    path.parent.mkdir(parents=True, exist_ok=True)
    _sheet(drawing, panels).save(path)


def _size_drawn(width: int, height: int) -> tuple[int, int]:
    """Width and height, both even as H.264 wants them, at which frames of this size are drawn."""
    longer = max(width, height)
    scale = min(max(longer, _SIDES_PX[0]), _SIDES_PX[1]) / longer
    return 2 * max(1, round(width * scale / 2)), 2 * max(1, round(height * scale / 2))


def _pictures(
    sample: KeypointSample, frames: Iterator[Picture], size: tuple[int, int], num_frames: int
) -> Iterator[Picture]:
    """The first frames with what was found in them."""
    stretch = size[0] / sample.meta["width"]
    for frame_idx, picture in enumerate(islice(_frames_or_pages(frames, size), num_frames)):
        yield _drawn(picture, _Found(sample, frame_idx), stretch)


def _frames_or_pages(frames: Iterator[Picture], size: tuple[int, int]) -> Iterator[Picture]:
    """`frames`, of this width and height; and when they end, or can be read no more, pages that say so without end."""
    missing = "the source ends here"
    try:
        for frame in frames:
            yield _resized(frame, size)
    except (DecodeError, OSError) as error:
        missing = f"the source is gone: {error}"
    while True:
        yield _page(size, missing)


def _read(run: Run, key: str) -> Iterator[Picture]:
    """The frames that the sample of this key was made of; by any backend, as they give the same."""
    made_by = _made_by(run, key)
    shard, row = find(made_by, key)
    item, made = made_by.plan.item(shard.number, row), made_by.plan.fingerprint.get("decoding", {})
    decoding = Decoding(
        fallback=made.get("fallback", False),
        stream=made.get("stream"),
        square_pixels=made.get("square_pixels", False),  # runs before 2026-12 took pixels as stored
    )
    for frame in frames_of(item, str(_root(run, item)), decoding):
        yield frame.permute(1, 2, 0).numpy()


def _resized(picture: Picture, size: tuple[int, int]) -> Picture:
    if picture.shape[1::-1] == size:
        return picture
    enlarges = size[0] > picture.shape[1]
    resized: Any = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC if enlarges else cv2.INTER_AREA)
    return resized  # type: ignore[no-any-return]


def _page(size: tuple[int, int], caption: str) -> Picture:
    page = Image.new("RGB", size, _PAGE)
    _write_text(ImageDraw.Draw(page), (12, size[1] - 28), caption, _GREY, 16)
    return np.array(page)


@dataclass(frozen=True)
class _Found:
    """What was found in one frame of a sample."""

    sample: KeypointSample
    frame_idx: int

    def lines(self, part: str) -> list[tuple[int, int]]:
        """Lines to draw of `part`, as pairs of keypoints; none if the part was not found."""
        layout = LAYOUTS[self.sample.keypoints.shape[1]]
        if part not in layout.part_slices or not self._has(part):
            return []
        edges = layout.part_edges[part]
        if part != "pose":
            return list(edges)
        hidden = set(np.flatnonzero(self.sample.visibility[self.frame_idx] < _MIN_VISIBILITY).tolist())
        for other, points in _COVERED.items():
            if other in layout.part_slices and self._has(other):
                hidden.update(points)
        start = layout.part_slices[part].start
        return [(a, b) for a, b in edges if a - start not in hidden and b - start not in hidden]

    def _has(self, part: str) -> bool:
        return bool(self.sample.presence[self.frame_idx, PARTS.index(part)])


def _drawn(picture: Picture, found: _Found, stretch: float) -> Picture:
    """`picture` with the skeleton of `found`, whose keypoints are multiplied by `stretch`."""
    unit = max(picture.shape[:2]) / _SIDES_PX[0]
    points = np.nan_to_num(found.sample.keypoints[found.frame_idx, :, :2]).clip(-_MAX_PX, _MAX_PX)
    pixels = (points * stretch * (1 << _SHIFT)).round().astype(int)
    shadow = picture.copy()
    for part in PARTS:
        _draw_part(shadow, pixels, found.lines(part), _HALO, _STROKES[part].grown(0.8).scaled(unit))
    drawn: Any = cv2.addWeighted(shadow, 0.5, picture, 0.5, 0)
    for part in PARTS:
        _draw_part(drawn, pixels, found.lines(part), COLOURS[part], _STROKES[part].scaled(unit))
    return drawn  # type: ignore[no-any-return]


def _draw_part(
    picture: Picture, pixels: NDArray[Any], lines: list[tuple[int, int]], colour: tuple[int, ...], stroke: _Stroke
) -> None:
    for a, b in lines:
        start, end = pixels[a].tolist(), pixels[b].tolist()
        cv2.line(picture, start, end, colour, max(1, round(stroke.line_width)), cv2.LINE_AA, _SHIFT)
    radius = round(stroke.point_radius * (1 << _SHIFT))
    for point in {point for line in lines for point in line}:
        cv2.circle(picture, pixels[point].tolist(), radius, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _filmed(pictures: Iterator[Picture], path: Path, size: tuple[int, int], fps: float) -> Iterator[Picture]:
    """`pictures`, all of this width and height, each of which is also written to an H.264 file."""
    import av

    with av.open(ffmpeg_url(path), "w") as file:
        rate = Fraction(min(max(_SLOWEST, fps), _FASTEST)).limit_denominator(1001)
        stream = file.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = size
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            yield picture
        file.mux(stream.encode())


def _sheet(drawing: _Drawing, panels: dict[int, Picture]) -> Image.Image:
    """`panels` side by side, by frame number, below a header."""
    height, width = next(iter(panels.values())).shape[:2]
    columns = min(len(panels), 6 if height > width else 3)
    rows = -(-len(panels) // columns)
    panel_width = (_SHEET_PX - 2 * _MARGIN_PX - (columns - 1) * _GAP_PX) // max(columns, 3)
    panel_height = round(panel_width * height / width)
    step = panel_width + _GAP_PX, panel_height + _FOOTER_PX
    sheet = Image.new("RGB", (_SHEET_PX, _HEADER_PX + rows * step[1] + _MARGIN_PX // 2), "white")
    draw = ImageDraw.Draw(sheet)
    _head(draw, drawing)
    corners = _rounded(panel_width, panel_height)
    for place, (frame_idx, picture) in enumerate(panels.items()):
        x = _MARGIN_PX + place % columns * step[0]
        y = _HEADER_PX + place // columns * step[1]
        panel = Image.fromarray(_resized(picture, (panel_width, panel_height)))
        sheet.paste(panel, (x, y), corners)
        draw.text((x + 2, y + panel_height + 5), f"frame {frame_idx}", _GREY, ImageFont.load_default(16))
    return sheet


def _rounded(width: int, height: int) -> Image.Image:
    """A mask with rounded corners: drawn four times as large, since Pillow draws hard edges."""
    mask = Image.new("L", (4 * width, 4 * height), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 40, 255)
    return mask.resize((width, height), Image.Resampling.BOX)


def _head(draw: ImageDraw.ImageDraw, drawing: _Drawing) -> None:
    """The key and, below, what the sample is; at the right each part and in how many frames it was found."""
    _write_text(draw, (_MARGIN_PX, 16), drawing.key, _INK, 24)
    _write_text(draw, (_MARGIN_PX, 50), "   ".join(map(str, drawing.facts)).replace("\n", " "), _GREY, 17)
    x = float(_SHEET_PX - _MARGIN_PX)
    font = ImageFont.load_default(17)
    for part, rate in reversed(drawing.rates.items()):
        text = f"{part.replace('_', ' ')} {100 * rate:.0f} %"
        x -= draw.textlength(text, font)
        draw.text((x, 50), text, _INK, font)
        draw.ellipse((x - 22, 54, x - 9, 67), COLOURS[part])
        x -= 46


def _write_text(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: tuple[int, int, int], size_px: int
) -> None:
    """Write one line from `place`, its upper left corner; what could mislead a reader is escaped."""
    line = printable(text[:_MAX_LINE])
    draw.text(place, line, colour, _font(line, size_px))


def _font(text: str, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which has ASCII alone; for other text one of the system's, if it is installed."""
    if not text.isascii():
        with suppress(OSError):
            return ImageFont.truetype("DejaVuSans.ttf", size)
    return ImageFont.load_default(size)
