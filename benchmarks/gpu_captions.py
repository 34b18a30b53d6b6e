"""Part `captions` of `gpu.py`: tokens per second of Qwen2.5-VL with random weights in the shape of 7B."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from gpu_part import Busy, Measurement, Peak, Setting
from gpu_results import Figures

_BATCHES = (64, 16, 128)
_NUM_TOKENS = 64  # of a caption
_PATCHES = (28, 28)  # of an image of 392x392 px; 2x2 of them are a token
_VISION_START, _VISION_END, _IMAGE = 151652, 151653, 151655  # tokens
_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
_TEXT = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
_TINY_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
_TINY_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
}


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Yield the measurements of this part."""
    for batch in _BATCHES[: 1 if setting.tiny else None]:
        yield f"Qwen2.5-VL 7B, bf16, {_NUM_TOKENS} tokens, batch {batch}", partial(_generate, setting, batch)


@torch.inference_mode()
def _generate(setting: Setting, batch: int) -> Figures:
    batch, num_tokens, patches = (2, 2, (4, 4)) if setting.tiny else (batch, _NUM_TOKENS, _PATCHES)
    with Peak(setting) as peak:
        model = _model(setting)
        inputs = _inputs(setting, batch, patches)

        def step() -> None:
            model.generate(**inputs, max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=False)

        step()
    with Busy(setting) as busy:
        rate = setting.rate(step, batch * num_tokens)
    note = f"{rate / num_tokens:,.1f} images/s; {peak.megabytes:,.0f} MB in all; {busy.note}"
    return Figures(rate, "tokens", note=note)


def _model(setting: Setting) -> Any:
    """Return the model, made on the device, because its weights have 16 GB."""
    text, vision = (_TINY_TEXT, _TINY_VISION) if setting.tiny else (_TEXT, _VISION)
    ends: dict[str, Any] = {"eos_token_id": None, "pad_token_id": 0, "bos_token_id": 1}
    config = Qwen2_5_VLConfig(
        text_config={**_TEXT, **text},
        vision_config={**vision, "fullatt_block_indexes": [7, 15, 23, 31]},
        image_token_id=_IMAGE,
        vision_start_token_id=_VISION_START,
        vision_end_token_id=_VISION_END,
        **ends,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(setting.device):
            model: Any = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.generation_config.update(**ends, do_sample=False)
    return model.eval()


def _inputs(setting: Setting, batch: int, patches: tuple[int, int]) -> dict[str, Tensor]:
    """Return a batch of prompts with an image of noise each, as the processor makes them."""
    height, width = patches
    num_image_tokens = height * width // 4
    prompt = [1000] * 10 + [_VISION_START, *[_IMAGE] * num_image_tokens, _VISION_END] + [1001] * 10
    tokens = torch.tensor([prompt] * batch, device=setting.device)
    return {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "mm_token_type_ids": (tokens == _IMAGE).long(),
        "pixel_values": torch.randn(batch * height * width, 3 * 2 * 14 * 14, device=setting.device).bfloat16(),
        "image_grid_thw": torch.tensor([[1, height, width]] * batch, device=setting.device),
    }
