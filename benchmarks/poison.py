"""A corpus with poisoned items and a cheap pipeline that they disturb, for `chaos.py`.

| kind          | effect of such an item, at every attempt                         | where        | reason class |
|---------------|------------------------------------------------------------------|--------------|--------------|
| damaged       | raises DecodeError                                               | worker       | decode       |
| refused       | raises ExtractError                                              | worker       | extract      |
| segfault      | reads address 0                                                  | worker       | crash        |
| killed        | SIGKILL, as the kernel sends it when memory runs out             | worker       | crash        |
| hang          | never returns                                                    | worker       | timeout      |
| rank-refused  | raises ExtractError                                              | `extract`    | extract      |
| rank-segfault | reads address 0                                                  | `extract`    | crash        |
| rank-hang     | never returns                                                    | `extract`    | timeout      |
"""

import ctypes
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from datamodules.corpus import Corpus, Item
from datamodules.errors import DecodeError, ExtractError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.loading.request import FrameRequest
from datamodules.samples import SampleKind
from preprocess.job.extractor import Extractor

_NUM_IMAGES, _SIDE_PX = 64, 16
_LENGTHS = 1, 1, 2, 8  # frames of an item: half of them are single images
_HANG_SECONDS = 1e6


class Poison(NamedTuple):
    """One kind of poison, and the failure that it must become.

    Attributes:
        act: has the effect of the poison.
        reason_class: reason class of the item's failure row.
        in_rank: whether the poison acts in `extract` instead of a worker.
    """

    act: Callable[[], None]
    reason_class: str
    in_rank: bool = False


def _damage() -> None:
    raise DecodeError("poison")


def _refuse() -> None:
    raise ExtractError("poison")


def _segfault() -> None:
    ctypes.string_at(0)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    time.sleep(_HANG_SECONDS)


POISONS = {
    "damaged": Poison(_damage, "decode"),
    "refused": Poison(_refuse, "extract"),
    "segfault": Poison(_segfault, "crash"),
    "killed": Poison(_kill, "crash"),
    "hang": Poison(_hang, "timeout"),
    "rank-refused": Poison(_refuse, "extract", in_rank=True),
    "rank-segfault": Poison(_segfault, "crash", in_rank=True),
    "rank-hang": Poison(_hang, "timeout", in_rank=True),
}


class Poisoned(Corpus):
    """Tiny images and sequences of them; `meta["poison"]` of an item is its kind of poison, or None.

    Args:
        root: folder of the images that `make_images` has made; items share them.
        num_items: number of items.
        num_poisoned: number of poisoned items.
        kinds: kinds of poison; the numbers of their items differ by at most one.
        seed: decides which items are poisoned, and which images an item has.
    """

    def __init__(self, root: str, num_items: int, num_poisoned: int, kinds: list[str], seed: int = 0) -> None:
        self.root, self.num_items, self.num_poisoned, self.kinds, self.seed = root, num_items, num_poisoned, kinds, seed

    def items(self) -> Iterator[Item]:
        """Yield the items."""
        rng = random.Random(self.seed)
        poisons = dict(zip(rng.sample(range(self.num_items), self.num_poisoned), cycle(self.kinds), strict=False))
        for number in range(self.num_items):
            frames = tuple(map(_image_name, rng.choices(range(_NUM_IMAGES), k=rng.choice(_LENGTHS))))
            meta = {"poison": poisons.get(number)}
            yield Item(f"train/{number:06d}", "train", ".", frames, cost=len(frames), meta=meta)


def make_images(folder: Path) -> None:
    """Make the images of a `Poisoned` corpus in the new folder `folder`."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (_NUM_IMAGES, _SIDE_PX, _SIDE_PX, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / _image_name(number))


def _image_name(number: int) -> str:
    return f"{number:02d}.png"


class MeanSamples(SampleKind[list[Any]]):
    """Samples `[key, means]`: an item's key and the means of its frames."""

    def encode(self, sample: list[Any]) -> dict[str, bytes]:
        """Return one file, `json`."""
        return {"json": json.dumps(sample).encode()}

    def decode(self, key: str, members: Mapping[str, bytes]) -> list[Any]:
        """Return the sample that `encode` was given."""
        sample: list[Any] = json.loads(members["json"])
        return sample

    def collate(self, samples: Sequence[list[Any]]) -> dict[str, Any]:
        """Return the samples' two columns."""
        return {"key": [key for key, _ in samples], "means": [means for _, means in samples]}


class Chaotic(Extractor):
    """Extractor of the mean of every frame, 0 to 255, computed in the workers. Poison acts on an item's first frame.

    Args:
        poisonous: whether poison acts.
        seconds_per_frame: time that a worker sleeps for a frame instead of running a model.
        tally: see `MeanTransform`.
    """

    samples = MeanSamples()

    def __init__(self, poisonous: bool = True, seconds_per_frame: float = 0.0, tally: str | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.frames = FrameRequest(8, partial(MeanTransform, poisonous, seconds_per_frame, tally))

    def extract(self, batch: Batch) -> list[Any]:
        """Return the means. Poison acts if its name is among them."""
        for result in batch["results"]:
            if isinstance(result, str):
                POISONS[result].act()
        return batch["results"]

    def assemble(self, item: Item, results: Sequence[Any], summary: ItemSummary) -> list[Any]:
        """Return the sample of `item`."""
        return [item.key, list(results)]


class MeanTransform:
    """Transform that returns the mean of a frame, or the name of the item's poison if that acts in the rank.

    Args:
        poisonous: whether poison acts.
        seconds_per_frame: time that it sleeps for a frame.
        tally: file on this machine that grows by one byte for every frame whose mean is returned; None: none.
    """

    def __init__(self, poisonous: bool, seconds_per_frame: float, tally: str | None = None) -> None:
        self._poisonous, self._seconds_per_frame, self._tally = poisonous, seconds_per_frame, tally
        self._poison: str | None = None

    def start(self, item: Item) -> None:
        """Remember the poison of `item`, whose frames follow."""
        self._poison = item.meta["poison"] if self._poisonous else None

    def __call__(self, frame: Tensor) -> float | str:
        """Return the mean of one frame, or the name of a poison."""
        if self._poison and POISONS[self._poison].in_rank:
            return self._poison
        if self._poison:
            POISONS[self._poison].act()
        time.sleep(self._seconds_per_frame)
        if self._tally is not None:
            with open(self._tally, "ab", buffering=0) as tally:  # appends of several processes do not collide
                tally.write(b".")
        return frame.double().mean().item()
