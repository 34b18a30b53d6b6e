"""Captions: what a vision-language model says about each image. Samples: `datamodules.samples.captions`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from datamodules.corpus import JSON_FILES, Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.loading.request import Batching, FrameRequest
from datamodules.media.stored import StoreImages, stored_as, stored_ending
from datamodules.samples.captions import CaptionSample, CaptionSamples
from preprocess.captioning.backend import CaptionBackend, require_json
from preprocess.captioning.caption import Caption
from preprocess.job.extractor import Extractor
from preprocess.job.fingerprint import described
from preprocess.prompts import PromptTemplate


class Answer(NamedTuple):
    """The result for one image: the prompt as it was filled in, and the caption."""

    prompt: str
    caption: Caption

    @property
    def num_tokens(self) -> int:
        """Number of generated tokens; added to the run's total."""
        return self.caption.num_tokens


class Captions(Extractor):
    """Captions of images by a vision-language model, on the rank's device or on a server.

    Args:
        backend: the model: `preprocess.captioning.local.LocalModel`, `preprocess.captioning.served.ServedModel`.
        prompt: what is asked about each image; `{name}` is a field of the image's JSON files, or of the corpus.
        batch_size: limit on the images of a batch.
        max_batch_tokens: limit on the tokens of a batch, prompts and images, as padded: the longest of the batch times
            their number; None: no limit. Only for models on the rank's device.
        max_batch_pixels: likewise, limit on the pixels that the model gets; None: no limit.
        batch_window: with a limit on tokens or pixels, the number of images that are sorted by size before batches are
            made of them (`batch_size` if that is larger); each worker holds so many in memory.
        store_images: keep each image in its sample, as `jpg`, `png` or `original`: see `datamodules/media/stored.py`.

    Raises:
        ConfigError: an argument is out of its range, or has no effect with this backend.
    """

    samples = CaptionSamples()
    retry_invariants = ("extractor.init_args.store_images",)
    reserved_fields = frozenset(
        {
            "model", "revision", "prompt", "system_prompt", "caption", "status", "num_tokens", "width", "height",
            "backend", "entities",
        }
    )  # fmt: skip

    def __init__(
        self,
        backend: CaptionBackend,
        prompt: str = "Describe this image.",
        batch_size: int = 8,
        max_batch_tokens: int | None = None,
        max_batch_pixels: int | None = None,
        batch_window: int = 32,
        store_images: StoreImages = False,
    ) -> None:
        super().__init__()
        limits = [limit for limit in (max_batch_tokens, max_batch_pixels) if limit is not None]
        if min(batch_size, batch_window, *limits) < 1:
            raise ConfigError(
                f"{batch_size = }, {batch_window = }, {max_batch_tokens = } and {max_batch_pixels = } must be 1 or more"
            )
        if limits and not backend.uses_batches:
            raise ConfigError(
                "--model.max_batch_tokens and --model.max_batch_pixels have no effect with "
                f"{type(backend).__name__}, which makes its own batches. Leave them out, or set them to null"
            )
        require_json("--model.prompt", prompt)
        self.save_hyperparameters(ignore=["backend"])  # which cannot be copied and pickled, as Lightning would do
        self.hparams["backend"] = described(backend)
        self.backend = backend
        self._store = self.hparams["store_images"] = stored_as(store_images)
        self._prompt = PromptTemplate(prompt)
        window = max(batch_window, batch_size)
        self.frames = FrameRequest(
            slice_frames=batch_size,
            transform=backend.transform(self._prompt),
            store=self._store,
            batching=Batching(window, max_batch_pixels, max_batch_tokens) if limits else None,
        )

    def setup(self, stage: str) -> None:
        """Load the weights onto the rank's device, if the model runs there."""
        self.backend.load(self.rank_device)

    def provenance(self) -> dict[str, str]:
        """Return the weights of the model, and the versions of what runs it."""
        return self.backend.provenance()

    def extract(self, batch: Batch) -> list[Any]:
        """Return an `Answer` for each image, or the ExtractError that says why there is none."""
        images = batch["results"]
        return [
            caption if isinstance(caption, ExtractError) else Answer(image.prompt, caption)
            for image, caption in zip(images, self.backend.captions(images), strict=True)
        ]

    def validate(self, item: Item) -> None:
        """Check that `item` is one image, and that its fields can be kept.

        Raises:
            ExtractError: it is not one image; or see `Extractor.validate`.
        """
        if len(item.frames) != 1:
            raise ExtractError(f"{item.path} is not a single image, and only these get captions")
        super().validate(item)

    def check(self, item: Item) -> None:
        """Check what `validate` checks, and that the prompt can be filled in.

        Raises:
            ExtractError: see `validate`; or the item's JSON files lack a field of the prompt.
        """
        self.validate(item)
        self._prompt(item)

    def assemble(self, item: Item, results: Sequence[Answer], summary: ItemSummary) -> CaptionSample:
        """Return the caption, how it was made, and the image if that is to be stored."""
        ((prompt, caption),) = results
        assert summary.size is not None
        meta = {
            "image": item.image,
            **{name: value for name, value in item.meta.items() if name != JSON_FILES},
            "model": self.backend.model,
            "revision": self.backend.commit,
            "prompt": prompt,
            "system_prompt": self.backend.system_prompt,
            "status": caption.status,
            "num_tokens": caption.num_tokens,
            "height": summary.size[0],
            "width": summary.size[1],
            "backend": self.backend.name,
        }
        if caption.entities is not None:
            meta["entities"] = caption.entities
        ending = self._store and stored_ending(item.frames[0], self._store)
        return CaptionSample(item.key, caption.text, meta, summary.content, ending)

    def status(self, sample: CaptionSample) -> str:
        """Return `ok`, `truncated` or `empty`."""
        return str(sample.meta["status"])
