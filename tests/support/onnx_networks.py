"""Small networks in ONNX files with the inputs and outputs of YOLOX and of DWPose, whose answers are known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_OPSET, _IR = 17, 8  # that onnxruntime 1.20 reads

Batch = int | str


def make_yolox(path: Path, size: int = 64, batch: Batch = 1) -> Path:
    """Save a detector that finds a person of 32x32 px in each bright cell of 32x32 px; its score is the brightness.

    Its only class is `person`.
    """
    cells = [size // stride for stride in (8, 16, 32)]
    small = cells[0] ** 2 + cells[1] ** 2
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["gray"], axes=[1]),
        helper.make_node("AveragePool", ["gray"], ["pooled"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Reshape", ["pooled", "column"], ["bright"]),
        helper.make_node("Mul", ["bright", "objectness"], ["scored"]),
        helper.make_node("Add", ["scored", "box"], ["large"]),
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean", "column"], ["one"]),
        helper.make_node("Mul", ["one", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "others"], ["small"]),
        helper.make_node("Concat", ["small", "large"], ["output"], axis=1),
    ]
    constants = {  # of an anchor: x, y, width, height, objectness, probability
        "column": np.array([0, -1, 1]),
        "objectness": np.array([0, 0, 0, 0, 1 / 255, 0], np.float32),
        "box": np.array([0.5, 0.5, 0, 0, 0, 1], np.float32),
        "zero": np.zeros(1, np.float32),
        "others": np.tile(np.array([0, 0, 0, 0, 0, 1], np.float32), (1, small, 1)),
    }
    return _save(path, nodes, constants, ("images", [batch, 3, size, size]), ["output"])


def make_simcc(path: Path, size: tuple[int, int] = (64, 48), batch: Batch = "batch", num_points: int = 133) -> Path:
    """Save an estimator whose first point is in the brightest column and row, and each other one 1/2 px farther on.

    Beyond the right and the lower edge it goes on at the left and the upper one. Scores are about 1 on a white line.
    """
    height, width = size
    nodes: list[Any] = []
    constants: dict[str, NDArray[Any]] = {}
    for axis, length, mean_over in (("x", width, 2), ("y", height, 3)):
        bins = 2 * length
        weights = np.zeros((length, num_points, bins), np.float32)
        for pixel in range(length):
            weights[pixel, np.arange(num_points), (2 * pixel + np.arange(num_points)) % bins] = 0.5
        constants[f"weights_{axis}"] = weights.reshape(length, -1)
        constants[f"shape_{axis}"] = np.array([-1, num_points, bins])
        nodes += [
            helper.make_node("ReduceMean", ["input"], [f"profile_{axis}"], axes=[1, mean_over], keepdims=0),
            helper.make_node("MatMul", [f"profile_{axis}", f"weights_{axis}"], [f"all_{axis}"]),
            helper.make_node("Reshape", [f"all_{axis}", f"shape_{axis}"], [f"simcc_{axis}"]),
        ]
    return _save(path, nodes, constants, ("input", [batch, 3, height, width]), ["simcc_x", "simcc_y"])


def _save(
    path: Path,
    nodes: Sequence[Any],
    constants: dict[str, NDArray[Any]],
    images: tuple[str, Sequence[Batch]],
    outputs: Sequence[str],
) -> Path:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(images[0], TensorProto.FLOAT, images[1])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path
