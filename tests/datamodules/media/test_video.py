"""Videos of every kind give the right frames, the same from every backend, or fail with a reason."""

import errno
import gc
import io
import os
import shutil
import struct
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import ExifTags, Image

from datamodules.errors import ConfigError, DecodeError, MissingError
from datamodules.media import decoding
from datamodules.media import video as video_module
from datamodules.media.backends import torchcodec
from datamodules.media.container import open_container, video_stream
from datamodules.media.decoding import BackendName, Decoding
from datamodules.media.packets import read_packets
from datamodules.media.resize import resize
from datamodules.media.sampling import AtTimes, Every, Selection, Uniform
from datamodules.media.scan import Scan
from datamodules.media.video import Video, read_frames
from support.spies import spied
from support.torchcodec_available import needs_torchcodec
from support.video_files import KINDS, Kind, Picture, numbers, picture, rotated, upright, write

_DECODING = Decoding()
ODD = Path(__file__).parents[4] / "shared" / "media" / "odd"


needs_odd = pytest.mark.skipif(not ODD.is_dir(), reason=f"{ODD} is missing")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One video of each kind, of 60 frames."""
    folder = tmp_path_factory.mktemp("videos")
    return {name: write(folder / name, kind) for name, kind in KINDS.items()}


def frames_of(path: Path, selection: Selection, decoding: Decoding = _DECODING) -> tuple[list[Picture], Video]:
    video = Video(path, decoding)
    frames = list(video.frames(selection.indices(video.pts_seconds)))
    return [frame.permute(1, 2, 0).numpy() for frame in frames], video


def pixels_of(frame: av.VideoFrame) -> Picture:
    """uint8 [H, W, 3]."""
    pixels: Any = frame.to_ndarray(format="rgb24")
    return pixels  # type: ignore[no-any-return]


def all_decoded(path: Path) -> list[Picture]:
    """Decode every frame, from the first to the last."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert isinstance(stream, av.VideoStream)
        frames = container.decode(stream)
        return [_turned(pixels_of(frame), frame.rotation, path) for frame in frames]


def _turned(frame: Picture, degrees: int, path: Path) -> Picture:
    return frame[:, ::-1] if path.stem == "mirrored" else np.rot90(frame, round(degrees / 90))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("selection", [Every(), Uniform(16), Every(7), AtTimes([1.0, 1.9])])
def test_pyav_gives_the_pixels_of_a_full_decode_whether_or_not_it_skips(
    name: str, selection: Every | Uniform | AtTimes, videos: dict[str, Path]
) -> None:
    full = all_decoded(videos[name])
    assert numbers([upright(name, frame) for frame in full]) == list(range(60))
    num_decoded = {}
    for skips in (True, False):
        frames, video = frames_of(videos[name], selection, Decoding(skip_non_reference=skips))
        indices = selection.indices(video.pts_seconds)
        assert len(frames) == len(indices)
        assert all((frame == full[index]).all() for frame, index in zip(frames, indices, strict=True))
        num_decoded[skips] = video.num_decoded
    if KINDS[name].skips and isinstance(selection, Uniform):
        assert num_decoded[True] < 0.9 * num_decoded[False]
    elif isinstance(selection, Every) and selection.step == 1:
        assert num_decoded[True] == num_decoded[False]


@pytest.mark.parametrize("name", KINDS)
def test_codec_headers_prove_the_order_of_ordinary_files(name: str, videos: dict[str, Path]) -> None:
    with open_container(videos[name]) as container:
        scan = Scan(container, video_stream(container, None))
        scan.read()
    assert scan.is_proven or videos[name].suffix in (".avi", ".mpg")


