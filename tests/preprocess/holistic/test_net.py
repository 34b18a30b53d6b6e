"""Nets compared with TensorFlow Lite's interpreter, and operations that are easily mistaken."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.schema_py_generated import Model, ModelT
from numpy.typing import NDArray
from torch.nn import functional

from datamodules.errors import ConfigError
from preprocess.holistic.models import HOLISTIC, find_models
from preprocess.holistic.net import Net
from preprocess.holistic.networks import NETWORKS, Network
from preprocess.holistic.ops import depth_to_space, make_module, same_padding
from preprocess.holistic.tflite import Graph, Op, read_graph


def worst(name: str, net: torch.nn.Module) -> float:
    """Return the largest error of all outputs of `net`, as a fraction of the output's range.

    It is compared with TensorFlow Lite's own kernels: XNNPACK's compute in another order.
    """
    network = NETWORKS[name]
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(find_models([name])[name]), experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    details = interpreter.get_output_details()
    outputs_in_use: Any = network.outputs or range(len(details))
    errors = []
    for image in net_input(network):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        with torch.inference_mode():
            outputs = net(torch.from_numpy(image[None]).permute(0, 3, 1, 2))
        for index, output in zip(outputs_in_use, outputs, strict=True):
            expected = interpreter.get_tensor(details[index]["index"])
            assert output.shape == expected.shape
            scale = np.ptp(expected) if expected.size > 1 else max(1.0, abs(expected.item()))
            errors.append(np.abs(output.numpy() - expected).max() / scale)
    return float(max(errors))


def net_input(network: Network) -> NDArray[np.float32]:
    """float32 [2, S, S, 3]: blocks of random colours under noise, and noise alone."""
    side, random = network.side, np.random.default_rng(network.side)
    blocks = np.kron(random.random((8, 8, 3)), np.ones((side // 8, side // 8, 1)))
    images = np.stack([0.8 * blocks + 0.2 * random.random((side, side, 3)), random.random((side, side, 3))])
    scaled: NDArray[np.float32] = (network.minimum + (1 - network.minimum) * images).astype(np.float32)
    return scaled


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", HOLISTIC)
def test_nets_equal_the_interpreter_to_a_ten_thousandth_of_the_range(name: str, layout: torch.memory_format) -> None:
    assert worst(name, Net(find_models()[name], NETWORKS[name].outputs, layout)) < 1e-4


def test_in_fp16_both_layouts_give_nearly_the_same() -> None:
    path, images = find_models()["face_detection_short_range"], torch.rand(1, 3, 128, 128).half()
    nets = [Net(path, layout=layout).half() for layout in (torch.contiguous_format, torch.channels_last)]
    with torch.inference_mode():
        results = [net(images) for net in nets]
    for contiguous, channels_last in zip(*results, strict=True):
        assert (channels_last - contiguous).abs().max() < 0.02 * contiguous.abs().max()


def test_a_net_with_wrong_padding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocess.holistic.ops.same_padding", lambda *sizes: same_padding(*sizes)[::-1])
    name = "hand_landmark_full"
    assert worst(name, Net(find_models()[name], NETWORKS[name].outputs)) > 1e-3


def test_operations_of_other_outputs_are_left_out() -> None:
    path = find_models()["pose_landmark_full"]
    whole, without_segmentation = Net(path), Net(path, outputs=(0, 1, 3))
    images = torch.rand(1, 3, 256, 256)
    with torch.inference_mode():
        expected, found = whole(images), without_segmentation(images)
    assert len(list(whole.modules())) - len(list(without_segmentation.modules())) > 10
    assert all(torch.equal(a, b) for a, b in zip(found, (expected[0], expected[1], expected[3]), strict=True))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (224, 3, 2, (0, 1)),
        (225, 3, 2, (1, 1)),
        (6, 3, 3, (0, 0)),
        (7, 5, 1, (2, 2)),
        (8, 2, 2, (0, 0)),
        (8, 5, 2, (1, 2)),
    ],
)
def test_same_padding_is_uneven(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    """The formula of TensorFlow's documentation, tf.nn, "Notes on padding"."""
    assert same_padding(size, kernel, stride) == expected


def test_a_strided_convolution_starts_at_the_first_pixel() -> None:
    """3x3 at stride 2 over 4 px: SAME pads nothing before, so the kernel's middle lies on the pixels 1 and 3."""
    values = torch.arange(16.0).view(1, 1, 4, 4)
    kernel = np.zeros((1, 3, 3, 1), np.float32)
    kernel[0, 1, 1, 0] = 1
    found = compute("CONV_2D", values, {1: kernel, 2: np.zeros(1, np.float32)}, stride_h=2, stride_w=2, dilation_w=1)
    assert found.flatten().tolist() == [5, 7, 13, 15]


