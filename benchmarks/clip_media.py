"""Make videos for `clips.py`: H.264 of a camera that pans over textures, with noise. They are made once and kept.

Skipping non-reference frames speeds up decoding by 1.5 to 1.6 at 640x360 and GOP 250 (0.6 to 0.9 Mbit/s), by 1.3 to 1.4
at 1280x720 and GOP 30 (2.9 to 3.7 Mbit/s); with nine real videos that have B-frames by 1.43 to 1.63.

| group      | meaning                                                                                                |
|------------|--------------------------------------------------------------------------------------------------------|
| b-frames   | 30 videos with up to 3 B-frames in a row (`bf=3`), as x264 makes them by default                       |
| no-b       | the same images without B-frames   (`bf=0`), as live streams and many phones make them                 |

A group has sizes of 640x360 and 1280x720 px, GOPs of 250 and of 30 frames, and 20 to 30 s at 25 frames per second.
Videos 2k and 2k + 1 differ only in their images, so that the even and the odd videos cost the same.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

GROUPS = {"b-frames": 3, "no-b": 0}  # B-frames in a row
_KINDS = (((1280, 720), 250), ((640, 360), 250), ((1280, 720), 30), ((640, 360), 30))
_PAIRS_PER_GROUP = 15
_FPS = 25
_MARGIN_PX = 128  # range of the camera
_NOISES = 8  # images of noise, shown in turn
_PATCHES = 4

Plane = NDArray[np.uint8]


class Scene(NamedTuple):
    """Description of a video to make. The same seed gives the same images.

    Attributes:
        size: (width, height) in px, both even.
        gop: number of frames from keyframe to keyframe.
        num_b_frames: maximum number of B-frames in a row.
    """

    seed: int
    size: tuple[int, int]
    gop: int
    num_b_frames: int
    num_frames: int

    @property
    def name(self) -> str:
        """Name of the video's file."""
        width, height = self.size
        return f"{self.seed:03d}-{width}x{height}-gop{self.gop}-bf{self.num_b_frames}-{self.num_frames}.mp4"


def group(name: str, folder: Path, workers: int) -> list[Path]:
    """Return the videos of one of `GROUPS` in `folder`. Missing ones are made by `workers` processes."""
    return made(list(_scenes(GROUPS[name])), folder, workers)


def tiny(num_videos: int, folder: Path, workers: int) -> list[Path]:
    """Return videos of 160x120 px and 32 frames."""
    return made([Scene(seed, (160, 120), 16, 3, 32) for seed in range(num_videos)], folder, workers)


def made(scenes: list[Scene], folder: Path, workers: int) -> list[Path]:
    """Return a file for each scene. The same versions of PyAV and NumPy give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / scene.name for scene in scenes]
    missing = [(scene, path) for scene, path in zip(scenes, paths, strict=True) if not path.exists()]
    if missing:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for _ in pool.map(_make, *zip(*missing, strict=True)):
                pass
    return paths


def _scenes(num_b_frames: int) -> Iterator[Scene]:
    for pair in range(_PAIRS_PER_GROUP):
        size, gop = _KINDS[(pair + 1) % len(_KINDS)]  # the smallest come last, so that no process waits long
        seconds = 20 + 7 * pair % 11
        for seed in (2 * pair, 2 * pair + 1):
            yield Scene(seed, size, gop, num_b_frames, seconds * _FPS)


def _make(scene: Scene, path: Path) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    with av.open(str(unfinished), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=_FPS, options=_options(scene))
        stream.width, stream.height = scene.size
        stream.pix_fmt = "yuv420p"
        for image in _images(scene):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="yuv420p")))
        container.mux(stream.encode())
    unfinished.rename(path)


def _options(scene: Scene) -> dict[str, str]:
    gop, bf = str(scene.gop), str(scene.num_b_frames)
    return {"preset": "veryfast", "g": gop, "keyint_min": gop, "sc_threshold": "0", "bf": bf, "threads": "1"}


def _images(scene: Scene) -> Iterator[Plane]:
    """Yield the images of the video, uint8 [3/2 H, W], the memory layout of yuv420p."""
    rng = np.random.default_rng(scene.seed)
    width, height = scene.size
    luma, *chroma = (_texture(rng, height // part, width // part) for part in (1, 2, 2))
    noises = rng.integers(0, 5, (_NOISES, height, width), dtype=np.uint8)
    radians = rng.uniform(0.01, 0.03, 2)
    for number in range(scene.num_frames):
        y, x = (_MARGIN_PX * (1 + np.sin(radians * number)) / 2).astype(int)
        image = np.empty((height * 3 // 2, width), np.uint8)
        image[:height] = luma[y : y + height, x : x + width] + noises[number % _NOISES]
        _draw_patches(image[:height], luma, number)
        for plane, texture in zip(image[height:].reshape(2, height // 2, width // 2), chroma, strict=True):
            plane[:] = texture[y // 2 : y // 2 + height // 2, x // 2 : x // 2 + width // 2]
        yield image


def _texture(rng: np.random.Generator, height: int, width: int) -> Plane:
    """Return waves of many lengths, 16 to 230, larger than an image of this size by `_MARGIN_PX`."""
    y, x = np.mgrid[: height + _MARGIN_PX, : width + _MARGIN_PX].astype(np.float32)
    waves = sum(
        np.sin(x * rng.normal(0, 1 / length) + y * rng.normal(0, 1 / length) + rng.uniform(0, 6))
        for length in (2, 3, 5, 8, 13, 21, 34, 55)
    )
    texture: Plane = (16 + 214 * (waves - waves.min()) / np.ptp(waves)).astype(np.uint8)
    return texture


def _draw_patches(image: Plane, texture: Plane, number: int) -> None:
    """Draw pieces of the texture that move on their own paths and change, so that B-frames have content."""
    height, width = image.shape
    side = height // 5
    for patch in range(_PATCHES):
        x, y = (97 * patch + (3 + patch) * number) % (width - side), (61 * patch + patch * number) % (height - side)
        left, top = 13 * patch + number % 40, 9 * patch
        image[y : y + side, x : x + side] = texture[top : top + side, left : left + side] // 2 + 60
