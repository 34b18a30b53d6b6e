"""A network of images in an ONNX file, run by onnxruntime on the rank's device.

An ONNX file is a graph of operators and their weights; it holds no code. onnxruntime and onnxruntime-gpu are two
packages of one module: the first runs on the CPU.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.errors import ConfigError
from datamodules.model_errors import raising_config_error

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_NO_MEMORY = "Failed to allocate memory"  # in what onnxruntime raises
_Shape = Sequence[int | str | None]


class Signature(NamedTuple):
    """What a network has to be. All its inputs and outputs are float32.

    Attributes:
        name: for messages.
        outputs: returns the shape of each output for one input of (height, width), without the batch's dimension;
            None: of any length.
    """

    name: str
    outputs: Callable[[tuple[int, int]], Sequence[tuple[int | None, ...]]]


class OnnxNetwork:
    """A network whose only input is a batch of images, [B, 3, height, width].

    Attributes:
        size: (height, width) of the input.

    Args:
        path: the file.
        option: the option that named it, for messages.
        signature: what the network has to be.
        device: where to run it.

    Raises:
        ConfigError: the file is damaged, it has another signature, or onnxruntime does not run on the device.
    """

    def __init__(self, path: Path, option: str, signature: Signature, device: torch.device) -> None:
        self._file = f"{option} {path}"
        self._session = self._opened(path, device)
        self.size, self._any_batch = self._input_size(signature)
        self._require_outputs(signature)

    def __call__(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the outputs for images [B, 3, height, width]; one by one, if the file has no dynamic batch axis.

        Raises:
            MemoryError: the outputs do not fit into the device's memory.
        """
        if self._any_batch or len(images) == 1:
            return self._run(images)
        each = [self._run(images[index : index + 1]) for index in range(len(images))]
        return [np.concatenate(outputs) for outputs in zip(*each, strict=True)]

    def _opened(self, path: Path, device: torch.device) -> Any:
        import onnxruntime

        provider = _PROVIDERS.get(device.type, device.type)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # errors are raised, too
        settings = {"device_id": device.index or 0, "use_tf32": 0} if device.type == "cuda" else {}
        if provider in onnxruntime.get_available_providers():
            with raising_config_error(f"{self._file} cannot be loaded on {device}"):
                session = onnxruntime.InferenceSession(path, options, providers=[(provider, settings)])
            if provider in session.get_providers():  # without CUDA's libraries it falls back to the CPU
                return session
        raise ConfigError(
            f"onnxruntime {onnxruntime.__version__} does not support {device}: pip install onnxruntime-gpu in place of "
            "onnxruntime, or take --trainer.accelerator cpu"
        )

    def _input_size(self, signature: Signature) -> tuple[tuple[int, int], bool]:
        """Return (height, width) of the input, and whether a batch may have any size."""
        inputs = [(node.type, list(node.shape)) for node in self._session.get_inputs()]
        match inputs:
            case [("tensor(float)", [batch, 3, int(height), int(width)])] if batch == 1 or not isinstance(batch, int):
                return (height, width), batch != 1
        described = ", ".join(f"{kind} {_text(shape)}" for kind, shape in inputs)
        raise ConfigError(
            f"{self._file} is not {signature.name}: its input is {described}. Expected is tensor(float) "
            "[1 or dynamic, 3, height, width]"
        )

    def _require_outputs(self, signature: Signature) -> None:
        """Check the outputs for a black image: the file may not declare their shapes."""
        outputs = [list(output.shape) for output in self._run(np.zeros((1, 3, *self.size), np.float32))]
        expected = [(1, *shape) for shape in signature.outputs(self.size)]
        if not _fit(outputs, expected):
            raise ConfigError(
                f"{self._file} is not {signature.name}: its outputs for an image of {self.size[1]} x {self.size[0]} px "
                f"are {' and '.join(map(_text, outputs))}. Expected are {' and '.join(map(_text, expected))}"
            )

    def _run(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

        try:
            outputs: list[NDArray[np.float32]] = self._session.run(None, {self._session.get_inputs()[0].name: images})
        except (Fail, RuntimeException) as error:
            if _NO_MEMORY in str(error):
                raise MemoryError(str(error)) from error
            raise
        return outputs


def require_onnxruntime(what: str) -> str:
    """Return the version of onnxruntime.

    Raises:
        ConfigError: it is not installed; `what` needs it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"{what} needs onnxruntime ({error}). pip install 'framemill[dwpose]'") from error
    return str(onnxruntime.__version__)


def _fit(shapes: Sequence[_Shape], expected: Sequence[_Shape]) -> bool:
    return len(shapes) == len(expected) and all(
        len(shape) == len(lengths) and all(length in (size, None) for size, length in zip(shape, lengths, strict=True))
        for shape, lengths in zip(shapes, expected, strict=True)
    )


def _text(shape: _Shape) -> str:
    return f"[{', '.join('any' if length is None else str(length) for length in shape)}]"
