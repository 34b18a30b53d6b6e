"""Captions by a model on the rank's device: any checkpoint that transformers loads as `AutoModelForImageTextToText`."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from typing import Any, Literal

import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.model_errors import reason
from preprocess.captioning.answers import is_mark, opening_mark, read_caption
from preprocess.captioning.backend import CaptionBackend
from preprocess.captioning.caption import Caption
from preprocess.captioning.generation import (
    fix_positions,
    generation_config,
    remove_forced_ends,
    seeded_by,
    without_prompt,
)
from preprocess.captioning.inputs import LocalTransform, collate, unpack
from preprocess.captioning.prepared import Prepared
from preprocess.captioning.size_limit import SizeLimit
from preprocess.captioning.vision_language import find_model, processor_of
from preprocess.checkpoints.dtypes import Dtype, require_dtype
from preprocess.float32 import without_tf32

Quantization = Literal["8bit", "4bit"]

_TRUSTED_KERNELS = "kernels-community/"  # transformers trusts this owner, too
_GROUNDED = "kosmos-2"
_LIBRARIES = ("transformers", "tokenizers", "torchvision")  # whose versions change captions
_TRIAL_PROMPT = "Describe this image."


class LocalModel(CaptionBackend):
    """A model on the rank's device. Each rank loads its weights once.

    Args:
        model: a folder with the model and its processor, or a name on the Hugging Face hub.
        revision: of the model on the hub: branch, tag or commit; None: its main branch.
        dtype: of the weights; `auto`: as the checkpoint says. float32 does not use TF32 on a GPU.
        attn_implementation: of transformers: `sdpa`, `eager`, `flash_attention_2`, …; None: its choice. A kernel on the
            hub, as `owner/name`, is code: it needs `trust_remote_code`, unless its owner is `kernels-community`.
        quantization: of the weights, by bitsandbytes; None: none.
        trust_remote_code: run code that the checkpoint brings, or a kernel.
        system_prompt: text before the prompt, for models with a chat template; None: none.
        chat_template_kwargs: variables of the chat template, for example {"enable_thinking": false}; None: none.
        max_new_tokens: limit on the tokens of a caption, the thoughts of a reasoning model included. A longer caption
            is cut off and gets the status `truncated`; an image whose thoughts take all of them fails.
        num_beams: of beam search; 1: none.
        temperature: of sampling; 0: always the likeliest token.
        max_pixels: limit on an image's pixels, for processors that count them: Qwen's. None: the processor's own.
        longest_edge: limit on an image's longer side in px, for processors that measure it: Idefics2's, SmolVLM's.
            None: the processor's own.

    Raises:
        ConfigError: the checkpoint cannot be found or used; an option is out of its range, or one that this checkpoint
            does not have; or captions could be longer than the model's context.
    """

    name = "transformers"
    not_from_folder = ("trust_remote_code",)

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        dtype: Dtype = "auto",
        attn_implementation: str | None = None,
        quantization: Quantization | None = None,
        trust_remote_code: bool = False,
        system_prompt: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        max_new_tokens: int = 128,
        num_beams: int = 1,
        temperature: float = 0.0,
        max_pixels: int | None = None,
        longest_edge: int | None = None,
    ) -> None:
        super().__init__(
            model, system_prompt, chat_template_kwargs, max_new_tokens, temperature, max_pixels, longest_edge
        )
        if num_beams < 1:
            raise ConfigError(f"{num_beams = } must be 1 or more")
        _require_loadable(dtype, attn_implementation, quantization, trust_remote_code)
        self.revision, self.dtype, self.attn_implementation = revision, dtype, attn_implementation
        self.quantization, self.trust_remote_code, self.num_beams = quantization, trust_remote_code, num_beams

        self._folder = find_model(model, revision, trust_remote_code)
        config = self._folder.config()
        self._torch_dtype = self._folder.dtype(dtype)
        self._max_input_tokens = self._room_for_input(
            getattr(config.get_text_config(), "max_position_embeddings", None)
        )
        self._is_grounded = config.model_type == _GROUNDED
        trial = self.transform(lambda item: _TRIAL_PROMPT)()
        self._require_usable(trial)
        self._opening_mark = opening_mark(trial.text(_TRIAL_PROMPT))
        self._processor = processor_of(self._folder)
        vocabulary = self._processor.tokenizer.get_vocab()
        self._marks = {token: text for text, token in vocabulary.items() if is_mark(text)}
        self._model: Any = None

    @property
    def commit(self) -> str | None:
        """See `CaptionBackend`."""
        return self._folder.commit

    def transform(self, fill: Callable[[Item], str]) -> Callable[[], LocalTransform]:
        """See `CaptionBackend`."""
        return partial(
            LocalTransform,
            self._folder,
            fill,
            self.system_prompt,
            self.chat_template_kwargs or {},
            SizeLimit(self.max_pixels, self.longest_edge),
            self._torch_dtype,
            self._max_input_tokens,
        )

    def load(self, device: torch.device) -> None:
        """See `CaptionBackend`."""
        self._model = self._folder.load(
            AutoModelForImageTextToText,
            self.dtype,
            device,
            allow_unexpected=True,  # some checkpoints have heads that make no captions
            attn_implementation=self.attn_implementation,
            **self._quantized(device),
        )
        remove_forced_ends(self._model)
        self._generation = generation_config(
            self._model, self._processor.tokenizer, self.max_new_tokens, self.num_beams, self.temperature
        )
        if self._is_grounded:
            fix_positions(self._model.text_model)

    def captions(self, inputs: Sequence[Prepared]) -> list[Caption | ExtractError]:
        """See `CaptionBackend`."""
        return [self._caption_or_error(tokens) for tokens in self.generate(inputs)]

    @torch.inference_mode()
    @without_tf32()
    def generate(self, inputs: Sequence[Prepared]) -> list[list[int]]:
        """Return the tokens that the model generates for each image of one batch.

        A caption that ends before the longest of its batch is followed by padding.
        """
        device = self._model.device
        unpacked = [{name: unpack(value, device) for name, value in image.inputs.items()} for image in inputs]
        batch = collate(unpacked, self._generation.pad_token_id)
        with seeded_by(batch, device) if self.temperature else nullcontext():
            output = self._model.generate(**batch, generation_config=self._generation)
        generated = without_prompt(output, batch["input_ids"], self._model.config.is_encoder_decoder)
        tokens: list[list[int]] = generated.tolist()
        return tokens

    def caption(self, tokens: list[int]) -> Caption:
        """Return the caption in `tokens`, up to the first end mark.

        Raises:
            ExtractError: the model only thought, or was stopped before it gave any text.
        """
        ends = [tokens.index(end) for end in self._generation.eos_token_id or () if end in tokens]
        generated = tokens[: min(ends, default=len(tokens))]
        text, entities = self._opening_mark + self._decoded(generated), None
        if self._is_grounded:
            text, located = self._processor.post_process_generation(text)
            entities = [
                {"text": phrase, "begin": begin, "end": end, "boxes": [list(box) for box in boxes]}
                for phrase, (begin, end), boxes in located
            ]
        return replace(read_caption(text, len(generated), is_cut_off=not ends), entities=entities)

    def provenance(self) -> dict[str, str]:
        """See `CaptionBackend`."""
        quantizer = ("bitsandbytes",) if self.quantization else ()
        versions = {name: version(name) for name in (*_LIBRARIES, *quantizer)}
        return {"weights": self._folder.identity(), **versions}

    def _caption_or_error(self, tokens: list[int]) -> Caption | ExtractError:
        try:
            return self.caption(tokens)
        except ExtractError as error:
            return error

    def _decoded(self, tokens: list[int]) -> str:
        """Return the text of `tokens` without the tokenizer's special tokens, but with the marks of thoughts."""
        decode = self._processor.tokenizer.decode
        parts = groupby(tokens, key=self._marks.get)
        return "".join(mark or decode(list(others), skip_special_tokens=True) for mark, others in parts)

    def _room_for_input(self, context: int | None) -> int | None:
        """Return how many tokens the prompt and the image may have, in a context of so many; None: any number."""
        if not context:
            return None
        if self.max_new_tokens >= context:
            raise ConfigError(
                f"--model.backend.max_new_tokens {self.max_new_tokens}: {self.model} takes {context:,} tokens in all, "
                "prompt and image among them. Set a smaller number"
            )
        return context - self.max_new_tokens

    def _require_usable(self, transform: LocalTransform) -> None:
        """Prepare a gray image.

        Raises:
            ConfigError: the processor does not give what batches are made of.
        """
        try:
            transform.prepare(_TRIAL_PROMPT, torch.full((3, 64, 64), 128, dtype=torch.uint8))
        except ExtractError:  # the processor works, though not for this image
            pass
        except (LookupError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:  # also of absurd sizes
            raise ConfigError(
                f"--model.backend.model {self.model}: its processor does not make input_ids and pixel_values of an "
                f"image and a text ({reason(error)}). Use another model"
            ) from error

    def _quantized(self, device: torch.device) -> dict[str, Any]:
        """Return the options of `from_pretrained` that quantize the weights, if that is requested."""
        if self.quantization is None:
            return {}
        is_8bit = self.quantization == "8bit"
        make: Any = BitsAndBytesConfig
        config = make(load_in_8bit=is_8bit, load_in_4bit=not is_8bit, bnb_4bit_compute_dtype=self._torch_dtype)
        return {"quantization_config": config, "device_map": {"": device}}


def _require_loadable(
    dtype: str, attn_implementation: str | None, quantization: str | None, trust_remote_code: bool
) -> None:
    """Raise ConfigError unless weights can be loaded with these options, as far as can be said before."""
    require_dtype(dtype, "--model.backend.dtype")
    if quantization not in (None, "8bit", "4bit"):
        raise ConfigError(f"--model.backend.quantization {quantization} is not one of 8bit, 4bit, null")
    if missing := [name for name in ("bitsandbytes", "accelerate") if quantization and not find_spec(name)]:
        raise ConfigError(
            f"--model.backend.quantization {quantization} needs {' and '.join(missing)}: "
            "pip install 'framemill[quantization]'"
        )
    if attn_implementation and "/" in attn_implementation.removeprefix(_TRUSTED_KERNELS) and not trust_remote_code:
        raise ConfigError(
            f"--model.backend.attn_implementation {attn_implementation} is code from the Hugging Face hub. If you "
            "trust it, set --model.backend.trust_remote_code true"
        )
