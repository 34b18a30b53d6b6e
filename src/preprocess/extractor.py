"""The extractor: a LightningModule that turns frames into results, and results into samples."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule

from datamodules.errors import ExtractError
from datamodules.line.frames import Batch, End, FrameRequest
from datamodules.line.item import Item
from datamodules.samples import SampleKind


class Extractor(LightningModule):
    """Base of every pipeline. A new one sets `samples`, and defines `extract` and `assemble`.

    Its constructor calls `self.save_hyperparameters()`: the arguments belong to the fingerprint of the run.

    Attributes:
        samples: the kind of sample that `assemble` makes.
        frames: how it wants its frames; see `FrameRequest`.
    """

    samples: SampleKind[Any]
    frames = FrameRequest()

    def extract(self, batch: Batch) -> list[Any]:
        """One result for each frame of `batch`, in its order; by default what the workers made of them.

        Raises:
            ExtractError: the frames cannot be handled. A batch of several frames is then tried one by one, and the
                items of those that fail again become failures.
        """
        return batch["results"]

    def assemble(self, item: Item, results: Sequence[Any], end: End) -> Any:
        """The sample of `item`, from the results of all its frames in order; `end` says what is known of them.

        Raises:
            ExtractError: no sample can be made of them; the item becomes a failure.
        """
        raise NotImplementedError

    def ingredients(self) -> dict[str, str]:
        """Versions and weights that change results, by name, for the fingerprint."""
        return {}

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Any]:
        """`extract`, with an `ExtractError` in place of the result of each frame that cannot be handled."""
        if not batch["rows"]:
            return []
        try:
            return self.extract(batch)
        except ExtractError:
            return [self._extract_one(batch, place) for place in range(len(batch["rows"]))]

    def _extract_one(self, batch: Batch, place: int) -> Any:
        one = Batch(
            shard=batch["shard"],
            rows=batch["rows"][place : place + 1],
            frame_idx=batch["frame_idx"][place : place + 1],
            ends=[],
        )
        if "results" in batch:
            one["results"] = batch["results"][place : place + 1]
        else:
            one["frames"] = batch["frames"][place : place + 1]
        try:
            return self.extract(one)[0]
        except ExtractError as error:
            return error
