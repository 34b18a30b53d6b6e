import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from datamodules.errors import RunError
from datamodules.samples import track_lines as module
from datamodules.samples.track_lines import LineObject, TrackLine, TrackLines, bbox_of, line_of, mask_of, rle_of

SIZE = (1, 1)  # (height, width) of the frames, px


def line(number: int, length: int = 0) -> TrackLine:
    label = "ü" * length
    each: LineObject = {
        "obj_id": 1,
        "label": label,
        "score": 0.5,
        "bbox": [0, 0, 1, 1],
        "mask": {"size": [1, 1], "counts": "01"},
    }
    return {"frame_idx": number, "timestamp": number / 25, "objects": [each] if length else []}


def uneven(count: int) -> list[TrackLine]:
    """Lines from 50 to some 6,000 bytes, in no order of length."""
    return [line(number, 3000 if number % 7 == 3 else number % 5) for number in range(count)]


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    num_read = 0

    def read(self, *args: Any) -> bytes:
        found = super().read(*args)
        self.num_read += len(found)
        return found

    def readline(self, *args: Any) -> bytes:
        found = super().readline(*args)
        self.num_read += len(found)
        return found


def test_a_line_is_compact_json_that_begins_with_its_number() -> None:
    assert line_of(line(3)) == b'{"frame_idx":3,"timestamp":0.12,"objects":[]}\n'
    assert "üü".encode() in line_of(line(3, 2))
    assert b'"label":"?"' in line_of({**line(3), "objects": [{"label": "\ud800"}]})  # type: ignore[typeddict-item]


