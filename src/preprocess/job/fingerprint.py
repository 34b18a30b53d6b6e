"""The fingerprint: everything that results depend on. One run folder never mixes results of two fingerprints.

| field     | content                                                                                  |
|-----------|------------------------------------------------------------------------------------------|
| corpus    | class and arguments, except the root: the plan holds keys, sizes and times of the items  |
| shards    | the limits on a shard's size                                                             |
| extractor | class and arguments                                                                      |
| samples   | class                                                                                    |
| decoding  | how videos and images are decoded: `datamodules.media.decoding.Decoding`                 |
| versions  | Framemill, the decoders, and `Extractor.provenance`: libraries, weights                  |
| device    | kind of device: `cpu` or `cuda`. Tables and records hold its model (`device_name`)       |
"""

from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from typing import Any

import torch

from datamodules.corpus import Corpus
from datamodules.media.decoding import Decoding
from datamodules.media.suffixes import HAS_HEIF
from datamodules.run.plan import ShardSize
from preprocess.job.extractor import Extractor

_DECIDE_PIXELS = ("framemill", "torch", "pillow", "numpy")


def fingerprint(
    corpus: Corpus, decoding: Decoding, extractor: Extractor, size: ShardSize, device: torch.device
) -> dict[str, Any]:
    """Return the fingerprint of a run, JSON-able. It leaves out what does not change results: ranks, workers, times."""
    arguments = {name: value for name, value in vars(corpus).items() if name != "root" and not name.startswith("_")}
    hparams = {name: value for name, value in extractor.hparams.items() if not name.startswith("_")}  # Lightning's own
    options = {name: described(value) for name, value in hparams.items()}
    return {
        "corpus": {"class_path": _class_path(corpus), "init_args": arguments},
        "shards": asdict(size),
        "extractor": {"class_path": _class_path(extractor), "init_args": options},
        "samples": {"class_path": _class_path(extractor.samples)},
        "decoding": {name: value for name, value in asdict(decoding).items() if name != "skip_non_reference"},
        "versions": {name: version(name) for name in (*_DECIDE_PIXELS, *_backends(decoding))} | extractor.provenance(),
        "device": device.type,
    }


def _backends(decoding: Decoding) -> list[str]:
    """Return the packages that may decode. PyAV opens videos for every backend; `_DECIDE_PIXELS` has Pillow already."""
    nvjpeg = ["torchvision"] if decoding.images == "nvjpeg" else []  # nvJPEG has the release of torch's CUDA
    heif = ["pillow-heif"] if HAS_HEIF else []
    return ["av", *heif, *nvjpeg, *(name for name in decoding.backends if name != "pyav")]


def described(value: Any) -> Any:
    """Return an option as a configuration states it, JSON-able: an object as its class and its public attributes."""
    if isinstance(value, str | int | float | list | tuple | dict) or value is None:
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    arguments = {name: described(attribute) for name, attribute in vars(value).items() if not name.startswith("_")}
    return {"class_path": _class_path(value), "init_args": arguments}


def _class_path(instance: object) -> str:
    return f"{type(instance).__module__}.{type(instance).__qualname__}"
