"""Faster passes for many batches of one shape: compiled, or captured as a CUDA graph.

| way        | what it saves                                                                                         |
|------------|-------------------------------------------------------------------------------------------------------|
| compiled   | memory traffic: torch.compile fuses operations between convolutions; the first batch takes minutes    |
| CUDA graph | some 2,200 kernel launches per batch: they are recorded once for each shape, and replayed as one      |

A graph computes the same bits as the pass that was captured. Both need fixed shapes: the sizes of images are values,
and their pixels are copied into a buffer for the largest image so far. A larger image makes a new, larger buffer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from preprocess.float32 import without_tf32
from preprocess.holistic.crop import PackedImages, pack
from preprocess.holistic.landmarks import HolisticLandmarks
from preprocess.holistic.torch_landmarker import TorchLandmarker, flatten_images

_PIXELS = 1 << 15  # buffers grow by multiples of it
_WARM_UP = 3  # passes before a capture, in which cuDNN chooses kernels and memory is allocated


class _Captured(NamedTuple):
    graph: Any  # torch.cuda.CUDAGraph
    inputs: tuple[Tensor, Tensor, Tensor]
    landmarks: HolisticLandmarks


class Replay:
    """Runs a landmarker on batches, fastest if they have few different sizes.

    Args:
        landmarker: the landmarker, on its device.
        compile: whether to compile the pass with torch.compile.
        cuda_graph: whether to capture the pass; ignored on devices other than GPUs.
    """

    def __init__(self, landmarker: TorchLandmarker, compile: bool = False, cuda_graph: bool = False) -> None:
        self._device = landmarker.device
        self._find: Any = landmarker.landmarks
        if compile:
            self._find = torch.compile(landmarker.landmarks, fullgraph=True, dynamic=False)
        self._is_captured = cuda_graph and self._device.type == "cuda"
        self._has_fixed_size = compile or self._is_captured
        self._num_pixels = 0
        self._captured: dict[int, _Captured] = {}

    @torch.inference_mode()
    def __call__(self, images: Tensor | Sequence[Tensor]) -> HolisticLandmarks:
        """Return the landmarks of `images`; see `HolisticLandmarker`."""
        values, width, height = flatten_images(images, self._device)
        with without_tf32():
            if not self._has_fixed_size:
                return self._run(values, width, height)
            self._grow(values.shape[2])
            if not self._is_captured:
                buffer = values.new_zeros(*values.shape[:2], self._num_pixels)
                buffer[:, :, : values.shape[2]] = values
                return self._run(buffer, width, height)
            return self._replay(values, width, height)

    def _run(self, values: Tensor, width: Tensor, height: Tensor) -> HolisticLandmarks:
        landmarks: HolisticLandmarks = self._find(PackedImages(pack(values), width, height))
        return landmarks

    def _grow(self, num_pixels: int) -> None:
        if num_pixels > self._num_pixels:
            self._num_pixels = -(-num_pixels // _PIXELS) * _PIXELS
            self._captured.clear()

    def _replay(self, values: Tensor, width: Tensor, height: Tensor) -> HolisticLandmarks:
        size = len(values)
        if size not in self._captured:
            self._captured[size] = self._capture(size)
        captured = self._captured[size]
        captured.inputs[0][:, :, : values.shape[2]].copy_(values)
        captured.inputs[1].copy_(width)
        captured.inputs[2].copy_(height)
        captured.graph.replay()
        return HolisticLandmarks(*(part.clone() for part in captured.landmarks))  # the next replay overwrites them

    def _capture(self, size: int) -> _Captured:
        values = torch.zeros(size, 3, self._num_pixels, dtype=torch.uint8, device=self._device)
        width, height = torch.ones(2, size, dtype=torch.int64, device=self._device).unbind()
        inputs = values, width, height
        side_stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(self._device)
        side_stream.wait_stream(stream)
        with torch.cuda.stream(side_stream):
            for _ in range(_WARM_UP):
                self._run(*inputs)
        stream.wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: by default, pinning a batch in the DataLoader's thread would end the capture
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            landmarks = self._run(*inputs)
        return _Captured(graph, inputs, landmarks)
