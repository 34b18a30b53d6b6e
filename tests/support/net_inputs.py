"""The inputs for which `references.npz` holds the outputs of TensorFlow Lite's own interpreter."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# (side in px, least value, greatest value) of each model's input
INPUTS = {
    "pose_detection": (224, -1.0, 1.0),
    "pose_landmark_full": (256, 0.0, 1.0),
    "face_detection_short_range": (128, -1.0, 1.0),
    "face_landmark": (192, 0.0, 1.0),
    "hand_recrop": (256, 0.0, 1.0),
    "hand_landmark_full": (224, 0.0, 1.0),
}
# those of its outputs that the pass uses; all of the others'
OUTPUTS = {"pose_landmark_full": (0, 1, 3), "hand_landmark_full": (0, 1)}
MOST_VALUES = 6000  # kept of an output, evenly spread


def net_input(name: str) -> NDArray[np.float32]:
    """float32 [2, S, S, 3]: blocks of random colours under noise, and noise alone."""
    side, least, greatest = INPUTS[name]
    random = np.random.default_rng(len(name))
    blocks = np.kron(random.random((8, 8, 3)), np.ones((side // 8, side // 8, 1)))
    images = np.stack([0.8 * blocks + 0.2 * random.random((side, side, 3)), random.random((side, side, 3))])
    scaled: NDArray[np.float32] = (least + (greatest - least) * images).astype(np.float32)
    return scaled


def kept(output: NDArray[Any]) -> NDArray[Any]:
    """What is kept of an output."""
    values = output.reshape(-1)
    return values[:: -(-values.size // MOST_VALUES)]
