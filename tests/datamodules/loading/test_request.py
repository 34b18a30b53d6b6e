from functools import partial
from typing import NamedTuple

import pytest
import torch

from datamodules.errors import ConfigError
from datamodules.loading.request import Batching, FrameRequest
from datamodules.media.decoding import Decoding


class Size(NamedTuple):
    num_pixels: int
    num_tokens: int = 1


@pytest.mark.parametrize(
    ("batching", "sizes", "expected"),
    [
        (Batching(9), [], []),
        (Batching(9), [30, 10, 20, 40], [[1, 2, 0], [3]]),
        (Batching(9), [20, 10, 20], [[1, 0, 2]]),
        (Batching(9, max_pixels=40), [10, 20, 30], [[0, 1], [2]]),
        (Batching(9, max_pixels=39), [10, 20, 30], [[0], [1], [2]]),
        (Batching(9, max_pixels=5), [10], [[0]]),
        (Batching(9, max_tokens=2), [10, 20, 30], [[0, 1], [2]]),
    ],
    ids=["nothing", "at most three", "equal sizes", "padded pixels fit", "they do not", "one above", "tokens"],
)
def test_images_are_grouped_from_small_to_large_within_the_limits(
    batching: Batching, sizes: list[int], expected: list[list[int]]
) -> None:
    assert batching.groups([Size(size) for size in sizes], max_images=3) == expected


CPU, CUDA = torch.device("cpu"), torch.device("cuda:1")
GPU_DECODING = Decoding("torchcodec", device="cuda")


@pytest.mark.parametrize(
    ("own", "decoding", "device", "expected"),
    [
        (Decoding(), Decoding("decord"), CPU, Decoding("decord")),
        (Decoding(), Decoding(fallback=True), CUDA, Decoding(fallback=True)),
        (GPU_DECODING, Decoding(stream=2), CUDA, Decoding("torchcodec", stream=2, device="cuda:1")),
        (Decoding(), GPU_DECODING, CUDA, Decoding("torchcodec", device="cuda:1")),
    ],
    ids=["the user's", "on the CPU of a GPU rank", "the extractor decodes on the GPU", "the user does"],
)
def test_a_request_is_decoded_as_the_user_says_on_the_ranks_gpu_if_either_asks_for_it(
    own: Decoding, decoding: Decoding, device: torch.device, expected: Decoding
) -> None:
    request = FrameRequest(slice_frames=5, decoding=own)
    assert request.resolve(decoding, device) == request._replace(decoding=expected)


def test_decoding_on_a_gpu_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match=r"NVDEC needs a GPU\. Set --trainer\.accelerator gpu"):
        FrameRequest().resolve(GPU_DECODING, CPU)


def test_images_for_a_transform_are_not_left_to_the_gpu() -> None:
    with pytest.raises(ConfigError, match=r"needs them in the workers\. Set it to pillow"):
        FrameRequest(transform=partial(int)).resolve(Decoding(images="nvjpeg"), CUDA)  # type: ignore[arg-type]
