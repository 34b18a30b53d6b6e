"""A network of a `.tflite` file, run by LiteRT on the CPU: TensorFlow Lite's runtime, with XNNPACK's kernels."""

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from datamodules.errors import ConfigError
from preprocess.holistic.networks import Network
from preprocess.holistic.tflite import read_model, to_bytes


class LiteRTNetwork:
    """Runs a network for one input after the other, on the calling thread.

    An instance cannot be pickled or shared by threads: make it where it is used.

    Args:
        path: the `.tflite` file. Operations that only unused outputs need are left out, in a copy in memory.
        network: its input, and the outputs in use.

    Attributes:
        zeros: float32 [1, ...] each: zeros in the shapes of the outputs.

    Raises:
        ConfigError: the file is not a TensorFlow Lite model, or other operations change the outputs in use.
    """

    def __init__(self, path: Path, network: Network) -> None:
        self._minimum = np.float32(network.minimum)
        self._scale = np.float32((1 - network.minimum) / 255)
        self._start(Interpreter(model_path=str(path), num_threads=1))
        noise = np.random.default_rng(0).integers(0, 256, (network.side, network.side, 3), np.uint8)
        outputs = self(noise)
        if network.outputs is not None:
            expected = [outputs[index] for index in network.outputs]
            content = to_bytes(read_model(path, network.outputs))
            self._start(Interpreter(model_content=content, num_threads=1))
            outputs = self(noise)
            if not all(map(np.array_equal, outputs, expected)):
                raise ConfigError(
                    f"{path}: LiteRT computes other outputs when those that Holistic does not need are left out. "
                    "Install another release of ai-edge-litert"
                )
        self.zeros = [np.zeros_like(output) for output in outputs]

    def _start(self, interpreter: Interpreter) -> None:
        interpreter.allocate_tensors()
        self._interpreter = interpreter
        (self._input,) = (interpreter.tensor(details["index"]) for details in interpreter.get_input_details())
        self._outputs = [details["index"] for details in interpreter.get_output_details()]

    def __call__(self, crop: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return the outputs, float32 [1, ...] each, for a crop, uint8 [side, side, 3]."""
        # LiteRT's own memory is written: no variable may refer to it while the network runs
        np.multiply(crop, self._scale, out=self._input()[0], casting="unsafe")
        if self._minimum:
            np.add(self._input(), self._minimum, out=self._input())
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]
