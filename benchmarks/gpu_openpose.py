"""Part `openpose` of `gpu.py`: OpenPose's network with random weights, and the decoding of its maps."""

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from gpu_part import Measurement, Missing, Peak, Setting
from gpu_results import Figures
from preprocess.pose.openpose_net import STRIDE, OpenPoseNet, prepare

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_CASES = [(px, batch) for px in (256, 368) for batch in (64, 16, 256)]
_TINY_CASES = [(32, 1)]
_DECODING = ("scipy", "cv2", "pyarrow", "PIL")  # what the drawing of people needs
_NUM_PEOPLE = 3


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Yield the measurements of this part."""
    for px, batch in _TINY_CASES if setting.tiny else _CASES:
        for precision in _DTYPES:
            yield f"network, {precision}, {px} px, batch {batch}", partial(_network, setting, precision, px, batch)
    for px, batch in _TINY_CASES if setting.tiny else _CASES[::3]:
        yield f"decoding, {px} px, batch {batch}", partial(_decoding, setting, px, batch)


@torch.inference_mode()
def _network(setting: Setting, precision: str, px: int, batch: int) -> Figures:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    dtype = _DTYPES[precision]
    net: Any = OpenPoseNet().eval()
    net = net.to(setting.device, dtype, memory_format=torch.channels_last)
    images = torch.randint(0, 256, (batch, 3, px, px), dtype=torch.uint8, device=setting.device)

    def step() -> None:
        net(prepare(images, (px, px)).to(dtype, memory_format=torch.channels_last))

    with Peak(setting) as peak, FlopCounterMode(display=False) as counter:
        step()
    rate = setting.rate(step, batch)
    tflops = rate * counter.get_total_flops() / batch / 1e12
    return Figures(rate, "images", memory_mb=peak.megabytes / batch, note=f"{tflops:,.1f} TFLOP/s")


@torch.inference_mode()
def _decoding(setting: Setting, px: int, batch: int) -> Figures:
    """Decode maps of drawn people, as a trained network gives them: those of random weights have none."""
    if missing := [package for package in _DECODING if not find_spec(package)]:
        raise Missing(", ".join(missing))
    from preprocess.pose.decoding import decode
    from preprocess.pose.maps import Maps, upsampling_matrix
    from support.pose_runs import crowd, rendered

    drawn = np.random.default_rng(0)
    scenes = [rendered(crowd(drawn, _NUM_PEOPLE, (px, px)), (px, px)) for _ in range(min(batch, 16))]
    pafs, heatmaps = (
        torch.from_numpy(np.stack([getattr(scenes[index % len(scenes)], name) for index in range(batch)]))
        for name in ("pafs", "heatmaps")
    )
    line = upsampling_matrix(px // STRIDE, px, px, STRIDE)
    maps = Maps(pafs.to(setting.device), heatmaps.to(setting.device), line, line)
    people = decode([maps])
    rate = setting.rate(lambda: decode([maps]), batch)
    return Figures(rate, "images", note=f"{sum(len(each.scores) for each in people) / batch:.1f} people in each")
