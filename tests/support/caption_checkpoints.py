"""Tiny checkpoints of captioning models with random weights, in the layout of the published ones.

Images of 32 px and more differ in size to all but Kosmos-2. Weights are larger than a fresh model's, so that what is
said depends on the image, and end marks are many, so that some captions end early.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPImageProcessor,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2ImageProcessor,
    Idefics2Processor,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    Kosmos2Processor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

SEEDS = {"smolvlm": 8, "idefics2": 7, "qwen2_5_vl": 2, "kosmos2": 4}  # with which what they say is not all the same
FAMILIES = tuple(SEEDS)
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_FIRST_END = 124
_CHAT = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}END\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def save_checkpoint(family: str, folder: Path, num_ends: int = 40) -> Path:
    """A checkpoint of one of `FAMILIES` in `folder`; `num_ends` letters that no English word has are end marks too."""
    processor = _PROCESSORS[family]()
    torch.manual_seed(SEEDS[family])
    model = _MODELS[family](processor)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(next(scale for part, scale in _SCALES.items() if part in name))
    ends = [processor.tokenizer.eos_token_id, *range(_FIRST_END, _FIRST_END + num_ends)]
    model.generation_config.update(eos_token_id=ends, pad_token_id=0, bos_token_id=1)
    model.generation_config.update(do_sample=True, temperature=0.7, top_k=10)  # as in some published checkpoints
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(*more: str, **attributes: str) -> PreTrainedTokenizerFast:
    """The bytes of a text."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *letters])}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(more),
        **attributes,
    )


def _smolvlm_processor() -> SmolVLMProcessor:
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    return SmolVLMProcessor(
        SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        _tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *tiles),
        SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=_CHAT.replace("IMAGE", "<image>").replace("END", "<end_of_utterance>"),
    )


def _smolvlm(processor: SmolVLMProcessor) -> SmolVLMForConditionalGeneration:
    text = {**_TEXT, "model_type": "llama", "vocab_size": len(processor.tokenizer), "num_key_value_heads": 2}
    config = SmolVLMConfig(  # type: ignore[call-arg]
        text_config=text,
        vision_config={**_VISION, "image_size": 32, "patch_size": 8},
        scale_factor=2,
        image_token_id=processor.image_token_id,
        pad_token_id=0,
    )
    return SmolVLMForConditionalGeneration(config)


def _idefics2_processor() -> Idefics2Processor:
    return Idefics2Processor(
        Idefics2ImageProcessor(size={"shortest_edge": 16, "longest_edge": 48}),
        _tokenizer(),
        image_seq_len=4,
        chat_template=_CHAT.replace("IMAGE", "<image>").replace("END", "<end_of_utterance>"),
    )


def _idefics2(processor: Idefics2Processor) -> Idefics2ForConditionalGeneration:
    text = {**_TEXT, "model_type": "mistral", "vocab_size": len(processor.tokenizer), "num_key_value_heads": 2}
    config = Idefics2Config(
        text_config={**text, "sliding_window": None},
        vision_config={**_VISION, "image_size": 48, "patch_size": 8},
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 2,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
        },
        image_token_id=processor.image_token_id,
    )
    return Idefics2ForConditionalGeneration(config)


def _qwen2_5_vl_processor() -> Qwen2_5_VLProcessor:
    patches: dict[str, Any] = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 4096}}
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**patches),
        _tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|im_end|>"),
        Qwen2VLVideoProcessor(**patches),
        chat_template=_CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>").replace(
            "END", "<|im_end|>"
        ),
    )


def _qwen2_5_vl(processor: Qwen2_5_VLProcessor) -> Qwen2_5_VLForConditionalGeneration:
    token = processor.tokenizer.convert_tokens_to_ids
    text = {
        **_TEXT,
        "model_type": "qwen2_5_vl_text",
        "vocab_size": len(processor.tokenizer),
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 10000.0},
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "window_size": 16,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def _kosmos2_processor() -> Kosmos2Processor:
    size = {"shortest_edge": 28}
    return Kosmos2Processor(CLIPImageProcessor(size=size, crop_size={"height": 28, "width": 28}), _tokenizer())


def _kosmos2(processor: Kosmos2Processor) -> Kosmos2ForConditionalGeneration:
    config = Kosmos2Config(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "max_position_embeddings": 512,
            "embed_dim": 32,
            "layers": 2,
            "ffn_dim": 64,
            "attention_heads": 2,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={**_VISION, "image_size": 28, "patch_size": 14},
        latent_query_num=64,
    )
    return Kosmos2ForConditionalGeneration(config)


_SCALES = {  # scale of weights by a part of their names; the first match counts
    "embed_tokens": 1.0, "latent_query": 0.1, "connector": 12.0, "visi": 12.0, "visual": 12.0, "image": 12.0, "": 8.0
}  # fmt: skip
_TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 1024, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_PROCESSORS: dict[str, Any] = {
    "smolvlm": _smolvlm_processor,
    "idefics2": _idefics2_processor,
    "qwen2_5_vl": _qwen2_5_vl_processor,
    "kosmos2": _kosmos2_processor,
}
_MODELS: dict[str, Any] = {
    "smolvlm": _smolvlm,
    "idefics2": _idefics2,
    "qwen2_5_vl": _qwen2_5_vl,
    "kosmos2": _kosmos2,
}
