"""Operations of TensorFlow Lite as torch modules, in the variants that the models in mediapipe's wheel use.

Tensors with 4 axes, NHWC in the file, are NCHW here, torch's order. Tensors with fewer axes are as in the file; RESHAPE
makes them of NHWC.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.errors import ConfigError
from preprocess.holistic.tflite import Graph, Op

_ACTIVATIONS: dict[int, Callable[[Tensor], Tensor] | None] = {0: None, 1: functional.relu, 3: functional.relu6}
_SAME = 0  # Padding of schema.fbs; 1 is VALID
_TO_NCHW = {0: 0, 1: 2, 2: 3, 3: 1}  # axes of NHWC


def make_module(op: Op, graph: Graph) -> nn.Module:
    """Return a module that computes `op` of `graph`.

    Raises:
        ConfigError: it computes in a way that no operation in mediapipe's wheel does.
    """
    module = _MAKERS[op.name](op, graph)
    if op.name not in _CONVS and (activation := _activation(op, graph)):
        return _Activated(module, activation)
    return module


def as_in_file(value: Tensor) -> Tensor:
    """Return `value` in the order of axes that the file has: NHWC, if it has 4."""
    return value.permute(0, 2, 3, 1) if value.ndim == 4 else value


class Conv(nn.Module):
    """CONV_2D and DEPTHWISE_CONV_2D.

    Args:
        weight: float32 [out, in / groups, height, width].
        bias: float32 [out].
        stride: (vertical, horizontal).
        padding: in px, at the left, right, top and bottom.
        groups: of channels.
        activation: function after the convolution; None: none.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        groups: int,
        activation: Callable[[Tensor], Tensor] | None,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self._stride, self._groups, self._activation = stride, groups, activation
        left, right, top, bottom = padding
        is_even = left == right and top == bottom
        self._padding = (top, left) if is_even else (0, 0)
        self._pad_before = [] if is_even else [*padding]  # conv2d pads both sides alike

    def forward(self, images: Tensor) -> Tensor:
        if self._pad_before:
            images = functional.pad(images, self._pad_before)
        images = functional.conv2d(images, self.weight, self.bias, self._stride, self._padding, groups=self._groups)
        return self._activation(images) if self._activation else images


class _Apply(nn.Module):
    """An operation without weights."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *values: Tensor) -> Tensor:
        return self._function(*values)


class _PRelu(nn.Module):
    """PRELU with one slope per channel."""

    slopes: Tensor

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        self.register_buffer("slopes", slopes)

    def forward(self, images: Tensor) -> Tensor:
        return functional.prelu(images, self.slopes)


class _Linear(nn.Module):
    """FULLY_CONNECTED; `weight` is float32 [out, in]."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, values: Tensor) -> Tensor:
        return functional.linear(values, self.weight, self.bias)


