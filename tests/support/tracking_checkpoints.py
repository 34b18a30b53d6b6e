"""Tiny checkpoints of tracking models with random weights, in the layout of the published ones.

Weights are larger than a fresh model's, so that boxes and masks depend on the frame, the prompt and the memory.
Each `make_…(folder)` saves one in `folder`, in a second or so, and gives `folder` back.
"""

import string
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    CLIPTokenizer,
    EdgeTamVideoConfig,
    EdgeTamVideoModel,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Sam2ImageProcessor,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VideoProcessor,
    Sam2VideoVideoProcessor,
    Sam3ImageProcessor,
    Sam3VideoConfig,
    Sam3VideoModel,
    Sam3VideoProcessor,
)

SAM2_PX = 128  # what SAM 2 sees, high and wide
SAM3_PX = 112
_WORDS = ("car", "person", "ball", "dog", "cat", "red")
_FIXED = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}  # GroundingDINO counts on these
_HIDDEN = 128  # at least twice 64, which SAM 2's memory has


def make_grounding_dino(folder: Path, max_text_len: int = 32) -> Path:
    """A GroundingDINO whose words are `car`, `person`, `ball`, `dog`, `cat`, `red` and letters."""
    tokenizer = BertTokenizer(vocab=_vocabulary())
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "image_size": 64,
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 4,
            "out_indices": [2, 3, 4],
        },
        text_config={
            "model_type": "bert",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
        },
        d_model=32,
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_text_len=max_text_len,
    )
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        model = GroundingDinoForObjectDetection(config)
        for head in (*model.bbox_embed, *model.model.decoder.bbox_embed):
            head.layers[-1].weight.normal_(0, 0.1)
            head.layers[-1].bias.copy_(torch.tensor([0.0, 0.0, 1.5, 1.5]))  # anchors are small
    model.save_pretrained(folder)
    size = {"shortest_edge": 96, "longest_edge": 160}  # the coarsest features have more than one place
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return folder


def make_sam2(folder: Path) -> Path:
    """A SAM 2 for video, with a Hiera of five blocks."""
    model = sam2_model()
    model.save_pretrained(folder)
    _sam2_processor().save_pretrained(folder)
    return folder


def sam2_model(**config: Any) -> Sam2VideoModel:
    """Return the model of `make_sam2`; `config` adds to the tiny configuration or replaces parts of it."""
    model: Sam2VideoModel = _lively(Sam2VideoModel(Sam2VideoConfig(**{**_sam2_config(), **config})), 17)
    return model


def make_edgetam(folder: Path) -> Path:
    """An EdgeTAM for video, with a RepViT."""
    config = {**_sam2_config(), "vision_config": _EDGETAM_VISION}
    feed_forward = config.pop("memory_attention_feed_forward_hidden_size")
    perceiver: dict[str, Any] = {"num_latents": 16, "num_latents_2d": 16, "mlp_intermediate_size": 64}
    config = {
        **config,
        "memory_attention_mlp_hidden_size": feed_forward,
        "memory_attention_rope_k_sizes": [4, 4],
        **{f"perceiver_resampler_{name}": value for name, value in perceiver.items()},
    }
    _lively(EdgeTamVideoModel(EdgeTamVideoConfig(**config)), 1).save_pretrained(folder)
    _sam2_processor().save_pretrained(folder)
    return folder


def make_sam3(folder: Path, **config: Any) -> Path:
    """A SAM 3 for video, whose words are letters; `config` is added to what is tiny."""
    tokenizer = CLIPTokenizer(vocab=_clip_vocabulary(), merges=[])
    tiny = Sam3VideoConfig(
        detector_config=_sam3_detector(len(tokenizer)),
        tracker_config=_sam3_tracker(),
        low_res_mask_size=SAM3_PX // 14 * 4,
        score_threshold_detection=0.05,
        new_det_thresh=0.1,
        high_conf_thresh=0.1,
        high_iou_thresh=0.3,
        recondition_every_nth_frame=4,
        **config,
    )
    model = Sam3VideoModel(tiny)
    _lively(model, 9)
    model.save_pretrained(folder)
    size = {"height": SAM3_PX, "width": SAM3_PX}
    Sam3VideoProcessor(Sam3ImageProcessor(size=size), Sam2VideoVideoProcessor(size=size), tokenizer).save_pretrained(
        folder
    )
    return folder


