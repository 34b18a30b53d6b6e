"""The extractor: a LightningModule that turns frames into results and results into samples."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.loading.request import FrameRequest
from datamodules.run.result import OK
from datamodules.run.store import Store
from datamodules.samples import SampleKind
from datamodules.samples.fields import typed
from preprocess.job.assembly import Assembly, ListAssembly
from preprocess.job.late import LateResults


class Extractor(LightningModule):
    """Base class of every pipeline.

    A new pipeline sets `samples`, defines `assemble` or `open_assembly`, and usually `extract`.

    Its constructor calls `self.save_hyperparameters()`: the arguments belong to the fingerprint of the run.

    Attributes:
        samples: the kind of sample that `assemble` returns.
        frames: which frames `extract` receives, and in what form; see `FrameRequest`.
        retry_invariants: dotted names of fields of the fingerprint that a retry must not change, because they decide
            the shapes or the fields of the samples. Samples of the run and of its retries are batched together.
        not_from_folder: options of the constructor that run code or send data elsewhere. A retry takes them from its
            command line only, not from the configuration in the run's folder, which may come from someone else. Each
            needs a default. A backend may have such a list, too, as captions' `ServedModel` has for `server.url`.
        reserved_fields: names of the fields that the pipeline writes to the json of a sample. An item whose corpus has
            a field of such a name fails.
        rank_device: where the models of this rank run; see `place`.
    """

    samples: SampleKind[Any]
    frames = FrameRequest()
    retry_invariants: tuple[str, ...] = ()
    not_from_folder: tuple[str, ...] = ()
    reserved_fields: frozenset[str] = frozenset()
    rank_device = torch.device("cpu")

    def place(self, device: torch.device) -> None:
        """Set the device of this rank's models. Called before `frames` and `provenance` are read.

        Loads nothing: weights are loaded in Lightning's `setup`, after the run is planned and joined.
        """
        self.rank_device = device

    def extract(self, batch: Batch) -> list[Any] | LateResults:
        """Return one result for each frame of `batch`, in order; by default what `FrameRequest.transform` returned.

        Results that a GPU still computes may be returned as `LateResults`, so that it gets the next batch before they
        are read.

        It may be called again for parts of the same batch; see `preprocess.job.extraction`.

        Raises:
            ExtractError: the frames cannot be processed. The frames of the batch are then tried one by one, and the
                items of those that fail again become failures.
        """
        return batch["results"]

    def validate(self, item: Item) -> None:
        """Check the corpus's metadata of `item` before a sample is made of it.

        Raises:
            ExtractError: no sample can be made of the item, whatever its frames are. By default: a corpus field is in
                `reserved_fields`, or its value does not have the type of the samples' field of that name.
        """
        if taken := next((name for name in item.meta if name in self.reserved_fields), None):
            raise ExtractError(
                f"corpus field {taken!r} collides with a field that this pipeline writes: rename or drop it"
            )
        typed(item.meta, (field for field in self.samples.fields if field.of_corpus))

    def check(self, item: Item) -> None:
        """Check `item` for `preprocess check`: what `validate` checks, and files other than those of the frames.

        Raises:
            ExtractError: the item would fail in a run.
        """
        self.validate(item)

    def open_assembly(self, item: Item, scratch: Callable[[], Path]) -> Assembly:
        """Return the assembly that collects the results of `item`. Called when its first frame has arrived.

        By default, a list keeps all results for `assemble`. A pipeline with large results, or with state that carries
        over from frame to frame, returns an `Assembly` of its own; `extract` finds it in `batch["assemblies"]`.

        Args:
            item: as planned.
            scratch: returns a folder on the run's disk that is removed with this process.

        Raises:
            ExtractError: the assembly cannot be opened. The item becomes a failure.
        """
        return ListAssembly(partial(self.assemble, item))

    def assemble(self, item: Item, results: Sequence[Any], summary: ItemSummary) -> Any:
        """Return the sample of `item`, made of the results of all its frames, in order.

        Args:
            item: as planned.
            results: results of `extract`, one for each frame.
            summary: summary of the item, sent with its last frames.

        Raises:
            ExtractError: no sample can be made of the results. The item becomes a failure.
        """
        raise NotImplementedError

    def draw_to(self, store: Store) -> None:
        """Make the run write a copy of each video, with its results drawn over it, to `videos/` in its store.

        Raises:
            ConfigError: this pipeline cannot draw videos.
        """
        raise ConfigError(f"{type(self).__name__} cannot draw videos. Leave --output.videos out")

    def status(self, sample: Any) -> str:
        """Return the status of a sample for the table: `ok`, or one word for what is wrong, for example `truncated`.

        `preprocess retry --class` accepts such a word. It must differ from the failure classes of `datamodules.errors`.
        """
        return OK

    def suggest_options(self) -> str | None:
        """Return text that suggests options for the rank's device, or None. `estimate` calls it after its run."""
        return None

    def provenance(self) -> dict[str, str]:
        """Return the versions and weights that change results, by name. They become part of the fingerprint."""
        return {}
