"""Captions: what a vision-language model says of each image. Samples: `datamodules.samples.captions`."""

import json
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from datamodules.corpus import JSON_FILES, Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.loading.request import Batching, FrameRequest
from datamodules.media.stored import StoreImages, stored_as, stored_ending
from datamodules.printable import printable
from datamodules.samples.captions import CaptionSample, CaptionSamples
from preprocess.captioning.caption import Caption
from preprocess.captioning.engine import Engine
from preprocess.captioning.served import Generation as ServedGeneration
from preprocess.captioning.served import ServedEngine, Server
from preprocess.captioning.served import SizeLimit as ServedLimit
from preprocess.job.extractor import Extractor
from preprocess.prompts import PromptTemplate

_SERVER = Server()
_KERNELS = "kernels-community/"  # which transformers trusts, too
_LOCAL_ONLY = ("num_beams", "dtype", "attn_implementation", "quantization", "trust_remote_code", "revision")


class Answer(NamedTuple):
    """What became of an image: the prompt as it was filled in, and what was said."""

    prompt: str
    caption: Caption

    @property
    def num_tokens(self) -> int:
        """That were generated; the run counts them."""
        return self.caption.num_tokens


class Captions(Extractor):
    """A model that transformers loads as `AutoModelForImageTextToText`, on the rank's device; or one on a server.

    Args:
        model: a folder with the model and its processor, or its name on the Hugging Face hub; or as a server calls it.
        prompt: what is asked of each image; `{name}` is a field of its JSON files, or what the corpus tells.
        system_prompt: None: none. Only for models with a chat template.
        chat_template_kwargs: variables of the chat template, for example {"enable_thinking": false}; None: none.
        max_new_tokens: of a caption, the thoughts of a reasoning model included; longer captions are cut off, and their
            status is `truncated`. An image whose thoughts take all of them fails.
        num_beams: of beam search; 1: none.
        temperature: of sampling; 0: always the likeliest token.
        batch_size: images in a batch, at most.
        max_batch_tokens: of prompts and images, as padded: the longest of the batch times their number; None: any.
        max_batch_pixels: likewise, as the model sees them; None: any.
        batch_window: with such a limit, so many images, or `batch_size` if that is more, are sorted by size before
            they are put together; each worker holds as many in memory.
        max_pixels: images are made smaller than this, by processors that count pixels: Qwen's; None: as it says.
        longest_edge: likewise, px, by those that look at the longer side: Idefics2's, SmolVLM's.
        dtype: of the weights; `auto`: as the checkpoint says.
        attn_implementation: of transformers: `sdpa`, `eager`, `flash_attention_2`, …; None: its choice. A kernel on the
            hub, as `owner/name`, is code: it needs `trust_remote_code`, unless its owner is `kernels-community`.
        quantization: of the weights, by bitsandbytes; None: none.
        trust_remote_code: run code that the checkpoint brings, or a kernel.
        revision: of the model on the hub: branch, tag or commit; None: its main branch.
        store_images: keep each image in its sample, as `jpg`, `png` or `original`: see `datamodules/media/stored.py`.
        backend: `transformers`: on the rank's device; `openai`: on a server.
        server: where that is.

    Raises:
        ConfigError: an argument is none of these; or the model is not there, or cannot be used.
    """

    samples = CaptionSamples()
    retry_invariants = ("extractor.init_args.store_images",)
    not_from_folder = ("trust_remote_code", "server.url", "server.api_key_env")
    reserved_fields = frozenset({"model", "revision", "prompt", "system_prompt", "caption", "status", "num_tokens"}) | {
        "width",
        "height",
        "backend",
        "entities",
    }

    def __init__(
        self,
        model: str,
        prompt: str = "Describe this image.",
        system_prompt: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        max_new_tokens: int = 128,
        num_beams: int = 1,
        temperature: float = 0.0,
        batch_size: int = 8,
        max_batch_tokens: int | None = None,
        max_batch_pixels: int | None = None,
        batch_window: int = 32,
        max_pixels: int | None = None,
        longest_edge: int | None = None,
        dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
        attn_implementation: str | None = None,
        quantization: Literal["8bit", "4bit"] | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        store_images: StoreImages = False,
        backend: Literal["transformers", "openai"] = "transformers",
        server: Server = _SERVER,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["server"])
        self._store = self.hparams["store_images"] = stored_as(store_images)
        limits = (max_batch_tokens, max_batch_pixels, max_pixels, longest_edge)
        if min(batch_size, batch_window, max_new_tokens, *(limit for limit in limits if limit is not None)) < 1:
            raise ConfigError(
                f"{batch_size = }, {batch_window = }, {max_new_tokens = }, {max_batch_tokens = }, {max_batch_pixels = }"
                f", {max_pixels = } and {longest_edge = } must be 1 or more"
            )
        if not 0 <= temperature < math.inf:
            raise ConfigError(f"{temperature = } must be 0 or more, and finite")
        _require_json(prompt=prompt, system_prompt=system_prompt, chat_template_kwargs=chat_template_kwargs)
        if attn_implementation and "/" in attn_implementation.removeprefix(_KERNELS) and not trust_remote_code:
            raise ConfigError(
                f"--model.attn_implementation {attn_implementation} is code of the Hugging Face hub: if you trust it, "
                "set --model.trust_remote_code true"
            )
        self.commit: str | None = None
        self._prompt = PromptTemplate(prompt)
        self.engine: Engine = self._local() if backend == "transformers" else self._served(server)
        limited = backend == "transformers" and (max_batch_tokens or max_batch_pixels)
        window = max(batch_window, batch_size)
        self.frames = FrameRequest(
            slice_frames=batch_size,
            transform=self.engine.transform,
            store=self._store,
            batching=Batching(window, max_batch_pixels, max_batch_tokens) if limited else None,
        )

    def _local(self) -> Engine:
        from preprocess.captioning.inputs import SizeLimit
        from preprocess.captioning.local import Generation, LocalEngine, Weights
        from preprocess.captioning.vision_language import find_model

        wanted = self.hparams
        weights = Weights(wanted["dtype"], wanted["attn_implementation"], wanted["quantization"])
        generation = Generation(wanted["max_new_tokens"], wanted["num_beams"], wanted["temperature"])
        limit = SizeLimit(wanted["max_pixels"], wanted["longest_edge"])
        checkpoint = find_model(wanted["model"], wanted["revision"], wanted["trust_remote_code"])
        self.commit = checkpoint.commit
        template = wanted["chat_template_kwargs"] or {}
        return LocalEngine(checkpoint, self._prompt, wanted["system_prompt"], template, limit, weights, generation)

    def _served(self, server: Server) -> Engine:
        wanted, usual = self.hparams, {"num_beams": 1, "dtype": "auto"}
        if given := [name for name in _LOCAL_ONLY if wanted[name] not in (None, False, usual.get(name))]:
            raise ConfigError(
                f"--model.{given[0]} {wanted[given[0]]} is for backend transformers: tell the server itself"
            )
        template = wanted["chat_template_kwargs"] or {}
        generation = ServedGeneration(
            wanted["system_prompt"], template, wanted["max_new_tokens"], wanted["temperature"]
        )
        limit = ServedLimit(wanted["max_pixels"], wanted["longest_edge"])
        return ServedEngine(wanted["model"], server, self._prompt, generation, limit)

    def setup(self, stage: str) -> None:
        """Load the weights onto the rank's device, if the model runs there."""
        load = getattr(self.engine, "load", None)
        if load:
            load(self.trainer.strategy.root_device)

    def provenance(self) -> dict[str, str]:
        """What the model is, and the versions of what runs it."""
        return self.engine.provenance()

    def extract(self, batch: Batch) -> list[Any]:
        """An `Answer` for each image; or why there is none."""
        prepared = batch["results"]
        return [
            caption if isinstance(caption, ExtractError) else Answer(each.prompt, caption)
            for each, caption in zip(prepared, self.engine.captions(prepared), strict=True)
        ]

    def validate(self, item: Item) -> None:
        """Nothing, if it is one image, and what else is told of it can be kept.

        Raises:
            ExtractError: it is none; or the corpus tells of it what has another meaning here.
        """
        if len(item.frames) != 1:
            raise ExtractError(f"{item.path} is no single image, and captions are made of these")
        super().validate(item)

    def check(self, item: Item) -> None:
        """As `validate`; and its prompt is filled in.

        Raises:
            ExtractError: likewise; or its JSON files do not have what the prompt is made of.
        """
        self.validate(item)
        self._prompt(item)

    def assemble(self, item: Item, results: Sequence[Answer], summary: ItemSummary) -> CaptionSample:
        """The caption, how it was made, and the image if that is to be stored."""
        ((prompt, caption),) = results
        assert summary.size is not None
        told = {
            "image": item.image,
            **{name: value for name, value in item.meta.items() if name != JSON_FILES},
            "model": self.hparams["model"],
            "revision": self.commit,
            "prompt": prompt,
            "system_prompt": self.hparams["system_prompt"],
            "status": caption.status,
            "num_tokens": caption.num_tokens,
            "height": summary.size[0],
            "width": summary.size[1],
            "backend": self.hparams["backend"],
        }
        if caption.entities is not None:
            told["entities"] = caption.entities
        ending = self._store and stored_ending(item.frames[0], self._store)
        return CaptionSample(item.key, caption.text, told, summary.content, ending)

    def status(self, sample: CaptionSample) -> str:
        """`ok`, `truncated` or `empty`."""
        return str(sample.meta["status"])


def _require_json(**options: Any) -> None:
    """Raise ConfigError for an option that a request, in JSON and UTF-8, cannot hold: NaN, a date, a lone surrogate."""
    for name, value in options.items():
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"--model.{name} {printable(repr(value))[:200]} cannot be sent as JSON: {error}"
            ) from error
