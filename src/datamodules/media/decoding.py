"""How videos and images are decoded."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal, get_args

from datamodules.errors import ConfigError

Backend = Literal["pyav", "torchcodec", "decord"]
Images = Literal["pillow", "nvjpeg"]
_BACKENDS = "datamodules.media.backends"


@dataclass(frozen=True)
class Decoding:
    """How videos and images are decoded.

    Args:
        backend: `pyav`; `torchcodec`, which needs FFmpeg's libraries on the system; or `decord`.
        fallback: go on with those of the other backends that work here where this one fails on a file; the rows say so.
        stream: number of the video stream in each file, as ffprobe counts; None: the one FFmpeg takes for the best.
        skip_non_reference: do not decode frames that nobody needs; `pyav` only.
        device: `cpu`; or `cuda`, `cuda:1`, …: NVDEC, of `torchcodec` only.
        images: `pillow`, in the workers; `nvjpeg`: workers read, and the rank's GPU decodes, JPEGs only (`jpeg.py`).
        square_pixels: resize frames of videos with non-square pixels (DV, HDV, DVB) to the shape that players show:
            the stored height, and the width times the pixel aspect ratio, before any turn. False: as stored.

    Raises:
        ConfigError: an argument is none of these.
    """

    backend: Backend = "pyav"
    fallback: bool = False
    stream: int | None = None
    skip_non_reference: bool = True
    device: str = "cpu"
    images: Images = "pillow"
    square_pixels: bool = True

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise ConfigError(f"backend = {self.backend!r}: choose from {', '.join(get_args(Backend))}")
        if self.images not in get_args(Images):
            raise ConfigError(f"images = {self.images!r}: choose from {', '.join(get_args(Images))}")
        if self.device.partition(":")[0] not in ("cpu", "cuda"):
            raise ConfigError(f"device = {self.device!r}: choose from cpu, cuda")
        if self.device != "cpu" and self.backend != "torchcodec":
            raise ConfigError(
                f"backend = {self.backend!r} decodes on the CPU only: choose torchcodec for {self.device}"
            )

    def require(self) -> None:
        """ConfigError unless the backend is installed, and works here."""
        load_backend(self.backend)

    @property
    def backends(self) -> tuple[Backend, ...]:
        """Those to try, in this order: of a fallback those that work here."""
        others = [name for name in get_args(Backend) if name != self.backend and _works(name)] if self.fallback else []
        return (self.backend, *others)


@cache
def load_backend(name: str) -> Any:
    """The module of a backend that works here; ConfigError if it does not."""
    backend = import_module(f"{_BACKENDS}.{name}")
    if hasattr(backend, "require"):
        backend.require()
    return backend


@cache
def _works(name: Backend) -> bool:
    try:
        load_backend(name)
    except ConfigError:
        return False
    return True