@pytest.mark.parametrize("near_bytes", [1, 1000, 1 << 16])
@pytest.mark.parametrize("count", [1, 2, 3, 200])
def test_every_line_is_found_wherever_one_begins_to_look(
    count: int, near_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_NEAR_BYTES", near_bytes)
    wanted = uneven(count)
    lines = TrackLines(io.BytesIO(b"".join(map(line_of, wanted))), "a", SIZE)
    assert len(lines) == count
    assert list(lines) == wanted
    assert [lines.read(number) for number in reversed(range(count))] == [[each] for each in reversed(wanted)]


def test_every_so_many_lines_are_read() -> None:
    lines = TrackLines(io.BytesIO(b"".join(map(line_of, uneven(20)))), "a", SIZE)
    assert [each["frame_idx"] for each in lines.read(3, 4, 5)] == [3, 8, 13, 18]


def test_of_a_long_file_little_is_read() -> None:
    file = Counting(b"".join(map(line_of, uneven(5000))))
    lines = TrackLines(file, "a", SIZE)
    assert (len(lines), lines.read(4321)) == (5000, [uneven(5000)[4321]])
    assert file.num_read < file.seek(0, 2) / 20


def test_a_file_without_lines_has_none() -> None:
    lines = TrackLines(io.BytesIO(), "a", SIZE)
    assert (len(lines), list(lines)) == (0, [])


@pytest.mark.parametrize("near_bytes", [1, 1 << 16])
@pytest.mark.parametrize("number", [5, 6, 100])
def test_a_frame_that_is_not_there_fails(number: int, near_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NEAR_BYTES", near_bytes)
    content = b"".join(line_of(line(number)) for number in (0, 1, 2, 3, 4, 7, 8))
    with pytest.raises(RunError, match=rf"a\.tracks\.jsonl is damaged: it has no frame {number}; run"):
        TrackLines(io.BytesIO(content), "a", SIZE).read(number)
    with pytest.raises(RunError, match="the line of frame 5 is missing, or in the wrong order"):
        TrackLines(io.BytesIO(content), "a", SIZE).read(3, 4)


@pytest.mark.parametrize("content", [b"\x00" * 600, b"[]\n" * 300, b'{"frame_idx":0,"timestamp":\n'])
def test_lines_that_are_none_fail(content: bytes) -> None:
    with pytest.raises(RunError, match=r"a\.tracks\.jsonl is damaged: .*preprocess verify"):
        TrackLines(io.BytesIO(content), "a", SIZE).read(0)


def test_a_mask_comes_back_from_its_run_lengths() -> None:
    mask = np.random.default_rng(0).random((37, 53)) < 0.3
    rle = rle_of(mask)
    assert (rle["size"], isinstance(rle["counts"], str)) == ([37, 53], True)
    np.testing.assert_array_equal(mask_of(rle), mask)
    assert int(coco.area(rle)) == mask.sum()


@pytest.mark.parametrize("damage", [lambda counts: "", lambda counts: counts[:-1], lambda counts: counts + "9"])
def test_run_lengths_that_are_no_mask_fail(damage: Callable[..., Any]) -> None:
    rle = rle_of(np.eye(4, dtype=np.bool_))
    with pytest.raises(RunError, match=r"its run lengths do not make \[4, 4\] px; run `preprocess verify`"):
        mask_of({**rle, "counts": damage(rle["counts"])})


def test_a_box_is_half_open_around_the_mask() -> None:
    mask = np.zeros((20, 30), bool)
    mask[3:9, 4] = mask[5, 10:30] = True
    assert bbox_of(rle_of(mask)) == [4, 3, 30, 9]
    assert bbox_of(rle_of(np.zeros((20, 30), bool))) == [0, 0, 0, 0]


GOOD: dict[str, Any] = {**line(0, 1)}
[OBJECT] = GOOD["objects"]
BAD_FIELDS: list[dict[str, Any]] = [
    {"obj_id": "1"},
    {"obj_id": 1 << 31},
    {"label": 1},
    {"label": {}},
    {"score": float("nan")},
    {"bbox": [0, 0, 1]},
    {"bbox": [0, 0, 2, 1]},
    {"bbox": [1, 0, 0, 1]},
    {"bbox": [-1, 0, 1, 1]},
    {"mask": {"size": [60000, 60000], "counts": "01"}},
    {"mask": {"size": [1, 1], "counts": 5}},
    {"mask": {"size": [1, 1], "counts": "o"}},
    {"mask": {"size": [1, 1], "counts": "P" * 30}},
    {"mask": None},
]


@pytest.mark.parametrize(
    "wrong",
    [
        {**GOOD, "timestamp": float("nan")},
        {**GOOD, "timestamp": 10**400},
        {**GOOD, "timestamp": "0"},
        {**GOOD, "objects": {}},
        {**GOOD, "objects": [[]]},
        *({**GOOD, "objects": [{**OBJECT, **change}]} for change in BAD_FIELDS),
    ],
)
def test_lines_that_no_tracking_writes_are_refused_however_they_are_read(wrong: dict[str, Any]) -> None:
    content = json.dumps(wrong, separators=(",", ":")).encode() + b"\n"
    for read in (
        list,
        lambda lines: lines.read(0),
        lambda lines: list(lines.raw()),
        lambda lines: list(lines.since(0)),
    ):
        with pytest.raises(RunError, match=r"a\.tracks\.jsonl is damaged: a line is "):
            read(TrackLines(io.BytesIO(content), "a", SIZE))


def test_a_line_nested_deeply_or_of_a_number_that_cannot_be_is_refused() -> None:
    with pytest.raises(RunError, match="nested too deeply"):
        list(TrackLines(io.BytesIO(b'{"frame_idx":0,"objects":' + b"[" * 100_000 + b"\n"), "a", SIZE))
    with pytest.raises(RunError, match="a line begins"):
        len(TrackLines(io.BytesIO(b'{"frame_idx":' + b"9" * 5000 + b",\n"), "a", SIZE))
    far = TrackLines(io.BytesIO(line_of(line(10**12))), "a", SIZE)
    with pytest.raises(RunError, match="67 bytes cannot hold 1,000,000,000,001 lines"):
        len(far)
    with pytest.raises(RunError, match="it has no frame 0"):
        next(iter(far))


def test_a_label_with_a_lone_surrogate_is_refused() -> None:
    content = json.dumps({**GOOD, "objects": [{**OBJECT, "label": "\ud800"}]}, separators=(",", ":")).encode()
    with pytest.raises(RunError, match="surrogates not allowed"):
        TrackLines(io.BytesIO(content), "a", SIZE).read(0)


def test_a_line_without_an_end_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_LINE_BYTES", 1000)
    lines = TrackLines(io.BytesIO(b'{"frame_idx":0,' + b" " * 50_000), "a", SIZE)
    for read in (len, list):
        with pytest.raises(RunError, match="a line has more than 1,000 bytes"):
            read(lines)


@pytest.mark.parametrize("counts", ["o", "01P", "PPPPPPPPP0", "\0", "é", "0" * 70000])
def test_run_lengths_that_could_be_read_beyond_their_end_never_reach_the_library(counts: str) -> None:
    with pytest.raises(RunError, match="a mask is damaged"):
        mask_of({"size": [1, 1], "counts": counts})
