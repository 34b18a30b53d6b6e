"""The fingerprint: all that results depend on, so that one output folder never mixes two of them.

| field     | what                                                                                     |
|-----------|------------------------------------------------------------------------------------------|
| corpus    | class and arguments, but for the root: the plan knows the items by keys, sizes and times |
| shards    | the limits on a shard's size                                                             |
| extractor | class and arguments                                                                      |
| samples   | class                                                                                    |
| decoding  | how videos and images are decoded: `datamodules.media.decoding.Decoding`                    |
| versions  | Framemill, the decoders, and what the extractor names: libraries, weights                |
| device    | kind of device: `cpu` or `cuda`. Tables and records name the model: `ranks.device_name`  |
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
    """The fingerprint of a run, JSON-able. Nothing that leaves results alone is in it: ranks, workers, time."""
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
    """The packages that may decode; PyAV opens videos for all of them, and Pillow, which is named already, images."""
    nvjpeg = ["torchvision"] if decoding.images == "nvjpeg" else []  # its release is that of torch's CUDA
    heif = ["pillow-heif"] if HAS_HEIF else []
    return ["av", *heif, *nvjpeg, *(name for name in decoding.backends if name != "pyav")]


def described(value: Any) -> Any:
    """Return an option as a configuration has it, JSON-able: an object as its class and its public attributes."""
    if isinstance(value, str | int | float | list | tuple | dict) or value is None:
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    arguments = {name: described(each) for name, each in vars(value).items() if not name.startswith("_")}
    return {"class_path": _class_path(value), "init_args": arguments}


def _class_path(instance: object) -> str:
    return f"{type(instance).__module__}.{type(instance).__qualname__}"
