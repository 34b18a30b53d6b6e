"""The frames that a committed sample was made of, read from the corpus."""

from collections.abc import Iterator

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw

from datamodules.corpus import Item
from datamodules.errors import DecodeError, RunError
from datamodules.loading.reading import frames_of
from datamodules.media.decoding import Decoding
from datamodules.objects import exists, join
from datamodules.run.folder import Run
from datamodules.samples.drawing import Colour, Image, resized
from preprocess.draw.lettering import GREY, write_line
from preprocess.report.find import find

_BLANK: Colour = (244, 246, 248)


class CorpusFrames:
    """The frames of the item with a key, as the run that made its sample took them: the `SourceFrames` of drawings."""

    def __init__(self, run: Run, key: str) -> None:
        self._run, self._key = run, key

    def images(self, size: tuple[int, int]) -> Iterator[Image]:
        """Yield the frames, resized to `size` (height, width), then blank images without end.

        A frame that cannot be read ends the frames; the blank images say so.
        """
        missing = "the source ends here"
        try:
            for frame in self._frames():
                yield resized(frame, size)
        except (DecodeError, OSError) as error:
            missing = f"the source is gone: {error}"
        while True:
            yield blank(size, missing)

    def first(self) -> Image:
        """Return the first frame in its own size.

        Raises:
            DecodeError, OSError: it cannot be read.
        """
        return next(self._frames())

    def _frames(self) -> Iterator[Image]:
        made_by = _made_by(self._run, self._key)
        shard, row = find(made_by, self._key)
        item, decided = made_by.plan.item(shard.number, row), made_by.plan.fingerprint.get("decoding", {})
        decoding = Decoding(  # not its backend, as all give the same frames
            fallback=decided.get("fallback", False),
            stream=decided.get("stream"),
            square_pixels=decided.get("square_pixels", False),  # runs before 2026-12 took pixels as stored
        )
        for frame in frames_of(item, _root(self._run, item), decoding):
            yield frame.permute(1, 2, 0).numpy()


def blank(size: tuple[int, int], text: str) -> Image:
    """Return an image of `size` (height, width) that shows nothing but `text`."""
    page = PillowImage.new("RGB", size[::-1], _BLANK)
    write_line(ImageDraw.Draw(page), (12, size[0] - 28), text, GREY, 16)
    return np.array(page)


def _made_by(run: Run, key: str) -> Run:
    """Return the run or the one of its retries that made the current sample of this key."""
    shard, row = find(run, key)
    name = run.rows(shard.name, ["key"])["shard"][row].as_py()
    return next((retry for retry in run.retries if name in retry.committed()), run)


def _root(run: Run, item: Item) -> str:
    """Return the first of the corpus roots in the plans below which `item` still is; else the first of all.

    Raises:
        RunError: the plans name no root.
    """
    roots = [root for planned in run.with_retries for root in planned.plan.roots]
    if not roots:
        raise RunError(f"{run.store} does not say where its corpus lay: give --root")
    return next((root for root in roots if exists(join(root, item.path))), roots[0])
