"""Models with random weights for `tracking.py`: the tests' tiny models, and models of the published sizes."""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection, Sam2VideoModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from preprocess.tracking.meta_checkpoint import sized
from support.tracking_checkpoints import make_grounding_dino, make_sam2

__all__ = ["make_grounding_dino", "make_sam2", "save_grounding_dino", "save_sam2"]


def save_grounding_dino(folder: Path) -> Path:
    """Save a GroundingDINO of the size of `IDEA-Research/grounding-dino-tiny`, with the tests' tokenizer."""
    make_grounding_dino(folder, max_text_len=256)
    processor: Any = _processor(folder)
    processor.image_processor.size = {"shortest_edge": 800, "longest_edge": 1333}
    swin = {"model_type": "swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
    config = GroundingDinoConfig(backbone_config={**swin, "window_size": 7, "out_indices": [2, 3, 4]})
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_sam2(folder: Path, size: str) -> Path:
    """Save a SAM 2.1 for 1024 px of the size `tiny` or `large`."""
    make_sam2(folder)
    processor: Any = _processor(folder)
    for part in (processor.image_processor, processor.video_processor):
        part.size = {"height": 1024, "width": 1024}
    processor.image_processor.mask_size = {"height": 256, "width": 256}
    torch.manual_seed(0)
    model = Sam2VideoModel(sized(_SIZES[size]))
    model.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(20.0)  # SAM 2 then takes every object as visible
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


_SIZES = {"tiny": (96, 12), "large": (144, 48)}  # channels of the first stage, number of blocks


def _processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder)
