"""Reads the operations and weights of `.tflite` files.

The numbers of tables and enumerations are those of TensorFlow Lite's `schema.fbs`, which mediapipe's wheel has in
compiled form, as `mediapipe/tasks/metadata/schema_py_generated.py`. Files have one subgraph, and weights in float32 or
float16, dense or sparse. DEQUANTIZE and DENSIFY, which only expand weights, are applied while a file is read.
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

# BuiltinOperator, as far as the models in the wheel use it
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

# operations of other models, for messages
_UNSUPPORTED = {1: "AVERAGE_POOL_2D", 18: "MUL", 25: "SOFTMAX", 32: "CUSTOM", 67: "TRANSPOSE_CONV", 117: "HARD_SWISH"}

# options that decide how an operation computes: (number of the field, type). A field that a file leaves out is 0
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
        name: TensorFlow Lite's, such as `CONV_2D`.
        inputs: numbers of the tensors that it reads; -1 for an optional one that is left out.
        output: number of the tensor that it computes.
        options: how it computes, by name; see `_OPTIONS`.
    """

    name: str
    inputs: tuple[int, ...]
    output: int
    options: dict[str, int]


@dataclass(frozen=True)
class Graph:
    """The operations and weights in a file.

    Attributes:
        name: of the file, for messages.
        ops: in the order in which they are computed.
        inputs: numbers of the input tensors.
        outputs: numbers of the output tensors, in the file's order.
        shapes: of all tensors, NHWC, for a batch of 1.
        constants: weights, float32 or int32, by the number of their tensor.
    """

    name: str
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    constants: dict[int, NDArray[Any]]


def read_tflite(path: Path) -> Graph:
    """Return the graph in `path`, with its weights expanded to float32.

    Raises:
        ConfigError: the file is not a TensorFlow Lite model, or has operations or weights of a kind that the models in
            mediapipe's wheel do not have.
    """
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise ConfigError(f"{path} is not a TensorFlow Lite model: it does not begin with TFL3")
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
                raise ConfigError(f"{path.name}: {op.name} of a computed tensor is not supported, only of weights")
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
    """A table of a FlatBuffer, with numbered fields."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def _at(self, field: int) -> int:
        """Return the offset of a field; 0 if it is left out."""
        offset: int = self._table.Offset(4 + 2 * field)
        return offset and offset + self._table.Pos

    def number(self, field: int, flags: Any) -> int:
        """Return a field that is a number; 0 if it is left out."""
        at = self._at(field)
        return int(self._table.Get(flags, at)) if at else 0

    def numbers(self, field: int, dtype: np.dtype[Any] = _DTYPES[2]) -> NDArray[Any]:
        """Return a field that is a list of numbers; empty if it is left out."""
        at = self._at(field)
        if not at:
            return np.empty(0, dtype)
        start, length = self._vector(field)
        return np.frombuffer(self._table.Bytes, dtype, length, start)

    def table(self, field: int) -> "_Node | None":
        """Return a field that is a table or a union of tables; None if it is left out."""
        at = self._at(field)
        return _Node(Table(self._table.Bytes, self._table.Indirect(at))) if at else None

    def tables(self, field: int) -> list["_Node"]:
        """Return a field that is a list of tables; empty if it is left out."""
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
        raise ConfigError(f"{file} has the operation {_name(code)}, which is not supported; supported are {known}")
    name, options = _OPS[code], operator.table(4)
    fields = _OPTIONS.get(name, {})
    values = {option: options.number(*field) if options else 0 for option, field in fields.items()}
    output, *more = operator.numbers(2).tolist()
    if more:
        raise ConfigError(f"{file}: {name} has {1 + len(more)} results, not one")
    return Op(name, tuple(operator.numbers(1).tolist()), output, values)


def _name(code: int) -> str:
    return _UNSUPPORTED.get(code, f"{code} of schema.fbs")


def _weights(tensor: _Node, buffers: Sequence[_Node], file: str) -> NDArray[Any] | None:
    """Return the values of a tensor in the file; None for a computed tensor."""
    data = buffers[tensor.number(2, number_types.Uint32Flags)].numbers(0, np.dtype(np.uint8))
    if not data.size:
        return None
    kind, shape, sparsity = tensor.number(1, _BYTE), tensor.numbers(0), tensor.table(6)
    if kind not in _DTYPES:
        raise ConfigError(f"{file} has weights of type {kind} of schema.fbs; supported are float32, float16, int32")
    values = data.view(_DTYPES[kind])
    return values.reshape(shape) if sparsity is None else _expand(values, shape.tolist(), sparsity, file)


def _expand(values: NDArray[Any], shape: list[int], sparsity: _Node, file: str) -> NDArray[Any]:
    """Return sparse weights as a dense array, with zeros where the file has no value.

    The format is TACO's (Kjolstad et al., 2017). A dimension is either dense, or it lists the indices that have values:
    those from segments[i] to segments[i + 1] belong to the i-th position in the dimensions before it.
    """
    if sparsity.numbers(0).tolist() != list(range(len(shape))) or sparsity.numbers(1).size:
        raise ConfigError(f"{file} has sparse weights in blocks, or not in the order of their dimensions")
    positions = np.zeros(1, np.int64)
    coordinates: list[NDArray[np.int64]] = []
    for size, dimension in zip(shape, sparsity.tables(2), strict=True):
        if dimension.number(0, _BYTE) == 0:
            counts, starts = np.full(len(positions), size), positions * size
        else:
            segments = _index(dimension, 2)
            counts, starts = np.diff(segments)[positions], segments[positions]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        positions = np.repeat(starts, counts) + within
        indices = within if dimension.number(0, _BYTE) == 0 else _index(dimension, 4)[positions]
        coordinates = [*(np.repeat(outer, counts) for outer in coordinates), indices]
    dense = np.zeros(shape, values.dtype)
    dense[tuple(coordinates)] = values[positions]
    return dense


def _index(dimension: _Node, field: int) -> NDArray[np.int64]:
    """Return the list of numbers whose type is in `field`, and which is in the field after it."""
    dtype = _INDICES[dimension.number(field, number_types.Uint8Flags)]
    vector = dimension.table(field + 1)
    assert vector is not None
    return vector.numbers(0, dtype).astype(np.int64)


def _widened(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32) if values.dtype == np.float16 else values
