from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from preprocess.device_copies import start_to_host, to_device
from support.gpu import no_waiting

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_on_the_cpu_tensors_are_not_copied() -> None:
    tensor = torch.ones(3)
    assert to_device(tensor, CPU) is tensor


def test_a_copy_to_the_host_has_the_values_of_its_start() -> None:
    tensor = torch.arange(3)
    assert torch.equal(start_to_host(tensor)(), tensor)


def test_copies_to_a_gpu_are_from_page_locked_memory_and_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tensors without values."""
    calls: list[Any] = []
    to = Tensor.to

    def record(tensor: Tensor, device: torch.device, **options: Any) -> Tensor:
        calls.append(options)
        return to(tensor, device, **options)

    def pin(tensor: Tensor) -> Tensor:
        calls.append("pinned")
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", record)
    with FakeTensorMode():
        copy = to_device(torch.ones(3), GPU)
        assert copy.device == GPU
        assert calls == ["pinned", {"non_blocking": True}]
        assert to_device(copy, GPU).device == GPU
        assert calls[2:] == [{}]


@pytest.mark.gpu
def test_copies_to_a_gpu_have_the_same_values_and_do_not_wait() -> None:
    busy = torch.rand(4096, 4096, device=GPU)
    tensors = [torch.full((1000,), number) for number in range(50)]
    for tensor in tensors:
        to_device(tensor, GPU)  # allocates
    with no_waiting():
        for _ in range(10):
            busy = busy @ busy
        copies = [to_device(tensor, GPU) for tensor in tensors]
    for number, copy in enumerate(copies):
        assert (copy == number).all()


@pytest.mark.gpu
def test_copies_from_a_gpu_have_the_values_of_their_start_and_do_not_wait() -> None:
    values = torch.zeros(1000, device=GPU)
    start_to_host(values)()  # allocates
    copies = []
    with no_waiting():
        for _ in range(10):
            copies.append(start_to_host(values))
            values += 1
    for number, wait in enumerate(copies):
        assert (wait() == number).all()
