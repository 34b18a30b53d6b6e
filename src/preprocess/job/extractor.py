"""The extractor: a LightningModule that turns frames into results, and results into samples."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.loading.frames import Batch, End, FrameRequest
from datamodules.run.commit import OK
from datamodules.run.rank import Rank
from datamodules.samples import SampleKind
from datamodules.samples.fields import typed


class Extractor(LightningModule):
    """Base of every pipeline. A new one sets `samples`, and defines `extract` and `assemble`.

    Its constructor calls `self.save_hyperparameters()`: the arguments belong to the fingerprint of the run.

    Attributes:
        samples: the kind of sample that `assemble` makes.
        frames: how it wants its frames; see `FrameRequest`.
        fixed: fields of the fingerprint, named with dots, that say of what form its samples are: a retry, whose samples
            come into batches with the others, cannot change them.
        not_from_folder: options that run code or send data elsewhere, such as `server.url`. A retry takes them from
            its command line only, not from the configuration in the run's folder, which may come from someone else.
            Each needs a default.
        told: names in the json of its samples that the pipeline tells itself, so that a corpus cannot.
        rank: this process's part in the run; given by its writer, as is
        extraction: calls `extract`.
    """

    samples: SampleKind[Any]
    rank: Rank
    extraction: Callable[[Batch], list[Any]]
    frames = FrameRequest()
    fixed: tuple[str, ...] = ()
    not_from_folder: tuple[str, ...] = ()
    told: frozenset[str] = frozenset()

    def extract(self, batch: Batch) -> list[Any]:
        """One result for each frame of `batch`, in its order; by default what the workers made of them.

        It may be called again for parts of the same batch; see `preprocess.job.extraction`.

        Raises:
            ExtractError: the frames cannot be handled. A batch of several frames is then tried one by one, and the
                items of those that fail again become failures.
        """
        return batch["results"]

    def refuse(self, item: Item) -> None:
        """Nothing, if a sample can be made of `item` as far as the corpus tells.

        Raises:
            ExtractError: it cannot, whatever its frames are; here, because the corpus gives a field that is in `told`,
                or one whose value does not fit the samples' field of that name.
        """
        if taken := next((name for name in item.meta if name in self.told), None):
            raise ExtractError(f"its corpus tells its {taken!r}, which is the sample's own here: leave it out")
        typed(item.meta, (field for field in getattr(self.samples, "fields", ()) if field.of_corpus))

    def check(self, item: Item) -> None:
        """What `preprocess check` asks: as `refuse`, and whatever a run looks for in other files than the frames'.

        Raises:
            ExtractError: a run would fail it.
        """
        self.refuse(item)

    def assemble(self, item: Item, results: Sequence[Any], end: End) -> Any:
        """The sample of `item`, from the results of all its frames in order; `end` says what is known of them.

        Raises:
            ExtractError: no sample can be made of them; the item becomes a failure.
        """
        raise NotImplementedError

    def forget(self, shard: int, row: int) -> None:
        """Drop what is kept of an item's frames between calls of `extract`, if anything: no more of them will come."""

    def draw_to(self, folder: Path) -> None:
        """Draw each video's results over it, into `folder`, while the run goes on.

        Raises:
            ConfigError: this pipeline cannot.
        """
        raise ConfigError(f"{type(self).__name__} draws no videos: leave --output.videos out")

    def status(self, sample: Any) -> str:
        """What the table says of a sample: `ok`; or, in a word, what is the matter with it, as `truncated`.

        `preprocess retry --class` takes such a word. It is none of the classes of `datamodules.errors`.
        """
        return OK

    def propose(self) -> str | None:
        """Options that would suit the rank's device, for people; None: none. After a sample has been run."""
        return None

    def ingredients(self) -> dict[str, str]:
        """Versions and weights that change results, by name, for the fingerprint."""
        return {}

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Any]:
        """What became of each frame of `batch`: `preprocess.job.extraction.Outcome`."""
        return self.extraction(batch)
