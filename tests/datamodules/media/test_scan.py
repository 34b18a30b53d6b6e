"""What packets prove about streams that no muxer writes."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from av.container import InputContainer
from av.video.stream import VideoStream

from datamodules.errors import DecodeError
from datamodules.media import packets
from datamodules.media.scan import Scan
from datamodules.media.video import Video
from support.video_files import Kind, write


def scan_of(times: Sequence[int]) -> Scan:
    """Return the scan of a stream of keyframes with these timestamps."""

    class Packet(SimpleNamespace):
        size, is_keyframe, is_corrupt, is_discard = 1, True, False, False

        def __bytes__(self) -> bytes:
            return b"\0"

    codec = SimpleNamespace(reorder=False, canonical_name="mjpeg")
    stream = SimpleNamespace(codec_context=SimpleNamespace(codec=codec, extradata=b""))
    container = SimpleNamespace(
        name="file:a.mkv",
        size=1 << 20,
        format=SimpleNamespace(name="matroska,webm"),
        demux=lambda _: (Packet(pts=time, dts=time) for time in times),
    )
    scan = Scan(cast(InputContainer, container), cast(VideoStream, stream))
    scan.read()
    return scan


def test_a_clock_that_jumps_back_at_every_other_packet_is_read_in_linear_time() -> None:
    num_packets = 20_000  # in quadratic time 8 s
    scan = scan_of([1000, 1040] * (num_packets // 2))
    assert len(scan.jumps) == num_packets // 2 - 1
    assert scan.times_in_order(range(num_packets)) == list(range(1000, 1000 + 40 * num_packets, 40))


@pytest.mark.parametrize(("num_places", "is_proven"), [(16, True), (17, False)])
def test_an_order_that_no_decoder_can_produce_is_not_proven(num_places: int, is_proven: bool) -> None:
    times = [10 * index for index in range(40)]
    times[20] = times[20 - num_places] - 5
    scan = scan_of(times)
    order: Any = SimpleNamespace(keys=np.array([(0, time) for time in times]), second_fields=set())
    scan.order = order
    assert scan.is_proven is is_proven


def test_a_step_that_overflows_64_bits_is_a_jump() -> None:
    assert scan_of([0, 1, 2]).by_pts is not None
    assert scan_of([1 - (1 << 63), (1 << 63) - 1]).by_pts is None


def test_times_further_apart_than_64_bits_can_count_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a", Kind("mkv"), 3)
    monkeypatch.setattr(packets, "_MAX_TICKS", 79)  # ms
    with pytest.raises(DecodeError, match=r"a\.mkv has times from 0 to 80, further apart than can be counted"):
        Video(path)
