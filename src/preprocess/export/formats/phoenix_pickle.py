"""Keypoints as code for PHOENIX-2014-T unpickles them.

| file                      | content                                                                             |
|---------------------------|-------------------------------------------------------------------------------------|
| keypoints.pickle          | {split: {"keypoints": [frame, …], "image_paths": [str, …], "video_ids": [str, …]}}, |
|                           | with one entry for each frame of all videos                                         |
| keypoints_statistics.json | {split: see `statistics.py` and `keypoint_statistics.py`}                           |

| key of a frame | value                                                                                         |
|----------------|-----------------------------------------------------------------------------------------------|
| face           | float32 [68, 3]: x, y, z in px, in the order of dlib's 68 points; None if it was not found    |
| left_hand      | float32 [21, 3], likewise; the person's own left                                              |
| right_hand     | float32 [21, 3], likewise                                                                     |
| pose           | float32 [33, 3], likewise                                                                     |

A video id is the item's `name`, or its key if the corpus gives no names. An image path is relative to the corpus root;
frame i of the sample of a video, counted from 0, is `{video}#{i}`.

`pickle.load` reads the file as any other, with NumPy 1 and 2. It is written opcode by opcode, because `pickle.dump`
needs all of it in memory. Opcodes: https://github.com/python/cpython/blob/main/Lib/pickletools.py
"""

import json
import pickle
import pickletools
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import RunError
from datamodules.samples.keypoint_layouts import PARTS
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from preprocess.export.destination import all_or_none
from preprocess.export.keypoint_statistics import KeypointStatistics
from preprocess.export.phoenix import PHOENIX_PARTS, FrameNames, phoenix_parts, require_face
from preprocess.export.source import Source

SAMPLES = KeypointSamples
_FIELDS = ("keypoints", "image_paths", "video_ids")


def export(source: Source[KeypointSample], dest: Path) -> list[Path]:
    """Write the files of the table above to `dest`.

    Args:
        source: a run of keypoints.
        dest: folder to write to.

    Raises:
        ConfigError: a file exists, or the layout has no face.
        RunError: a shard is damaged.
    """
    require_face(source)
    paths = [dest / "keypoints.pickle", dest / "keypoints_statistics.json"]
    with all_or_none(paths) as (pickled, described):
        statistics = {}
        with open(pickled, "wb") as file:
            writer = _PickleWriter(file)
            writer.write(pickle.EMPTY_DICT)
            for split in source.splits:
                writer.write(_string(split), pickle.EMPTY_DICT)
                statistics[split] = _write_split(writer, source, split).to_json()
                writer.write(pickle.SETITEM)
            writer.write(pickle.STOP)
        described.write_text(json.dumps(statistics, indent=1) + "\n")
    return paths


