"""NVDEC, through torchcodec, gives the frames that the CPU gives. Selected by `-m gpu`; fails without a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.media.decoding import Decoding
from datamodules.media.sampling import Uniform
from datamodules.media.video import read_frames
from support.video_files import KINDS, Kind, numbers, write


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["b-frames", "gop 250", "open gop", "variable rate", "edit list", "hevc"])
def test_nvdec_gives_the_right_frames_close_to_those_of_the_cpu(name: str, tmp_path: Path) -> None:
    assert torch.cuda.is_available(), "this machine has no GPU: leave out `-m gpu`"
    kind = Kind(**{**vars(KINDS[name]), "size": (256, 192)})  # NVDEC takes no frames below 144 px
    path = write(tmp_path / "video", kind)
    by_gpu, by_cpu = (
        read_frames(path, Uniform(16), (160, 256), decoding)
        for decoding in (Decoding("torchcodec", device="cuda"), Decoding())
    )
    assert by_gpu.facts["backends"] == ["torchcodec"], "NVDEC was not used"
    assert by_gpu.frames.device.type == "cpu"
    assert numbers(list(by_gpu.frames.permute(0, 2, 3, 1).numpy())) == np.linspace(0, 59, 16).astype(int).tolist()
    error = (by_gpu.frames.double() - by_cpu.frames.double()).square().mean((1, 2, 3))
    assert (10 * torch.log10(255**2 / error)).min() > 35.0
