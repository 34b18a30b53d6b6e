"""Reads `.tflite` files: whole, to run a part of one by LiteRT, and as operations and weights, to run one in torch.

The schema is TensorFlow Lite's `schema.fbs`, which LiteRT's wheel has in compiled form. Files have one subgraph, and
weights in float32 or float16, dense or sparse. DEQUANTIZE and DENSIFY, which only expand weights, are applied while a
file is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from datamodules.errors import ConfigError
from preprocess.holistic.networks import Cut

_IDENTIFIER = b"TFL3"
_OPS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
_SUPPORTED = {  # the operations of the models in mediapipe's wheel
    *("ADD", "CONCATENATION", "CONV_2D", "DENSIFY", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE"),
    *("FULLY_CONNECTED", "LOGISTIC", "MAX_POOL_2D", "MEAN", "PAD", "PRELU", "RELU", "RESHAPE", "RESIZE_BILINEAR"),
    "STRIDED_SLICE",
}
_DTYPES: dict[int, np.dtype[Any]] = {
    schema.TensorType.FLOAT32: np.dtype("f4"),
    schema.TensorType.FLOAT16: np.dtype("f2"),
    schema.TensorType.INT32: np.dtype("i4"),
}

# options that decide how an operation computes: our name, and the schema's
_OPTIONS = {
    "activation": "fusedActivationFunction",
    "align_corners": "alignCorners",
    "axis": "axis",
    "begin_mask": "beginMask",
    "block": "blockSize",
    "dilation_h": "dilationHFactor",
    "dilation_w": "dilationWFactor",
    "ellipsis_mask": "ellipsisMask",
    "end_mask": "endMask",
    "filter_h": "filterHeight",
    "filter_w": "filterWidth",
    "half_pixel_centers": "halfPixelCenters",
    "keep_dims": "keepDims",
    "new_mask": "newAxisMask",
    "padding": "padding",
    "shrink_mask": "shrinkAxisMask",
    "stride_h": "strideH",
    "stride_w": "strideW",
    "weights_format": "weightsFormat",
}


class Op(NamedTuple):
    """One operation.

    Attributes:
        name: TensorFlow Lite's, such as `CONV_2D`.
        inputs: numbers of the tensors that it reads; -1 for an optional one that is left out.
        output: number of the tensor that it computes.
        options: how it computes, by name; see `_OPTIONS`. 0 if the file leaves an option out.
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


def read_model(path: Path, outputs: Sequence[int] | Cut | None = None) -> Any:
    """Return the `schema.ModelT` in a file, without the operations that the outputs to keep do not need.

    Args:
        path: the file.
        outputs: indices of the outputs to keep, in this order; or a part of the graph to keep; None: all.

    Raises:
        ConfigError: the file is not a TensorFlow Lite model.
    """
    content = path.read_bytes()
    if content[4:8] != _IDENTIFIER:
        raise ConfigError(f"{path} is not a TensorFlow Lite model: it does not begin with {_IDENTIFIER.decode()}")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    if outputs is not None:
        (subgraph,) = model.subgraphs
        if isinstance(outputs, Cut):
            numbers = {tensor.name.decode(): number for number, tensor in enumerate(subgraph.tensors)}
            subgraph.inputs, subgraph.outputs = (
                [numbers[name] for name in names] for names in (outputs.inputs, outputs.outputs)
            )
        else:
            subgraph.outputs = [subgraph.outputs[index] for index in outputs]
        subgraph.operators = _needed(subgraph.operators, set(subgraph.outputs), set(subgraph.inputs))
        model.signatureDefs = None  # they name all outputs
    return model


