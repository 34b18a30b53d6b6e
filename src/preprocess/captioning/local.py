"""Captions by a model on the rank's device: any checkpoint that transformers loads as `AutoModelForImageTextToText`."""

import copy
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, wraps
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.model_errors import reason
from preprocess.captioning.answers import is_mark, opening_mark, read_caption
from preprocess.captioning.caption import Caption
from preprocess.captioning.inputs import LocalTransform, SizeLimit, collate, unpack
from preprocess.captioning.prepared import Prepared
from preprocess.captioning.vision_language import processor_of
from preprocess.checkpoints.dtypes import Dtype, require_dtype
from preprocess.checkpoints.model_folder import ModelFolder

_GROUNDED = "kosmos-2"
_DECIDE = ("transformers", "tokenizers", "torchvision")


@dataclass(frozen=True)
class Weights:
    """How the weights are held.

    Attributes:
        dtype: `auto`: as the checkpoint says.
        attn_implementation: of transformers: `sdpa`, `eager`, `flash_attention_2`, …; None: its choice.
        quantization: by bitsandbytes; None: none.
    """

    dtype: Dtype = "auto"
    attn_implementation: str | None = None
    quantization: Literal["8bit", "4bit"] | None = None

    def __post_init__(self) -> None:
        require_dtype(self.dtype, "--model.dtype")
        if self.quantization not in (None, "8bit", "4bit"):
            raise ConfigError(f"--model.quantization {self.quantization}: use 8bit, 4bit or null")
        missing = [name for name in ("bitsandbytes", "accelerate") if self.quantization and not find_spec(name)]
        if missing:
            raise ConfigError(
                f"--model.quantization {self.quantization} needs {' and '.join(missing)}: "
                "pip install 'framemill[quantization]'"
            )


@dataclass(frozen=True)
class Generation:
    """How a caption is generated.

    Attributes:
        max_new_tokens: at most.
        num_beams: of beam search; 1: none.
        temperature: of sampling; 0: always the likeliest token.
    """

    max_new_tokens: int = 128
    num_beams: int = 1
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.num_beams < 1 or self.temperature < 0:
            raise ConfigError(
                f"max_new_tokens = {self.max_new_tokens} and num_beams = {self.num_beams} must be 1 or more, "
                f"temperature = {self.temperature} 0 or more"
            )


