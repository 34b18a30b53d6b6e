"""Convolutions and matrix products of float32 on a GPU, without TF32."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any, TypeVar

import torch
from torch.backends import cudnn, mkldnn

T = TypeVar("T")

_lock = Lock()
_num_blocks = 0  # that are open, in all threads
_settings = ExitStack()  # restores what was set before the first of them


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute float32 with all its bits, and by deterministic kernels, whatever the process has set; then restore that.

    By default convolutions use TF32, whose 10 bits of mantissa move points of keypoints by 0.05 to 0.3 px.

    The settings are the process's, so blocks of several threads share them: the last one that ends restores them.
    """
    global _num_blocks
    with _lock:
        if _num_blocks == 0:
            _settings.enter_context(_ieee())
        _num_blocks += 1
    try:
        yield
    finally:
        with _lock:
            _num_blocks -= 1
            if _num_blocks == 0:
                _settings.close()


@contextmanager
def _ieee() -> Iterator[None]:
    """Set all precisions of float32 to that of IEEE 754.

    torch has two ways to set this, and refuses to read the older one (`allow_tf32`, `set_float32_matmul_precision`)
    after the newer one (`fp32_precision`) has been set to something else. torch.compile reads the older one, so within
    the block both say the same.
    """
    precisions: list[Any] = [torch.backends.cuda.matmul, mkldnn.matmul, cudnn.conv, cudnn.rnn]  # type: ignore[attr-defined]
    before = [part.fp32_precision for part in precisions]
    matmul, convolutions = _unless_mixed(torch.get_float32_matmul_precision), _unless_mixed(lambda: cudnn.allow_tf32)
    is_deterministic = cudnn.deterministic
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32, cudnn.deterministic = False, True
    try:
        for part in precisions:  # else they inherit `torch.backends.fp32_precision`
            part.fp32_precision = "ieee"
        yield
    finally:
        cudnn.deterministic = is_deterministic
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolutions is not None:
            cudnn.allow_tf32 = convolutions
        for part, precision in zip(precisions, before, strict=True):
            part.fp32_precision = precision


def _unless_mixed(read: Callable[[], T]) -> T | None:
    """Return the value of an older setting; None if the newer one was set to something else, so torch refuses."""
    try:
        return read()
    except RuntimeError:
        return None
