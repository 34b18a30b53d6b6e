"""Images for the benchmarks of Holistic: crops of two photographs, and files of the user's."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.media.image import read_image
from datamodules.media.sampling import Uniform
from datamodules.media.suffixes import READABLE_IMAGE_SUFFIXES, VIDEO_SUFFIXES
from datamodules.media.video import read_frames


def photos() -> NDArray[np.uint8]:
    """Return uint8 [12, 260, 210, 3]: rotated and shifted crops of two photographs of people, who show no hands."""
    from matplotlib.cbook import get_sample_data
    from PIL import Image
    from skimage.data import astronaut

    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        space: Any = astronaut()
        originals = [image.convert("RGB").resize((230, 280)), Image.fromarray(space).resize((280, 280))]
    turned = [image.rotate(angle) for image in originals for angle in (-12, 0, 9)]
    return np.stack([np.asarray(image.crop((x, 10, x + 210, 270))) for image in turned for x in (0, 18)])


def photos_of_nobody() -> list[Tensor]:
    """Return two photographs without people, uint8 [3, H, W]: a cup and a rocket."""
    from skimage import data

    images: list[Any] = [data.coffee(), data.rocket()]
    return as_tensors(images)


def as_tensors(images: Iterable[NDArray[np.uint8]]) -> list[Tensor]:
    """Return images [H, W, 3] as [3, H, W], in the memory layout in which the workers decode them."""
    return [torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1) for image in images]


def write_jpegs(folder: Path, images: NDArray[np.uint8]) -> None:
    """Write images [N, H, W, 3] to `folder`: 00.jpg, 01.jpg, …"""
    from PIL import Image

    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:02d}.jpg", quality=90)


def write_video(path: Path, images: NDArray[np.uint8], num_frames: int = 250) -> None:
    """Write a video in H.264 of images [N, H, W, 3], again and again up to `num_frames`."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "yuv420p"
        for index in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(images[index % len(images)], format="rgb24")))
        container.mux(stream.encode())


def read_folder(folder: Path, frames_of_each: int) -> list[Tensor]:
    """Return the images below a folder, and frames spread evenly over each of its videos, uint8 [3, H, W]."""
    images: list[Tensor] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in READABLE_IMAGE_SUFFIXES:
            images.append(read_image(path))
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            images += read_frames(path, Uniform(frames_of_each)).frames
    assert images, f"{folder} has no images or videos"
    return images
