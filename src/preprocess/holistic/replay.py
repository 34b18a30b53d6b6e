"""The pass for many batches of one shape: compiled, and captured as a CUDA graph.

| way        | what it saves                                                                                        |
|------------|------------------------------------------------------------------------------------------------------|
| compiled   | memory traffic: torch.compile fuses what lies between convolutions; costs minutes at the first batch |
| CUDA graph | some 2,200 kernel launches a batch: they are recorded once for each shape, and replayed as one       |

A graph computes the same bits as what was captured. Both need fixed shapes: images have theirs as values, and lie in
buffers for the largest that came so far, which are made anew, larger, for a larger one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from preprocess.holistic.crop import Pictures, pack
from preprocess.holistic.landmarker import HolisticLandmarker, HolisticLandmarks, exact, flat

_PIXELS = 1 << 15  # the buffers grow by as many
_WARM_UP = 3  # passes before a capture: cuDNN chooses its kernels, memory is allocated


class _Captured(NamedTuple):
    graph: Any  # torch.cuda.CUDAGraph
    inputs: tuple[Tensor, Tensor, Tensor]
    landmarks: HolisticLandmarks


class Replay:
    """A landmarker for batches of few sizes.

    Args:
        landmarker: on its device.
        compile: the pass, by torch.compile.
        cuda_graph: capture it; on a GPU only, elsewhere it is run as it is.
    """

    def __init__(self, landmarker: HolisticLandmarker, compile: bool = False, cuda_graph: bool = False) -> None:
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
        """As `HolisticLandmarker.forward`.

        Raises:
            ValueError: they are not such images.
        """
        values, width, height = flat(images, self._device)
        with exact():
            if not self._has_fixed_size:
                return self._run(values, width, height)
            self._grow(values.shape[2])
            if not self._is_captured:
                buffer = values.new_zeros(*values.shape[:2], self._num_pixels)
                buffer[:, :, : values.shape[2]] = values
                return self._run(buffer, width, height)
            return self._replay(values, width, height)

    def _run(self, values: Tensor, width: Tensor, height: Tensor) -> HolisticLandmarks:
        landmarks: HolisticLandmarks = self._find(Pictures(pack(values), width, height))
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
        return HolisticLandmarks(*(each.clone() for each in captured.landmarks))  # the next replay overwrites them

    def _capture(self, size: int) -> _Captured:
        values = torch.zeros(size, 3, self._num_pixels, dtype=torch.uint8, device=self._device)
        width, height = torch.ones(2, size, dtype=torch.int64, device=self._device).unbind()
        inputs = values, width, height
        beside: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        here = torch.cuda.current_stream(self._device)
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP):
                self._run(*inputs)
        here.wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # else page-locking a batch, in the DataLoader's thread, would end the capture
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            landmarks = self._run(*inputs)
        return _Captured(graph, inputs, landmarks)
