"""Models with random weights for `captions.py`: the tests' tiny checkpoints, enlarged and without an end token."""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.caption_checkpoints import save_checkpoint

_HEAD = 64  # dimensions of an attention head


def save_smolvlm(folder: Path, hidden: int, layers: int) -> Path:
    """Save a SmolVLM to `folder` that sees 9 tiles of 128 px and the whole image, with 16 tokens for each."""
    save_checkpoint("smolvlm", folder)
    config: Any = AutoConfig.from_pretrained(folder)
    config.vision_config.update({"image_size": 128, "patch_size": 16, **_size(hidden, layers)})
    processor: Any = AutoProcessor.from_pretrained(folder)
    processor.image_processor.size = {"longest_edge": 384}
    processor.image_processor.max_image_size = {"longest_edge": 128}
    processor.image_seq_len = 16
    return _saved(folder, config, processor, hidden, layers)


def save_qwen(folder: Path, hidden: int, layers: int, max_pixels: int) -> Path:
    """Save a Qwen2.5-VL to `folder` with one token for every 28x28 px of an image of at most `max_pixels`."""
    save_checkpoint("qwen2_5_vl", folder)
    config: Any = AutoConfig.from_pretrained(folder)
    vision = {"patch_size": 14, "window_size": 112, "out_hidden_size": hidden, "num_heads": hidden // _HEAD}
    vision |= {"depth": layers, "hidden_size": hidden, "intermediate_size": 4 * hidden}
    config.vision_config.update(vision)
    config.text_config.layer_types = ["full_attention"] * layers
    config.text_config.rope_parameters = {**config.text_config.rope_parameters, "mrope_section": [8, 12, 12]}
    processor: Any = AutoProcessor.from_pretrained(folder)
    processor.image_processor.patch_size = 14
    processor.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": max_pixels}
    return _saved(folder, config, processor, hidden, layers)


def _size(hidden: int, layers: int) -> dict[str, int]:
    heads = hidden // _HEAD
    size = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    return {**size, "num_attention_heads": heads}


def _saved(folder: Path, config: Any, processor: Any, hidden: int, layers: int) -> Path:
    heads = hidden // _HEAD
    text = {**_size(hidden, layers), "num_key_value_heads": heads, "head_dim": _HEAD, "max_position_embeddings": 4096}
    config.text_config.update(text)
    torch.manual_seed(0)
    model: Any = AutoModelForImageTextToText.from_config(config)
    model.generation_config.update(eos_token_id=None, pad_token_id=0, bos_token_id=1, do_sample=False)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
