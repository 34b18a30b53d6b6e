"""What a local model is given: made of each image in the workers, unpadded, and put together on the rank."""

import re
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.model_errors import reason
from preprocess.captioning.prepared import Prepared
from preprocess.captioning.vision_language import processor_of
from preprocess.checkpoints.model_folder import ModelFolder

# a template is a program; transformers runs it in jinja's sandbox
_TEMPLATE_ERRORS = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError
)  # fmt: skip


class SizeLimit(NamedTuple):
    """How large images may be, in px, as the processor of a model is told; None: as its checkpoint says.

    Attributes:
        max_pixels: of those that count pixels: Qwen's.
        longest_edge: of those that look at the longer side: Idefics2's, SmolVLM's.
    """

    max_pixels: int | None = None
    longest_edge: int | None = None

    def apply(self, processor: Any) -> None:
        """Set it as the option that `processor` has for it.

        Raises:
            ConfigError: it has none.
        """
        images = processor.image_processor
        size = {name: value for name, value in dict(images.size or {}).items() if value is not None}
        counts = "max_pixels" in getattr(getattr(images, "valid_kwargs", None), "__annotations__", {})
        given = {"max_pixels": self.max_pixels, "longest_edge": self.longest_edge}
        has = None if "longest_edge" not in size else "max_pixels" if counts else "longest_edge"
        for name, value in given.items():
            if value is not None and name != has:
                instead = f"use --model.{has}" if has else f"it makes all images the same size, {size}"
                raise ConfigError(f"--model.{name} {value}: {type(images).__name__} has no such option; {instead}")
        limit = self.max_pixels or self.longest_edge
        if limit is not None:
            smallest = {"shortest_edge": min(size["shortest_edge"], limit)} if "shortest_edge" in size else {}
            images.size = type(images.size)(**{**size, **smallest, "longest_edge": limit})


class LocalTransform:
    """An image and its prompt as the model gets them, in one worker.

    Args:
        checkpoint: whose processor makes them.
        fill: the prompt for an item; may raise ExtractError.
        system_prompt: None: none.
        chat_template_kwargs: variables of the chat template.
        limit: of the images' size.
        dtype: of the model: pixels are handed over in it.
        max_tokens: that prompt and image may have together.

    Raises:
        ConfigError: the processor has no such limit, or no place for a system prompt or for one of the variables.
    """

    def __init__(
        self,
        checkpoint: ModelFolder,
        fill: Callable[[Item], str],
        system_prompt: str | None,
        chat_template_kwargs: Mapping[str, Any],
        limit: SizeLimit,
        dtype: torch.dtype,
        max_tokens: int | None,
    ) -> None:
        self._processor, self._fill, self._system_prompt = processor_of(checkpoint), fill, system_prompt
        self._name = checkpoint.name
        self._chat_template_kwargs, self._dtype, self._max_tokens = chat_template_kwargs, dtype, max_tokens
        limit.apply(self._processor)
        if system_prompt and not self._processor.chat_template:
            raise ConfigError(
                f"--model.system_prompt: {checkpoint.name} has no chat template, and so no place for one: "
                "put it into --model.prompt"
            )
        for name in chat_template_kwargs:
            if not _has_variable(self._processor, name):
                raise ConfigError(
                    f"--model.chat_template_kwargs: the chat template of {checkpoint.name} has no variable {name!r}: "
                    "look up in its model card how thinking is turned off"
                )

    def start(self, item: Item) -> None:
        """Fill the prompt for `item`."""
        self._prompt = self._fill(item)

    def __call__(self, frame: Tensor) -> Prepared:
        """The inputs of the model for an image, uint8 [3, H, W], each [1, …], or packed patches; see `pack`.

        Raises:
            ExtractError: the processor cannot handle it, or it is too long.
        """
        return self.prepare(self._prompt, frame)

    def prepare(self, prompt: str, frame: Tensor) -> Prepared:
        """Likewise, with `prompt`."""
        image = Image.fromarray(frame.permute(1, 2, 0).numpy())
        text = self.text(prompt)
        has_start = text.startswith(self._processor.tokenizer.bos_token or "\0")  # the chat template's
        more = {"add_special_tokens": False} if has_start else {}
        try:
            inputs = dict(self._processor(images=[image], text=[text], return_tensors="pt", **more))
        except ValueError as error:  # Qwen: a side 200 times the other; a prompt with the image's mark in it
            raise ExtractError(f"its processor: {' '.join(str(error).split())[:200]}") from error
        num_tokens = inputs["input_ids"].shape[1]
        if self._max_tokens is not None and num_tokens > self._max_tokens:
            raise ExtractError(
                f"its prompt and image are {num_tokens:,} tokens, where {self._max_tokens:,} are possible"
            )
        packed = {name: pack(value, self._dtype) for name, value in inputs.items()}
        return Prepared(prompt, packed, num_tokens, self._num_pixels(inputs))

    def text(self, prompt: str) -> str:
        """Return the prompt as the processor wants it: in the chat template, with the mark of the image's place.

        Raises:
            ConfigError: the chat template refuses the system prompt, or the value of a variable.
        """
        processor = self._processor
        if processor.chat_template:
            user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
            system = {"role": "system", "content": [{"type": "text", "text": self._system_prompt}]}
            messages = [system, user] if self._system_prompt else [user]
            try:
                return str(
                    processor.apply_chat_template(
                        messages, add_generation_prompt=True, tokenize=False, **self._chat_template_kwargs
                    )
                )
            except _TEMPLATE_ERRORS as error:
                raise ConfigError(
                    f"the chat template of {self._name} cannot be filled in ({reason(error)}): change "
                    "--model.system_prompt or --model.chat_template_kwargs"
                ) from error
        mark = getattr(processor, "image_token", None)  # of Kosmos-2 and BLIP-2, which place the image themselves: none
        return f"{mark}{prompt}" if isinstance(mark, str) and mark not in prompt else prompt

    def _num_pixels(self, inputs: Mapping[str, Tensor]) -> int:
        times = getattr(self._processor.image_processor, "temporal_patch_size", 1)  # Qwen repeats them, as if a video
        return inputs["pixel_values"].numel() // (3 * times)


