import io
import resource
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.samples.arrays import Array, read_array, read_arrays, read_header, read_rows, to_npy
from datamodules.samples.content import Content


def npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def with_header(header: str, values: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + values


def of(shape: Any, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    "values",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.zeros((0, 4), np.uint8),
        np.array(3.5),
        np.array(["a", "üb"]),
        np.array([(1, 2.0)], [("a", "<i4"), ("b", "<f8")]),
    ],
)
def test_an_array_comes_back_as_it_was_written_and_can_be_written_to(values: Any) -> None:
    for content in (npy(values), io.BytesIO(npy(values))):
        read = read_array(content)
        assert (read.dtype, read.shape, read.flags.writeable) == (values.dtype, values.shape, True)
        np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header cannot be read"),
        (npy(np.zeros(3))[:-1], r"23 bytes, which are not float64 \[3\]"),
        (npy(np.zeros(3)) + b"x", "25 bytes, which are not float64"),
        (with_header(of("(1000000000000,)")), "its shape is"),
        (with_header(of("(1073741824,)")), "0 bytes, which are not float32"),
        (with_header(of("(-1, 4)")), "its shape is"),
        (with_header(of(f"(0, {10**30})")), "its shape is"),
        (with_header(of("(3,)", "'|O'"), bytes(24)), "values have the type object"),
        (with_header(of("(3,)", "[('a', '|O')]"), bytes(24)), "values have the type"),
        (with_header(of("(1000000,)", "'|V0'")), "values have the type"),
        (with_header(of("(3,)", "'no'")), "header cannot be read"),
        (with_header(of("(" * 3000 + ")" * 3000)), "header cannot be read"),
        (with_header(of("-" * 9000 + "1")), "header cannot be read"),
        (with_header(of("(1,)"), bytes(4), version=(2, 0)), "version 1.0"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30), "version 1.0"),
    ],
)
def test_headers_that_claim_missing_values_are_refused_before_memory_is_allocated(content: bytes, message: str) -> None:
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (64 << 30, limit[1]))  # which 10^12 numbers exceed
    try:
        with pytest.raises(ValueError, match=message):
            read_array(content)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


@settings(max_examples=100, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_header_with_any_other_bytes_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    content = bytearray(npy(np.zeros((2, 3), np.float32)))
    for place, byte in changes:
        content[place] = byte
    with suppress(ValueError):
        assert read_array(bytes(content)).nbytes == len(content) - read_header(bytes(content)).start


def test_arrays_have_the_types_and_shapes_that_were_declared_with_common_lengths() -> None:
    declared = {"a.npy": Array("float32", ("T", 2)), "b.npy": Array("uint8", ("T",))}
    a, b = np.zeros((3, 2), np.float32), np.ones(3, np.uint8)
    read = read_arrays({"a.npy": npy(a), "b.npy": npy(b), "c": b""}, declared)
    assert [values.shape for values in read.values()] == [(3, 2), (3,)]
    for wrong in (b[:2], b[:, None], b.astype(np.int8), b.astype(">u2")):
        with pytest.raises(ValueError, match=r"b\.npy is u?int\d+ \[.*\], where uint8 \[T\] is needed|>u2"):
            read_arrays({"a.npy": npy(a), "b.npy": npy(wrong)}, declared)
    with pytest.raises(KeyError):
        read_arrays({"a.npy": npy(a)}, declared)


def test_a_header_tells_where_its_values_begin() -> None:
    content = npy(np.arange(5, dtype=np.int64))
    shape, dtype, order, start = read_header(content)
    assert (shape, dtype, order) == ((5,), np.dtype(np.int64), "C")
    assert np.frombuffer(content, dtype, offset=start).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("is_open", [False, True])
def test_rows_are_read_from_a_part_of_the_file(is_open: bool) -> None:
    values = np.arange(24, dtype=np.float16).reshape(4, 3, 2)
    content: Content = io.BytesIO(to_npy(values)) if is_open else to_npy(values)

    assert np.array_equal(read_rows(content, 1, 3), values[1:3])
    assert read_rows(content, 4, 4).shape == (0, 3, 2)
    with pytest.raises(IndexError, match="rows 3 to 5 of an array of 4 rows"):
        read_rows(content, 3, 5)


@pytest.mark.parametrize("values", [np.asfortranarray(np.zeros((2, 3))), np.float32(1)])
def test_an_array_without_rows_in_order_is_refused(values: Any) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    with pytest.raises(ValueError, match="has no rows to read"):
        read_rows(buffer.getvalue(), 0, 1)
