"""Inputs of a model on the rank's device: made of each image in the workers, unpadded, and batched on the rank."""

import re
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

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
from preprocess.captioning.size_limit import SizeLimit
from preprocess.captioning.vision_language import processor_of
from preprocess.checkpoints.model_folder import ModelFolder
from preprocess.device_copies import to_device

# what a chat template can raise: it is a program, which transformers runs in jinja's sandbox
_TEMPLATE_ERRORS = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError
)  # fmt: skip


class LocalTransform:
    """Makes the inputs of the model from an image and its prompt, in one worker.

    Args:
        folder: of the model, for its processor.
        fill: returns the prompt for an item; may raise ExtractError.
        system_prompt: text before the prompt; None: none.
        chat_template_kwargs: variables of the chat template.
        limit: of the images' size.
        dtype: of the model; pixels are converted to it.
        max_tokens: limit on the tokens of prompt and image together; None: no limit.

    Raises:
        ConfigError: the processor cannot limit sizes in this way, or has no chat template for a system prompt, or the
            template does not have one of the variables.
    """

    def __init__(
        self,
        folder: ModelFolder,
        fill: Callable[[Item], str],
        system_prompt: str | None,
        chat_template_kwargs: Mapping[str, Any],
        limit: SizeLimit,
        dtype: torch.dtype,
        max_tokens: int | None,
    ) -> None:
        self._processor, self._name, self._fill = processor_of(folder), folder.name, fill
        self._system_prompt, self._chat_template_kwargs = system_prompt, chat_template_kwargs
        self._dtype, self._max_tokens = dtype, max_tokens
        _limit_size(self._processor, limit)
        if system_prompt and not self._processor.chat_template:
            raise ConfigError(
                f"--model.backend.system_prompt cannot be used: {folder.name} has no chat template. Put the text "
                "into --model.prompt"
            )
        for name in chat_template_kwargs:
            if not _has_variable(self._processor, name):
                raise ConfigError(
                    f"--model.backend.chat_template_kwargs: the chat template of {folder.name} has no variable "
                    f"{name!r}. Its model card says how thinking is turned off"
                )

    def start(self, item: Item) -> None:
        """Fill in the prompt for `item`."""
        self._prompt = self._fill(item)

    def __call__(self, frame: Tensor) -> Prepared:
        """Return the inputs of the model for an image, uint8 [3, H, W]; each input is [1, …], or packed patches.

        Raises:
            ExtractError: the processor cannot handle the image, or its inputs are too long.
        """
        return self.prepare(self._prompt, frame)

    def prepare(self, prompt: str, frame: Tensor) -> Prepared:
        """Do the same with `prompt`."""
        image = Image.fromarray(frame.permute(1, 2, 0).numpy())
        text = self.text(prompt)
        has_start = text.startswith(self._processor.tokenizer.bos_token or "\0")  # written by the chat template
        options = {"add_special_tokens": False} if has_start else {}
        try:
            inputs = dict(self._processor(images=[image], text=[text], return_tensors="pt", **options))
        except ValueError as error:  # Qwen: one side is 200 times the other; or the prompt has the image's mark in it
            raise ExtractError(f"its processor: {' '.join(str(error).split())[:200]}") from error
        num_tokens = inputs["input_ids"].shape[1]
        if self._max_tokens is not None and num_tokens > self._max_tokens:
            raise ExtractError(
                f"its prompt and image are {num_tokens:,} tokens, where {self._max_tokens:,} are possible"
            )
        packed = {name: pack(value, self._dtype) for name, value in inputs.items()}
        return Prepared(prompt, packed, num_tokens, self._num_pixels(inputs))

    def text(self, prompt: str) -> str:
        """Return the text for the processor: the prompt in the chat template, with a mark where the image goes.

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
                    f"the chat template of {self._name} cannot be filled in ({reason(error)}). Change "
                    "--model.backend.system_prompt or --model.backend.chat_template_kwargs"
                ) from error
        mark = getattr(processor, "image_token", None)  # None: Kosmos-2 and BLIP-2 insert the image themselves
        return f"{mark}{prompt}" if isinstance(mark, str) and mark not in prompt else prompt

    def _num_pixels(self, inputs: Mapping[str, Tensor]) -> int:
        # Qwen repeats an image, as if it were a video
        repeats = getattr(self._processor.image_processor, "temporal_patch_size", 1)
        return inputs["pixel_values"].numel() // (3 * repeats)


def _limit_size(processor: Any, limit: SizeLimit) -> None:
    """Set `limit` as the option that `processor` has for it.

    Raises:
        ConfigError: it has no such option.
    """
    images = processor.image_processor
    size = {name: value for name, value in dict(images.size or {}).items() if value is not None}
    counts_pixels = "max_pixels" in getattr(getattr(images, "valid_kwargs", None), "__annotations__", {})
    option = None if "longest_edge" not in size else "max_pixels" if counts_pixels else "longest_edge"
    for name, value in limit._asdict().items():
        if value is not None and name != option:
            instead = f"Use --model.backend.{option}" if option else f"It makes all images the same size, {size}"
            raise ConfigError(f"--model.backend.{name} {value}: {type(images).__name__} has no such option. {instead}")
    largest = limit.max_pixels or limit.longest_edge
    if largest is not None:
        # the size of Qwen's processor counts pixels, too, though its fields are called edges
        smallest = {"shortest_edge": min(size["shortest_edge"], largest)} if "shortest_edge" in size else {}
        images.size = type(images.size)(**{**size, **smallest, "longest_edge": largest})


def _has_variable(processor: Any, name: str) -> bool:
    """Return whether the chat template of `processor` uses a variable `name` that the caller may set."""
    reserved = ("messages", *signature(processor.apply_chat_template).parameters)
    return name not in reserved and re.search(rf"\b{re.escape(name)}\b", str(processor.chat_template)) is not None


def pack(value: Tensor, dtype: torch.dtype) -> Any:
    """Return `value` in a form that is small and quick to send to another process; `unpack` undoes it.

    Floats are converted to `dtype`, as the model would do. Integers become arrays, which need no shared memory, of one
    byte each where that suffices: masks of pixels are as large as the pixels.
    """
    if value.is_floating_point():
        return value.to(dtype)
    array = value.numpy()
    limits = np.iinfo(np.int8)
    fits = array.dtype == np.int64 and limits.min <= array.min(initial=0) and array.max(initial=0) <= limits.max
    return array.astype(np.int8) if fits else array


def unpack(value: Any, device: torch.device) -> Tensor:
    """Return the tensor that `pack` was given, on `device`."""
    tensor = to_device(torch.as_tensor(value), device)
    return tensor.long() if tensor.dtype == torch.int8 else tensor


def collate(inputs: Sequence[Mapping[str, Tensor]], pad_token: int) -> dict[str, Tensor]:
    """Return the inputs of one batch, made of the inputs of its images.

    Inputs with one value per token, [1, tokens, …], are padded on the left. Of the others, all dimensions but the first
    are padded with zeros to the largest of the batch. Then each input is concatenated along the first dimension, which
    is 1, or the number of packed patches.

    Args:
        inputs: of each image, by name.
        pad_token: fills `input_ids`; everything else is filled with 0.
    """
    batch = {}
    num_tokens = max(image["input_ids"].shape[1] for image in inputs)
    for name in inputs[0]:
        values = [image[name] for image in inputs]
        if all(image[name].shape[:2] == image["input_ids"].shape[:2] for image in inputs):
            fill = pad_token if name == "input_ids" else 0
            values = [pad_start(value, num_tokens - value.shape[1], fill) for value in values]
        largest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
        batch[name] = torch.cat([_grown(value, largest) for value in values])
    return batch


def pad_start(value: Tensor, num_padding: int, fill: int) -> Tensor:
    """Return `value`, [1, tokens, …], with `num_padding` times `fill` before its tokens."""
    return pad(value, [0, 0] * (value.ndim - 2) + [num_padding, 0], value=fill)


def _grown(value: Tensor, shape: Sequence[int]) -> Tensor:
    """Return `value` with zeros at the end of all dimensions but the first, so that these have `shape`."""
    if list(value.shape[1:]) == list(shape):
        return value
    grown = value.new_zeros((value.shape[0], *shape))
    grown[tuple(slice(size) for size in value.shape)] = value
    return grown
