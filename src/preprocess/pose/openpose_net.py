"""OpenPose's body network of 18 joints: a front of VGG-19, and six stages, each of two branches.

| branch | channels | what                                                                                        |
|--------|----------|---------------------------------------------------------------------------------------------|
| L1     | 38       | part affinity fields: x and y of a unit vector along each of 19 limbs, see `decoding.PAFS`   |
| L2     | 19       | heatmaps of the 18 joints, and of where none is                                             |

Cao, Simon, Wei, Sheikh: Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields, CVPR 2017. Names and
shapes of the weights are those of `body_pose_model.pth`, which Hzzone/pytorch-openpose converted from OpenPose's Caffe
model and ControlNet uses (lllyasviel/Annotators and lllyasviel/ControlNet on the Hugging Face hub); so is the ReLU
after the last heatmaps. OpenPose's licence, non-commercial, is that of the weights.
"""

from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, pad, relu

from datamodules.errors import ConfigError
from preprocess.checkpoints.pickles import is_state_dict, load_pickle
from preprocess.checkpoints.weights_file import find_weights_file

STRIDE = 8  # px of the input for a cell of the output
NUM_PAFS, NUM_HEATMAPS = 38, 19

_FRONT = (
    (("conv1_1", 3, 64), ("conv1_2", 64, 64)),
    (("conv2_1", 64, 128), ("conv2_2", 128, 128)),
    (("conv3_1", 128, 256), ("conv3_2", 256, 256), ("conv3_3", 256, 256), ("conv3_4", 256, 256)),
    (("conv4_1", 256, 512), ("conv4_2", 512, 512), ("conv4_3_CPM", 512, 256), ("conv4_4_CPM", 256, 128)),
)  # between these the sides are halved
_BRANCHES = {"L1": NUM_PAFS, "L2": NUM_HEATMAPS}
_NUM_STAGES = 6
_LAST_WITH_RELU = f"Mconv7_stage{_NUM_STAGES}_L2"
_FILES = ("body_pose_model.pth", "annotator/ckpts/body_pose_model.pth")
_PADDING = 128.0 / 256 - 0.5  # of images up to a multiple of STRIDE


class OpenPoseNet(nn.Module):
    """The network; its weights are whatever they are until `load_weights`."""

    def __init__(self) -> None:
        super().__init__()
        front = [(*layer, 3) for block in _FRONT for layer in block]
        stages = [_layers(stage, branch) for stage in range(1, _NUM_STAGES + 1) for branch in _BRANCHES]
        for name, given, made, kernel in chain(front, *stages):
            self.add_module(name, nn.Conv2d(given, made, kernel, padding=kernel // 2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Part affinity fields [B, 38, H / 8, W / 8] and heatmaps [B, 19, H / 8, W / 8].

        Args:
            images: [B, 3, H, W], BGR, from -0.5 to 0.5; sides are multiples of 8.
        """
        features = images
        for number, block in enumerate(_FRONT):
            features = max_pool2d(features, 2) if number else features
            for name, _, _ in block:
                features = self._layer(name, features)
        found: list[Tensor] = []
        for stage in range(1, _NUM_STAGES + 1):
            given = torch.cat([*found, features], 1)
            found = [self._branch(stage, branch, given) for branch in _BRANCHES]
        return found[0], found[1]

    def _branch(self, stage: int, branch: str, values: Tensor) -> Tensor:
        names = [name for name, _, _, _ in _layers(stage, branch)]
        for name in names[:-1]:
            values = self._layer(name, values)
        last: Tensor = self.get_submodule(names[-1])(values)
        return relu(last) if names[-1] == _LAST_WITH_RELU else last

    def _layer(self, name: str, values: Tensor) -> Tensor:
        return relu(self.get_submodule(name)(values), inplace=True)


def _layers(stage: int, branch: str) -> list[tuple[str, int, int, int]]:
    """(name, channels given, channels made, kernel) of each layer of a stage's branch."""
    last = _BRANCHES[branch]
    if stage == 1:
        sizes = [*[(128, 128, 3)] * 3, (128, 512, 1), (512, last, 1)]
        return [(f"conv5_{number}_CPM_{branch}", *size) for number, size in enumerate(sizes, 1)]
    sizes = [(128 + NUM_PAFS + NUM_HEATMAPS, 128, 7), *[(128, 128, 7)] * 4, (128, 128, 1), (128, last, 1)]
    return [(f"Mconv{number}_stage{stage}_{branch}", *size) for number, size in enumerate(sizes, 1)]


def find_weights(name: str, option: str) -> Path:
    """Return the file of the weights: `name`, or that in the folder or hub repository `name`.

    Raises:
        ConfigError: there is no such file.
    """
    advice = f"Give a file, or a folder with {_FILES[0]}, as lllyasviel/Annotators has it on the hub"
    return find_weights_file(name, option, _FILES, advice)


def load_weights(path: Path, option: str) -> OpenPoseNet:
    """The network with the weights in `path`, float32, on the CPU.

    Raises:
        ConfigError: they cannot be read, or are another network's.
    """
    weights = load_pickle(path, f"{option} {path}")
    with torch.device("meta"):
        net = OpenPoseNet()
    _refuse_others(weights, net, f"{option} {path}")
    net.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return net.eval().requires_grad_(False)


def _refuse_others(weights: Any, net: OpenPoseNet, what: str) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    if not is_state_dict(weights):
        raise ConfigError(f"{what} is not a dictionary of plain tensors: give body_pose_model.pth")
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differ = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if differ:
        name = differ[0]
        here, there = (str(list(shapes[name])) if name in shapes else "missing" for shapes in (found, wanted))
        raise ConfigError(
            f"{what}: these are another network's weights: {name} is {here} there and {there} in OpenPose's body "
            f"network of 18 joints, and {len(differ) - 1} more differ: give body_pose_model.pth"
        )


def prepare(images: Tensor, size: tuple[int, int]) -> Tensor:
    """What the network takes, [B, 3, H, W]: BGR, x / 256 - 0.5; padded at the right and below, with 128, to the stride.

    Args:
        images: uint8 [B, 3, H, W], RGB.
        size: (height, width) in px that they are resized to, by OpenCV's bicubic interpolation, as ControlNet does.
    """
    pixels = images.flip(1).float()
    if images.shape[2:] != size:
        pixels = interpolate(pixels, size, mode="bicubic", align_corners=False).round_().clamp_(0, 255)
    return pad(pixels / 256 - 0.5, (0, -size[1] % STRIDE, 0, -size[0] % STRIDE), value=_PADDING)
