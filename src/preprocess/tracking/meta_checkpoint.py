"""Meta's files of SAM 2, such as `sam2.1_hiera_tiny.pt`: their weights under the names of transformers.

Meta's names are those of the modules in https://github.com/facebookresearch/sam2 (`sam2/modeling`), and the sizes are
those of its `sam2/configs`. Both are mapped as in transformers' `convert_sam2_video_to_hf.py`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Sam2ImageProcessor,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VideoProcessor,
    Sam2VideoVideoProcessor,
)

from datamodules.errors import ConfigError
from preprocess.checkpoints.digest import sha256_of_file
from preprocess.checkpoints.dtypes import DTYPES, Dtype
from preprocess.checkpoints.model_folder import require_same_names
from preprocess.checkpoints.pickles import is_state_dict, load_pickle

SUFFIXES = (".pt", ".pth")
# by channels of the first stage and number of all blocks: differences from the defaults of transformers (tiny)
SIZES: dict[tuple[int, int], dict[str, Any]] = {
    (96, 12): {},
    (96, 16): {
        "vision_config": {
            "backbone_config": {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
        }
    },
    (112, 24): {
        "vision_config": {
            "backbone_config": {
                "hidden_size": 112,
                "embed_dim_per_stage": [112, 224, 448, 896],
                "num_attention_heads_per_stage": [2, 4, 8, 16],
                "blocks_per_stage": [2, 3, 16, 3],
                "global_attention_blocks": [12, 16, 20],
                "window_positional_embedding_background_size": [14, 14],
            },
            "backbone_channel_list": [896, 448, 224, 112],
        }
    },
    (144, 48): {
        "vision_config": {
            "backbone_config": {
                "hidden_size": 144,
                "embed_dim_per_stage": [144, 288, 576, 1152],
                "num_attention_heads_per_stage": [2, 4, 8, 16],
                "blocks_per_stage": [2, 6, 36, 4],
                "global_attention_blocks": [23, 33, 43],
                "window_positional_embedding_background_size": [7, 7],
                "window_size_per_stage": [8, 4, 16, 8],
            },
            "backbone_channel_list": [1152, 576, 288, 144],
        }
    },
}
_NAMES = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base_plus", (144, 48): "large"}
_HEADS = r"(iou_prediction_head|pred_obj_score_head|output_hypernetworks_mlps\.\d+|object_pointer_proj)"
_RENAMED = (  # applied in this order
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"^memory_encoder\.fuser\.", "memory_encoder.memory_fuser."),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
    (r"\.gamma$", ".scale"),
    (r"\.mask_downsampler\.encoder\.12\.", ".mask_downsampler.final_conv."),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (_HEADS + r"\.layers\.0\.", r"\1.proj_in."),
    (_HEADS + r"\.layers\.1\.", r"\1.layers.0."),
    (_HEADS + r"\.layers\.2\.", r"\1.proj_out."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.norm(\w*)\.", r".layer_norm\1."),
)
_DOWNSAMPLER = re.compile(r"\.mask_downsampler\.encoder\.(\d{1,3})\.")
_FIRST = "image_encoder.trunk.patch_embed.proj.weight"
_POINTS = "prompt_encoder.point_embeddings"


@dataclass(frozen=True)
class MetaFile:
    """A `Checkpoint`: one of Meta's files.

    Attributes:
        path: the file.
        option: the option that gave it, for messages.
    """

    path: Path
    option: str

    def identity(self) -> str:
        """Return the sha256 of the file."""
        return sha256_of_file(self.path)

    def config(self) -> Sam2VideoConfig:
        """Return the configuration that fits the shapes of the weights.

        Raises:
            ConfigError: the weights are not those of SAM 2, or of an unknown size.
        """
        return self._config(self._state())

    def processor(self) -> Any:
        """Return a processor for the image size of the model."""
        return self._processor(self.config())

    def load(self, model_class: Any, dtype: Dtype, device: torch.device) -> Any:
        """See `Checkpoint`; `auto` is float32, the dtype in the file."""
        state = self._state()
        model: Any = Sam2VideoModel(self._config(state))
        what = f"{self.option} {self.path}"
        try:
            missing, unexpected = model.load_state_dict(of_transformers(state), strict=False)
            require_same_names(what, model_class, missing, unexpected)
            return model.to(device, DTYPES.get(dtype, torch.float32)).eval()
        except RuntimeError as error:  # shapes, GPU memory
            raise ConfigError(f"{what} cannot be loaded on {device}: {' '.join(str(error).split())[:300]}") from error

    def _state(self) -> dict[str, Tensor]:
        what = f"{self.option} {self.path}"
        content = load_pickle(self.path, what, mmap=True)
        state = content.get("model") if isinstance(content, dict) else None
        if not is_state_dict(state) or _FIRST not in state or state[_FIRST].ndim != 4:
            raise ConfigError(f"{what} is not a file of Meta's SAM 2, which has its weights under 'model'")
        size = self.path.stat().st_size
        if larger := [
            name for name, tensor in state.items() if tensor.nbytes > size
        ]:  # an expanded tensor repeats its values
            raise ConfigError(f"{what} is damaged: {larger[0]} is larger than the file")
        return state

    def _config(self, state: dict[str, Tensor]) -> Sam2VideoConfig:
        blocks = {name.split(".")[3] for name in state if name.startswith("image_encoder.trunk.blocks.")}
        size = (state[_FIRST].shape[0], len(blocks))
        if size not in SIZES:
            known = ", ".join(f"{name} {known_size}" for known_size, name in _NAMES.items())
            raise ConfigError(
                f"{self.option} {self.path} is not a SAM 2 of a known size. It has {size} channels and blocks; known "
                f"are {known}"
            )
        is_2_1 = "no_obj_embed_spatial" in state
        return sized(
            size,
            enable_occlusion_spatial_embedding=is_2_1,
            enable_temporal_pos_encoding_for_object_pointers="obj_ptr_tpos_proj.weight" in state,
        )

    def _processor(self, config: Sam2VideoConfig) -> Sam2VideoProcessor:
        side: Any = config.image_size
        size, quarter = {"height": side, "width": side}, {"height": side // 4, "width": side // 4}
        images = Sam2ImageProcessor(size=size, mask_size=quarter)
        return Sam2VideoProcessor(images, Sam2VideoVideoProcessor(size=size))


def sized(size: tuple[int, int], **options: Any) -> Sam2VideoConfig:
    """Return the configuration of a size in `SIZES`, with other `options` of it."""
    vision: dict[str, Any] = {"model_type": "sam2_vision_model", **SIZES[size].get("vision_config", {})}
    vision["backbone_config"] = {"model_type": "sam2_hiera_det_model", **vision.get("backbone_config", {})}
    return Sam2VideoConfig(**{**SIZES[size], "vision_config": vision}, **options)


def of_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return Meta's weights under transformers' names; other names are not changed."""
    renamed = {_renamed(name): value for name, value in state.items()}
    points = sorted(name for name in renamed if name.startswith(_POINTS))  # four of one row each
    if points:
        renamed["prompt_encoder.point_embed.weight"] = torch.cat([renamed.pop(name) for name in points])
    shared = "prompt_encoder.shared_embedding.positional_embedding"
    if shared in renamed:
        renamed["shared_image_embedding.positional_embedding"] = renamed[shared]
    return renamed


def _renamed(name: str) -> str:
    for pattern, new in _RENAMED:
        name = re.sub(pattern, new, name)
    if match := _DOWNSAMPLER.search(name):  # numbered: convolution, norm, activation, convolution, …
        layer, part = divmod(int(match[1]), 3)
        name = _DOWNSAMPLER.sub(f".mask_downsampler.layers.{layer}.{('conv', 'layer_norm', 'activation')[part]}.", name)
    return name
