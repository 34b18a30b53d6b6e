"""`phoenix-pickle`: keypoints as code for PHOENIX-2014-T unpickles them.

| file                      | what                                                                                |
|---------------------------|-------------------------------------------------------------------------------------|
| keypoints.pickle          | {split: {"keypoints": [frame, …], "image_paths": [str, …], "video_ids": [str, …]}}, |
|                           | one entry for each frame of all videos                                              |
| keypoints_statistics.json | {split: see `statistics.py`}                                                        |

| key of a frame | value                                                                                         |
|----------------|-----------------------------------------------------------------------------------------------|
| face           | float32 [68, 3]: x, y, z in px, in the order of dlib's 68 points; None if it was not found    |
| left_hand      | float32 [21, 3], likewise; the person's own left                                              |
| right_hand     | float32 [21, 3], likewise                                                                     |
| pose           | float32 [33, 3], likewise                                                                     |

A video id is the item's `name`, or its key if the corpus gives no names. An image path is relative to the corpus root;
frame i of a video's sample, counted from 0, is `{video}#{i}`.

The pickle is written opcode by opcode, since `pickle.dump` needs all of it in memory; `pickle.load` reads it as any
other, with NumPy 1 and 2. Opcodes: https://github.com/python/cpython/blob/main/Lib/pickletools.py
"""

import json
import pickle
import pickletools
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import ConfigError, RunError
from datamodules.run.folder import Run
from datamodules.samples.keypoint_layouts import FACE_68, PARTS
from preprocess.export.destination import all_or_none
from preprocess.export.reading import keypoint_samples, planned_splits
from preprocess.export.statistics import SplitStatistics, parts_of

if TYPE_CHECKING:
    from datamodules.samples.keypoints import KeypointSample

PHOENIX_PARTS = {"face": 68, "left_hand": 21, "right_hand": 21, "pose": 33}  # points of each part, in file order
_FIELDS = ("keypoints", "image_paths", "video_ids")


def export(run: Run, dest: Path) -> list[Path]:
    """Write the files of the table above to `dest`.

    Raises:
        ConfigError: a file exists, or the layout has no face.
        RunError: these are no keypoint samples, or a shard is damaged.
    """
    refuse_without_face(run)
    paths = [dest / "keypoints.pickle", dest / "keypoints_statistics.json"]
    with all_or_none(paths) as (pickled, described):
        statistics = {split: SplitStatistics(run, split) for split in planned_splits(run)}
        with open(pickled, "wb") as file:
            writer = _PickleWriter(file)
            writer.write(pickle.EMPTY_DICT)
            for split in statistics:
                writer.write(_string(split), pickle.EMPTY_DICT)
                _write_split(writer, run, split, statistics[split])
                writer.write(pickle.SETITEM)
            writer.write(pickle.STOP)
        described.write_text(json.dumps({split: s.to_json() for split, s in statistics.items()}, indent=1) + "\n")
    return paths


