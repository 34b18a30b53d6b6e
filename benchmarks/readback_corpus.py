"""Runs of random samples, which benchmarks read back, the same samples in litData's chunks, and epochs over them.

| kind      | a sample                                                                                               |
|-----------|--------------------------------------------------------------------------------------------------------|
| keypoints | 58 to 172 frames of layout 143, as the sentences of PHOENIX-2014-T have: some 200 KB                    |
| clips     | 16 frames of 160x256 px, as CLIP4MC's, raw: 2 MB                                                        |
| jpeg      | the same frames as JPEGs of quality 95: 0.4 MB                                                          |
| images    | a JPEG of 384x384 px, quality 90, and a caption: 50 KB                                                  |
"""

import io
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.corpus import Corpus, Item
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.reader import CommittedSamples
from datamodules.run.result import Result
from datamodules.samples import SampleKind
from datamodules.samples.captions import CaptionSample, CaptionSamples
from datamodules.samples.clips import ClipSample, ClipSamples, jpeg, jpeg_frames, raw_frames
from datamodules.samples.keypoints import KeypointSample, KeypointSamples

_LAYOUT = 143
_NUM_FRAMES, _CLIP_SIZE = 16, (160, 256)  # of a clip, as CLIP4MC's; height and width in px
_IMAGE_SIZE = (384, 384)
_NUM_IMAGES = 64  # that differ; the samples repeat them
JPEG_NAMES = [f"{number:03d}.jpg" for number in range(_NUM_FRAMES)]
_CHUNK_BYTES = "64MB"  # of litData, as its documentation recommends


class Kind(NamedTuple):
    """One kind of samples.

    Attributes:
        samples: the sample kind.
        make: returns the sample of an item.
        num_samples: in a run, unless the user says otherwise.
        per_shard: samples of a shard.
    """

    samples: SampleKind[Any]
    make: Callable[[Item], Any]
    num_samples: int
    per_shard: int


@dataclass
class Sentences(Corpus):
    """`num_items` sentences of half to one and a half times `mean_frames` frames, without files."""

    num_items: int
    mean_frames: int
    root: str = "/nowhere"

    def items(self) -> Iterator[Item]:
        """Yield the sentences."""
        lengths = np.random.default_rng(0).integers(self.mean_frames // 2, self.mean_frames * 3 // 2, self.num_items)
        for number, length in enumerate(lengths.tolist()):
            frames = tuple(f"images{frame:04d}.png" for frame in range(1, length + 1))
            yield Item(f"train/sentence{number:05d}", "train", f"train/sentence{number:05d}", frames, cost=length)


def make_run(folder: Path, corpus: Corpus, kind: Kind, per_shard: int) -> None:
    """Commit a sample of each item of a corpus."""
    run = open_or_plan(folder, corpus, {}, ShardSize(max_items=per_shard, min_shards=1))
    with Rank(run) as rank:
        while (opened := rank.lease()) is not None:
            for row, item in enumerate(opened.items):
                members = kind.samples.encode(kind.make(item))
                rank.add(opened.shard.number, Result(row, num_frames=len(item.frames)), members)


def make_chunks(run: Path, kind: str, chunks: Path) -> None:
    """Write the samples of a run as litData's chunks, with the names that they have in our tars."""
    import litdata

    indices = list(range(len(CommittedSamples(Run(run)))))
    encode = partial(_chunk_sample, run, kind)
    litdata.optimize(encode, indices, str(chunks), chunk_bytes=_CHUNK_BYTES, num_workers=2, verbose=False)


def _chunk_sample(run: Path, kind: str, index: int) -> dict[str, Any]:
    """Return a sample in litData's form: arrays, images and texts, and the json as one text.

    litData stores every value of nested objects by itself, which takes longer to read than one text.
    """
    import litdata

    key, files = _opened(run)[index]
    sample: dict[str, Any] = {"__key__": key}
    for ending, content in files.items():
        if ending.endswith("npy"):
            sample[ending] = np.load(io.BytesIO(content))
        else:
            sample[ending] = litdata.Jpeg(bytes=content) if ending.endswith("jpg") else content.decode()
    return sample


@lru_cache
def _opened(run: Path) -> CommittedSamples:
    return CommittedSamples(Run(run))


def epoch(loader: Iterable[dict[str, Any]], num_samples: int) -> float:
    """Return the samples per second of one epoch."""
    started = time.perf_counter()
    count = sum(len(batch["key"]) for batch in loader)
    assert count == num_samples, f"{count} of {num_samples} samples were loaded"
    return num_samples / (time.perf_counter() - started)


def _keypoint_sample(item: Item) -> KeypointSample:
    rng, count = np.random.default_rng(item.cost), len(item.frames)
    keypoints = rng.uniform(0, 260, (count, _LAYOUT, 3)).astype(np.float32)
    visibility = rng.random((count, 33), dtype=np.float32)
    meta = {"layout": _LAYOUT, "width": 210, "height": 260, "fps": None, "path": item.path, "frames": list(item.frames)}
    return KeypointSample(item.key, keypoints, np.ones((count, 4), np.uint8), visibility, meta)


def _raw_clip(item: Item) -> ClipSample:
    return _clip_sample(item, raw_frames([_image(number, *_CLIP_SIZE) for number in _numbers(item)]))


def _jpeg_clip(item: Item) -> ClipSample:
    return _clip_sample(item, jpeg_frames([_jpeg_frame(number) for number in _numbers(item)]))


def _clip_sample(item: Item, stored: dict[str, bytes]) -> ClipSample:
    height, width = _CLIP_SIZE
    meta = {"path": item.path, "text": f"place {item.cost} blocks beside the tree", "width": width}
    meta |= {"height": height, "fps": 30.0, "num_frames": 480, "codec": "h264", "backends": ["pyav"], "num_tokens": 11}
    meta |= {"pts_seconds": [float(number) for number in range(_NUM_FRAMES)], "truncated": False}
    return ClipSample(item.key, stored, np.random.default_rng(item.cost).integers(0, 49408, 77), meta)


def _numbers(item: Item) -> list[int]:
    numbers: list[int] = np.random.default_rng(item.cost).integers(_NUM_IMAGES, size=_NUM_FRAMES).tolist()
    return numbers


@lru_cache
def _jpeg_frame(number: int) -> bytes:
    return jpeg(_image(number, *_CLIP_SIZE))


def _caption_sample(item: Item) -> CaptionSample:
    height, width = _IMAGE_SIZE
    meta = {"image": item.path, "status": "ok", "model": "none", "backend": "transformers", "width": width}
    meta |= {"height": height, "prompt": "Describe the image in one sentence.", "num_tokens": 17}
    image = _jpeg_image(item.cost % _NUM_IMAGES)
    return CaptionSample(item.key, f"A photograph of {item.cost} sheep on a hill.", meta, image, "jpg")


@lru_cache
def _jpeg_image(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(_image(number, *_IMAGE_SIZE)).save(file, "JPEG", quality=90)
    return file.getvalue()


@lru_cache
def _image(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return uint8 [height, width, 3]: smooth colours with a little noise, which compress as photographs do."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    noisy: NDArray[np.uint8] = np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
    return noisy


KINDS = {
    "keypoints": Kind(KeypointSamples(), _keypoint_sample, 1000, 27),
    "clips": Kind(ClipSamples(), _raw_clip, 320, 20),
    "jpeg": Kind(ClipSamples(), _jpeg_clip, 320, 20),
    "images": Kind(CaptionSamples(), _caption_sample, 2000, 100),
}