NOT_TRUSTED = {
    "mpeg-ts": "mpegts", "mpeg-2 in mpeg-ps": "mpeg", "flv": "flv", "wmv": "asf",
    "mpeg-4 in avi": "avi", "h.264 in avi": "avi", "motion jpeg in avi": "avi",
}  # fmt: skip
REFUSED = {
    "torchcodec": {"intra-refresh": "another frame", "mirrored": "does not mirror frames"},
    "decord": {
        "mirrored": "does not mirror frames",
        "edit list": "counts 77 frames where the file shows 60",
        "two streams": "several video streams",
        "av1": "no decoder",
    },
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("backend", [pytest.param("torchcodec", marks=needs_torchcodec), "decord"])
def test_another_backend_gives_the_same_pixels_or_refuses_the_file(
    name: str, backend: BackendName, videos: dict[str, Path]
) -> None:
    refusal = REFUSED[backend].get(name) or (name in NOT_TRUSTED and f"not trusted with {NOT_TRUSTED[name]}")
    if refusal:
        with pytest.raises(DecodeError, match=refusal):
            frames_of(videos[name], Uniform(16), Decoding(backend))
        return
    frames, video = frames_of(videos[name], Uniform(16), Decoding(backend))
    expected, _ = frames_of(videos[name], Uniform(16))
    if name == "10 bit":  # their releases of FFmpeg upsample colours differently at sharp edges
        assert min(psnr(a, b) for a, b in zip(frames, expected, strict=True)) > 35.0
    else:
        assert all((a == b).all() for a, b in zip(frames, expected, strict=True))
    assert video.facts["backends"] == [backend]


def psnr(a: Picture, b: Picture) -> float:
    """Return the peak signal-to-noise ratio of two images, in dB."""
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


@pytest.mark.parametrize("num_frames", [1, 5, 15, 16, 17])
@pytest.mark.parametrize("name", ["b-frames", "hevc", "mpeg-ts", "mpeg-4 in avi", "vp9"])
def test_short_clips(name: str, num_frames: int, tmp_path: Path) -> None:
    path = write(tmp_path / "clip", KINDS[name], num_frames)
    if num_frames < 16:
        with pytest.raises(DecodeError, match=f"it has {num_frames} frames, and 16 are requested"):
            frames_of(path, Uniform(16))
    else:
        frames, _ = frames_of(path, Uniform(16))
        assert numbers(frames) == np.linspace(0, num_frames - 1, 16).astype(int).tolist()
    frames, video = frames_of(path, Uniform(16, "repeat"))
    assert numbers(frames) == np.linspace(0, num_frames - 1, 16).astype(int).tolist()
    assert video.num_decoded <= num_frames
    frames, _ = frames_of(path, Uniform(16, "pad"))
    assert numbers(frames) == [*range(min(num_frames, 16)), *([num_frames - 1] * (16 - num_frames))] or num_frames == 17


def test_times_are_those_of_the_packets_since_the_first_frame(videos: dict[str, Path]) -> None:
    uneven = np.array([KINDS["variable rate"].times(k) for k in range(60)]) / 1000
    for name in ("variable rate", "variable rate in matroska"):
        assert Video(videos[name]).pts_seconds == pytest.approx(uneven - uneven[0], abs=0.0011)
    offset = Video(videos["start offset"])
    assert offset.pts_seconds == pytest.approx(np.arange(60) / 25)
    assert offset.facts["begin_seconds"] == pytest.approx(1.4)


def write_motion_jpeg(path: Path, times: list[int]) -> Path:
    """Write a video whose frames are shown at `times`, in 1/1000 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuvj420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = number, Fraction(1, 1000)
            for packet in stream.encode(frame):
                packet.pts = packet.dts = time
                container.mux(packet)
    return path


def test_frames_with_the_same_time_are_counted_and_the_others_keep_their_times(tmp_path: Path) -> None:
    times = [0, 1000, 2000, 3000, 3040, 3040, 3080, 4000]
    path = write_motion_jpeg(tmp_path / "ties.mkv", times)
    frames, video = frames_of(path, Every())
    assert numbers(frames) == list(range(8))
    assert video.pts_seconds.tolist() == pytest.approx([time / 1000 for time in times])
    assert numbers(frames_of(path, AtTimes([1.5, 3.05, 3.9]))[0]) == [1, 5, 6]


def test_an_avi_whose_frames_stay_on_screen_is_whole(tmp_path: Path) -> None:
    path = write_motion_jpeg(tmp_path / "gap.avi", [40 * k for k in range(60) if not 20 <= k < 40])
    frames, video = frames_of(path, Every())
    assert numbers(frames) == list(range(40))
    assert video.pts_seconds[[19, 20, 39]].tolist() == pytest.approx([19 / 25, 40 / 25, 59 / 25])


def test_the_facts_say_what_comes_from_the_header(videos: dict[str, Path]) -> None:
    assert Video(videos["edit list"]).facts == {
        "codec": "h264", "stream": 0, "width": 128, "height": 96, "pixel_aspect_ratio": 1.0,
        "num_frames": 60, "num_skipped_frames": 0, "fps": 25.0, "duration_seconds": 2.4, "num_frames_from_header": 77,
        "duration_seconds_from_header": 2.4, "average_fps_from_header": 25.0, "begin_seconds": 0.0, "backends": [],
    }  # fmt: skip
    facts = Video(videos["rotation"]).facts
    assert (facts["width"], facts["height"]) == (128, 96)
    _, video = frames_of(videos["rotation"], Uniform(1))
    assert (video.facts["width"], video.facts["height"]) == (96, 128)


def test_rate_and_duration_come_from_the_frames_and_not_from_the_header(tmp_path: Path) -> None:
    path = write(tmp_path / "slow", Kind("mkv", times=lambda k: 400 * k), 10)
    facts = Video(path).facts
    assert facts["average_fps_from_header"] == 25.0
    assert (facts["fps"], facts["duration_seconds"]) == (2.5, 4.0)


WIDE, NARROW = Fraction(64, 45), Fraction(8, 9)  # PAL shown as 16:9, NTSC shown as 4:3
AS_STORED = Decoding(square_pixels=False)


def anamorphic(path: Path, ratio: Fraction, suffix: str = "mp4", codec: str = "libx264", **options: Any) -> Path:
    return write(path, Kind(suffix, codec, {"g": "4", "bf": "0"}, pixel_aspect_ratio=ratio, **options), 5)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "libx264"), ("mkv", "libx264"), ("ts", "libx264"), ("avi", "mpeg4"), ("h264", "libx264")],
)
@pytest.mark.parametrize(("ratio", "width"), [(WIDE, 182), (NARROW, 114)])
def test_non_square_pixels_become_square_at_the_stored_height(
    suffix: str, codec: str, ratio: Fraction, width: int, tmp_path: Path
) -> None:
    path = anamorphic(tmp_path / "a", ratio, suffix, codec)
    frames, video = frames_of(path, Every())
    assert numbers(frames) == [0, 1, 2, 3, 4]
    assert {frame.shape for frame in frames} == {(96, width, 3)}
    assert (video.facts["width"], video.facts["height"]) == (width, 96)
    assert video.facts["pixel_aspect_ratio"] == pytest.approx(float(ratio), abs=1e-6)
    stored = read_frames(path, decoding=AS_STORED)
    assert (stored.facts["width"], stored.facts["height"]) == (128, 96)
    assert stored.facts["pixel_aspect_ratio"] == video.facts["pixel_aspect_ratio"]
    expected = [resize(frame, (96, width)).permute(1, 2, 0).numpy() for frame in stored.frames]
    assert all((a == b).all() for a, b in zip(frames, expected, strict=True))


def test_non_square_pixels_become_square_where_the_first_frames_cannot_be_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "a", Kind("ts", options={"g": "8", "bf": "2"}, pixel_aspect_ratio=WIDE), 24)
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 4 // 188 * 188 :])
    frames, _ = frames_of(path, Every())
    assert numbers(frames) == list(range(8, 24))
    assert {frame.shape for frame in frames} == {(96, 182, 3)}


def test_the_stored_width_changes_before_a_frame_is_turned(tmp_path: Path) -> None:
    path = anamorphic(tmp_path / "a", WIDE, "mov", change=rotated)
    frames, video = frames_of(path, Uniform(1))
    assert (video.facts["width"], video.facts["height"]) == (96, 182)
    assert numbers([upright("rotation", frames[0])]) == [0]


@pytest.mark.parametrize("backend", ["decord", pytest.param("torchcodec", marks=needs_torchcodec)])
@pytest.mark.parametrize("change", [bytes, rotated])
def test_all_backends_make_pixels_square_alike(
    backend: BackendName, change: type[bytes] | Callable[..., Any], tmp_path: Path
) -> None:
    path = anamorphic(tmp_path / "a", WIDE, "mov", change=change)
    frames, expected = (read_frames(path, decoding=Decoding(name)).frames for name in (backend, "pyav"))
    assert torch.equal(frames, expected)


def test_non_square_pixels_are_resized_to_a_given_size_in_one_step(tmp_path: Path) -> None:
    path = anamorphic(tmp_path / "a", WIDE)
    square = read_frames(path, size=(40, 60))
    stored = read_frames(path, size=(40, 60), decoding=AS_STORED)
    assert torch.equal(square.frames, stored.frames)
    assert (square.facts["width"], stored.facts["width"]) == (182, 128)


def _with_ratio(width: int, height: int) -> Callable[[bytes], bytes]:
    """Return a function that changes the pixel aspect ratio in an MP4's header."""

    def change(content: bytes) -> bytes:
        start = content.index(b"pasp") + 4
        return content[:start] + struct.pack(">II", width, height) + content[start + 8 :]

    return change


@pytest.mark.parametrize(("given", "width"), [((2, 1), 256), ((1, 1), 128), ((0, 1), 182), ((3, 0), 182)])
def test_the_aspect_ratio_of_the_container_overrides_that_of_the_codec(
    given: tuple[int, int], width: int, tmp_path: Path
) -> None:
    path = anamorphic(tmp_path / "a", WIDE, change=_with_ratio(*given))
    assert read_frames(path).frames.shape == (5, 3, 96, width)


@pytest.mark.parametrize("given", [(65535, 1), (1, 65535)])
def test_an_implausible_aspect_ratio_fails_unless_pixels_stay_as_stored(given: tuple[int, int], tmp_path: Path) -> None:
    path = anamorphic(tmp_path / "a", WIDE, change=_with_ratio(*given))
    with pytest.raises(DecodeError, match=rf"a\.mp4 has the pixel aspect ratio {given[0]}:{given[1]}, which cannot be"):
        Video(path)
    assert read_frames(path, decoding=AS_STORED).frames.shape == (5, 3, 96, 128)


def test_an_aspect_ratio_that_changes_within_a_file_fails(tmp_path: Path) -> None:
    parts = [anamorphic(tmp_path / name, ratio, "h264") for name, ratio in (("square", Fraction(1)), ("wide", WIDE))]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(DecodeError, match=r"the pixel aspect ratio changes from \S+ to \S+, and"):
        read_frames(path)
    assert read_frames(path, decoding=AS_STORED).frames.shape == (10, 3, 96, 128)


@pytest.mark.parametrize("backend", ["pyav", pytest.param("torchcodec", marks=needs_torchcodec)])
def test_a_stream_is_chosen_by_its_number(backend: BackendName, videos: dict[str, Path]) -> None:
    for stream, first in ((None, 0), (0, 0), (1, 100)):
        frames, video = frames_of(videos["two streams"], Every(20), Decoding(backend, stream=stream))
        assert numbers(frames) == [first, first + 20, first + 40]
        assert video.facts["stream"] == (stream or 0)


def test_a_missing_stream_fails(videos: dict[str, Path]) -> None:
    with pytest.raises(DecodeError, match="no video stream 2; its video streams: 0, 1"):
        Video(videos["two streams"], Decoding(stream=2))


def test_a_fallback_is_recorded_in_the_facts(videos: dict[str, Path]) -> None:
    frames, video = frames_of(videos["av1"], Uniform(16), Decoding("decord", fallback=True))
    assert numbers(frames) == np.linspace(0, 59, 16).astype(int).tolist()
    assert video.facts["backends"] == ["decord", "pyav"]


def test_torchcodec_on_the_cpu_in_place_of_nvdec_is_recorded_in_the_facts(
    videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, video = frames_of(videos["b-frames"], Every(20))

    class FellBack:
        """torchcodec's decoder without NVDEC."""

        cpu_fallback = True

        def __init__(self, url: str, **options: Any) -> None:
            assert options["device"] == "cuda"

        def get_frames_at(self, indices: list[int]) -> Any:
            pts_seconds = torch.from_numpy(video.pts_seconds[indices] + video.facts["begin_seconds"])
            frames = torch.from_numpy(np.stack([decoded[index // 20] for index in indices]))
            return SimpleNamespace(data=frames.permute(0, 3, 1, 2), pts_seconds=pts_seconds)

    monkeypatch.setattr(torchcodec, "_decoder_class", lambda: FellBack)
    monkeypatch.setattr("datamodules.media.video.load_backend", lambda name: torchcodec)
    by_gpu = Video(videos["b-frames"], Decoding("torchcodec", device="cuda"))
    for _ in range(2):
        assert numbers([frame.permute(1, 2, 0).numpy() for frame in by_gpu.frames([0, 20, 40])]) == [0, 20, 40]
        assert by_gpu.facts["backends"] == ["torchcodec-cpu"]


def test_a_fallback_leaves_out_backends_that_do_not_work(
    videos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    decoding.load_backend.cache_clear()
    decoding._works.cache_clear()
    torchcodec._decoder_class.cache_clear()
    try:
        assert Decoding("decord", fallback=True).backends == ("decord", "pyav")
        path = cut(write(tmp_path / "ts", KINDS["mpeg-ts"]), 0.3)
        with pytest.raises(DecodeError, match="decord is not trusted with mpegts"):
            frames_of(path, Uniform(16), Decoding("pyav", fallback=True))
        with pytest.raises(ConfigError, match="backend torchcodec needs `pip install torchcodec`"):
            Decoding("torchcodec").require()
    finally:
        decoding.load_backend.cache_clear()
        decoding._works.cache_clear()
        torchcodec._decoder_class.cache_clear()


def test_packets_lost_from_a_stream_fail_the_frames_made_from_them(tmp_path: Path) -> None:
    path = write(tmp_path / "lossy", KINDS["mpeg-ts"])
    content = path.read_bytes()
    start = len(content) * 3 // 10 // 188 * 188
    path.write_bytes(content[:start] + content[start + 8 * 188 :])
    with pytest.raises(DecodeError, match=r"lossy\.ts breaks after \d+ of \d+ requested frames: frame \d+ is damaged"):
        frames_of(path, Every())


@pytest.mark.parametrize("selection", [Every(), Uniform(16), AtTimes([0.0, 0.5, 1.0])])
def test_read_frames_gives_one_tensor_and_the_times(
    selection: Every | Uniform | AtTimes, videos: dict[str, Path]
) -> None:
    read = read_frames(videos["b-frames"], selection, size=(40, 60))
    indices = selection.indices(np.arange(60) / 25)
    assert read.frames.dtype == torch.uint8
    assert read.frames.shape == (len(indices), 3, 40, 60)
    assert read.pts_seconds == pytest.approx(indices / 25)
    whole = read_frames(videos["b-frames"], selection).frames
    assert all((resize(frame, (40, 60)) == small).all() for frame, small in zip(whole, read.frames, strict=True))


@pytest.mark.parametrize("size", [(24, 32), (48, 64), (60, 128), (192, 256), (31, 67)])
def test_resizing_is_bilinear_with_antialiasing_to_within_one_level(size: tuple[int, int]) -> None:
    frame = torch.from_numpy(picture(77)).permute(2, 0, 1)
    exact = torch.nn.functional.interpolate(frame[None].double(), size, mode="bilinear", antialias=True)[0]
    assert (resize(frame, size).double() - exact).abs().max() <= 1.0


def test_clips_of_one_video_need_one_pass_over_its_packets(
    videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "long.mp4"
    shutil.copy(videos["b-frames"], path)
    passes: list[Any] = []
    monkeypatch.setattr(video_module, "read_packets", spied(read_packets, lambda *of: passes.append(of)))
    first, again = (read_frames(path, AtTimes([0.5, 1.0])) for _ in range(2))
    assert len(passes) == 1
    assert torch.equal(again.frames, first.frames)
    os.utime(path, (1, 1))  # written anew
    read_frames(path, AtTimes([0.5]))
    assert len(passes) == 2


def test_videos_that_are_decoded_from_the_beginning_can_be_read_side_by_side(videos: dict[str, Path]) -> None:
    sides = [Video(videos[name]).frames(range(60)) for name in ("mpeg-4 in avi", "h.264 in avi")]
    for number, frames in enumerate(zip(*sides, strict=True)):
        assert numbers([frame.permute(1, 2, 0).numpy() for frame in frames]) == [number, number]


def test_frames_stay_what_they_were_when_the_next_is_read(videos: dict[str, Path]) -> None:
    video = Video(videos["b-frames"])
    kept, copies = [], []
    for frame in video.frames(range(60)):
        kept.append(frame)
        copies.append(frame.clone())
    assert all((a == b).all() for a, b in zip(kept, copies, strict=True))


@pytest.mark.parametrize("name", ["b-frames", "rotation"])
def test_a_decoded_frame_is_freed_when_the_next_one_comes(name: str, videos: dict[str, Path]) -> None:
    path = videos[name]
    gc.collect()
    gc.disable()
    try:
        assert sum(frame.shape[0] for frame in Video(path).frames(range(5))) == 15
        assert [held for held in gc.get_objects() if type(held) is av.VideoFrame] == []
    finally:
        gc.enable()


def test_no_file_stays_open(videos: dict[str, Path]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in ("b-frames", "intra-refresh", "mpeg-4 in avi"):
        next(Video(videos[name]).frames([3, 50]))
        frames_of(videos[name], Uniform(16))
    assert len(os.listdir("/proc/self/fd")) == before


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


IN_FRONT = Kind(container_options={"movflags": "faststart"})


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", [IN_FRONT, KINDS["start offset"], KINDS["av1"], KINDS["mpeg-4 in avi"]])
def test_a_file_that_was_cut_off_fails_with_the_present_and_promised_counts(
    kind: Kind, share: float, tmp_path: Path
) -> None:
    path = cut(write(tmp_path / "cut", kind), share)
    with pytest.raises(
        DecodeError, match=r"holds [\d,]+ of the [\d,]+ (frames|bytes) that it promises: it was cut off"
    ):
        Video(path)


def test_a_file_without_its_index_fails(tmp_path: Path) -> None:
    path = cut(write(tmp_path / "cut", KINDS["b-frames"]), 0.7)
    with pytest.raises(DecodeError, match=r"cut\.mp4 does not open as a video: Invalid data"):
        Video(path)


@pytest.mark.parametrize("backend", ["pyav", "decord", pytest.param("torchcodec", marks=needs_torchcodec)])
def test_garbage_in_the_middle_fails_with_both_counts(backend: BackendName, tmp_path: Path) -> None:
    path = write(tmp_path / "garbage", KINDS["gop 250"])
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    middle = (start + len(content)) // 2
    content[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"garbage\.mp4 breaks after \d+ of 60 requested frames: "):
        frames_of(path, Every(), Decoding(backend))


@pytest.mark.parametrize("name", ["b-frames", "gop 250", "open gop"])
def test_damage_of_a_reference_frame_fails_the_frames_that_need_it(
    name: str, tmp_path: Path, videos: dict[str, Path]
) -> None:
    sound, _ = frames_of(videos[name], Uniform(16))
    content = videos[name].read_bytes()
    with av.open(str(videos[name])) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size > 60]
    num_failed = 0
    for number, (offset, size) in enumerate(packets[1::5]):
        noise = np.random.default_rng(number).bytes(size // 4)
        start = offset + size // 3
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(content[:start] + noise + content[start + len(noise) :])
        with av.open(str(path)) as container:
            try:
                is_noticed = any(frame.is_corrupt for frame in container.decode(video=0))
            except av.FFmpegError:
                is_noticed = True
        if is_noticed:
            try:
                frames, _ = frames_of(path, Uniform(16))
            except DecodeError:
                num_failed += 1
            else:
                assert all((a == b).all() for a, b in zip(frames, sound, strict=True))
    assert num_failed > 2


@pytest.mark.parametrize("content", [b"text, not video\n" * 100, bytes(5000), b"\x1a\x45\xdf\xa3", b"\x00"])
def test_a_file_that_is_not_a_video_always_fails_with_the_same_message(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    reasons = set()
    for _ in range(2):
        with pytest.raises(DecodeError, match=r"a\.mp4 does not open as a video: .") as caught:
            Video(tmp_path / "a.mp4")
        reasons.add(str(caught.value))
    assert len(reasons) == 1


def test_a_file_with_sound_only_fails(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(DecodeError, match=r"a\.mp4 has no video stream"):
        Video(tmp_path / "a.mp4")


NAMES = [
    "12:30 talk.mp4",
    "file:x.mp4",
    "a%03d.mp4",
    "a#b?c.mp4",
    "concat:x.mp4|y.mp4",
    "|x.mp4",
    "pipe:0.mp4",
    "~.mp4",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["pyav", "decord", pytest.param("torchcodec", marks=needs_torchcodec)])
def test_a_file_name_that_looks_like_a_url_or_pattern_is_a_file_name(
    name: str, backend: BackendName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, videos: dict[str, Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(videos["b-frames"], name)
    shutil.copy(videos["two streams"], "x.mp4")
    frames = read_frames(Path(name), Uniform(3), decoding=Decoding(backend)).frames
    assert numbers(list(frames.permute(0, 2, 3, 1).numpy())) == [0, 29, 59]
    assert Video(Path(name)).num_streams == 1


def test_a_name_that_is_not_utf_8_is_read(tmp_path: Path, videos: dict[str, Path]) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    shutil.copy(videos["b-frames"], path)
    assert len(read_frames(path, Uniform(3)).frames) == 3


EXIF = 31  # AV_FRAME_DATA_EXIF of FFmpeg 8


def write_jpegs_with_exif(path: Path, num_frames: int) -> Path:
    """Write Motion JPEG whose frames have EXIF, which FFmpeg passes on as side data that PyAV 18 has no name for."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuvj420p"
        for number in range(num_frames):
            jpeg = io.BytesIO()
            Image.fromarray(picture(number)).save(jpeg, "JPEG", exif=exif)
            packet = av.Packet(jpeg.getvalue())
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, True
            container.mux(packet)
    return path


@pytest.mark.parametrize("backend", ["pyav", "decord", pytest.param("torchcodec", marks=needs_torchcodec)])
def test_unnamed_side_data_is_ignored(backend: BackendName, tmp_path: Path) -> None:
    path = write_jpegs_with_exif(tmp_path / "a.mov", 5)
    frames, _ = frames_of(path, Every(), Decoding(backend))
    assert numbers(frames) == [0, 1, 2, 3, 4]
    with av.open(str(path)) as container:
        side_data: Any = next(container.decode(video=0)).side_data
        assert EXIF in [data.type.value for data in side_data]


UNFORESEEN = [KeyError("no such plane"), av.error.PermissionError(1, "no such plane")]  # the latter is an OSError too


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("error", UNFORESEEN)
def test_any_error_of_a_decoder_fails_the_item_with_its_message(
    backend: BackendName, error: Exception, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> Any:
        raise error

    video = Video(videos["b-frames"], Decoding(backend))
    monkeypatch.setattr(f"datamodules.media.backends.{backend}.decode", breaks)
    with pytest.raises(
        DecodeError, match=rf"breaks after 0 of 2 requested frames: {backend}: \w+Error: '?no such plane"
    ):
        list(video.frames([0, 1]))
    monkeypatch.setattr(video_module, "read_packets", breaks)
    monkeypatch.setattr(video_module, "_last_scanned", {})
    with pytest.raises(DecodeError, match=r"b-frames\.mp4: \w+Error: '?no such plane"):
        Video(videos["b-frames"])


def test_an_error_of_the_file_system_while_decoding_stays_an_oserror(
    videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> Any:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("datamodules.media.backends.pyav.decode", breaks)
    with pytest.raises(OSError, match="Stale file handle"):
        list(Video(videos["b-frames"]).frames([0]))


def test_a_bug_after_decoding_is_not_blamed_on_the_file(
    videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_module, "resize", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(Video(videos["b-frames"]).frames([0]))


def test_a_playlist_opens_no_other_file(videos: dict[str, Path], tmp_path: Path) -> None:
    for text in (f"ffconcat version 1.0\nfile {videos['b-frames']}\n", f"#EXTM3U\n#EXTINF:2,\n{videos['mpeg-ts']}\n"):
        (tmp_path / "a.mp4").write_text(text)
        with pytest.raises(DecodeError, match=r"a\.mp4 does not open as a video"):
            Video(tmp_path / "a.mp4")


def playlist_and_mp4(folder: Path) -> Path:
    """Write an HLS playlist of another video, whose first 8 bytes are also the header of a box before an MP4."""
    other = write(folder / "other", Kind("ts", options={"g": "1", "bf": "0"}), 9)
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}  # offsets from the fragment, not the file
    mp4 = write(folder / "mp4", Kind(options={"g": "1", "bf": "0"}, container_options=options), 3)
    path = folder / "a.mp4"
    with open(path, "wb") as file:
        file.write(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n".encode())
        file.seek(int.from_bytes(b"#EXT", "big"))  # 592 MB, of which the disk holds nothing
        file.write(mp4.read_bytes())
    return path


def test_a_playlist_that_is_also_an_mp4_gives_its_own_frames(videos: dict[str, Path], tmp_path: Path) -> None:
    path = playlist_and_mp4(tmp_path)
    for options in (_DECODING, Decoding("decord", fallback=True)):
        frames, video = frames_of(path, Every(), options)
        assert numbers(frames) == [0, 1, 2]
        assert video.facts["backends"][-1] == "pyav"


@pytest.mark.parametrize("backend", ["decord", pytest.param("torchcodec", marks=needs_torchcodec)])
def test_a_playlist_that_is_also_an_mp4_is_not_opened_by_other_backends(
    backend: BackendName, videos: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(DecodeError, match=f"{backend} opens only files whose first bytes are those of MP4"):
        frames_of(playlist_and_mp4(tmp_path), Every(), Decoding(backend))


def test_a_cover_image_is_not_a_video(tmp_path: Path, videos: dict[str, Path]) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound, cover = container.add_stream("aac", rate=8000), container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 128, 96, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux([*sound.encode(frame), *sound.encode()])
        shown = av.VideoFrame.from_ndarray(picture(1), format="rgb24").reformat(format="yuvj420p")
        container.mux([*cover.encode(shown), *cover.encode()])
    with pytest.raises(DecodeError, match=r"a\.mp4 has no video stream"):
        Video(tmp_path / "a.mp4")


def test_indices_must_ascend_and_may_be_empty(videos: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"indices must ascend: \[5, 3\]"):
        list(Video(videos["b-frames"]).frames([5, 3]))
    assert list(Video(videos["b-frames"]).frames([])) == []


def test_missing_and_empty_files_and_folders_fail(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"a\.mp4 is missing"):
        Video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").touch()
    with pytest.raises(DecodeError, match=r"b\.mp4 is empty \(0 bytes\)"):
        Video(tmp_path / "b.mp4")
    (tmp_path / "c.mp4").mkdir()
    with pytest.raises(DecodeError, match=r"c\.mp4 is a folder"):
        Video(tmp_path / "c.mp4")
    os.mkfifo(tmp_path / "d.mp4")
    with pytest.raises(DecodeError, match=r"d\.mp4 cannot be read: it is a FIFO, not a regular file"):
        Video(tmp_path / "d.mp4")


def test_an_error_of_the_disk_is_not_blamed_on_the_video(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        Video(Path("/proc/self/mem"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "opencv"}, "choose from pyav, torchcodec, decord"),
        ({"device": "cuda"}, "choose torchcodec for cuda"),
    ],
)
def test_invalid_decoding_options_fail(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Decoding(**arguments)


@needs_odd
@pytest.mark.parametrize(
    ("name", "num_frames"),
    [
        ("base.mp4", 120), ("naïve name – 17 frames.mp4", 17), ("odd_size_yuv444.mp4", 60), ("one_frame.mp4", 1),
        ("ten_frames.mp4", 10), ("vfr.mp4", 66), ("vp9.webm", 60), ("av1.mkv", 125), ("rotated90.mov", 3),
    ],
)  # fmt: skip
def test_unusual_but_whole_files_give_every_frame(name: str, num_frames: int) -> None:
    frames, _ = frames_of(ODD / name, Every())
    full = all_decoded(ODD / name)
    assert len(frames) == len(full) == num_frames
    assert all((a == b).all() for a, b in zip(frames, full, strict=True))


@needs_odd
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("audio_only.mp4", "has no video stream"), ("text.mp4", "does not open"), ("zero_bytes.mp4", "is empty"),
        ("truncated_half.mp4", "holds 36 of the 120 frames"), ("truncated_no_index.mp4", "does not open"),
        ("garbled.mp4", r"breaks after \d+ of 50 requested"),
        ("garbage_in_middle.mp4", r"breaks after \d+ of 120 requested"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("backend", ["pyav", "decord", pytest.param("torchcodec", marks=needs_torchcodec)])
def test_broken_files_fail_with_a_reason_without_urls(name: str, message: str, backend: BackendName) -> None:
    with pytest.raises(DecodeError, match=message) as caught:
        frames_of(ODD / name, Every(), Decoding(backend))
    assert "github" not in str(caught.value)
