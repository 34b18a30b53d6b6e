"""Bytes that a computation moves through the memory of its device, counted operation by operation."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_HEAVY = ("conv", "addmm", "linear", "network_input", "max_pool")  # what torch.compile does not fuse with others


class Traffic(NamedTuple):
    """Bytes that are read and written.

    Attributes:
        eager: by all operations, one after the other.
        fused: by convolutions, products, pooling and crops alone, as if all others were fused into them.
    """

    eager: float
    fused: float


def traffic_per_image(run: Callable[[int], Any], batch: int) -> Traffic:
    """Return the traffic of one image in a batch of `batch`; weights are read once for the batch.

    Args:
        run: computes a batch of the size that it is given.
    """
    one, two = _count(lambda: run(1)), _count(lambda: run(2))
    figures = []
    for first, second in zip(one, two, strict=True):
        figures.append((second - first) + (2 * first - second) / batch)
    return Traffic(*figures)


def _count(run: Callable[[], Any]) -> Traffic:
    with _Counter() as counter:
        run()
    return Traffic(counter.eager, counter.fused)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that each operation gets and returns; views move none.

    PyTorch adds the bias of a convolution by cuDNN in an operation of its own, which reads and writes the result once
    more. Its own kernels for depthwise convolutions, of contiguous images, add the bias themselves.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eager = self.fused = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result
        read = {id(value): value.nbytes for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        written = sum(value.nbytes for value in tree_leaves(result) if isinstance(value, Tensor))
        moved = sum(read.values()) + written
        name = func.name()
        self.eager += moved
        if any(heavy in name for heavy in _HEAVY):
            self.fused += moved
        if "conv" in name and len(args) > 2 and args[2] is not None:
            is_own_kernel = args[1].shape[1] == 1 and args[0].is_contiguous()
            self.eager += 0 if is_own_kernel else 2 * written
        return result
