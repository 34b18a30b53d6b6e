"""Generation with a transformers model: options that override the checkpoint's, seeds, and fixes for single models."""

import copy
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def generation_config(model: Any, tokenizer: Any, max_new_tokens: int, num_beams: int, temperature: float) -> Any:
    """Return the checkpoint's own `GenerationConfig`, with these options instead of its own.

    Args:
        model: the loaded model.
        tokenizer: the checkpoint's. A fine-tuned checkpoint may lack the end mark of its chat template, which its
            tokenizer has.
        max_new_tokens: limit on the generated tokens; limits of the checkpoint on length and time are removed.
        num_beams: of beam search; 1: none.
        temperature: of sampling; 0: always the likeliest token.
    """
    config, is_sampling = copy.deepcopy(model.generation_config), temperature > 0
    config.update(
        max_new_tokens=max_new_tokens,
        max_length=None,
        max_time=None,
        num_beams=num_beams,
        num_return_sequences=1,
        do_sample=is_sampling,
        temperature=temperature if is_sampling else None,
        return_dict_in_generate=False,
    )
    if not is_sampling:
        config.update(top_k=None, top_p=None, min_p=None, typical_p=None)
    ends = config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or ())
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
    config.eos_token_id = ends or None
    known = (tokenizer.pad_token_id, config.pad_token_id, *ends, 0)
    config.pad_token_id = next(token for token in known if token is not None)
    return config


def without_prompt(output: Tensor, prompt: Tensor, is_encoder_decoder: bool) -> Tensor:
    """Return the generated part of `output` [B, tokens]: without the prompt, or without a decoder's start mark.

    Some models return the prompt before the generated tokens, and some do not.
    """
    if is_encoder_decoder:
        return output[:, 1:]
    num_tokens = prompt.shape[1]
    return output[:, num_tokens:] if torch.equal(output[:, :num_tokens], prompt) else output


@contextmanager
def seeded_by(batch: Mapping[str, Tensor], device: torch.device) -> Iterator[None]:
    """Seed torch with a checksum of `batch`, and restore the state of its generators at the end.

    So what is sampled depends on the batch alone, whichever rank gets it and whatever was sampled before.
    """
    seed = 0
    for value in batch.values():
        seed = zlib.crc32(value.contiguous().cpu().view(torch.uint8).numpy().data, seed)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def remove_forced_ends(model: Any) -> None:
    """Keep `model` from ending a caption that is cut off as if it were complete.

    `generate` takes an option that is None from the model's own configuration, so it is removed there. Some models
    generate by the configuration of their language model, so all parts are changed.
    """
    for part in model.modules():
        if config := getattr(part, "generation_config", None):
            config.forced_eos_token_id = None


def fix_positions(text_model: Any) -> None:
    """Give Kosmos-2 the position of each token: its own are off by the padding from the second new token on."""
    prepare, padding = text_model.prepare_inputs_for_generation, text_model.config.pad_token_id

    @wraps(prepare)  # generate looks at its arguments
    def prepare_with_positions(
        input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        inputs: dict[str, Any] = prepare(input_ids, attention_mask=attention_mask, **kwargs)
        if attention_mask is None:  # nothing is padded
            return inputs
        positions = padding + attention_mask.cumsum(1) * attention_mask
        return {**inputs, "position_ids": positions[:, -inputs["input_ids"].shape[1] :]}

    text_model.prepare_inputs_for_generation = prepare_with_positions
