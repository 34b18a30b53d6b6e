"""Options of decoding, and the backends that they name."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Literal, get_args

from datamodules.errors import ConfigError

BackendName = Literal["pyav", "torchcodec", "decord"]
Images = Literal["pillow", "nvjpeg"]
BeyondEnd = Literal["shorten", "fail"]

_BACKENDS = "datamodules.media.backends"


@dataclass(frozen=True)
class Decoding:
    """Options of decoding videos and images.

    Args:
        backend: `pyav`; `torchcodec`, which needs FFmpeg's libraries on the system; or `decord`.
        fallback: where the backend fails on a file, continue with the other ones that work on this machine. The tables
            name the backends that were used.
        stream: number of the video stream in each file, as ffprobe counts; None: FFmpeg's choice of the best.
        skip_non_reference: do not decode frames that are neither requested nor needed by others; `pyav` only.
        device: `cpu`; or `cuda`, `cuda:1`, … for NVDEC, with `torchcodec` only.
        images: `pillow` decodes images in the workers; `nvjpeg` decodes JPEGs on the rank's GPU (`media/jpeg.py`).
        square_pixels: resize frames of videos with non-square pixels (DV, HDV, DVB) to the shape that players show:
            the stored height, and the width times the pixel aspect ratio, before any turn. False: as stored.
        beyond_end: what becomes of a part of a video that goes on for a frame or more beyond the end of the video:
            `shorten` takes the frames that exist, and samples of keypoints say in `missing_seconds` what is missing;
            `fail` fails the item.

    Raises:
        ConfigError: an option has an invalid value.
    """

    backend: BackendName = "pyav"
    fallback: bool = False
    stream: int | None = None
    skip_non_reference: bool = True
    device: str = "cpu"
    images: Images = "pillow"
    square_pixels: bool = True
    beyond_end: BeyondEnd = "shorten"

    def __post_init__(self) -> None:
        if self.backend not in get_args(BackendName):
            raise ConfigError(f"backend = {self.backend!r}: choose from {', '.join(get_args(BackendName))}")
        if self.images not in get_args(Images):
            raise ConfigError(f"images = {self.images!r}: choose from {', '.join(get_args(Images))}")
        if self.beyond_end not in get_args(BeyondEnd):
            raise ConfigError(f"beyond_end = {self.beyond_end!r}: choose from {', '.join(get_args(BeyondEnd))}")
        if self.device.partition(":")[0] not in ("cpu", "cuda"):
            raise ConfigError(f"device = {self.device!r}: choose from cpu, cuda")
        if self.device != "cpu" and self.backend != "torchcodec":
            raise ConfigError(
                f"backend = {self.backend!r} decodes on the CPU only: choose torchcodec for {self.device}"
            )

    def require(self) -> None:
        """Raise ConfigError unless the backend is installed and works on this machine."""
        load_backend(self.backend)

    @property
    def backends(self) -> tuple[BackendName, ...]:
        """Backends to try, in order; with `fallback` also the others that work on this machine."""
        names = get_args(BackendName) if self.fallback else ()
        return (self.backend, *(name for name in names if name != self.backend and _works(name)))


@cache
def load_backend(name: str) -> ModuleType:
    """Import a backend, a `datamodules.media.video.Backend`.

    Args:
        name: of a module of `datamodules.media.backends`.

    Raises:
        ConfigError: it does not work on this machine.
    """
    backend = import_module(f"{_BACKENDS}.{name}")
    backend.require()
    return backend


@cache
def _works(name: BackendName) -> bool:
    try:
        load_backend(name)
    except ConfigError:
        return False
    return True