def moving_square(num_frames: int, height: int = 48, width: int = 64) -> list[Tensor]:
    """uint8 [3, H, W] frames: a square that goes to the right, over noise."""
    noise = torch.randint(0, 80, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frames = []
    for number in range(num_frames):
        frame, left = noise.clone(), (2 + number) % width
        frame[:, 10:26, left : left + 14] = torch.tensor([250, 80, 30], dtype=torch.uint8)[:, None, None]
        frames.append(frame)
    return frames


def _lively(model: Any, seed: int) -> Any:
    """Fill `model` with weights that make its masks depend on the frame, the prompt and the memory; return it."""
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            _fill(name, parameter)
        for name, buffer in model.named_buffers():
            if "positional_embedding" in name:
                buffer.normal_()
        decoder = getattr(model, "mask_decoder", None)
        if decoder is not None:
            shared = model.prompt_encoder.shared_embedding.positional_embedding
            model.shared_image_embedding.positional_embedding.copy_(shared)
            decoder.pred_obj_score_head.proj_out.bias.fill_(20.0)  # objects are there
    return model.eval()


def _fill(name: str, parameter: nn.Parameter) -> None:
    if parameter.ndim < 2:
        parameter.fill_(1) if "norm" in name and name.endswith("weight") else parameter.normal_(0, 0.3)
        return
    parameter.normal_(0, 1.6 / parameter[0].numel() ** 0.5)
    if "point_embed" in name or "positional_embedding" in name:
        parameter.normal_()
    if "mask_downsampler.final_conv" in name or "cross_attn_image.o_proj" in name:
        parameter.mul_(6)
    if any(token in name for token in ("iou_token", "mask_tokens", "obj_score_token")):
        parameter.mul_(0.1)


def _vocabulary() -> dict[str, int]:
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    places = {place: word for word, place in _FIXED.items()}
    after = max(places) + 1
    words = [places.get(place, f"[unused{place}]") for place in range(after)] + letters + list(_WORDS)
    return {word: place for place, word in enumerate(words)}


def _clip_vocabulary() -> dict[str, int]:
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    return {word: place for place, word in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}


def _sam3_detector(vocab_size: int) -> dict[str, Any]:
    text = {
        "model_type": "clip_text_model",
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "eos_token_id": vocab_size - 1,
    }
    part = {"hidden_size": _HIDDEN, "num_attention_heads": 2, "intermediate_size": 64, "num_layers": 1}
    return {
        "vision_config": _SAM3_VISION,
        "text_config": text,
        "geometry_encoder_config": part,
        "detr_encoder_config": part,
        "detr_decoder_config": {**part, "num_queries": 4, "num_layers": 2},
        "mask_decoder_config": {"hidden_size": _HIDDEN, "num_attention_heads": 2},
    }


def _sam3_tracker() -> dict[str, Any]:
    config = _sam2_config()
    prompt = {"hidden_size": _HIDDEN, "image_size": SAM3_PX, "patch_size": 14}
    return {**config, "vision_config": _SAM3_VISION, "prompt_encoder_config": prompt, "image_size": SAM3_PX}


def _sam2_processor() -> Sam2VideoProcessor:
    size = {"height": SAM2_PX, "width": SAM2_PX}
    mask_size = {"height": SAM2_PX // 4, "width": SAM2_PX // 4}
    images = Sam2ImageProcessor(size=size, mask_size=mask_size)
    return Sam2VideoProcessor(images, Sam2VideoVideoProcessor(size=size))


def _sam2_config() -> dict[str, Any]:
    hidden = _HIDDEN
    return {
        "vision_config": {
            "model_type": "sam2_vision_model",
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 2, 2, 4],
                "blocks_per_stage": [1, 1, 2, 1],
                "global_attention_blocks": [3],
                "window_size_per_stage": [8, 4, 8, 4],
                "image_size": [SAM2_PX, SAM2_PX],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            **_FPN,
        },
        "prompt_encoder_config": {"hidden_size": hidden, "image_size": SAM2_PX},
        "mask_decoder_config": {
            "hidden_size": hidden,
            "mlp_dim": 64,
            "iou_head_hidden_dim": 32,
            "num_attention_heads": 2,
        },
        "image_size": SAM2_PX,
        "memory_attention_hidden_size": hidden,
        "memory_attention_num_layers": 2,
        "memory_attention_feed_forward_hidden_size": 64,
        "memory_attention_rope_feat_sizes": [8, 8],
        "memory_encoder_hidden_size": hidden,
        "mask_downsampler_embed_dim": hidden,
        "memory_fuser_embed_dim": hidden,
        "memory_fuser_intermediate_dim": 64,
    }


_FPN = {"backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]], "fpn_hidden_size": _HIDDEN}
_EDGETAM_VISION = {
    "model_type": "edgetam_vision_model",
    "backbone_config": {
        "model_type": "timm_wrapper",
        "architecture": "repvit_m1",
        "num_classes": 2,
        "model_args": {
            "in_chans": 3,
            "features_only": True,
            "out_indices": [0, 1, 2, 3],
            "embed_dim": [8, 16, 32, 64],
            "depth": [1, 1, 1, 1],
        },
    },
    "backbone_channel_list": [64, 32, 16, 8],
    **_FPN,
}
_SAM3_VISION = {
    "model_type": "sam3_vision_model",
    "backbone_config": {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SAM3_PX,
        "pretrain_image_size": 56,
        "window_size": 4,
        "global_attn_indexes": [1],
    },
    **_FPN,
}
