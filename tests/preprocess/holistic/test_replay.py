"""The pass, compiled and captured as a CUDA graph; on a GPU, in fp16, and compared with MediaPipe's graph."""

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules.errors import ConfigError
from preprocess.holistic import replay
from preprocess.holistic.crop import FlatImages
from preprocess.holistic.landmarks import HolisticLandmarks
from preprocess.holistic.models import HOLISTIC, find_models
from preprocess.holistic.networks import HolisticOptions
from preprocess.holistic.replay import Replay
from preprocess.holistic.torch_landmarker import Precision, TorchLandmarker
from preprocess.mediapipe_graph import HolisticGraph, Landmarks
from support.gpu import no_waiting
from support.people import (
    Picture,
    demo_pictures,
    distance,
    in_batches,
    more_pictures,
    small,
    stacked,
    stored_landmarks,
    tensors,
)

HAS_MEDIAPIPE = find_spec("mediapipe") is not None
DEVICE = "cuda" if torch.version.cuda else "cpu"  # of tensors without values


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """Without mediapipe, those whose landmarks are stored; they show no hands."""
    return [small(picture) for picture in (*demo_pictures(), *(more_pictures() if HAS_MEDIAPIPE else ()))]


@pytest.fixture
def on_gpu() -> Iterator[TorchLandmarker]:
    assert torch.cuda.is_available(), "there is no GPU: leave out `-m gpu`"
    yield TorchLandmarker(find_models(HOLISTIC), device="cuda")
    torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def expected(pictures: list[Picture]) -> list[Landmarks]:
    if not HAS_MEDIAPIPE:
        return stored_landmarks()
    with HolisticGraph() as graph:
        return [graph(picture) for picture in pictures]


@pytest.mark.reference
def test_the_stored_landmarks_are_those_of_mediapipe(pictures: list[Picture], expected: list[Landmarks]) -> None:
    stored = stored_landmarks()
    apart = distance(stacked(expected[: len(stored)]), stored)
    assert apart.passes, str(apart)
    assert [len(apart.px[part]) for part in ("pose", "face")] == [33 * 7, 468 * 7]


def assert_near(found: HolisticLandmarks, expected: HolisticLandmarks) -> None:
    """Fused operations round in another order, so results are within the gate, not equal."""
    assert torch.equal(found.presence, expected.presence)
    for name in ("pose", "face", "left_hand", "right_hand"):
        apart = (getattr(found, name) - getattr(expected, name))[..., :2].abs().flatten()
        assert apart.median() < 0.05
        assert apart.quantile(0.99) < 1


def test_without_options_results_are_those_of_the_landmarker(pictures: list[Picture]) -> None:
    landmarker = TorchLandmarker(find_models(HOLISTIC))
    images = tensors(pictures[:2])
    found, expected = Replay(landmarker, cuda_graph=True)(images), landmarker(images)  # on the CPU there is no graph
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class Layouts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes of each convolution whether its input, its weights and its result are in a layout."""

    def __init__(self, layout: torch.memory_format) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layout = layout
        self.convolutions: list[list[bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if "conv" in func.name():
            self.convolutions.append([each.is_contiguous(memory_format=self._layout) for each in (*args[:2], result)])
        return result


def landmarks_without_values(landmarker: TorchLandmarker) -> HolisticLandmarks:
    """Return the landmarks of three images, all in tensors without values on `DEVICE`; call it in FakeTensorMode."""
    for module in landmarker.modules():
        for name, value in module.named_buffers(recurse=False):
            empty = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE)
            setattr(module, name, empty)
    pixels = torch.empty(9000, dtype=torch.uint8, device=DEVICE)
    start, width, height = torch.empty(3, 3, dtype=torch.int64, device=DEVICE)
    return landmarker.landmarks(FlatImages(pixels, start, width, height))


def test_shapes_do_not_depend_on_detections_and_tensors_stay_on_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without values, which refuse whatever would need one, and to be mixed with those of another device.

    Nor is a number copied to the device, as array-api-compat does for `xp.minimum(array, 1.0)`: that waits for the GPU,
    and torch.compile cannot trace it.
    """

    def refuse(*args: Any, **named: Any) -> None:
        raise AssertionError(f"{args} becomes a tensor")

    monkeypatch.setattr(torch, "asarray", refuse)
    landmarker = TorchLandmarker(find_models(HOLISTIC), "fp16")
    with FakeTensorMode(), torch.no_grad():
        found = landmarks_without_values(landmarker)
        assert found.face.shape == (3, 468, 3)
        assert found.face.device.type == DEVICE
        with pytest.raises(DynamicOutputShapeException):
            found.face[found.presence[:, 1]]


