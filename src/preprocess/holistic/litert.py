"""Networks of `.tflite` files, run by LiteRT on the CPU: TensorFlow Lite's runtime, with XNNPACK's kernels.

Instances run on the calling thread, and cannot be pickled or shared by threads: make them where they are used.
"""

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from datamodules.errors import ConfigError
from preprocess.holistic.face_refinement import FACE_DETAILS, FACE_MESH, NUM_FACE, find_refined_face, indices
from preprocess.holistic.networks import Cut, Network
from preprocess.holistic.tflite import read_model, to_bytes


class LiteRTNetwork:
    """Runs a network for one input after the other.

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
        self._graph = _Graph(path, network.outputs)
        noise = np.random.default_rng(0).integers(0, 256, (network.side, network.side, 3), np.uint8)
        outputs = self(noise)
        self.zeros = [np.zeros_like(output) for output in outputs]
        if isinstance(network.outputs, tuple):
            whole = LiteRTNetwork(path, network._replace(outputs=None))(noise)
            if not all(map(np.array_equal, outputs, (whole[index] for index in network.outputs))):
                raise ConfigError(
                    f"{path}: LiteRT computes other outputs when those that Holistic does not need are left out. "
                    "Install another release of ai-edge-litert"
                )

    def __call__(self, crop: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return the outputs, float32 [1, ...] each, for a crop, uint8 [side, side, 3]."""
        # LiteRT's own memory is written: no variable may refer to it while the network runs
        (values,) = self._graph.inputs
        np.multiply(crop, self._scale, out=values()[0], casting="unsafe")
        if self._minimum:
            np.add(values(), self._minimum, out=values())
        return self._graph.run()


class LiteRTRefinedFace:
    """Finds 478 points of a face and the logit of its presence by `face_landmark_with_attention.tflite`.

    LiteRT runs the file's parts, and numpy computes what is between them; see `face_refinement`.

    Args:
        path: the file.
        network: its input.

    Attributes:
        zeros: see `LiteRTNetwork`.
    """

    def __init__(self, path: Path, network: Network) -> None:
        self._side, self._indices = network.side, indices()
        self._mesh = LiteRTNetwork(path, network._replace(outputs=FACE_MESH))
        self._details = _Graph(path, FACE_DETAILS)
        self.zeros = [np.zeros((1, 3 * NUM_FACE), np.float32), self._mesh.zeros[1]]

    def __call__(self, crop: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Return points [1, 478 * 3], in px of the crop, and the logit [1, 1, 1, 1]; see `LiteRTNetwork`."""
        return find_refined_face(crop, self._side, self._mesh, self._find_details, self._indices)

    def _find_details(self, *close_ups: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        for values, close_up in zip(self._details.inputs, close_ups, strict=True):
            values()[:] = close_up
        return self._details.run()


class _Graph:
    """A graph, or a part of one.

    Args:
        path: the file.
        outputs: what to compute of it; see `read_model`.

    Attributes:
        inputs: functions that return LiteRT's own memory of each input.
    """

    def __init__(self, path: Path, outputs: tuple[int, ...] | Cut | None) -> None:
        if outputs is None:  # the file is mapped into memory, which processes share
            self._interpreter = Interpreter(model_path=str(path), num_threads=1)
        else:
            self._interpreter = Interpreter(model_content=to_bytes(read_model(path, outputs)), num_threads=1)
        self._interpreter.allocate_tensors()
        self.inputs = [self._interpreter.tensor(tensor["index"]) for tensor in self._interpreter.get_input_details()]
        self._outputs = [tensor["index"] for tensor in self._interpreter.get_output_details()]

    def run(self) -> list[NDArray[np.float32]]:
        """Return the outputs for the values in `inputs`."""
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]
