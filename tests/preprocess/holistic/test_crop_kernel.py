"""Crops by the Triton kernel, in Triton's interpreter on the CPU and on a GPU, compared with those in torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from preprocess.holistic import crop as crop_module
from preprocess.holistic.crop import coordinates, crop, network_input, network_input_on_gpu, scaled
from support.crop_cases import CropCase, crop_cases, cropped_by_kernel
from support.environment import process_environment


def in_torch(case: CropCase) -> Tensor:
    images, region, side, border, minimum, dtype, _ = case
    return scaled(crop(images, coordinates(region, side), border), minimum, dtype)


def test_the_interpreted_kernel_computes_the_same_bits_as_torch(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    path = tmp_path / "crops.pt"
    command = [sys.executable, "-m", "support.crop_cases", str(path)]
    subprocess.run(command, check=True, env=process_environment(TRITON_INTERPRET="1"))
    cases, crops = list(crop_cases()), torch.load(path)
    assert len(crops) == len(cases) == 8
    for case, ours in zip(cases, crops, strict=True):
        expected = in_torch(case)
        assert ours.dtype == case.dtype
        assert ours.is_contiguous(memory_format=case.layout)
        assert torch.equal(ours, expected)
        assert expected.float().std() > 0.1  # not only the border


def test_the_kernel_compiles_for_a_gpu_and_rounds_each_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product and a sum in one operation (fma) would be rounded once, unlike in torch."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    from preprocess.holistic.crop_kernel import compile_kernel

    h200 = Mock(**{"get_current_target.return_value": GPUTarget("cuda", 90, 32), "get_current_device.return_value": 99})
    monkeypatch.setattr(driver, "_active", h200)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assembly = compile_kernel().asm["ptx"]
    assert "mul.rn.f32" in assembly
    assert "fma" not in assembly


def test_without_triton_the_operation_for_gpus_computes_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crop_module, "_has_triton", lambda: False)
    for case in crop_cases():
        images, region, side, *options, layout = case
        arguments = (*images, coordinates(region, side), *options, layout == torch.channels_last)
        crops = network_input_on_gpu(*arguments)
        assert torch.equal(crops, network_input(*case))
        assert crops.is_contiguous(memory_format=layout)
        assert network_input(*case).is_contiguous(memory_format=layout)
    checks = torch.library.opcheck(network_input_on_gpu, arguments, test_utils=("test_schema", "test_faketensor"))
    assert {*checks.values()} == {"SUCCESS"}


@pytest.mark.parametrize(
    "kernel",
    [
        None,  # as if Triton were not installed
        Mock(compile_kernel=Mock(side_effect=RuntimeError("Failed to find C compiler"))),
        Mock(compile_kernel=Mock(side_effect=subprocess.CalledProcessError(1, "gcc"))),
        Mock(compile_kernel=Mock(side_effect=AssertionError("libcuda.so cannot found!"))),
    ],
)
def test_where_triton_does_not_work_a_warning_says_so(
    kernel: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "preprocess.holistic.crop_kernel", kernel)
    assert not crop_module._has_triton.__wrapped__()
    assert "crops are computed in torch: the same values, but slower" in caplog.text


@pytest.mark.gpu
def test_the_kernel_on_a_gpu_computes_the_same_bits_as_torch() -> None:
    assert crop_module._has_triton()
    for case in crop_cases("cuda"):
        for side in (case.side, 224):
            larger = case._replace(side=side)
            assert torch.equal(cropped_by_kernel(larger), in_torch(larger))
            crops = network_input(*larger)
            assert torch.equal(crops, in_torch(larger))
            assert crops.is_contiguous(memory_format=case.layout)
