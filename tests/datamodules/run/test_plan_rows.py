import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import CorpusError
from datamodules.run.plan_rows import SCHEMA, pack, unpack
from support.plans import with_column

ZSTD = pa.Codec("zstd")


def row(**values: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(SCHEMA.names),
        **{"key": "a", "split": "train", "path": "a.mp4", "frames": [], "cost": 1, "meta": "{}"},
        **values,
    }


def batch_of(*rows: dict[str, Any]) -> Any:
    return pa.RecordBatch.from_pylist(list(rows), schema=SCHEMA)


def round_trip(batch: Any) -> Any:
    segment, raw_bytes = pack(batch)
    return unpack(segment, len(batch), raw_bytes)


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_NUMBER = st.none() | st.floats(allow_nan=False, allow_infinity=False)
_ROWS = st.builds(
    row,
    key=st.text("abcÄ_%-", min_size=1),
    path=_TEXT,
    frames=st.lists(_TEXT, max_size=4),
    fps=_NUMBER,
    start_seconds=_NUMBER,
    stop_seconds=_NUMBER,
    start_byte=st.none() | st.integers(0, 2**63 - 1),
    cost=st.integers(0, 2**63 - 1),
    modified=_NUMBER,
    meta=_TEXT,
    problem=st.none() | _TEXT,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_ROWS, min_size=1, max_size=20))
def test_rows_come_back_as_they_were(rows: list[dict[str, Any]]) -> None:
    assert round_trip(batch_of(*rows)).to_pylist() == rows


def test_a_part_of_a_batch_comes_back_as_it_was() -> None:
    rows = [row(key=f"k{n}", frames=[f"{n}.png"] * n, problem="a" * n if n % 2 else None) for n in range(9)]
    assert round_trip(batch_of(*rows).slice(3, 4)).to_pylist() == rows[3:7]


def images(count: int) -> list[dict[str, Any]]:
    """Images by number in folders of 1,000, of any size and time."""
    draw = random.Random(1)
    return [
        row(
            key=f"train/{n // 1000:05d}/{n:09d}",
            path=f"train/{n // 1000:05d}",
            frames=[f"{n:09d}.jpg"],
            cost=draw.randrange(20_000, 400_000),
            modified=1.7e9 + draw.randrange(10**6) + draw.random(),
        )
        for n in range(count)
    ]


def sentences(count: int) -> list[dict[str, Any]]:
    """Sequences named as in PHOENIX-2014-T, with their numbers of frames."""
    draw, rows = random.Random(1), []
    for number in range(count):
        month, day = draw.choice(["January", "August", "November"]), draw.choice(["Monday", "Wednesday"])
        name = f"{draw.randrange(1, 31):02d}{month}_{draw.randrange(2009, 2014)}_{day}_tagesschau-{number}"
        rows.append(
            row(
                key=f"train/{name}",
                path=f"features/fullFrame-210x260px/train/{name}/1",
                frames=[f"images{frame:04d}.png" for frame in range(1, draw.randrange(16, 300))],
                cost=draw.randrange(10**6, 10**7),
                modified=1.3e9 + draw.randrange(10**6) + draw.random(),
            )
        )
    return rows


@pytest.mark.parametrize("rows", [images, sentences])
def test_items_that_are_alike_take_less_than_60_bytes_each(rows: Callable[[int], list[dict[str, Any]]]) -> None:
    segment, _ = pack(batch_of(*rows(1000)))
    assert len(segment) < 60 * 1000


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("key", ["../x", "b"], r"'\.\./x' cannot be a key"),
        ("key", ["/home/x/photo", "b"], "cannot be a key"),
        ("key", ["a/../../ü", "b"], "cannot be a key"),
        ("key", ["a\n", "b"], "cannot be a key"),
        ("key", ["", "b"], "cannot be a key"),
        ("key", [None, "b"], "key is null"),
        ("split", ["/tmp/x", "/tmp/x"], "'/tmp/x' cannot name a split"),
        ("split", ["train", "dev"], "several splits"),
        ("path", [None, "b"], "path is null"),
        ("path", ["a\0", "b"], "the path of a file has a null character"),
        ("frames", [["a.png"], ["b", "c\0.png"]], "the path of a file has a null character"),
        ("frames", [["a.png"], None], "frames is null"),
        ("frames", [["a.png"], [None]], "a frame is null"),
        ("cost", [-1, 2], "negative number of bytes"),
        ("cost", [None, 2], "cost is null"),
        ("start_byte", [-1, None], "negative number of bytes"),
        ("fps", [float("nan"), None], "not finite"),
        ("meta", [None, "{}"], "meta is null"),
    ],
)
def test_invalid_rows_are_refused(column: str, values: list[Any], message: str) -> None:
    with pytest.raises((ValueError, CorpusError), match=message):
        round_trip(with_column(batch_of(row(key="a"), row(key="b")), column, values))


def test_an_item_with_a_problem_may_have_a_path_that_no_file_has() -> None:
    rows = [row(), row(key="a%00", path="a\0.mp4", problem="it cannot be used as a path")]
    assert round_trip(batch_of(*rows)).to_pylist() == rows


def raw_of(batch: Any) -> bytearray:
    segment, raw_bytes = pack(batch)
    return bytearray(ZSTD.decompress(segment, raw_bytes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-1], "it ends 1 bytes too early"),
        (lambda raw: raw + b"x", "1 bytes follow its rows"),
        # the first column: two bytes of validity, two lengths, two keys of a byte
        (lambda raw: raw[:2] + np.array([-1, 3], np.int32).tobytes() + raw[10:], "it has a negative length"),
        (lambda raw: raw[:2] + np.array([2**31 - 1] * 2, np.int32).tobytes() + raw[10:], "bytes too early"),
        (lambda raw: raw[:10] + b"\xff\xff" + raw[12:], "Invalid UTF8"),
        (lambda raw: raw[:10] + "ü".encode() + raw[12:], "UTF8"),
    ],
)
def test_a_segment_that_is_none_is_refused(damage: Callable[[bytearray], bytearray], message: str) -> None:
    raw = bytes(damage(raw_of(batch_of(row(key="a"), row(key="b")))))
    with pytest.raises((ValueError, pa.ArrowException), match=message):
        unpack(ZSTD.compress(raw, asbytes=True), 2, len(raw))


@pytest.mark.parametrize(("num_rows", "more_bytes"), [(3, 0), (1, 0), (10**9, 0), (2, 1), (2, -1)])
def test_a_summary_that_claims_another_size_is_refused(num_rows: int, more_bytes: int) -> None:
    segment, raw_bytes = pack(batch_of(row(key="a"), row(key="b")))
    with pytest.raises((ValueError, CorpusError, OSError, pa.ArrowException)):
        unpack(segment, num_rows, raw_bytes + more_bytes)


@settings(max_examples=80, deadline=None)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_segment_with_any_other_bytes_is_read_or_refused(changes: list[tuple[float, int]]) -> None:
    raw = raw_of(batch_of(*images(3), *sentences(1)))
    for position, byte in changes:
        raw[int(position * len(raw))] = byte
    try:
        batch = unpack(ZSTD.compress(bytes(raw), asbytes=True), 4, len(raw))
    except (ValueError, CorpusError, OSError, pa.ArrowException):
        return
    assert len(batch.to_pylist()) == 4