def load_phoenix_pickle(path: Path) -> dict[str, dict[str, list[Any]]]:
    """Read a `keypoints.pickle` without trusting it: nothing but dicts, lists, strings and arrays of floats is made.

    Raises:
        RunError: it cannot be read, needs anything else (which is named, and was not executed), or is no such file.
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


def refuse_without_face(run: Run) -> None:
    """Look at the first sample of each split.

    Raises:
        ConfigError: its layout has no face.
    """
    for split in planned_splits(run):
        for sample in keypoint_samples(run, split):
            phoenix_parts(sample)
            break


def phoenix_parts(sample: "KeypointSample") -> dict[str, NDArray[np.float32]]:
    """float32 [T, n, 3] of each of `PHOENIX_PARTS`, in that order; of 468 face points, the 68.

    Raises:
        ConfigError: the layout has no face.
        RunError: the layout is unknown.
    """
    parts = parts_of(sample)
    if "face" not in parts:
        raise ConfigError(
            f"the layout {sample.meta['layout']} of {sample.key} has no face, and the PHOENIX formats need one: "
            "run the pipeline with layout 143 or 543, or use --format parquet"
        )
    if parts["face"].shape[1] != len(FACE_68):
        parts["face"] = parts["face"][:, FACE_68]
    return {name: parts[name] for name in PHOENIX_PARTS}


class FrameNames:
    """Video id and image path of each frame, in an unnamed file until the keypoints, which come first, are written.

    Args:
        folder: where that file is made.

    Attributes:
        longest_id: characters of the longest video id.
        longest_path: characters of the longest image path.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder)
        self.longest_id = self.longest_path = 0

    def add(self, sample: "KeypointSample") -> None:
        """Note the frames of `sample`.

        Raises:
            RunError: it names more or fewer frames than it has keypoints of.
        """
        video_id, paths = str(sample.meta.get("name") or sample.key), _image_paths(sample)
        self.longest_id = max(self.longest_id, len(video_id))
        self.longest_path = max(self.longest_path, *map(len, paths), 0)
        print(json.dumps([video_id, paths]), file=self._file)

    def __iter__(self) -> Iterator[tuple[str, list[str]]]:
        """(video id, image paths) of each sample."""
        self._file.seek(0)
        return (tuple(json.loads(line)) for line in self._file)

    def __enter__(self) -> "FrameNames":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def _image_paths(sample: "KeypointSample") -> list[str]:
    path, frames = sample.meta.get("path"), sample.meta.get("frames")
    if not frames:
        return [f"{path}#{frame_idx}" for frame_idx in range(len(sample.keypoints))]
    if len(frames) != len(sample.keypoints):
        raise RunError(f"{sample.key} names {len(frames)} frames, but has keypoints of {len(sample.keypoints)}")
    return [f"{path}/{frame}" for frame in frames]


def _write_split(writer: "_PickleWriter", run: Run, split: str, statistics: SplitStatistics) -> None:
    with FrameNames(writer.folder) as names:
        writer.write(_string("keypoints"), pickle.EMPTY_LIST)
        for sample in keypoint_samples(run, split):
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


class _PickleWriter:
    """A pickle of protocol 4, written in opcodes; what occurs in every frame is written once, and fetched."""

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
        for name, num_points in PHOENIX_PARTS.items():  # as `ndarray.__reduce__` says: an empty array, given its state
            shape = _number(num_points) + _number(3) + pickle.TUPLE2
            num_bytes = struct.pack("<I", num_points * 3 * 4)
            state = pickle.MARK + _number(1) + shape + dtype + pickle.NEWFALSE + pickle.BINBYTES + num_bytes
            self._before_data[name] = empty + arguments + pickle.REDUCE + state
        self._after_data = pickle.TUPLE + pickle.BUILD

    def write(self, *opcodes: bytes) -> None:
        self._file.write(b"".join(opcodes))

    def append(self, values: Iterable[bytes]) -> None:
        """Append values to the list on top of the stack."""
        self.write(pickle.MARK, *values, pickle.APPENDS)

    def remember(self, value: bytes) -> bytes:
        """Write a value to where it can be fetched from, by the opcodes that are returned."""
        self.write(value, pickle.MEMOIZE, pickle.POP)
        self._num_remembered += 1
        return pickle.LONG_BINGET + struct.pack("<I", self._num_remembered - 1)

    def frames(self, parts: dict[str, NDArray[np.float32]], sample: "KeypointSample") -> Iterator[bytes]:
        """A dict for each frame."""
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
    """What `pickle` writes for float32, without its head, its stop and its memo."""
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
    """Stands for `numpy.dtype` in a pickle: NumPy's own may crash, or worse, on a state that was made up."""

    def __init__(self, name: str, *flags: object) -> None:
        if name not in ("f2", "f4", "f8"):
            raise RunError(f"the pickle has arrays of {name!r}, and keypoints are floats: refused")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for `numpy.ndarray`, and for the function that makes an empty one, which is then given its state."""

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


_NEEDED: dict[tuple[str, str], type] = {  # what a pickle of keypoints refers to
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # written with NumPy 2
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}
