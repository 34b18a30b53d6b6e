"""Frames and their order, where timestamps are wrong or the first frames cannot be decoded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from datamodules.errors import DecodeError
from datamodules.media import picture_order, scan
from datamodules.media.decoding import BackendName, Decoding
from datamodules.media.sampling import Every, Selection, Uniform
from datamodules.media.video import Video
from support.torchcodec_available import needs_torchcodec
from support.video_files import (
    KINDS,
    Kind,
    NalUnit,
    as_intra_only,
    joined,
    numbers,
    remux,
    write,
    write_field_pictures,
)

NUM_FRAMES = 40
SHARED = Path(__file__).parents[4] / "shared" / "media" / "odd2"
_X264 = "keyint={}:bframes=3:b-adapt=0:repeat-headers=1:open-gop={}"
SOURCES = {
    "h264": Kind(options={"x264-params": _X264.format(12, 0)}),
    "open h264": Kind("ts", options={"x264-params": _X264.format(12, 1)}),
    "open mbaff": Kind("ts", options={"x264-params": _X264.format(12, 1) + ":interlaced=1"}),
    "intra-refresh": Kind("ts", options={"x264-params": _X264.format(12, 0) + ":intra-refresh=1"}),
    "hevc": Kind(codec="libx265", options={"x265-params": "keyint=12:open-gop=0:bframes=4:pools=none:log-level=none"}),
    "open hevc": Kind(
        "ts", "libx265", {"x265-params": "keyint=12:min-keyint=12:open-gop=1:bframes=4:pools=none:log-level=none"}
    ),
    "radl": Kind(
        "ts",
        "libx265",
        {"x265-params": "keyint=12:min-keyint=12:open-gop=0:radl=2:bframes=4:pools=none:log-level=none"},
    ),
    "mpeg2": Kind("ts", "mpeg2video", {"g": "12", "bf": "2", "b": "1M"}),
    "mpeg4": Kind("mp4", "mpeg4", {"g": "12", "bf": "2", "b": "1M"}),
    "vp9": KINDS["vp9"],
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Videos of 40 frames, 25 per second."""
    folder = tmp_path_factory.mktemp("sources")
    return {name: write(folder / name, kind, NUM_FRAMES) for name, kind in SOURCES.items()}


def shown(path: Path, selection: Selection | None = None, backend: BackendName = "pyav") -> tuple[list[int], Video]:
    """Return the numbers that the frames show, and the video."""
    video = Video(path, Decoding(backend))
    frames = video.frames((selection or Every()).indices(video.pts_seconds))
    return numbers([frame.permute(1, 2, 0).numpy() for frame in frames]), video


def require_frames(path: Path, expected: list[int], num_skipped: int = 0, step: float = 0.04) -> Video:
    """Check the frames of a video in two selections, their even times, and the number of skipped frames."""
    result, video = shown(path)
    assert result == expected
    assert shown(path, Uniform(8))[0] == [expected[k] for k in np.linspace(0, len(expected) - 1, 8).astype(int)]
    assert np.diff(video.pts_seconds) == pytest.approx(step, abs=0.0011)
    assert (video.facts["num_frames"], video.facts["num_skipped_frames"]) == (len(expected), num_skipped)
    return video


def pts_is_dts(index: int, pts: int, dts: int) -> tuple[int, int]:
    return index, index


def half_wrong(index: int, pts: int, dts: int) -> tuple[int, int]:
    return (pts, dts) if index < 24 else (index, dts)


def two_swapped(index: int, pts: int, dts: int) -> tuple[int, int]:
    return {14: 15, 15: 14}.get(pts, pts), dts


