"""Exceptions as torch raises them: `torch.AcceleratorError` has an `error_code`, CUDA's, which Python code cannot set
in its constructor."""

from typing import Any

import pytest
import torch

from preprocess.gpu_errors import is_device_lost, is_out_of_memory

CPU, SECOND_GPU = torch.device("cpu"), torch.device("cuda", 1)


def cuda_error(code: int, text: str) -> torch.AcceleratorError:
    error: Any = torch.AcceleratorError(f"CUDA error: {text}\nSearch for `cudaError…' in https://docs.nvidia.com/…")
    error.error_code = code
    return error  # type: ignore[no-any-return]


def end_of_capture(cause: Exception | None) -> BaseException:
    """Return what `torch.cuda.graph` raises when its block has raised `cause`; None: it has raised nothing."""
    try:
        try:
            if cause:
                raise cause
        finally:
            raise cuda_error(901, "operation failed due to a previous error during capture")
    except torch.AcceleratorError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        cuda_error(2, "out of memory"),  # of graph instantiation
        end_of_capture(torch.OutOfMemoryError("CUDA out of memory")),
        end_of_capture(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
        end_of_capture(None),
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        cuda_error(700, "an illegal memory access was encountered"),
        cuda_error(900, "operation not permitted when stream is capturing"),
        end_of_capture(cuda_error(900, "operation not permitted when stream is capturing")),
        end_of_capture(KeyError("no such field")),
        RuntimeError("shape mismatch"),
        ValueError("out of memory"),
    ],
)
def test_other_errors_do_not_mean_that_memory_ran_out(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_a_gpu_is_lost_if_it_cannot_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)
    assert not is_device_lost(SECOND_GPU)
    assert not is_device_lost(CPU)
    assert asked == [SECOND_GPU]  # none but the rank's own

    def fail(device: torch.device) -> None:
        raise cuda_error(700, "an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    assert is_device_lost(SECOND_GPU)
    assert not is_device_lost(CPU)


@pytest.mark.gpu
def test_memory_that_runs_out_while_a_graph_is_captured_is_noticed_and_the_gpu_is_not_lost() -> None:
    device = torch.device("cuda")
    size = torch.cuda.get_device_properties(device).total_memory // 4
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError) as raised, torch.cuda.graph(graph, capture_error_mode="thread_local"):
        torch.cat([torch.empty(size, dtype=torch.uint8, device=device) for _ in range(5)])
    assert is_out_of_memory(raised.value), raised.value
    assert not is_device_lost(device)
    del graph
    assert torch.zeros(8, device=device).sum().item() == 0