@pytest.mark.skipif(DEVICE != "cuda", reason="torch is built without CUDA")
@pytest.mark.parametrize(("precision", "layout"), [("fp32", torch.contiguous_format), ("fp16", torch.channels_last)])
def test_on_a_gpu_all_convolutions_have_one_layout(
    precision: Precision, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a convolution gets another one than its weights have, or than the next expects, images are copied."""
    monkeypatch.setattr(TorchLandmarker, "to", lambda landmarker, device: landmarker)  # there may be no GPU
    options = HolisticOptions(refine_face_landmarks=True)
    landmarker = TorchLandmarker(find_models(options.networks), precision, options, "cuda")
    with FakeTensorMode(), torch.no_grad(), Layouts(layout) as layouts:
        landmarks_without_values(landmarker)
    assert len(layouts.convolutions) > 400
    assert all(map(all, layouts.convolutions))


class Corners:
    """A landmarker that only reads the first value of each image."""

    device = torch.device("cpu")

    def landmarks(self, images: FlatImages) -> HolisticLandmarks:
        values = images.pixels.take(images.start)
        return HolisticLandmarks(*[values] * 6)


def images_of(*values: int, side: int = 2) -> list[torch.Tensor]:
    return [torch.full((3, side, side), value, dtype=torch.uint8) for value in values]


@pytest.fixture
def compiled_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
    """Counts what is compiled, by torch.compile's frontend alone."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    torch.compiler.reset()
    yield counter
    torch.compiler.reset()


def test_a_pass_is_compiled_once_for_images_of_any_sizes(compiled_graphs: CompileCounter) -> None:
    compiled: Any = Replay(Corners(), compile=True)  # type: ignore[arg-type]
    for side in range(1, 13):
        found = compiled([*images_of(side, side=side), *images_of(7, side=3)])
        assert found.pose.tolist() == [side, 7]
    assert compiled_graphs.frame_count == 1


def test_too_many_batch_sizes_are_refused(compiled_graphs: CompileCounter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_MAX_COMPILED", 9)  # torch's own limit is 8
    compiled: Any = Replay(Corners(), compile=True)  # type: ignore[arg-type]
    for size in range(2, 11):
        assert compiled(images_of(*range(size))).pose.tolist() == [*range(size)]
    assert compiled_graphs.frame_count == 9
    with pytest.raises(ConfigError, match="9 have been compiled, so batches of 11 images cannot be"):
        compiled(images_of(*range(11)))
    assert compiled(images_of(5, 6)).pose.tolist() == [5, 6]


def test_graphs_share_a_buffer_that_grows_by_powers_of_two() -> None:
    """With graphs that compute anew what a CUDA graph would replay."""
    captured: Any = Replay(Corners(), cuda_graph=True)  # type: ignore[arg-type]
    captures = []

    def capture(images: FlatImages) -> Any:
        def compute() -> None:
            landmarks[0].copy_(Corners().landmarks(images).pose)

        landmarks = HolisticLandmarks(*[torch.zeros(len(images.start))] * 6)
        captures.append((len(images.start), len(images.pixels)))
        return replay._Captured(SimpleNamespace(replay=compute), images, landmarks)

    captured._is_captured, captured._capture = True, capture
    batches = [images_of(1, 2), images_of(3), images_of(4, 5, side=1), images_of(6, side=4), images_of(7, 8)]
    results = [captured(batch).pose for batch in batches]
    assert [result.tolist() for result in results] == [[1, 2], [3], [4, 5], [6], [7, 8]]
    assert captures == [(2, 32), (1, 32), (1, 64), (2, 64)]  # images, bytes of the buffer


@pytest.mark.slow
@pytest.mark.timeout(580)
def test_a_compiled_pass_equals_eager_for_growing_images(pictures: list[Picture]) -> None:
    landmarker = TorchLandmarker(find_models(HOLISTIC))
    compiled = Replay(landmarker, compile=True)
    images = tensors(pictures[:2])
    assert_near(compiled(images), landmarker(images))
    smaller = [images[0][:, 20:, :150], images[1]]  # not compiled anew
    assert_near(compiled(smaller), landmarker(smaller))


@pytest.mark.gpu
def test_the_gpu_is_within_the_gate(
    on_gpu: TorchLandmarker, pictures: list[Picture], expected: list[Landmarks]
) -> None:
    apart = distance(in_batches(on_gpu, pictures), expected)
    assert apart.passes, str(apart)


@pytest.mark.gpu
def test_a_cuda_graph_computes_the_same_bits(on_gpu: TorchLandmarker, pictures: list[Picture]) -> None:
    captured = Replay(on_gpu, cuda_graph=True)
    images = tensors(pictures[:4])
    larger = tensors([picture.repeat(3, 0) for picture in pictures[:4]])
    for batch in (images, images[::-1], larger, images):
        found, plain = captured(batch), on_gpu(batch)
        assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


@pytest.mark.gpu
def test_a_thread_that_pins_memory_does_not_end_a_capture(on_gpu: TorchLandmarker, pictures: list[Picture]) -> None:
    done = Event()

    def page_lock() -> None:
        number = 0
        while not done.is_set():  # each larger than the one before, so that none is memory that was kept
            torch.empty((number := number + 1) << 12, dtype=torch.uint8).pin_memory()

    thread = Thread(target=page_lock)
    thread.start()
    try:
        found = Replay(on_gpu, cuda_graph=True)(tensors(pictures[:4]))
    finally:
        done.set()
        thread.join()
    assert torch.equal(found.pose, on_gpu(tensors(pictures[:4])).pose)


@pytest.mark.gpu
@pytest.mark.timeout(580)
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_compiled_pass_on_a_gpu_is_within_the_gate(
    on_gpu: TorchLandmarker, pictures: list[Picture], expected: list[Landmarks], cuda_graph: bool
) -> None:
    compiled: Any = Replay(on_gpu, compile=True, cuda_graph=cuda_graph)
    size = len(pictures) // 2
    apart = distance(in_batches(compiled, pictures[: 2 * size], size), expected[: 2 * size])
    assert apart.passes, str(apart)


@pytest.mark.gpu
@pytest.mark.usefixtures("on_gpu")
def test_fp16_is_a_quarter_of_a_pixel_off(pictures: list[Picture], expected: list[Landmarks]) -> None:
    """As emulated before: .26, .07 and .18 px on average for pose, face and hands."""
    landmarker = TorchLandmarker(find_models(HOLISTIC), "fp16", device="cuda")
    apart = distance(in_batches(landmarker, pictures), expected)
    assert apart.flips <= 0.02, str(apart)
    assert apart.px["pose"].mean() < 0.6, str(apart)
    assert apart.px["face"].mean() < 0.3, str(apart)


@pytest.mark.gpu
def test_tf32_on_a_gpu_fails_the_gate(
    on_gpu: TorchLandmarker, pictures: list[Picture], expected: list[Landmarks], monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    from preprocess.holistic import torch_landmarker

    monkeypatch.setattr(torch_landmarker, "without_tf32", nullcontext)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert not distance(in_batches(on_gpu, pictures), expected).passes


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu(on_gpu: TorchLandmarker, pictures: list[Picture]) -> None:
    images = torch.stack(tensors(pictures[:2])).cuda()
    on_gpu(images)
    with no_waiting():
        on_gpu(images)
