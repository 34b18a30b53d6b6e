"""What an extractor asks of the loader: which frames, in what form, and how they are put together."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from datamodules.corpus import Item
from datamodules.errors import ConfigError
from datamodules.media.decoding import Decoding
from datamodules.media.jpeg import require_nvjpeg
from datamodules.media.sampling import Every, Selection
from datamodules.media.stored import Stored

_EVERY, _DECODING = Every(), Decoding()


class FrameTransform(Protocol):
    """A step on the CPU that runs inside the workers, frame by frame. Each worker makes its own.

    `GroupTransform` takes several frames at once.
    """

    def start(self, item: Item) -> None:
        """Reset the state that is kept between frames: the frames of `item` follow.

        Raises:
            ExtractError: the item cannot be handled; it fails before any frame is read.
        """
        ...

    def __call__(self, frame: Tensor) -> Any:
        """Return the result of one frame, any value that pickle can send to another process.

        Args:
            frame: uint8 [3, H, W], RGB.

        Raises:
            ExtractError: the frame cannot be handled; its item fails.
        """
        ...


@runtime_checkable
class GroupTransform(Protocol):
    """A step like `FrameTransform` that takes a few frames of an item at once, because it is faster then.

    Attributes:
        num_frames: the largest number of frames that it takes at once; they are in memory together.
    """

    num_frames: int

    def start(self, item: Item) -> None:
        """See `FrameTransform`."""
        ...

    def results(self, frames: Sequence[Tensor]) -> Sequence[Any]:
        """Return the result of each frame, uint8 [3, H, W]; see `FrameTransform.__call__`."""
        ...


class HasSize(Protocol):
    """Result of a transform whose size counts towards the limits of `Batching`.

    Attributes:
        num_pixels: pixels that the model sees of it, before padding.
        num_tokens: tokens that the model sees of it, before padding.
    """

    @property
    def num_pixels(self) -> int: ...

    @property
    def num_tokens(self) -> int: ...


class Batching(NamedTuple):
    """How single images are grouped by size: a window of images is sorted and cut where a batch reaches a limit.

    An image that exceeds a limit by itself is a batch of its own.

    Attributes:
        window: number of images that a worker transforms and holds in memory before it sorts them.
        max_pixels: limit on the pixels of a batch, as padded: its largest image times the number of images. None: any.
        max_tokens: limit on the tokens of a batch, as padded. None: any.
    """

    window: int
    max_pixels: int | None = None
    max_tokens: int | None = None

    def groups(self, images: Sequence[HasSize], max_images: int) -> list[list[int]]:
        """Return the batches of a window, from small images to large ones.

        Args:
            images: the window.
            max_images: maximum number of images in a batch.

        Returns:
            Indices into `images`, one list for each batch; no batch for an empty window.
        """
        order = sorted(range(len(images)), key=lambda index: (images[index].num_pixels, images[index].num_tokens))
        groups: list[list[int]] = []
        for index in order:
            grown = [*groups[-1], index] if groups else [index]
            if len(grown) > 1 and len(grown) <= max_images and self._fits([images[member] for member in grown]):
                groups[-1] = grown
            else:
                groups.append([index])
        return groups

    def _fits(self, images: Sequence[HasSize]) -> bool:
        # padding makes every image as large as the largest of its batch
        pixels = len(images) * max(image.num_pixels for image in images)
        tokens = len(images) * max(image.num_tokens for image in images)
        fits_pixels = self.max_pixels is None or pixels <= self.max_pixels
        return fits_pixels and (self.max_tokens is None or tokens <= self.max_tokens)


class FrameRequest(NamedTuple):
    """Which frames an extractor gets, and in what form. Slices are its micro-batches, so every field changes results.

    Attributes:
        slice_frames: maximum number of frames in a slice. Single images are put together up to this number.
        transform: makes the `FrameTransform` or `GroupTransform` of each worker; None: the extractor gets the frames
            themselves.
        selection: which frames of a video to take, among those between the item's times.
        size: (height, width) in px that frames of videos are resized to; None: their own size.
        decoding: how videos and images are decoded. The DataModule replaces it by its own (`--data.decoding`).
        store: format in which the file of a single image is sent along (`ItemSummary.content`); None: it is not sent.
            See `media/stored.py`.
        batching: how single images are grouped by the size of what `transform` returns, which must be `HasSize`;
            None: in the order of the plan.
    """

    slice_frames: int = 32
    transform: Callable[[], FrameTransform | GroupTransform] | None = None
    selection: Selection = _EVERY
    size: tuple[int, int] | None = None
    decoding: Decoding = _DECODING
    store: Stored | None = None
    batching: Batching | None = None

    @property
    def images_in_ticket(self) -> int:
        """Number of single images that one worker takes at once."""
        return self.batching.window if self.batching else self.slice_frames

    def resolve(self, decoding: Decoding, device: torch.device) -> "FrameRequest":
        """Return this request with the user's decoding, on the rank's GPU if the extractor or the user asks for that.

        Args:
            decoding: options of `--data.decoding`.
            device: the rank's device.

        Raises:
            ConfigError: a GPU is to decode, but the rank has none, or the workers need the decoded images.
        """
        if decoding.images == "nvjpeg":
            if self.transform:
                raise ConfigError(
                    "--data.decoding.images nvjpeg decodes images on the GPU, but this pipeline needs them in the "
                    "workers. Set it to pillow"
                )
            require_nvjpeg(device)
        if self.decoding.device == decoding.device == "cpu":
            return self._replace(decoding=decoding)
        if device.type != "cuda":
            raise ConfigError("decoding with NVDEC needs a GPU. Set --trainer.accelerator gpu, or decode on the cpu")
        return self._replace(decoding=replace(decoding, backend="torchcodec", device=str(device)))
