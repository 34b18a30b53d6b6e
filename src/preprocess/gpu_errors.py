"""Errors of torch on a GPU: whether memory ran out, and whether the GPU is lost.

| what has no memory                 | exception                                                                      |
|------------------------------------|--------------------------------------------------------------------------------|
| a tensor                           | `torch.OutOfMemoryError`                                                       |
| a workspace of cuDNN or cuBLAS     | `RuntimeError`, and only its message says so                                   |
| a CUDA graph, when instantiated    | `torch.AcceleratorError`, cudaErrorMemoryAllocation                            |
| something in a capture for a graph | one of these, in whose place the end of the capture may raise                  |
|                                    | `torch.AcceleratorError`, cudaErrorStreamCaptureInvalidated                    |

A `torch.AcceleratorError` says nothing about later calls: only after a fault of a kernel does every call raise it.
"""

import torch

_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED")
_CAPTURE_INVALIDATED = 901  # cudaErrorStreamCaptureInvalidated


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that memory ran out, the host's or a GPU's.

    The end of an invalidated capture is judged by the exception that it replaced. Without one, a library has caught
    that exception itself, as cuDNN does when it tries another kernel.
    """
    while getattr(error, "error_code", None) == _CAPTURE_INVALIDATED:
        if error.__context__ is None:
            return True
        error = error.__context__
    is_of_type = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_of_type or (isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY))


def is_device_lost(device: torch.device) -> bool:
    """Return whether this process can no longer use `device`, a GPU; False for a CPU.

    No other device is asked, because that would open a context there.
    """
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False
