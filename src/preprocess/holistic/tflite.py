"""Reads `.tflite` files: what is computed from what, and the weights.

The numbers of tables and enumerations are those of TensorFlow Lite's `schema.fbs`, which is in mediapipe's wheel,
compiled, as `mediapipe/tasks/metadata/schema_py_generated.py`; the files alone are enough here. Read are files of one
subgraph whose weights are float32 or float16, dense or sparse: DEQUANTIZE and DENSIFY, which do nothing but expand
weights, are done here, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flatbuffers import number_types
from flatbuffers.encode import Get
from flatbuffers.table import Table
from numpy.typing import NDArray

from datamodules.errors import ConfigError

# BuiltinOperator: those that the models in the wheel have
_OPS = {
    0: "ADD",
    2: "CONCATENATION",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    5: "DEPTH_TO_SPACE",
    6: "DEQUANTIZE",
    9: "FULLY_CONNECTED",
    14: "LOGISTIC",
    17: "MAX_POOL_2D",
    19: "RELU",
    22: "RESHAPE",
    23: "RESIZE_BILINEAR",
    34: "PAD",
    40: "MEAN",
    45: "STRIDED_SLICE",
    54: "PRELU",
    124: "DENSIFY",
}
_DTYPES: dict[int, np.dtype[Any]] = {0: np.dtype("f4"), 1: np.dtype("f2"), 2: np.dtype("i4")}  # TensorType
_INDICES: dict[int, np.dtype[Any]] = {1: np.dtype("i4"), 2: np.dtype("u2"), 3: np.dtype("u1")}  # SparseIndexVector
_BYTE, _BOOL, _INT = number_types.Int8Flags, number_types.BoolFlags, number_types.Int32Flags
_MASKS = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
_CONV = {"padding": (0, _BYTE), "stride_w": (1, _INT), "stride_h": (2, _INT)}

# of other models in the wheel, and frequent ones: for the message alone
_OTHERS = {1: "AVERAGE_POOL_2D", 18: "MUL", 25: "SOFTMAX", 32: "CUSTOM", 67: "TRANSPOSE_CONV", 117: "HARD_SWISH"}

# The options of each op that say how it computes: (field, type); what a file leaves out is 0
_OPTIONS: dict[str, dict[str, tuple[int, Any]]] = {
    "ADD": {"activation": (0, _BYTE)},
    "CONCATENATION": {"axis": (0, _INT), "activation": (1, _BYTE)},
    "CONV_2D": {**_CONV, "activation": (3, _BYTE), "dilation_w": (4, _INT), "dilation_h": (5, _INT)},
    "DEPTHWISE_CONV_2D": {**_CONV, "activation": (4, _BYTE), "dilation_w": (5, _INT), "dilation_h": (6, _INT)},
    "DEPTH_TO_SPACE": {"block": (0, _INT)},
    "FULLY_CONNECTED": {"activation": (0, _BYTE), "weights_format": (1, _BYTE)},
    "MAX_POOL_2D": {**_CONV, "filter_w": (3, _INT), "filter_h": (4, _INT), "activation": (5, _BYTE)},
    "MEAN": {"keep_dims": (0, _BOOL)},
    "RESIZE_BILINEAR": {"align_corners": (2, _BOOL), "half_pixel_centers": (3, _BOOL)},
    "STRIDED_SLICE": {
        f"{name}_mask": (at, _INT) for at, name in enumerate(("begin", "end", "ellipsis", "new", "shrink"))
    },
}


class Op(NamedTuple):
    """One operation.

    Attributes:
        name: as TensorFlow Lite calls it: `CONV_2D`.
        inputs: numbers of the tensors it reads; -1 for one that is left out.
        output: number of the one it makes.
        options: how it computes, by name; see `_OPTIONS`.
    """

    name: str
    inputs: tuple[int, ...]
    output: int
    options: dict[str, int]


@dataclass(frozen=True)
class Graph:
    """What a file computes.

    Attributes:
        name: of the file, for errors.
        ops: in an order in which they can be done.
        inputs: numbers of the tensors that are handed in.
        outputs: numbers of the tensors that are the results, in the file's order.
        shapes: of each tensor, NHWC, for a batch of 1.
        constants: weights, float32 or int32, by the number of their tensor.
    """

    name: str
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    constants: dict[int, NDArray[Any]]


def read_tflite(path: Path) -> Graph:
    """The graph in `path`, its weights expanded to float32.

    Raises:
        ConfigError: it is no such file; or has an operation, or weights, of another kind than the models in
            mediapipe's wheel.
    """
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise ConfigError(f"{path} is no TensorFlow Lite model: it does not say TFL3 at its beginning")
    model = _Node(Table(bytearray(content), Get(number_types.UOffsetTFlags.packer_type, content, 0)))
    (subgraph,) = model.tables(2)
    codes = [max(code.number(0, _BYTE), code.number(3, _INT)) for code in model.tables(1)]
    buffers, tensors = model.tables(4), subgraph.tables(0)
    weights = {number: _weights(tensor, buffers, path.name) for number, tensor in enumerate(tensors)}
    constants = {number: values for number, values in weights.items() if values is not None}
    ops = []
    for operator in subgraph.tables(3):
        op = _op(operator, codes[operator.number(0, number_types.Uint32Flags)], path.name)
        if op.name in ("DEQUANTIZE", "DENSIFY"):
            if op.inputs[0] not in constants:
                raise ConfigError(f"{path.name}: {op.name} of what is computed, where weights were expected")
            constants[op.output] = constants[op.inputs[0]]
        else:
            ops.append(op)
    return Graph(
        path.name,
        tuple(ops),
        tuple(subgraph.numbers(1).tolist()),
        tuple(subgraph.numbers(2).tolist()),
        tuple(tuple(tensor.numbers(0).tolist()) for tensor in tensors),
        {number: _widened(values) for number, values in constants.items()},
    )


class _Node:
    """A table of a FlatBuffer, whose fields are numbered."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def _at(self, field: int) -> int:
        """Where a field lies; 0 if it is left out."""
        offset: int = self._table.Offset(4 + 2 * field)
        return offset and offset + self._table.Pos

    def number(self, field: int, flags: Any) -> int:
        """A field that is a number; 0 if it is left out."""
        at = self._at(field)
        return int(self._table.Get(flags, at)) if at else 0

    def numbers(self, field: int, dtype: np.dtype[Any] = _DTYPES[2]) -> NDArray[Any]:
        """A field that is a list of numbers; empty if it is left out."""
        at = self._at(field)
        if not at:
            return np.empty(0, dtype)
        start, length = self._vector(field)
        return np.frombuffer(self._table.Bytes, dtype, length, start)

    def table(self, field: int) -> "_Node | None":
        """A field that is a table, also one of several kinds."""
        at = self._at(field)
        return _Node(Table(self._table.Bytes, self._table.Indirect(at))) if at else None

    def tables(self, field: int) -> list["_Node"]:
        """A field that is a list of tables; empty if it is left out."""
        if not self._at(field):
            return []
        start, length = self._vector(field)
        return [_Node(Table(self._table.Bytes, self._table.Indirect(start + 4 * at))) for at in range(length)]

    def _vector(self, field: int) -> tuple[int, int]:
        offset = self._at(field) - self._table.Pos
        return self._table.Vector(offset), self._table.VectorLen(offset)


