"""A `.tflite` graph as a torch module.

The operations (`ops`) are called one after another without branches, so that `torch.compile` and CUDA graphs can record
all of them. Inputs are NCHW; outputs with 4 axes are NHWC, as in the file.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from datamodules.errors import ConfigError
from preprocess.holistic.ops import as_in_file, make_module
from preprocess.holistic.tflite import read_graph


class Net(nn.Module):
    """Computes what a `.tflite` file describes, for batches of any size.

    Args:
        path: the file.
        outputs: indices of the outputs to compute; None: all. Operations that these do not need are left out.

    Raises:
        ConfigError: the file cannot be read (see `read_graph`), or has an operation, or options of one, that no model
            in mediapipe's wheel has.
    """

    def __init__(self, path: Path, outputs: Sequence[int] | None = None) -> None:
        super().__init__()
        graph = read_graph(path, outputs)
        self._input, *more = graph.inputs
        if more:
            raise ConfigError(f"{graph.name} has {len(graph.inputs)} inputs, not one")
        self._outputs = graph.outputs
        self._ops = nn.ModuleList(make_module(op, graph) for op in graph.ops)
        self._reads = [
            [number for number in op.inputs if number not in graph.constants and number >= 0] for op in graph.ops
        ]
        self._writes = [op.output for op in graph.ops]
        self._unused = _last_reads(self._reads, {*self._outputs})

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the outputs for `images` [B, 3, H, W]; their shapes are those in the file, except for the batch."""
        values = {self._input: images}
        for op, reads, writes, unused in zip(self._ops, self._reads, self._writes, self._unused, strict=True):
            values[writes] = op(*(values[number] for number in reads))
            for number in unused:  # so that their memory can be reused
                del values[number]
        return [as_in_file(values[number]) for number in self._outputs]


def _last_reads(reads: Sequence[Sequence[int]], outputs: set[int]) -> list[list[int]]:
    """Return for each operation the tensors that it reads last: no later operation does, and they are no outputs."""
    last_reads: list[list[int]] = []
    read_later = outputs
    for numbers in reversed(reads):
        last_reads.insert(0, [number for number in dict.fromkeys(numbers) if number not in read_later])
        read_later = read_later.union(numbers)
    return last_reads