class LocalEngine:
    """A checkpoint; its weights are loaded by `load`, on the rank alone.

    Args:
        checkpoint: the model.
        fill: the prompt for an item; it goes to other processes.
        system_prompt: None: none.
        chat_template_kwargs: variables of the chat template, for example {"enable_thinking": False}.
        limit: of the images' size.
        weights: how they are held.
        generation: how captions are generated.

    Attributes:
        transform: makes a `LocalTransform`.

    Raises:
        ConfigError: the processor cannot be used so; or captions would be longer than the model's context.
    """

    def __init__(
        self,
        checkpoint: ModelFolder,
        fill: Callable[[Item], str],
        system_prompt: str | None,
        chat_template_kwargs: Mapping[str, Any],
        limit: SizeLimit,
        weights: Weights,
        generation: Generation,
    ) -> None:
        config = checkpoint.config()
        self._dtype = checkpoint.dtype(weights.dtype)
        context = getattr(config.get_text_config(), "max_position_embeddings", None)
        if context and generation.max_new_tokens >= context:
            raise ConfigError(
                f"--model.max_new_tokens {generation.max_new_tokens}: {checkpoint.name} takes {context:,} tokens in "
                "all, prompt and image among them"
            )
        max_tokens = context - generation.max_new_tokens if context else None
        self.transform = partial(
            LocalTransform, checkpoint, fill, system_prompt, chat_template_kwargs, limit, self._dtype, max_tokens
        )
        self._checkpoint, self._weights, self._wanted = checkpoint, weights, generation
        transform = self.transform()
        self._try(transform)  # whatever is wrong with it shows now
        self._opening_mark = opening_mark(transform.text("Describe this image."))
        self._processor = processor_of(checkpoint)
        vocabulary = self._processor.tokenizer.get_vocab()
        self._marks = {token: text for text, token in vocabulary.items() if is_mark(text)}
        self._is_grounded = config.model_type == _GROUNDED
        self._model: Any = None

    def provenance(self) -> dict[str, str]:
        """What the weights are, and the versions of what uses them."""
        quantizer = ("bitsandbytes",) if self._weights.quantization else ()
        return {"weights": self._checkpoint.identity(), **{name: version(name) for name in (*_DECIDE, *quantizer)}}

    def load(self, device: torch.device) -> None:
        """Load the weights, onto `device`.

        Raises:
            ConfigError: they are not all there, or do not fit the configuration, the memory or the options.
        """
        self._model = self._checkpoint.load(
            AutoModelForImageTextToText,
            self._weights.dtype,
            device,
            allow_unexpected=True,  # some checkpoints have heads that make no captions
            attn_implementation=self._weights.attn_implementation,
            **self._quantized(device),
        )
        _force_no_ends(self._model)
        self._generation = self._generation_config()
        if self._is_grounded:
            _number_places(self._model.text_model)

    def captions(self, inputs: Sequence[Prepared]) -> list[Caption | ExtractError]:
        """Return the captions of one batch, in order; an ExtractError where a model gave none, see `caption`."""
        return [self._caption(tokens) for tokens in self.generate(inputs)]

    @torch.inference_mode()
    def generate(self, inputs: Sequence[Prepared]) -> list[list[int]]:
        """The tokens that the model answers with to each of one batch, and what it is made to say after its end."""
        device = self._model.device
        unpacked = [{name: unpack(value, device) for name, value in each.inputs.items()} for each in inputs]
        batch = collate(unpacked, self._generation.pad_token_id)
        with self._seeded(batch):
            output = self._model.generate(**batch, generation_config=self._generation)
        answer: list[list[int]] = self._without_prompt(output, batch["input_ids"]).tolist()
        return answer

    def caption(self, tokens: list[int]) -> Caption:
        """Return the caption in `tokens`, up to the first end mark.

        Raises:
            ExtractError: the model only thought, or was stopped before it gave any text.
        """
        ends = [tokens.index(end) for end in self._generation.eos_token_id or () if end in tokens]
        generated = tokens[: min(ends, default=len(tokens))]
        text, entities = self._opening_mark + self._decoded(generated), None
        if self._is_grounded:
            text, found = self._processor.post_process_generation(text)
            entities = [
                {"text": phrase, "begin": begin, "end": end, "boxes": [list(box) for box in boxes]}
                for phrase, (begin, end), boxes in found
            ]
        return replace(read_caption(text, len(generated), is_cut=not ends), entities=entities)

    def _caption(self, tokens: list[int]) -> Caption | ExtractError:
        try:
            return self.caption(tokens)
        except ExtractError as error:
            return error

    def _decoded(self, tokens: list[int]) -> str:
        """The text of `tokens` without the tokenizer's special tokens, except those that are marks of thoughts."""
        decode = self._processor.tokenizer.decode
        parts = groupby(tokens, key=self._marks.get)
        return "".join(mark or decode(list(others), skip_special_tokens=True) for mark, others in parts)

    def _try(self, transform: LocalTransform) -> None:
        """Prepare a gray image.

        Raises:
            ConfigError: the processor does not give what is made into batches.
        """
        try:
            transform.prepare("Describe this image.", torch.full((3, 64, 64), 128, dtype=torch.uint8))
        except ExtractError:  # of this image alone, as far as can be told
            pass
        except (LookupError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:  # absurd sizes among it
            raise ConfigError(
                f"--model.model {self._checkpoint.name}: its processor does not make input_ids and pixel_values of an "
                f"image and a text ({reason(error)}): use another model"
            ) from error

    def _quantized(self, device: torch.device) -> dict[str, Any]:
        if self._weights.quantization is None:
            return {}
        is_8bit = self._weights.quantization == "8bit"
        make: Any = BitsAndBytesConfig
        config = make(load_in_8bit=is_8bit, load_in_4bit=not is_8bit, bnb_4bit_compute_dtype=self._dtype)
        return {"quantization_config": config, "device_map": {"": device}}

    def _generation_config(self) -> Any:
        """The checkpoint's own, but for how long captions are and how they are searched for."""
        config, tokenizer = copy.deepcopy(self._model.generation_config), self._processor.tokenizer
        sampling = self._wanted.temperature > 0
        config.update(
            max_new_tokens=self._wanted.max_new_tokens,
            max_length=None,
            max_time=None,
            num_beams=self._wanted.num_beams,
            num_return_sequences=1,
            do_sample=sampling,
            temperature=self._wanted.temperature if sampling else None,
            return_dict_in_generate=False,
        )
        if not sampling:
            config.update(top_k=None, top_p=None, min_p=None, typical_p=None)
        ends = config.eos_token_id
        ends = [ends] if isinstance(ends, int) else list(ends or ())
        if tokenizer.eos_token_id not in (
            None,
            *ends,
        ):  # a fine-tuned checkpoint may lack the mark of its chat template
            ends.append(tokenizer.eos_token_id)
        config.eos_token_id = ends or None
        known = (tokenizer.pad_token_id, config.pad_token_id, *ends, 0)
        config.pad_token_id = next(token for token in known if token is not None)
        return config

    def _without_prompt(self, output: Tensor, prompt: Tensor) -> Tensor:
        """What of `output` the model has said: all but the prompt, or the mark that a decoder begins with."""
        if self._model.config.is_encoder_decoder:
            return output[:, 1:]
        num_tokens = prompt.shape[1]
        return output[:, num_tokens:] if torch.equal(output[:, :num_tokens], prompt) else output

    @contextmanager
    def _seeded(self, batch: Mapping[str, Tensor]) -> Iterator[None]:
        """What is drawn at random depends on the batch alone, and leaves other random numbers as they were."""
        if not self._wanted.temperature:
            yield
            return
        seed = 0
        for value in batch.values():
            seed = zlib.crc32(value.contiguous().cpu().view(torch.uint8).numpy().data, seed)
        with torch.random.fork_rng([self._model.device] if self._model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield


def _force_no_ends(model: Any) -> None:
    """Let no caption that is cut off end as if it were whole; `generate` takes what is None from the model again."""
    for part in model.modules():  # some generate by the configuration of their language model
        if config := getattr(part, "generation_config", None):
            config.forced_eos_token_id = None


def _number_places(text_model: Any) -> None:
    """Give Kosmos-2 the place of each token; its own count is off by the padding from the second new token on."""
    prepare, padding = text_model.prepare_inputs_for_generation, text_model.config.pad_token_id

    @wraps(prepare)  # generate looks at its arguments
    def numbered(input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = prepare(input_ids, attention_mask=attention_mask, **kwargs)
        if attention_mask is None:  # nothing is padded
            return inputs
        places = padding + attention_mask.cumsum(1) * attention_mask
        return {**inputs, "position_ids": places[:, -inputs["input_ids"].shape[1] :]}

    text_model.prepare_inputs_for_generation = numbered