def _op(operator: _Node, code: int, file: str) -> Op:
    if code not in _OPS:
        known = ", ".join(sorted(_OPS.values()))
        raise ConfigError(f"{file} has the operation {_name(code)}; known are {known}")
    name, options = _OPS[code], operator.table(4)
    fields = _OPTIONS.get(name, {})
    values = {field: options.number(*where) if options else 0 for field, where in fields.items()}
    output, *more = operator.numbers(2).tolist()
    if more:
        raise ConfigError(f"{file}: {name} has {1 + len(more)} results, where one was expected")
    return Op(name, tuple(operator.numbers(1).tolist()), output, values)


def _name(code: int) -> str:
    return _OTHERS.get(code, f"{code} of schema.fbs")


def _weights(tensor: _Node, buffers: Sequence[_Node], file: str) -> NDArray[Any] | None:
    """What the file holds of a tensor; None if that is to be computed."""
    data = buffers[tensor.number(2, number_types.Uint32Flags)].numbers(0, np.dtype(np.uint8))
    if not data.size:
        return None
    kind, shape, sparsity = tensor.number(1, _BYTE), tensor.numbers(0), tensor.table(6)
    if kind not in _DTYPES:
        raise ConfigError(f"{file} has weights of type {kind} of schema.fbs; known are float32, float16, int32")
    values = data.view(_DTYPES[kind])
    return values.reshape(shape) if sparsity is None else _expand(values, shape.tolist(), sparsity, file)


def _expand(values: NDArray[Any], shape: list[int], sparsity: _Node, file: str) -> NDArray[Any]:
    """Sparse weights as they are: zeros where the file holds none.

    The format is TACO's (Kjolstad et al., 2017): dimension after dimension, either all of its places are there, or a
    list of those that are, from segments[i] to segments[i + 1] for the i-th place of the dimensions before.
    """
    if sparsity.numbers(0).tolist() != list(range(len(shape))) or sparsity.numbers(1).size:
        raise ConfigError(f"{file} has sparse weights in blocks, or not in the order of their dimensions")
    places = np.zeros(1, np.int64)
    coordinates: list[NDArray[np.int64]] = []
    for size, dimension in zip(shape, sparsity.tables(2), strict=True):
        if dimension.number(0, _BYTE) == 0:
            counts, starts = np.full(len(places), size), places * size
        else:
            segments = _index(dimension, 2)
            counts, starts = np.diff(segments)[places], segments[places]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(starts, counts) + within
        here = within if dimension.number(0, _BYTE) == 0 else _index(dimension, 4)[places]
        coordinates = [*(np.repeat(before, counts) for before in coordinates), here]
    dense = np.zeros(shape, values.dtype)
    dense[tuple(coordinates)] = values[places]
    return dense


def _index(dimension: _Node, field: int) -> NDArray[np.int64]:
    """The list of numbers in `field`, whose kind is in it, and which lies in the field after it."""
    dtype = _INDICES[dimension.number(field, number_types.Uint8Flags)]
    vector = dimension.table(field + 1)
    assert vector is not None
    return vector.numbers(0, dtype).astype(np.int64)


def _widened(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32) if values.dtype == np.float16 else values