def to_bytes(model: Any) -> bytes:
    """Return the content of a `.tflite` file with a `schema.ModelT`."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def read_graph(path: Path, outputs: Sequence[int] | Cut | None = None) -> Graph:
    """Return the graph in a file, with its weights expanded to float32.

    Args:
        path: the file.
        outputs: what to keep of it; see `read_model`.

    Raises:
        ConfigError: the file is not a TensorFlow Lite model, or has operations or weights of a kind that the models in
            mediapipe's wheel do not have.
    """
    model = read_model(path, outputs)
    (subgraph,) = model.subgraphs
    weights = {number: _weights(tensor, model.buffers, path.name) for number, tensor in enumerate(subgraph.tensors)}
    constants = {number: values for number, values in weights.items() if values is not None}
    ops = []
    for operator in subgraph.operators:
        op = _op(operator, model.operatorCodes[operator.opcodeIndex], path.name)
        if op.name in ("DEQUANTIZE", "DENSIFY"):
            if op.inputs[0] not in constants:
                raise ConfigError(f"{path.name}: {op.name} of a computed tensor is not supported, only of weights")
            constants[op.output] = constants[op.inputs[0]]
        else:
            ops.append(op)
    return Graph(
        path.name,
        tuple(ops),
        tuple(map(int, subgraph.inputs)),
        tuple(map(int, subgraph.outputs)),
        tuple(tuple(map(int, tensor.shape)) for tensor in subgraph.tensors),
        {number: _widened(values) for number, values in constants.items()},
    )


def _needed(operators: Sequence[Any], tensors: set[int], inputs: set[int]) -> list[Any]:
    """Return the operators that compute the tensors with these numbers from `inputs`, in order."""
    needed: list[Any] = []
    for operator in reversed(operators):
        if not tensors.isdisjoint(operator.outputs):
            tensors = tensors.union(operator.inputs) - inputs
            needed.insert(0, operator)
    return needed


def _op(operator: Any, code: Any, file: str) -> Op:
    name = _OPS[max(code.builtinCode, code.deprecatedBuiltinCode)]  # old files have only the second
    if name not in _SUPPORTED:
        known = ", ".join(sorted(_SUPPORTED))
        raise ConfigError(f"{file} has the operation {name}, which is not supported; supported are {known}")
    output, *more = operator.outputs
    if more:
        raise ConfigError(f"{file}: {name} has {1 + len(more)} results, not one")
    chosen = operator.builtinOptions  # None if the file leaves all out
    options = {option: int(getattr(chosen, theirs, 0)) for option, theirs in _OPTIONS.items()}
    return Op(name, tuple(map(int, operator.inputs)), int(output), options)


def _weights(tensor: Any, buffers: Sequence[Any], file: str) -> NDArray[Any] | None:
    """Return the values of a tensor in the file; None for a computed tensor."""
    data = buffers[tensor.buffer].data
    if data is None or not len(data):
        return None
    if tensor.type not in _DTYPES:
        raise ConfigError(
            f"{file} has weights of type {tensor.type} of schema.fbs; supported are float32, float16, int32"
        )
    values = data.view(_DTYPES[tensor.type])
    shape = [int(size) for size in tensor.shape]
    return values.reshape(shape) if tensor.sparsity is None else _expand(values, shape, tensor.sparsity, file)


def _expand(values: NDArray[Any], shape: list[int], sparsity: Any, file: str) -> NDArray[Any]:
    """Return sparse weights as a dense array, with zeros where the file has no value.

    The format is TACO's (Kjolstad et al., 2017). A dimension is either dense, or it lists the indices that have values:
    those from segments[i] to segments[i + 1] belong to the i-th position in the dimensions before it.
    """
    if list(sparsity.traversalOrder) != list(range(len(shape))) or (
        sparsity.blockMap is not None and len(sparsity.blockMap)
    ):
        raise ConfigError(f"{file} has sparse weights in blocks, or not in the order of their dimensions")
    positions = np.zeros(1, np.int64)
    coordinates: list[NDArray[np.int64]] = []
    for size, dimension in zip(shape, sparsity.dimMetadata, strict=True):
        is_dense = dimension.format == schema.DimensionType.DENSE
        if is_dense:
            counts, starts = np.full(len(positions), size), positions * size
        else:
            segments = dimension.arraySegments.values.astype(np.int64)
            counts, starts = np.diff(segments)[positions], segments[positions]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        positions = np.repeat(starts, counts) + within
        indices = within if is_dense else dimension.arrayIndices.values.astype(np.int64)[positions]
        coordinates = [*(np.repeat(outer, counts) for outer in coordinates), indices]
    dense = np.zeros(shape, values.dtype)
    dense[tuple(coordinates)] = values[positions]
    return dense


def _widened(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float32) if values.dtype == np.float16 else values