def compute(name: str, images: torch.Tensor, constants: dict[int, Any], **options: int) -> torch.Tensor:
    """Compute one operation in a graph of its own."""
    usual = {"padding": 0, "activation": 0, "dilation_w": 1, "dilation_h": 1}
    _, channels, height, width = images.shape
    op = Op(name, (0, *constants), 9, {**usual, **options})
    graph = Graph("made.tflite", (op,), (0,), (9,), ((1, height, width, channels),) * 10, constants)
    result: torch.Tensor = make_module(op, graph)(images)
    return result


def test_depth_to_space_keeps_the_layout() -> None:
    images = torch.rand(2, 12, 5, 7)
    expected = depth_to_space(images, 2)
    found = depth_to_space(images.contiguous(memory_format=torch.channels_last), 2)
    assert torch.equal(found, expected)
    assert expected.is_contiguous()
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_depth_to_space_has_the_position_before_the_channel() -> None:
    """[1, 1, 1, 8] with block 2: the example of tf.nn.depth_to_space, with two channels."""
    images = torch.arange(8.0).view(1, 8, 1, 1)
    found = depth_to_space(images, 2)
    assert found.permute(0, 2, 3, 1).tolist() == [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]
    assert not torch.equal(found, functional.pixel_shuffle(images, 2))


def test_resize_has_half_pixel_centers() -> None:
    images = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2)
    found = compute("RESIZE_BILINEAR", images, {1: np.array([1, 4], "i4")}, align_corners=0, half_pixel_centers=1)
    assert found.flatten().tolist() == [0, 1, 3, 4]
    with pytest.raises(ConfigError, match=r"made\.tflite: RESIZE_BILINEAR without half-pixel centers is not supported"):
        compute("RESIZE_BILINEAR", images, {1: np.array([1, 4], "i4")}, align_corners=1, half_pixel_centers=0)


def test_pad_appends_channels_of_zeros() -> None:
    images = torch.ones(1, 2, 1, 1)
    found = compute("PAD", images, {1: np.array([[0, 0], [0, 0], [1, 0], [0, 3]], "i4")})
    assert found.shape == (1, 5, 1, 2)
    assert found[0, :, 0].tolist() == [[0, 1], [0, 1], [0, 0], [0, 0], [0, 0]]


def test_prelu_has_one_slope_per_channel() -> None:
    images = torch.tensor([[-1.0, -1.0], [2.0, -2.0]]).T.reshape(1, 2, 1, 2)
    found = compute("PRELU", images, {1: np.array([[[0.5, 0.25]]], "f4")})
    assert found[0, :, 0].tolist() == [[-0.5, 2.0], [-0.25, -0.5]]


@pytest.mark.parametrize("activation", [0, 1, 3])
def test_fused_activations_are_applied(activation: int) -> None:
    op = Op("ADD", (0, 1), 2, {"activation": activation})
    add = make_module(op, Graph("made.tflite", (op,), (0, 1), (2,), ((1, 1, 1, 3),) * 3, {}))
    found = add(torch.tensor([-2.0, 1.0, 6.0]), torch.ones(3))
    assert found.tolist() == {0: [-1, 2, 7], 1: [0, 2, 7], 3: [0, 2, 6]}[activation]


def test_another_activation_fails() -> None:
    with pytest.raises(ConfigError, match=r"made\.tflite: ADD with activation 4 of schema\.fbs is not supported"):
        compute("ADD", torch.ones(1, 1, 1, 1), {}, activation=4)


def test_a_model_with_another_operation_fails() -> None:
    name = "face_landmark_with_attention"
    with pytest.raises(
        ConfigError,
        match=r"_with_attention\.tflite has the operation (MUL|CUSTOM), which is not supported; supported are ADD",
    ):
        read_graph(find_models([name])[name])


def test_a_file_without_a_model_fails(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(b"not a model at all")
    with pytest.raises(ConfigError, match=r"a\.tflite is not a TensorFlow Lite model: it"):
        read_graph(tmp_path / "a.tflite")


def test_sparse_weights_are_expanded_as_the_schema_says() -> None:
    """By LiteRT's own reader of the format, value by value, of the first sparse tensor."""
    path = find_models()["pose_detection"]
    model = ModelT.InitFromObj(Model.GetRootAs(path.read_bytes()))
    tensors = model.subgraphs[0].tensors
    number, tensor = next((at, each) for at, each in enumerate(tensors) if each.sparsity)
    values = model.buffers[tensor.buffer].data.view(np.float16)
    columns = tensor.sparsity.dimMetadata[3]
    expected, at = np.zeros((tensor.shape[0], tensor.shape[3]), np.float32), 0
    for row in range(tensor.shape[0]):
        first, last = columns.arraySegments.values[row : row + 2]
        for place in range(first, last):
            expected[row, columns.arrayIndices.values[place]] = values[at]
            at += 1
    assert at == values.size
    assert 0 < (expected == 0).mean() < 1
    np.testing.assert_array_equal(read_graph(path).constants[number].reshape(expected.shape), expected)