def depth_to_space(images: Tensor, block: int) -> Tensor:
    """Return [B, C, block * H, block * W] from [B, block² * C, H, W], in TensorFlow's order of channels.

    TensorFlow's order is first the position within the block, then the channel; `torch.pixel_shuffle` has the reverse.
    The result has the layout of `images` in memory.
    """
    batch, channels, height, width = images.shape
    parts = images.view(batch, block, block, channels // block**2, height, width)
    if images.is_contiguous():
        return parts.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * block, width * block)
    in_nhwc = parts.permute(0, 4, 1, 5, 2, 3).reshape(batch, height * block, width * block, -1)
    return in_nhwc.permute(0, 3, 1, 2)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's SAME padding before and after `size` values; an odd one is larger after them."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class _Activated(nn.Module):
    """An operation, followed by an activation."""

    def __init__(self, module: nn.Module, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._module, self._activation = module, activation

    def forward(self, *values: Tensor) -> Tensor:
        return self._activation(self._module(*values))


def _unsupported(op: Op, graph: Graph, variant: str) -> ConfigError:
    return ConfigError(f"{graph.name}: {op.name} {variant} is not supported, as no model in mediapipe's wheel has it")


def _activation(op: Op, graph: Graph) -> Callable[[Tensor], Tensor] | None:
    activation = op.options.get("activation", 0)
    if activation not in _ACTIVATIONS:
        raise _unsupported(op, graph, f"with activation {activation} of schema.fbs")
    return _ACTIVATIONS[activation]


def _constant(op: Op, graph: Graph, index: int) -> Tensor:
    """Return the input of `op` with this index, which has to be a constant."""
    if len(op.inputs) <= index or op.inputs[index] not in graph.constants:
        raise _unsupported(op, graph, f"without a constant input {index}")
    return torch.from_numpy(graph.constants[op.inputs[index]].copy())


def _padding(op: Op, graph: Graph, kernel: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the padding in px at the left, right, top and bottom."""
    if op.options["padding"] != _SAME:
        return 0, 0, 0, 0
    _, height, width, _ = graph.shapes[op.inputs[0]]
    across = same_padding(width, kernel[1], op.options["stride_w"])
    return *across, *same_padding(height, kernel[0], op.options["stride_h"])


def _conv(op: Op, graph: Graph) -> nn.Module:
    if max(op.options["dilation_w"], op.options["dilation_h"]) > 1:
        raise _unsupported(op, graph, "with dilation")
    weight, bias = _constant(op, graph, 1), _constant(op, graph, 2)
    is_depthwise = op.name == "DEPTHWISE_CONV_2D"  # weights are [1, H, W, out]; else [out, H, W, in]
    weight = weight.permute(3, 0, 1, 2) if is_depthwise else weight.permute(0, 3, 1, 2)
    stride = op.options["stride_h"], op.options["stride_w"]
    padding = _padding(op, graph, (weight.shape[2], weight.shape[3]))
    groups = graph.shapes[op.inputs[0]][3] if is_depthwise else 1
    # not contiguous(), which keeps the file's strides of 1x1 px: torch takes these for channels_last
    weight = weight.clone(memory_format=torch.contiguous_format)
    return Conv(weight, bias, stride, padding, groups, _activation(op, graph))


def _add(op: Op, graph: Graph) -> nn.Module:
    if any(number in graph.constants for number in op.inputs):
        raise _unsupported(op, graph, "of a constant")
    return _Apply(torch.add)


def _concatenation(op: Op, graph: Graph) -> nn.Module:
    rank, axis = len(graph.shapes[op.output]), op.options["axis"]
    axis = _TO_NCHW[axis % 4] if rank == 4 else axis

    def concatenate(*values: Tensor) -> Tensor:
        return torch.cat(values, axis)

    return _Apply(concatenate)


def _max_pool(op: Op, graph: Graph) -> nn.Module:
    kernel, stride = (op.options[f"filter_{side}"] for side in "hw"), (op.options[f"stride_{side}"] for side in "hw")
    sizes = tuple(kernel)
    if any(_padding(op, graph, (sizes[0], sizes[1]))):
        raise _unsupported(op, graph, "with padding")
    return nn.MaxPool2d(sizes, tuple(stride))


def _pad(op: Op, graph: Graph) -> nn.Module:
    batch, height, width, channels = _constant(op, graph, 1).tolist()
    if any(batch):
        raise _unsupported(op, graph, "of the batch")
    amounts = [*width, *height, *channels]  # from the last axis to the first, as in torch
    return _Apply(lambda images: functional.pad(images, amounts))


def _resize(op: Op, graph: Graph) -> nn.Module:
    if op.options["align_corners"] or not op.options["half_pixel_centers"]:
        raise _unsupported(op, graph, "without half-pixel centers")
    size = _constant(op, graph, 1).tolist()
    return _Apply(lambda images: functional.interpolate(images, size, mode="bilinear", align_corners=False))


def _reshape(op: Op, graph: Graph) -> nn.Module:
    before, (batch, *shape) = graph.shapes[op.inputs[0]], graph.shapes[op.output]
    if batch != 1 or len(shape) == 3:
        raise _unsupported(op, graph, f"from {before} to {graph.shapes[op.output]}")
    return _Apply(lambda images: as_in_file(images).reshape(-1, *shape))


def _prelu(op: Op, graph: Graph) -> nn.Module:
    slopes = _constant(op, graph, 1)
    if slopes.numel() != graph.shapes[op.inputs[0]][3]:
        raise _unsupported(op, graph, f"with slopes of {tuple(slopes.shape)}")
    return _PRelu(slopes.flatten())


def _mean(op: Op, graph: Graph) -> nn.Module:
    if _constant(op, graph, 1).tolist() != [1, 2] or op.options["keep_dims"]:
        raise _unsupported(op, graph, "over other axes than height and width")
    return _Apply(lambda images: images.mean((2, 3)))


def _strided_slice(op: Op, graph: Graph) -> nn.Module:
    begin, end, strides = (_constant(op, graph, index).tolist() for index in (1, 2, 3))
    if any(op.options.values()) or (begin[0], end[0]) != (0, 1) or set(strides) != {1}:
        raise _unsupported(op, graph, "with masks, with steps, or of the batch")
    _, *rest = (slice(first, last) for first, last in zip(begin, end, strict=True))
    height, width, channels = rest
    return _Apply(lambda images: images[:, channels, height, width])


def _linear(op: Op, graph: Graph) -> nn.Module:
    if op.options["weights_format"]:
        raise _unsupported(op, graph, "with shuffled weights")
    return _Linear(_constant(op, graph, 1), _constant(op, graph, 2))


_CONVS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_MAKERS: dict[str, Callable[[Op, Graph], nn.Module]] = {
    "ADD": _add,
    "CONCATENATION": _concatenation,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _conv,
    "DEPTH_TO_SPACE": lambda op, graph: _Apply(lambda images: depth_to_space(images, op.options["block"])),
    "FULLY_CONNECTED": _linear,
    "LOGISTIC": lambda op, graph: _Apply(torch.sigmoid),
    "MAX_POOL_2D": _max_pool,
    "MEAN": _mean,
    "PAD": _pad,
    "PRELU": _prelu,
    "RELU": lambda op, graph: _Apply(functional.relu),
    "RESHAPE": _reshape,
    "RESIZE_BILINEAR": _resize,
    "STRIDED_SLICE": _strided_slice,
}
