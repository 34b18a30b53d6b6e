"""Decoders of images and videos: how much their pixels differ, and how far Holistic's landmarks move."""

import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from holistic_images import photos, write_jpegs, write_video
from holistic_parity import parity, points_of
from measuring import print_table
from preprocess.holistic.models import HOLISTIC, find_models
from preprocess.holistic.torch_landmarker import TorchLandmarker


def measure_decoders(gpu: bool, models: Path | None) -> None:
    """Print how the result of each decoder for the same files differs from that of the default decoder."""
    device = torch.device("cuda" if gpu else "cpu")
    landmarker = TorchLandmarker(find_models(HOLISTIC, models), device=device)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind, decoders in (("JPEG", _jpeg_decoders(gpu)), ("video", _video_decoders(gpu))):
            folder = Path(scratch) / kind
            folder.mkdir()
            if kind == "JPEG":
                write_jpegs(folder, photos())
            else:
                write_video(folder / "0.mp4", photos())
            default, *others = [(name, torch.stack(list(decode(folder))).cpu()) for name, decode in decoders]
            reference = points_of(landmarker(default[1]))
            for name, frames in others:
                levels = (frames.int() - default[1].int()).abs()
                apart = parity(landmarker(frames), reference)
                values = f"{(levels > 0).float().mean():.2%} by {levels.max()} at most, {levels.float().mean():.3f}"
                rows.append((f"{kind}: {name} to {default[0]}", values, apart))
    print_table(("", "values that differ, and by how much on average", "landmarks, px"), rows)


def _jpeg_decoders(gpu: bool) -> list[tuple[str, Callable[[Path], Iterable[Tensor]]]]:
    from datamodules.media.image import read_image
    from datamodules.media.jpeg import decode_jpegs, read_jpeg

    def by_torchvision(folder: Path, device: str) -> Iterable[Tensor]:
        jpegs = [read_jpeg(path.read_bytes(), path.name) for path in sorted(folder.iterdir())]
        return decode_jpegs(jpegs, torch.device(device))

    return [
        ("Pillow", lambda folder: map(read_image, sorted(folder.iterdir()))),
        ("torchvision on the CPU", partial(by_torchvision, device="cpu")),
        *([("nvJPEG", partial(by_torchvision, device="cuda"))] if gpu else []),
    ]


def _video_decoders(gpu: bool) -> list[tuple[str, Callable[[Path], Iterable[Tensor]]]]:
    from datamodules.media.decoding import Decoding
    from datamodules.media.sampling import Uniform
    from datamodules.media.video import read_frames

    def by(folder: Path, decoding: Decoding) -> Tensor:
        return read_frames(next(folder.iterdir()), Uniform(24), decoding=decoding).frames

    decodings = {"PyAV": Decoding(), "torchcodec": Decoding("torchcodec")}
    if gpu:
        decodings["NVDEC"] = Decoding("torchcodec", device="cuda")
    return [(name, partial(by, decoding=decoding)) for name, decoding in decodings.items()]
