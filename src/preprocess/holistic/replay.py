"""Faster passes for many batches of one size: compiled, or captured as a CUDA graph.

| way        | what it saves                                                                                         |
|------------|-------------------------------------------------------------------------------------------------------|
| compiled   | memory traffic: torch.compile fuses operations between convolutions; the first batch takes minutes    |
| CUDA graph | some 2,200 kernel launches per batch: they are recorded once for each size, and replayed as one       |

A graph computes the same bits as the pass that was captured. Each number of images is compiled or captured anew, but
the images may have any sizes: these are values. A graph reads their pixels from a buffer, which all graphs share. It
has room for the batch with the most pixels so far, rounded up to a power of two; a larger one means new graphs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.errors import ConfigError
from preprocess.float32 import without_tf32
from preprocess.holistic.crop import FlatImages
from preprocess.holistic.landmarks import HolisticLandmarks
from preprocess.holistic.torch_landmarker import TorchLandmarker, flatten_images

_WARM_UP = 3  # passes before a capture, in which cuDNN chooses kernels and memory is allocated
_MAX_COMPILED = 64  # batch sizes, of all landmarkers of the process; torch's default is 8


class _Captured(NamedTuple):
    graph: Any  # torch.cuda.CUDAGraph
    images: FlatImages
    landmarks: HolisticLandmarks


class _Compiled:
    """A pass that torch.compile compiles anew for each number of images, but not for their sizes."""

    def __init__(self, find: Callable[[FlatImages], HolisticLandmarks]) -> None:
        self._find = torch.compile(find, fullgraph=True, dynamic=False)

    def __call__(self, images: FlatImages) -> HolisticLandmarks:
        from torch._dynamo import config, mark_dynamic
        from torch._dynamo.exc import FailOnRecompileLimitHit

        mark_dynamic(images.pixels, 0)
        try:
            with config.patch(recompile_limit=_MAX_COMPILED):
                return self._find(images)
        except FailOnRecompileLimitHit as error:
            raise ConfigError(
                f"compile = True compiles each batch size anew, and {_MAX_COMPILED} have been compiled, so batches of "
                f"{len(images.start)} images cannot be. Pad batches to a few sizes, or leave compile out"
            ) from error


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
            self._find = _Compiled(landmarker.landmarks)
        self._is_captured = cuda_graph and self._device.type == "cuda"
        self._pixels = torch.empty(0, dtype=torch.uint8, device=self._device)
        self._captured: dict[int, _Captured] = {}
        self._stream: Any = None  # on which all graphs are captured, since they share memory

    @torch.inference_mode()
    def __call__(self, images: Tensor | Sequence[Tensor]) -> HolisticLandmarks:
        """Return the landmarks of `images`; see `HolisticLandmarker`.

        Raises:
            ConfigError: too many different batch sizes were compiled.
        """
        flat = flatten_images(images, self._device)
        with without_tf32():
            landmarks: HolisticLandmarks = self._replay(flat) if self._is_captured else self._find(flat)
        return landmarks

    def _replay(self, images: FlatImages) -> HolisticLandmarks:
        if len(images.pixels) > len(self._pixels):
            self._grow(len(images.pixels))
        size = len(images.start)
        if size not in self._captured:
            self._captured[size] = self._capture(FlatImages(self._pixels, *(values.clone() for values in images[1:])))
        captured = self._captured[size]
        for buffer, values in zip(captured.images, images, strict=True):
            buffer[: len(values)].copy_(values)
        captured.graph.replay()
        return HolisticLandmarks(*(part.clone() for part in captured.landmarks))  # the next replay overwrites them

    def _grow(self, num_values: int) -> None:
        self._captured.clear()  # before memory is allocated, so that theirs can be used
        self._pixels = self._pixels.new_empty(0)
        self._pixels = self._pixels.new_empty(1 << (num_values - 1).bit_length())

    def _capture(self, images: FlatImages) -> _Captured:
        """Return the graph of the pass for as many images, which reads them from the memory of `images`."""
        with torch.cuda.device(self._device):  # a graph records work of the current device only
            if self._stream is None:
                self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UP):
                    self._find(images)
            graph = torch.cuda.CUDAGraph()
            pool = next((captured.graph.pool() for captured in self._captured.values()), None)
            # thread_local: by default, pinning a batch in the DataLoader's thread would end the capture
            with torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"):
                landmarks = self._find(images)
        return _Captured(graph, images, landmarks)