@pytest.mark.parametrize(
    ("retime", "suffix"),
    [(pts_is_dts, "mp4"), (pts_is_dts, "mkv"), (half_wrong, "flv"), (half_wrong, "mkv"), (two_swapped, "mp4")],
)
def test_wrong_times_do_not_change_the_order_of_the_frames(
    retime: Callable[..., Any], suffix: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    path = remux(sources["h264"], tmp_path / f"a.{suffix}", retime)
    assert not require_frames(path, list(range(NUM_FRAMES))).packets.is_seekable


@pytest.mark.parametrize("name", ["hevc", "mpeg2", "mpeg4"])
def test_wrong_times_are_noticed_for_every_codec(name: str, sources: dict[str, Path], tmp_path: Path) -> None:
    path = remux(sources[name], tmp_path / "a.mkv", pts_is_dts)
    assert not require_frames(path, list(range(NUM_FRAMES))).packets.is_seekable


def test_frames_of_a_codec_whose_headers_are_not_read_are_those_of_the_decoder(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = remux(sources["h264"], tmp_path / "a.mkv", pts_is_dts)
    monkeypatch.setattr(scan, "picture_order", lambda stream: picture_order._Unknown())
    assert not require_frames(wrong, list(range(NUM_FRAMES))).packets.is_seekable
    assert require_frames(sources["h264"], list(range(NUM_FRAMES))).packets.is_seekable


def test_an_edit_list_that_hides_frames_by_wrong_times_fails(sources: dict[str, Path], tmp_path: Path) -> None:
    path = remux(sources["h264"], tmp_path / "a.mp4", lambda index, pts, dts: (index - 2, index - 2))
    with pytest.raises(DecodeError, match=r"a\.mp4 does not say when its frames are shown: re-encode it"):
        Video(path)


@pytest.mark.parametrize("backend", ["decord", pytest.param("torchcodec", marks=needs_torchcodec)])
def test_other_backends_refuse_times_that_do_not_tell_frames_apart(
    backend: BackendName, sources: dict[str, Path], tmp_path: Path
) -> None:
    path = remux(sources["h264"], tmp_path / "a.mkv", pts_is_dts)
    with pytest.raises(DecodeError, match=f"{backend} needs timestamps that tell which frame is which"):
        shown(path, backend=backend)


def at(seconds: int) -> Callable[[int, int, int], tuple[int, int]]:
    """Return a function that shifts all times by `seconds`."""
    return lambda index, pts, dts: (pts + 25 * seconds, dts + 25 * seconds)


@pytest.mark.parametrize(
    ("suffix", "starts"),
    [
        ("ts", (30, 10, 2)),
        ("ts", (30, 31)),
        ("ts", (2000, 10)),
        ("flv", (30, 10)),
        ("flv", (30, 31)),
        ("flv", (300, 2)),
    ],
)
def test_joined_recordings_keep_their_order_and_their_times_continue(
    suffix: str, starts: tuple[int, ...], sources: dict[str, Path], tmp_path: Path
) -> None:
    parts = [remux(sources["h264"], tmp_path / f"{start}.{suffix}", at(start)) for start in starts]
    path = joined(tmp_path / f"a.{suffix}", *parts)
    video = require_frames(path, list(range(NUM_FRAMES)) * len(starts))
    assert sorted(video.packets.restarts) == [NUM_FRAMES * k for k in range(1, len(starts))]


def test_a_gap_in_time_stays(sources: dict[str, Path], tmp_path: Path) -> None:
    parts = [remux(sources["h264"], tmp_path / f"{start}.ts", at(start)) for start in (30, 100)]
    result, video = shown(joined(tmp_path / "a.ts", *parts))
    assert result == list(range(NUM_FRAMES)) * 2
    assert video.pts_seconds[[0, 39, 40, 79]].tolist() == pytest.approx([0, 1.56, 70, 71.56])
    assert video.packets.is_seekable


def test_a_clock_that_wraps_at_33_bits_continues(sources: dict[str, Path], tmp_path: Path) -> None:
    path = remux(sources["h264"], tmp_path / "a.ts", at(95443))  # 2**33 / 90000 = 95443.7
    assert require_frames(path, list(range(NUM_FRAMES))).packets.is_seekable


def test_leading_frames_after_a_join_are_skipped(sources: dict[str, Path], tmp_path: Path) -> None:
    first = remux(sources["h264"], tmp_path / "a.ts", at(30))
    second, expected, num_skipped = cut(sources["open h264"], tmp_path / "b.ts")
    require_frames(joined(tmp_path / "c.ts", first, second), [*range(NUM_FRAMES), *expected], num_skipped)


def first_keyframe(path: Path) -> int:
    """Return the index of the first keyframe after the beginning."""
    with av.open(str(path)) as container:
        return [index for index, packet in enumerate(container.demux(video=0)) if packet.is_keyframe][1]


def cut(source: Path, path: Path, num_before: int = 0) -> tuple[Path, list[int], int]:
    """Write a video that begins `num_before` packets before a keyframe of `source`.

    Returns:
        Its path, the numbers of the frames that can be shown, and how many frames cannot.
    """
    key = first_keyframe(source)
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    pts = [packet.pts for packet in packets if packet.pts is not None]
    assert len(pts) == len(packets)
    number = sorted(pts).index(pts[key])
    num_leading = sum(time < pts[key] for time in pts[key:])
    return remux(source, path, start=key - num_before), list(range(number, NUM_FRAMES)), num_leading + num_before


@pytest.mark.parametrize(
    ("name", "suffix", "num_before"),
    [
        ("open h264", "ts", 0), ("open h264", "mkv", 0), ("open h264", "flv", 3), ("open h264", "avi", 3),
        ("open mbaff", "ts", 0), ("open hevc", "ts", 3), ("open hevc", "mkv", 0), ("mpeg2", "ts", 0),
        ("mpeg2", "mpg", 3), ("mpeg4", "avi", 0), ("mpeg4", "mkv", 3), ("vp9", "webm", 3),
    ],
)  # fmt: skip
def test_frames_that_need_what_was_cut_off_are_skipped(
    name: str, suffix: str, num_before: int, sources: dict[str, Path], tmp_path: Path
) -> None:
    path, expected, num_skipped = cut(sources[name], tmp_path / f"a.{suffix}", num_before)
    assert num_skipped > num_before or name == "vp9"
    require_frames(path, expected, num_skipped)


def test_skipped_frames_leave_no_gap_among_wrong_times(sources: dict[str, Path], tmp_path: Path) -> None:
    source = sources["open h264"]
    _, expected, num_skipped = cut(source, tmp_path / "a.ts")
    path = remux(source, tmp_path / "a.mkv", pts_is_dts, first_keyframe(source))
    require_frames(path, expected, num_skipped)


def test_decodable_leading_frames_are_shown(sources: dict[str, Path], tmp_path: Path) -> None:
    path, expected, num_leading = cut(sources["radl"], tmp_path / "a.mkv")
    assert num_leading == 2
    require_frames(path, [expected[0] - 2, expected[0] - 1, *expected])


def test_frames_before_an_intra_refresh_is_complete_are_skipped(sources: dict[str, Path], tmp_path: Path) -> None:
    path, _, _ = cut(sources["intra-refresh"], tmp_path / "a.ts")
    with av.open(str(path)) as container:
        decoded: list[Any] = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    expected = numbers(decoded)
    video = require_frames(path, expected, NUM_FRAMES - first_keyframe(sources["intra-refresh"]) - len(expected))
    assert video.facts["num_skipped_frames"] > 3


def test_leading_frames_that_an_edit_list_hides_are_not_counted_as_skipped(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    path, expected, _ = cut(sources["open h264"], tmp_path / "a.mp4")
    require_frames(path, expected)


@pytest.mark.parametrize("backend", ["decord", pytest.param("torchcodec", marks=needs_torchcodec)])
@pytest.mark.parametrize("name", ["open h264", "open hevc"])
def test_other_backends_refuse_streams_whose_first_frames_cannot_be_shown(
    name: str, backend: BackendName, sources: dict[str, Path], tmp_path: Path
) -> None:
    path, _, num_skipped = cut(sources[name], tmp_path / "a.mkv")
    with pytest.raises(DecodeError, match=f"{backend} miscounts where {num_skipped} frames cannot be shown"):
        shown(path, Uniform(8), backend)


def test_a_stream_without_a_keyframe_fails(sources: dict[str, Path], tmp_path: Path) -> None:
    path = remux(sources["vp9"], tmp_path / "a.webm", start=first_keyframe(sources["vp9"]) + 1)
    with pytest.raises(DecodeError, match=r"a\.webm has no frames that can be decoded"):
        Video(path)


def test_vp9_that_begins_with_an_intra_only_frame_shows_what_a_decoder_gives(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "a.webm"
    with av.open(str(sources["vp9"])) as file, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(file.streams.video[0])
        for index, packet in enumerate(packet for packet in file.demux(video=0) if packet.size):
            if index == 0:
                first = av.Packet(as_intra_only(bytes(packet)))
                first.pts, first.dts, first.time_base = packet.pts, packet.dts, packet.time_base
            written = packet if index else first
            written.stream = stream
            container.mux(written)
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    video = Video(path)
    result = [frame.permute(1, 2, 0).numpy() for frame in video.frames(range(NUM_FRAMES))]
    assert all((a == b).all() for a, b in zip(result, expected, strict=True))
    assert (video.facts["num_frames"], video.facts["num_skipped_frames"]) == (NUM_FRAMES, 0)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_two_frames_with_the_same_time_at_the_end_are_two_frames(
    suffix: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    last = NUM_FRAMES - 1
    path = remux(sources["h264"], tmp_path / f"a.{suffix}", lambda _, pts, dts: (min(pts, last - 1), dts))
    result, video = shown(path)
    assert result == list(range(NUM_FRAMES))
    assert video.pts_seconds[-3:].tolist() == pytest.approx([0.04 * (last - 2), 0.04 * (last - 1), 0.04 * (last - 1)])


@pytest.mark.parametrize("suffix", ["ts", "mkv", "h264"])
def test_two_field_pictures_are_one_frame(suffix: str, tmp_path: Path) -> None:
    require_frames(write_field_pictures(tmp_path / f"a.{suffix}", 12), list(range(12)))


@pytest.mark.parametrize("name", ["h264", "hevc", "mpeg2", "mpeg4"])
def test_damaged_headers_raise_nothing(name: str, sources: dict[str, Path]) -> None:
    random = np.random.default_rng(0)
    with av.open(str(sources[name])) as container:
        stream = container.streams.video[0]
        packets = [bytes(packet)[:100] for packet in container.demux(stream)][:3]
        for _ in range(50):
            order = picture_order.picture_order(stream)
            for packet in packets:
                content = np.frombuffer(packet, np.uint8).copy()
                content[random.integers(0, len(content), 4)] = random.integers(0, 256, 4)
                order.read(content.tobytes()[: random.integers(0, 100)])
            assert len(order.keys) == len(packets)


def parameter_set(order_type: int) -> bytes:
    """Return a sequence parameter set of H.264, whose number of order count bits begins at the end of byte 8."""
    unit = NalUnit(0x67).raw(bytes([66, 0, 30])).ue(0, 3, order_type, *([1] if order_type == 0 else []))
    return bytes(unit.ue(1).u(1, 0).ue(7, 5).u(1, 1))


@pytest.mark.parametrize(
    ("content", "key"),
    [(parameter_set(0), (1, 0)), (parameter_set(0)[:9], None), (parameter_set(3), None)],
    ids=["whole", "cut off before the order counts", "of no known type"],
)
def test_damaged_parameter_sets_are_ignored(content: bytes, key: tuple[int, int] | None) -> None:
    order = picture_order._H264(content)
    order.read(bytes(NalUnit(0x65).ue(0, 7, 0).u(7, 0).ue(0).u(5, 0)))
    assert order.keys.tolist() == [[*(key or (picture_order.UNKNOWN, picture_order.UNKNOWN))]]


NEEDS_SHARED = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is missing")


@NEEDS_SHARED
@pytest.mark.parametrize(
    ("name", "expected", "num_skipped"),
    [
        ("h264_noctts.mkv", range(120), 0), ("concat_back20.ts", range(100), 0), ("flv_restart.flv", range(60), 0),
        ("h264_rasl.mkv", range(30, 120), 1), ("hevc_rasl.mkv", range(30, 120), 4),
    ],
)  # fmt: skip
def test_shared_videos_show_the_frames_that_players_show(name: str, expected: range, num_skipped: int) -> None:
    require_frames(SHARED / name, list(expected), num_skipped)
