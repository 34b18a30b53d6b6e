"""Variants of MediaPipe's graph: one that keeps its intermediate packets, one with other kernels."""

from collections.abc import Sequence
from typing import Any

import torch

from preprocess import mediapipe_graph as graph_module
from preprocess.holistic.regions import Region
from preprocess.mediapipe_graph import HolisticGraph


class WatchedGraph(HolisticGraph):
    """A graph that keeps the packets of some of its streams, by the streams' names; clear `seen` before each image."""

    def __init__(self, streams: Sequence[str]) -> None:
        self._streams = streams
        self.seen: dict[str, Any] = {}
        super().__init__()

    def proto(self, stream: str) -> Any:
        """Return the packets seen of a stream."""
        return self._mp.packet_getter.get_proto(self.seen[stream])

    def _start(self) -> Any:
        graph_class = self._mp.CalculatorGraph

        def make(graph_config: Any) -> Any:
            graph = graph_class(graph_config=graph_config)
            for stream in self._streams:
                graph.observe_output_stream(stream, self.seen.__setitem__)
            return graph

        self._mp.CalculatorGraph = make
        try:
            return super()._start()
        finally:
            self._mp.CalculatorGraph = graph_class


class PlainGraph(HolisticGraph):
    """A graph whose nets are computed by TensorFlow Lite's own kernels in place of XNNPACK's.

    Both compute the same sums of float32, in another order; all else is the same code.
    """

    def __init__(self) -> None:
        graph_module._import_mediapipe()
        # imported before the graph is read: what of its options nobody knows then cannot be changed
        from mediapipe.calculators.tensor.inference_calculator_pb2 import InferenceCalculatorOptions

        self._options = InferenceCalculatorOptions
        super().__init__()

    def _start(self) -> Any:
        for node in self._config.node:
            if node.calculator.startswith("InferenceCalculator"):
                (packed,) = node.node_options or [None]
                options = node.options.Extensions[self._options.ext]
                if packed is not None:
                    options = self._options.FromString(packed.value)
                options.delegate.tflite.SetInParent()
                if packed is not None:
                    packed.value = options.SerializeToString()
        return super()._start()


def region_of_rect(rect: Any, width: int, height: int) -> Region:
    """float64 [1, 1], px of an image of this size, of a NormalizedRect."""
    center = torch.tensor([[[rect.x_center * width, rect.y_center * height]]], dtype=torch.float64)
    side, rotation = (torch.full((1, 1), value, dtype=torch.float64) for value in (rect.width * width, rect.rotation))
    return Region(center, side, rotation)
