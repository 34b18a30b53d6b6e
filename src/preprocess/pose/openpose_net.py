"""OpenPose's body network of 18 joints: the first layers of VGG-19, and six stages of two branches.

| branch | channels | output                                                                                  |
|--------|----------|-----------------------------------------------------------------------------------------|
| L1     | 38       | part affinity fields: x and y of a unit vector along each of 19 limbs, see `limbs.PAFS`  |
| L2     | 19       | heatmaps of the 18 joints, and of where no joint is                                     |

Cao, Simon, Wei, Sheikh: Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields, CVPR 2017. Names and
shapes of the weights are those of `body_pose_model.pth`, which Hzzone/pytorch-openpose converted from OpenPose's Caffe
model and ControlNet uses (lllyasviel/Annotators and lllyasviel/ControlNet on the Hugging Face hub); so is the ReLU
after the last heatmaps. The weights have OpenPose's non-commercial licence.
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

STRIDE = 8  # px of the input per cell of the output
NUM_PAFS, NUM_HEATMAPS = 38, 19

_FRONT = (
    (("conv1_1", 3, 64), ("conv1_2", 64, 64)),
    (("conv2_1", 64, 128), ("conv2_2", 128, 128)),
    (("conv3_1", 128, 256), ("conv3_2", 256, 256), ("conv3_3", 256, 256), ("conv3_4", 256, 256)),
    (("conv4_1", 256, 512), ("conv4_2", 512, 512), ("conv4_3_CPM", 512, 256), ("conv4_4_CPM", 256, 128)),
)  # blocks of (name, input channels, output channels); a max pooling halves the sides before each but the first
_BRANCHES = {"L1": NUM_PAFS, "L2": NUM_HEATMAPS}
_NUM_STAGES = 6
_LAST_WITH_RELU = f"Mconv7_stage{_NUM_STAGES}_L2"
_FILES = ("body_pose_model.pth", "annotator/ckpts/body_pose_model.pth")
_PADDING = 128.0 / 256 - 0.5  # gray, as `prepare` scales values


class OpenPoseNet(nn.Module):
    """The network, with random weights; `load_weights` returns one with OpenPose's."""

    def __init__(self) -> None:
        super().__init__()
        front = [(*layer, 3) for block in _FRONT for layer in block]
        stages = [_layers(stage, branch) for stage in range(1, _NUM_STAGES + 1) for branch in _BRANCHES]
        for name, num_in, num_out, kernel in chain(front, *stages):
            self.add_module(name, nn.Conv2d(num_in, num_out, kernel, padding=kernel // 2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return part affinity fields [B, 38, H / 8, W / 8] and heatmaps [B, 19, H / 8, W / 8].

        Args:
            images: float [B, 3, H, W], BGR, -0.5 to 0.5, with sides that are multiples of 8; see `prepare`.
        """
        features = images
        for number, block in enumerate(_FRONT):
            features = max_pool2d(features, 2) if number else features
            for name, _, _ in block:
                features = self._layer(name, features)
        outputs: list[Tensor] = []
        for stage in range(1, _NUM_STAGES + 1):
            inputs = torch.cat([*outputs, features], 1)
            outputs = [self._branch(stage, branch, inputs) for branch in _BRANCHES]
        return outputs[0], outputs[1]

    def _branch(self, stage: int, branch: str, values: Tensor) -> Tensor:
        names = [name for name, _, _, _ in _layers(stage, branch)]
        for name in names[:-1]:
            values = self._layer(name, values)
        last: Tensor = self.get_submodule(names[-1])(values)
        return relu(last) if names[-1] == _LAST_WITH_RELU else last

    def _layer(self, name: str, values: Tensor) -> Tensor:
        return relu(self.get_submodule(name)(values), inplace=True)


def _layers(stage: int, branch: str) -> list[tuple[str, int, int, int]]:
    """Return (name, input channels, output channels, kernel size) of each layer of a branch of a stage."""
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
    """Return the network with the weights in `path`, float32, on the CPU.

    Raises:
        ConfigError: the file cannot be read, or has the weights of another network.
    """
    weights = load_pickle(path, f"{option} {path}")
    with torch.device("meta"):
        net = OpenPoseNet()
    _require_same(weights, net, f"{option} {path}")
    net.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return net.eval().requires_grad_(False)


def _require_same(weights: Any, net: OpenPoseNet, what: str) -> None:
    """Raise ConfigError unless `weights` has the names and shapes of the network's weights."""
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    if not is_state_dict(weights):
        raise ConfigError(f"{what} is not a dictionary of plain tensors. Use body_pose_model.pth")
    actual = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differ = [name for name in {**expected, **actual} if expected.get(name) != actual.get(name)]
    if differ:
        name = differ[0]
        in_file, in_net = (str(list(shapes[name])) if name in shapes else "missing" for shapes in (actual, expected))
        raise ConfigError(
            f"{what} has the weights of another network: {name} is {in_file} in the file and {in_net} in OpenPose's "
            f"body network of 18 joints, and {len(differ) - 1} more differ. Use body_pose_model.pth"
        )


def prepare(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the network's input, float32 [B, 3, H', W']: BGR, x / 256 - 0.5, padded to multiples of `STRIDE`.

    The padding is at the right and below, with the value 128.

    Args:
        images: uint8 [B, 3, H, W], RGB.
        size: (height, width) in px that they are resized to before, by bicubic interpolation, as ControlNet does.
    """
    pixels = images.flip(1).float()
    if images.shape[2:] != size:
        pixels = interpolate(pixels, size, mode="bicubic", align_corners=False).round_().clamp_(0, 255)
    return pad(pixels / 256 - 0.5, (0, -size[1] % STRIDE, 0, -size[0] % STRIDE), value=_PADDING)
