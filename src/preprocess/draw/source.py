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
from datamodules.run.plan import Plan
from datamodules.samples.drawing import Colour, Image, resized
from preprocess.draw.lettering import GREY, write_line
from preprocess.report.find import find

_BLANK: Colour = (244, 246, 248)


class CorpusFrames:
    """The frames of an item, as the run or retry that made its sample took them: the `SourceFrames` of drawings.

    Args:
        run: the run.
        shard: name of the shard with the sample, of the run or of a retry.
        key: of the item.

    Attributes:
        problem: why frames are missing; None: none are, of those that were asked for.
        num_read: number of frames that were read.
    """

    def __init__(self, run: Run, shard: str, key: str) -> None:
        self._run, self._shard, self._key = run, shard, key
        self.problem: str | None = None
        self.num_read = 0

    @classmethod
    def of_key(cls, run: Run, key: str) -> "CorpusFrames":
        """Return the frames of the item with this key.

        Raises:
            RunError: no item has this key, or its table is damaged.
        """
        shard, row = find(run, key)
        return cls(run, run.rows(shard.name, ["key"])["shard"][row].as_py(), key)

    def images(self, size: tuple[int, int]) -> Iterator[Image]:
        """Yield the frames, resized to `size` (height, width), then blank images without end.

        A frame that cannot be read ends the frames; the blank images say so.
        """
        problem = "the source ends here"
        try:
            for frame in self._frames():
                self.num_read += 1
                yield resized(frame, size)
        except (DecodeError, OSError) as error:
            problem = f"the source is gone: {error}"
        self.problem = problem
        while True:
            yield blank(size, problem)

    def first(self) -> Image:
        """Return the first frame in its own size.

        Raises:
            DecodeError, OSError: it cannot be read.
        """
        return next(self._frames())

    def _frames(self) -> Iterator[Image]:
        plan = _plan_of(self._run, self._shard)  # that of a retry describes the file as it was then
        [shard] = (shard for shard in plan.shards if shard.name == self._shard)
        item = plan.item(shard.number, plan.keys(shard.number).index(self._key))
        decided = plan.fingerprint.get("decoding", {})
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


def _plan_of(run: Run, shard: str) -> Plan:
    """Return the plan, of the run or of one of its retries, that has the shard of this name."""
    plans = (part.plan for part in run.with_retries)
    return next(plan for plan in plans if any(planned.name == shard for planned in plan.shards))


def _root(run: Run, item: Item) -> str:
    """Return the first of the corpus roots in the plans below which `item` still is; else the first of all.

    Raises:
        RunError: the plans name no root.
    """
    roots = [root for planned in run.with_retries for root in planned.plan.roots]
    if not roots:
        raise RunError(f"{run.store} does not say where its corpus lay: give --root")
    return next((root for root in roots if exists(join(root, item.path))), roots[0])