def _has_variable(processor: Any, name: str) -> bool:
    """Whether the chat template of `processor` uses a variable `name` that the caller may set."""
    own = ("messages", *signature(processor.apply_chat_template).parameters)
    return name not in own and re.search(rf"\b{re.escape(name)}\b", str(processor.chat_template)) is not None


def pack(value: Tensor, dtype: torch.dtype) -> Any:
    """`value`, small and quick to hand to another process; `collate` undoes it.

    Floats in `dtype`, as the model would make them. Integers as arrays, which need no shared memory, of one byte each
    where that suffices: masks of pixels are as large as the pixels.
    """
    if value.is_floating_point():
        return value.to(dtype)
    array = value.numpy()
    limits = np.iinfo(np.int8)
    fits = array.dtype == np.int64 and limits.min <= array.min(initial=0) and array.max(initial=0) <= limits.max
    return array.astype(np.int8) if fits else array


def unpack(value: Any, device: torch.device) -> Tensor:
    """What `pack` was given, on `device`."""
    tensor = torch.as_tensor(value, device=device)
    return tensor.long() if tensor.dtype == torch.int8 else tensor


def collate(inputs: Sequence[Mapping[str, Tensor]], pad_token: int) -> dict[str, Tensor]:
    """The inputs of one batch, from those of its images.

    What goes with the tokens, [1, tokens, …], is padded on the left. Of the rest, each image's other dimensions are
    padded with zeros to the batch's largest; all is concatenated along the first, of which packed patches have many.
    """
    batch = {}
    num_tokens = max(each["input_ids"].shape[1] for each in inputs)
    for name in inputs[0]:
        values = [each[name] for each in inputs]
        if all(each[name].shape[:2] == each["input_ids"].shape[:2] for each in inputs):
            fill = pad_token if name == "input_ids" else 0
            values = [pad_start(value, num_tokens - value.shape[1], fill) for value in values]
        largest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
        batch[name] = torch.cat([_grown(value, largest) for value in values])
    return batch


def pad_start(value: Tensor, num_places: int, fill: int) -> Tensor:
    """`value`, [1, tokens, …], with `num_places` of `fill` before its tokens."""
    return pad(value, [0, 0] * (value.ndim - 2) + [num_places, 0], value=fill)


def _grown(value: Tensor, shape: Sequence[int]) -> Tensor:
    """`value` with zeros at the end of its dimensions after the first, up to `shape`."""
    if list(value.shape[1:]) == list(shape):
        return value
    grown = value.new_zeros((value.shape[0], *shape))
    grown[tuple(slice(size) for size in value.shape)] = value
    return grown
