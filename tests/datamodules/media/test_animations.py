"""Animated GIF, PNG and WebP are videos: right frames, right times, composed as a browser shows them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datamodules.errors import DecodeError
from datamodules.media.decoding import BackendName, Decoding
from datamodules.media.sampling import AtTimes, Uniform
from datamodules.media.video import Video, read_frames
from support.video_files import numbers, picture

ENDINGS = ("gif", "png", "apng", "webp")
RED, BLUE = (255, 0, 0, 255), (0, 0, 255, 255)


def animation(path: Path, frames: Iterable[NDArray[np.uint8]], duration: Any = 40, **options: Any) -> Path:
    """Write an animation of `frames`, uint8 [H, W, 3 or 4]; `duration` is that of each frame in ms, or a list."""
    kind = {"apng": "PNG"}.get(path.suffix[1:], path.suffix[1:].upper())
    first, *others = map(Image.fromarray, frames)
    lossless = {"lossless": True} if kind == "WEBP" else {}
    first.save(path, kind, save_all=True, append_images=others, duration=duration, **lossless, **options)
    return path


def numbered(path: Path, num_frames: int = 6, **options: Any) -> Path:
    return animation(path, [picture(number) for number in range(num_frames)], **options)


def shown(path: Path, **options: Any) -> list[NDArray[np.uint8]]:
    return list(read_frames(path, **options).frames.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_frame_comes_in_order_at_its_time(ending: str, tmp_path: Path) -> None:
    path = numbered(tmp_path / f"a.{ending}", duration=[20, 30, 100, 40, 200, 50])
    read = read_frames(path)
    assert numbers(list(read.frames.permute(0, 2, 3, 1).numpy())) == [0, 1, 2, 3, 4, 5]
    assert read.pts_seconds.tolist() == [0, 0.02, 0.05, 0.15, 0.19, 0.39]
    facts = read.facts
    assert (facts["num_frames"], facts["fps"], facts["duration_seconds"]) == (6, 12.820513, 0.44)
    assert (facts["width"], facts["height"], facts["backends"]) == (128, 96, ["animation"])


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
def test_frames_do_not_depend_on_the_backend(ending: str, backend: BackendName, tmp_path: Path) -> None:
    path = numbered(tmp_path / f"a.{ending}")
    assert numbers(shown(path, selection=Uniform(3), decoding=Decoding(backend))) == [0, 2, 5]
    assert numbers(shown(path, selection=AtTimes([0.12, 0.23]), decoding=Decoding(backend))) == [3, 5]
    assert shown(path, selection=Uniform(1), size=(40, 60))[0].shape == (40, 60, 3)


DISPOSAL = {"gif": {"disposal": 2}, "png": {"disposal": 1}, "webp": {}}  # to the background; frames of WebP are whole


@pytest.mark.parametrize("ending", DISPOSAL)
def test_transparent_pixels_are_white_and_disposed_frames_vanish(ending: str, tmp_path: Path) -> None:
    frames: NDArray[np.uint8] = np.zeros((3, 16, 24, 4), np.uint8)
    frames[0, 2:6, 2:6], frames[1, 8:12, 2:6], frames[2, 2:6, 8:12] = RED, BLUE, RED
    shown_frames = shown(animation(tmp_path / f"a.{ending}", frames, **DISPOSAL[ending]))
    for frame, drawn in zip(shown_frames, frames, strict=True):
        np.testing.assert_array_equal(frame, np.where(drawn[..., 3:] == 255, drawn[..., :3], 255))


@pytest.mark.parametrize("options", [{"disposal": 0, "blend": 1}, {"disposal": 2, "blend": 1}])
def test_a_frame_is_drawn_over_what_stays_of_earlier_frames(options: dict[str, int], tmp_path: Path) -> None:
    frames = np.zeros((2, 16, 24, 4), np.uint8)
    frames[0, 2:6, 2:6], frames[1, 2:6, 4:8] = RED, (0, 0, 255, 128)
    shown_frames = shown(animation(tmp_path / "a.png", frames, **options))[1]
    stays = options["disposal"] == 0
    assert shown_frames[3, 3].tolist() == ([255, 0, 0] if stays else [255, 255, 255])
    assert shown_frames[3, 5].tolist() == ([127, 0, 128] if stays else [127, 127, 255])


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_very_short_frames_are_shown_as_long_as_in_a_browser(ending: str, tmp_path: Path) -> None:
    path = numbered(tmp_path / f"a.{ending}", 3, duration=[10, 0, 20])
    assert Video(path).pts_seconds.tolist() == [0, 0.1, 0.2]
    assert Video(path).facts["duration_seconds"] == 0.22


def test_the_default_image_of_an_animated_png_is_not_a_frame(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.png", default_image=True)
    assert numbers(shown(path)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
@pytest.mark.parametrize("share", [0.4, 0.97])
def test_an_animation_that_was_cut_off_fails(ending: str, share: float, tmp_path: Path) -> None:
    path = numbered(tmp_path / f"a.{ending}")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DecodeError, match=rf"a\.{ending} cannot be decoded.*: "):
        Video(path)


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "jpg", "tiff", "bmp"])
def test_a_still_image_is_not_a_video(ending: str, tmp_path: Path) -> None:
    Image.fromarray(picture(0)).save(tmp_path / f"a.{ending}")
    for _ in range(2):
        with pytest.raises(
            DecodeError, match=rf"a\.{ending} does not open as a video: it is a still image \(\w+\), for a"
        ):
            Video(tmp_path / f"a.{ending}")


def test_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile b.mp4\n")
    with pytest.raises(
        DecodeError, match=r"a\.mp4 does not open as a video: its format \(concat\) is not read as a video"
    ):
        Video(tmp_path / "a.mp4")


def test_an_animation_has_one_stream(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.gif")
    assert Video(path, Decoding(stream=0)).num_streams == 1
    with pytest.raises(DecodeError, match=r"a\.gif has no video stream 1; its video streams: 0"):
        Video(path, Decoding(stream=1))
