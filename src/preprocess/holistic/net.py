"""A `.tflite` graph as a torch module.

The operations (`ops`) are called one after another without branches, so that `torch.compile` and CUDA graphs can record
all of them. Inputs are NCHW; outputs with 4 axes are NHWC, as in the file. All convolutions read and write one layout
in memory, so that none copies its input to another.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from preprocess.holistic.face_refinement import FACE_DETAILS, FACE_MESH, Indices, find_refined_face, indices
from preprocess.holistic.networks import Cut
from preprocess.holistic.ops import as_in_file, make_module
from preprocess.holistic.tflite import read_graph


class Net(nn.Module):
    """Computes what a `.tflite` file describes, for batches of any size.

    Args:
        path: the file.
        outputs: what to compute of it; see `read_graph`. Operations that are not needed for it are left out.
        layout: of images and weights in memory: `torch.contiguous_format` or `torch.channels_last`.

    Raises:
        ConfigError: the file cannot be read (see `read_graph`), or has an operation, or options of one, that no model
            in mediapipe's wheel has.
    """

    def __init__(
        self,
        path: Path,
        outputs: Sequence[int] | Cut | None = None,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        super().__init__()
        graph = read_graph(path, outputs)
        self._inputs, self._outputs, self._layout = graph.inputs, graph.outputs, layout
        self._ops = nn.ModuleList(make_module(op, graph) for op in graph.ops)
        self._ops.to(memory_format=layout)  # weights with 4 axes only
        self._reads = [
            [number for number in op.inputs if number not in graph.constants and number >= 0] for op in graph.ops
        ]
        self._writes = [op.output for op in graph.ops]
        self._unused = _last_reads(self._reads, {*self._outputs})

    def forward(self, *images: Tensor) -> list[Tensor]:
        """Return the outputs for inputs [B, C, H, W]; their shapes are those in the file, except for the batch.

        Inputs in another layout are copied to that of the net.
        """
        inputs = (values.contiguous(memory_format=self._layout) for values in images)
        values = dict(zip(self._inputs, inputs, strict=True))
        for op, reads, writes, unused in zip(self._ops, self._reads, self._writes, self._unused, strict=True):
            values[writes] = op(*(values[number] for number in reads))
            for number in unused:  # so that their memory can be reused
                del values[number]
        return [as_in_file(values[number]) for number in self._outputs]


class RefinedFaceNet(nn.Module):
    """Computes 478 points and the logit of a face's presence by `face_landmark_with_attention.tflite`.

    Args:
        path: the file.
        side: of its input, in px.
        layout: see `Net`.

    Raises:
        ConfigError: see `Net`.
    """

    def __init__(self, path: Path, side: int, layout: torch.memory_format = torch.contiguous_format) -> None:
        super().__init__()
        self._side = side
        self._mesh, self._details = Net(path, FACE_MESH, layout), Net(path, FACE_DETAILS, layout)
        for name, values in indices()._asdict().items():
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return points [B, 478 * 3], in px of `images` [B, 3, side, side], and logits [B, 1, 1, 1]."""
        places = Indices(*(getattr(self, name) for name in Indices._fields))
        return find_refined_face(images, self._side, self._mesh, self._find_details, places)

    def _find_details(self, *close_ups: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = self._details(*(values.permute(0, 3, 1, 2) for values in close_ups))
        return outputs


def _last_reads(reads: Sequence[Sequence[int]], outputs: set[int]) -> list[list[int]]:
    """Return for each operation the tensors that it reads last: no later operation does, and they are no outputs."""
    last_reads: list[list[int]] = []
    read_later = outputs
    for numbers in reversed(reads):
        last_reads.insert(0, [number for number in dict.fromkeys(numbers) if number not in read_later])
        read_later = read_later.union(numbers)
    return last_reads
