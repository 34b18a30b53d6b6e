from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.errors import ConfigError, DecodeError
from datamodules.media.video import Video
from frame_making import gray_of, write_video

ODD = Path(__file__).parents[4] / "shared" / "media" / "odd"


def values(path, fps=None):
    """The gray values of a video's frames."""
    with Video(path, fps) as video:
        return [frame.float().mean().item() for frame in video.frames()]


@pytest.mark.parametrize(("num_frames", "gop"), [(1, 10), (30, 10), (30, 250), (47, 12)])
def test_every_frame_comes_in_order(tmp_path, num_frames, gop):
    write_video(tmp_path / "a.mp4", num_frames, gop=gop)
    found = values(tmp_path / "a.mp4")
    assert len(found) == num_frames
    assert np.abs(np.array(found) - [gray_of(k) for k in range(num_frames)]).max() < 4


def test_frames_are_uint8_rgb_and_the_header_is_told(tmp_path):
    write_video(tmp_path / "a.mp4", 5, fps=10)
    with Video(tmp_path / "a.mp4") as video:
        assert (video.num_frames_from_header, video.average_fps_from_header, video.fps) == (5, 10.0, 10.0)
        frames = list(video.frames())
    assert all(frame.dtype == torch.uint8 and frame.shape == (3, 48, 64) for frame in frames)


def test_frames_stay_what_they_were_when_the_next_is_read(tmp_path):
    write_video(tmp_path / "a.mp4", 10)
    with Video(tmp_path / "a.mp4") as video:
        kept, means = [], []
        for frame in video.frames():
            kept.append(frame)
            means.append(frame.float().mean())
    assert [frame.float().mean() for frame in kept] == means


@pytest.mark.parametrize(
    ("fps", "wanted"),
    [(5.0, [0, 5, 10, 15, 20, 25]), (12.5, list(range(0, 30, 2))), (25.0, list(range(30))), (100.0, list(range(30)))],
)
def test_a_rate_takes_the_frames_on_show_at_its_times(tmp_path, fps, wanted):
    write_video(tmp_path / "a.mp4", 30, fps=25, gop=250)
    found = values(tmp_path / "a.mp4", fps)
    assert len(found) == len(wanted)
    assert np.abs(np.array(found) - [gray_of(k) for k in wanted]).max() < 4


def test_fps_is_the_rate_that_is_yielded(tmp_path):
    write_video(tmp_path / "a.mp4", 50, fps=25)
    with Video(tmp_path / "a.mp4", 5.0) as video:
        assert video.fps == pytest.approx(5.0)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_fails(tmp_path, fps):
    write_video(tmp_path / "a.mp4", 3)
    with pytest.raises(ConfigError, match="give a rate above 0"):
        Video(tmp_path / "a.mp4", fps)


def test_a_missing_video_fails(tmp_path):
    with pytest.raises(DecodeError, match=r"a\.mp4 is missing"):
        Video(tmp_path / "a.mp4")


def test_an_empty_video_fails(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(DecodeError, match=r"a\.mp4 is empty \(0 bytes\)"):
        Video(tmp_path / "a.mp4")


@pytest.mark.parametrize("content", [b"text, not video\n" * 100, bytes(5000)])
def test_what_is_no_video_fails_with_the_same_words_each_time(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    reasons = set()
    for _ in range(2):
        with pytest.raises(DecodeError, match=r"a\.mp4 does not open as a video: .") as caught:
            Video(tmp_path / "a.mp4")
        reasons.add(str(caught.value))
    assert len(reasons) == 1


def test_a_folder_named_like_a_video_fails(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(DecodeError, match=r"a\.mp4 is a folder"):
        Video(tmp_path / "a.mp4")


@pytest.mark.parametrize(("name", "share"), [("a.mp4", 0.3), ("a.mp4", 0.6), ("a.mp4", 0.95), ("a.mkv", 0.3)])
def test_a_truncated_video_gives_never_fewer_frames_without_an_error(tmp_path, name, share):
    write_video(tmp_path / name, 60, gop=10)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DecodeError, match=rf"{name} (does not open as a video|breaks after \d+ of \d+ frames)"):
        values(tmp_path / name)


needs_odd = pytest.mark.skipif(not ODD.is_dir(), reason=f"{ODD} is not there")


@needs_odd
@pytest.mark.parametrize(
    ("name", "num_frames"),
    [
        ("base.mp4", 120), ("naïve name – 17 frames.mp4", 17), ("odd_size_yuv444.mp4", 60), ("one_frame.mp4", 1),
        ("ten_frames.mp4", 10), ("vfr.mp4", 66), ("vp9.webm", 60),
    ],
)  # fmt: skip
def test_odd_but_whole_files_give_every_frame(name, num_frames):
    assert len(values(ODD / name)) == num_frames


@needs_odd
def test_a_rotated_video_is_upright():
    with Video(ODD / "rotated90.mov") as video:
        assert {tuple(frame.shape) for frame in video.frames()} == {(3, 568, 320)}


@needs_odd
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("audio_only.mp4", "no video stream"), ("av1.mkv", "no video stream"), ("text.mp4", "does not open"),
        ("truncated_half.mp4", "does not open|breaks after"), ("truncated_no_index.mp4", "does not open"),
        ("zero_bytes.mp4", "is empty"), ("garbled.mp4", r"breaks after \d+ of 50 frames"),
        ("garbage_in_middle.mp4", r"breaks after \d+ of 120 frames"),
    ],
)  # fmt: skip
def test_broken_files_fail_with_a_reason_that_bears_no_time(name, message):
    with pytest.raises(DecodeError, match=message) as caught:
        values(ODD / name)
    assert "github" not in str(caught.value)