def load_phoenix_pickle(path: Path) -> dict[str, dict[str, list[Any]]]:
    """Read a `keypoints.pickle` that may come from someone else.

    Unpickling runs code that the file names. Here it creates dicts, lists, strings and arrays of floats, nothing else.

    Raises:
        RunError: the file cannot be read, is something else, or names other code (which is in the message, and was not
            run).
    """
    try:
        with open(path, "rb") as file:
            content = _ArraysOnly(file).load()
    except (OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise RunError(f"{path} is no pickle of keypoints, or damaged: {error}") from error
    except (MemoryError, OverflowError) as error:  # a size in it is wrong
        raise RunError(f"{path} is no pickle of keypoints, or damaged: it asks for too much memory") from error
    if not isinstance(content, dict) or not all(map(_is_split, content.values())):
        raise RunError(f"{path} is a pickle, but not of keypoints: each split must have lists {', '.join(_FIELDS)}")
    return {
        name: {**split, "keypoints": [_with_arrays(frame) for frame in split["keypoints"]]}
        for name, split in content.items()
    }


def _write_split(writer: "_PickleWriter", source: Source[KeypointSample], split: str) -> KeypointStatistics:
    statistics = KeypointStatistics(source.statistics(split))
    with FrameNames(writer.folder) as names:
        writer.write(_string("keypoints"), pickle.EMPTY_LIST)
        for sample in source.samples(split):
            parts = phoenix_parts(sample)
            statistics.add(parts, sample.presence)
            names.add(sample)
            writer.append(writer.frames(parts, sample))
        writer.write(pickle.SETITEM, _string("image_paths"), pickle.EMPTY_LIST)
        for _, paths in names:
            writer.append(map(_string, paths))
        writer.write(pickle.SETITEM, _string("video_ids"), pickle.EMPTY_LIST)
        for video_id, paths in names:
            writer.append([writer.remember(_string(video_id))] * len(paths))
        writer.write(pickle.SETITEM)
    return statistics


class _PickleWriter:
    """Writes a pickle of protocol 4 in opcodes. What occurs in every frame is written once, to the memo.

    Args:
        file: to write to.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.folder = Path(file.name).parent
        self._num_remembered = 0
        self.write(pickle.PROTO, b"\x04")
        dtype = self.remember(_dtype_opcodes())
        empty = self.remember(_global("numpy.core.multiarray", "_reconstruct"))
        arguments = self.remember(
            _global("numpy", "ndarray") + _number(0) + pickle.TUPLE1 + pickle.SHORT_BINBYTES + b"\1b" + pickle.TUPLE3
        )
        self._names = {name: self.remember(_string(name)) for name in PHOENIX_PARTS}
        self._before_data = {}
        for name, num_points in PHOENIX_PARTS.items():  # as `ndarray.__reduce__`: an empty array, then its state
            shape = _number(num_points) + _number(3) + pickle.TUPLE2
            num_bytes = struct.pack("<I", num_points * 3 * 4)
            state = pickle.MARK + _number(1) + shape + dtype + pickle.NEWFALSE + pickle.BINBYTES + num_bytes
            self._before_data[name] = empty + arguments + pickle.REDUCE + state
        self._after_data = pickle.TUPLE + pickle.BUILD

    def write(self, *opcodes: bytes) -> None:
        self._file.write(b"".join(opcodes))

    def append(self, values: Iterable[bytes]) -> None:
        """Append `values` to the list on top of the stack."""
        self.write(pickle.MARK, *values, pickle.APPENDS)

    def remember(self, value: bytes) -> bytes:
        """Write `value` to the memo, and return the opcodes that fetch it from there."""
        self.write(value, pickle.MEMOIZE, pickle.POP)
        self._num_remembered += 1
        return pickle.LONG_BINGET + struct.pack("<I", self._num_remembered - 1)

    def frames(self, parts: dict[str, NDArray[np.float32]], sample: KeypointSample) -> Iterator[bytes]:
        """Yield the opcodes of each frame's dict."""
        data = {name: np.ascontiguousarray(points, "<f4") for name, points in parts.items()}
        present = {name: sample.presence[:, PARTS.index(name)].tolist() for name in parts}
        for frame in range(len(sample.presence)):
            yield pickle.EMPTY_DICT + pickle.MARK
            for name in parts:
                yield self._names[name]
                if present[name][frame]:
                    yield self._before_data[name] + data[name][frame].tobytes() + self._after_data
                else:
                    yield pickle.NONE
            yield pickle.SETITEMS


def _string(value: str) -> bytes:
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _global(module: str, name: str) -> bytes:
    return _string(module) + _string(name) + pickle.STACK_GLOBAL


def _number(value: int) -> bytes:
    return pickle.BININT1 + bytes([value])


def _dtype_opcodes() -> bytes:
    """Return what `pickle` writes for float32, without protocol, stop and memo."""
    return pickletools.optimize(pickle.dumps(np.dtype("<f4"), protocol=2))[2:-1]


def _is_split(split: object) -> bool:
    if not isinstance(split, dict) or not all(isinstance(split.get(name), list) for name in _FIELDS):
        return False
    if not all(isinstance(frame, dict) for frame in split["keypoints"]):
        return False
    parts = (part for frame in split["keypoints"] for part in frame.values() if part is not None)
    return all(isinstance(part, _Array) and part.values is not None for part in parts) and all(
        isinstance(name, str) for field in _FIELDS[1:] for name in split[field]
    )


def _with_arrays(frame: dict[str, "_Array | None"]) -> dict[str, NDArray[Any] | None]:
    return {part: array.values if array else None for part, array in frame.items()}


class _Dtype:
    """Replaces `numpy.dtype` in a pickle: NumPy's own may crash, or worse, on a forged state."""

    def __init__(self, name: str, *flags: object) -> None:
        if name not in ("f2", "f4", "f8"):
            raise RunError(f"the pickle has arrays of {name!r}, and keypoints are floats: refused")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Replaces `numpy.ndarray`, and the function that makes an empty array, whose state follows."""

    values: NDArray[Any] | None = None

    def __init__(self, *of_an_empty_array: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array has no data")
        array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if is_fortran else "C")
        self.values = array.copy()  # can be written to


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _NEEDED:
            raise RunError(
                f"the pickle wants {module_name}.{global_name}, which keypoints do not need: refused, not executed"
            )
        return _NEEDED[module_name, global_name]


_NEEDED: dict[tuple[str, str], type] = {  # all that a pickle of keypoints refers to
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # written with NumPy 2
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}
