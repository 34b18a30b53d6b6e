"""Meta's files of SAM 2: a tiny model whose weights are saved under Meta's names."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Sam2VideoConfig, Sam2VideoModel

from datamodules.errors import ConfigError
from preprocess.tracking import meta_checkpoint
from preprocess.tracking.meta_checkpoint import SIZES, MetaFile, of_transformers
from preprocess.tracking.options import Weights
from preprocess.tracking.sam2 import SegmentedVideo, Segmenter
from support import tracking_checkpoints
from support.tracking_checkpoints import moving_square, sam2_model

BOX = (2.0, 10.0, 16.0, 26.0)
TINY = (8, 5)  # channels, blocks

# Names as the modules of https://github.com/facebookresearch/sam2 give them: of a layer each; the others are alike.
OF_META = """
image_encoder.trunk.pos_embed
image_encoder.trunk.pos_embed_window
image_encoder.trunk.patch_embed.proj.weight
image_encoder.trunk.blocks.1.norm1.weight
image_encoder.trunk.blocks.1.attn.qkv.weight
image_encoder.trunk.blocks.1.attn.proj.bias
image_encoder.trunk.blocks.1.norm2.bias
image_encoder.trunk.blocks.1.mlp.layers.0.weight
image_encoder.trunk.blocks.1.mlp.layers.1.bias
image_encoder.trunk.blocks.1.proj.weight
image_encoder.neck.convs.3.conv.weight
sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
sam_prompt_encoder.point_embeddings.3.weight
sam_prompt_encoder.not_a_point_embed.weight
sam_prompt_encoder.no_mask_embed.weight
sam_prompt_encoder.mask_downscaling.0.weight
sam_prompt_encoder.mask_downscaling.1.weight
sam_prompt_encoder.mask_downscaling.3.weight
sam_prompt_encoder.mask_downscaling.4.bias
sam_prompt_encoder.mask_downscaling.6.weight
sam_mask_decoder.iou_token.weight
sam_mask_decoder.mask_tokens.weight
sam_mask_decoder.obj_score_token.weight
sam_mask_decoder.conv_s0.weight
sam_mask_decoder.conv_s1.bias
sam_mask_decoder.transformer.layers.1.self_attn.out_proj.weight
sam_mask_decoder.transformer.layers.1.cross_attn_token_to_image.q_proj.weight
sam_mask_decoder.transformer.layers.1.cross_attn_image_to_token.v_proj.bias
sam_mask_decoder.transformer.layers.1.norm4.weight
sam_mask_decoder.transformer.layers.1.mlp.layers.0.weight
sam_mask_decoder.transformer.layers.1.mlp.layers.1.weight
sam_mask_decoder.transformer.final_attn_token_to_image.out_proj.bias
sam_mask_decoder.transformer.norm_final_attn.weight
sam_mask_decoder.output_upscaling.0.weight
sam_mask_decoder.output_upscaling.1.weight
sam_mask_decoder.output_upscaling.3.bias
sam_mask_decoder.output_hypernetworks_mlps.3.layers.0.weight
sam_mask_decoder.output_hypernetworks_mlps.3.layers.1.weight
sam_mask_decoder.output_hypernetworks_mlps.3.layers.2.weight
sam_mask_decoder.iou_prediction_head.layers.0.weight
sam_mask_decoder.iou_prediction_head.layers.1.weight
sam_mask_decoder.iou_prediction_head.layers.2.weight
sam_mask_decoder.pred_obj_score_head.layers.0.weight
sam_mask_decoder.pred_obj_score_head.layers.1.bias
sam_mask_decoder.pred_obj_score_head.layers.2.weight
memory_attention.layers.1.self_attn.q_proj.weight
memory_attention.layers.1.cross_attn_image.out_proj.weight
memory_attention.layers.1.linear1.weight
memory_attention.layers.1.linear2.weight
memory_attention.layers.1.norm3.weight
memory_attention.norm.weight
memory_encoder.mask_downsampler.encoder.0.weight
memory_encoder.mask_downsampler.encoder.1.weight
memory_encoder.mask_downsampler.encoder.9.weight
memory_encoder.mask_downsampler.encoder.10.bias
memory_encoder.mask_downsampler.encoder.12.weight
memory_encoder.pix_feat_proj.weight
memory_encoder.fuser.layers.1.gamma
memory_encoder.fuser.layers.1.dwconv.weight
memory_encoder.fuser.layers.1.norm.weight
memory_encoder.fuser.layers.1.pwconv1.weight
memory_encoder.fuser.layers.1.pwconv2.bias
memory_encoder.out_proj.weight
maskmem_tpos_enc
no_mem_embed
no_mem_pos_enc
no_obj_ptr
no_obj_embed_spatial
mask_downsample.weight
obj_ptr_proj.layers.0.weight
obj_ptr_proj.layers.1.weight
obj_ptr_proj.layers.2.weight
obj_ptr_tpos_proj.weight
"""


def of_meta(name: str) -> str:
    """Return Meta's name for a weight of transformers."""
    place = {"proj_in": "0", "proj_out": "2", "layers.0": "1"}
    changes: list[tuple[str, Any]] = [
        (r"^vision_encoder\.backbone", "image_encoder.trunk"),
        (r"^vision_encoder\.neck\.convs\.(\d)", r"image_encoder.neck.convs.\1.conv"),
        (r"projection\b(?=.*$)(?<=patch_embed.projection)", "proj"),
        (r"\bmlp\.proj_in", "mlp.layers.0"),
        (r"\bmlp\.proj_out", "mlp.layers.1"),
        (
            r"(head|mlps\.\d|object_pointer_proj)\.(proj_in|proj_out|layers\.0)",
            lambda m: f"{m[1]}.layers.{place[m[2]]}",
        ),
        (r"^memory_encoder\.projection", "memory_encoder.out_proj"),
        (r"\bo_proj", "out_proj"),
        (r"final_conv", "encoder.12"),
        (r"mask_downsampler\.layers\.(\d)\.conv", lambda m: f"mask_downsampler.encoder.{3 * int(m[1])}"),
        (r"mask_downsampler\.layers\.(\d)\.layer_norm", lambda m: f"mask_downsampler.encoder.{3 * int(m[1]) + 1}"),
        (r"mask_embed\.conv(\d)", lambda m: f"mask_downscaling.{3 * int(m[1]) - 3}"),
        (r"mask_embed\.layer_norm(\d)", lambda m: f"mask_downscaling.{3 * int(m[1]) - 2}"),
        (r"upscale_conv1", "output_upscaling.0"),
        (r"upscale_layer_norm", "output_upscaling.1"),
        (r"upscale_conv2", "output_upscaling.3"),
        (r"layer_norm", "norm"),
        (r"depthwise_conv", "dwconv"),
        (r"pointwise_conv", "pwconv"),
        (r"memory_fuser", "fuser"),
        (r"\.scale$", ".gamma"),
        (r"feature_projection", "pix_feat_proj"),
        (r"shared_embedding\.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix"),
        (r"^object_pointer_proj", "obj_ptr_proj"),
        (r"^temporal_positional_encoding_projection_layer", "obj_ptr_tpos_proj"),
        (r"^no_object_pointer", "no_obj_ptr"),
        (r"^occlusion_spatial_embedding_parameter", "no_obj_embed_spatial"),
        (r"^no_memory_embedding", "no_mem_embed"),
        (r"^no_memory_positional_encoding", "no_mem_pos_enc"),
        (r"^memory_temporal_positional_encoding", "maskmem_tpos_enc"),
        (r"^(prompt_encoder|mask_decoder)", r"sam_\1"),
    ]
    for pattern, new in changes:
        name = re.sub(pattern, new, name)
    return name


def meta_state(model: Sam2VideoModel) -> dict[str, Tensor]:
    state = dict(model.state_dict())
    del state["shared_image_embedding.positional_embedding"]
    points = state.pop("prompt_encoder.point_embed.weight")
    rows = {f"sam_prompt_encoder.point_embeddings.{row}.weight": points[row : row + 1].clone() for row in range(4)}
    return {**{of_meta(name): value for name, value in state.items()}, **rows}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a small size to Meta's four."""
    monkeypatch.setitem(meta_checkpoint.SIZES, TINY, tracking_checkpoints._sam2_config())


def save(path: Path, model: Sam2VideoModel) -> Path:
    torch.save({"model": meta_state(model)}, path)
    return path


def masks(video: SegmentedVideo) -> list[Tensor]:
    frames = moving_square(4)
    video.set_frame(0, frames[0])
    memory, mask = video.segment(BOX)
    found = [mask]
    for place in (1, 2, 3):
        video.set_frame(place, frames[place])
        found.append(video.propagate(memory))
    return found


def test_the_names_are_those_of_meta() -> None:
    assert set(OF_META.split()) <= set(meta_state(sam2_model()))


@pytest.mark.parametrize("is_2_1", [True, False])
def test_masks_equal_those_of_the_original_model(tmp_path: Path, is_2_1: bool) -> None:
    model = sam2_model(
        enable_occlusion_spatial_embedding=is_2_1, enable_temporal_pos_encoding_for_object_pointers=is_2_1
    )
    path = save(tmp_path / "sam2.pt", model)
    segmenter = Segmenter(str(path), 4, Weights())
    segmenter.load(torch.device("cpu"))
    assert ("no_obj_embed_spatial" in torch.load(path)["model"]) == is_2_1
    found, expected = masks(segmenter.start()), masks(SegmentedVideo(model, tracking_checkpoints._sam2_processor(), 4))
    assert any(mask.any() and not mask.all() for mask in found)
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))


def test_each_weight_is_mapped_and_none_is_made_up() -> None:
    model = sam2_model()
    converted = of_transformers(meta_state(model))
    assert set(converted) == set(model.state_dict())
    assert all(torch.equal(converted[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("size", "num_parameters"), [((96, 12), 39e6), ((96, 16), 46e6), ((112, 24), 81e6), ((144, 48), 224e6)]
)
def test_the_size_follows_from_the_shapes(size: tuple[int, int], num_parameters: float) -> None:
    """The numbers of parameters are those in Meta's README: 38.9, 46, 80.8 and 224.4 million."""
    trunk = {"image_encoder.trunk.patch_embed.proj.weight": torch.empty(size[0], 3, 7, 7)}
    blocks = {f"image_encoder.trunk.blocks.{block}.norm1.weight": torch.empty(0) for block in range(size[1])}
    config = MetaFile(Path("a.pt"), "--model.backend.segmenter")._config({**trunk, **blocks})
    with torch.device("meta"):
        model = Sam2VideoModel(config)
    assert sum(each.numel() for each in model.parameters()) == pytest.approx(num_parameters, rel=0.01)
    assert not config.enable_occlusion_spatial_embedding


def test_the_tiny_config_is_the_default_of_transformers() -> None:
    assert SIZES[96, 12] == {}
    vision: Any = Sam2VideoConfig().vision_config
    assert vision.backbone_config.blocks_per_stage == [1, 2, 7, 2]


def test_unexpected_and_missing_weights_fail(tmp_path: Path) -> None:
    state = meta_state(sam2_model())
    for change, message in (
        ({"memory_attention.new.weight": torch.zeros(1)}, r"have besides memory_attention\.new\.weight"),
        ({"maskmem_tpos_enc": None}, "lack memory_temporal_positional_encoding"),
        ({"maskmem_tpos_enc": torch.zeros(2, 2)}, "cannot be loaded on cpu: .*size mismatch"),
    ):
        changed = {name: value for name, value in {**state, **change}.items() if value is not None}
        torch.save({"model": changed}, tmp_path / "sam2.pt")
        with pytest.raises(ConfigError, match=rf"--model\.backend\.segmenter .*sam2\.pt.*{message}"):
            Segmenter(str(tmp_path / "sam2.pt"), 4, Weights()).load(torch.device("cpu"))


@pytest.mark.parametrize("content", [{"state": {}}, {"model": {}}, [1], {"model": 3}])
def test_a_file_of_another_model_fails(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"a\.pt is not a file of Meta's SAM 2, which has its weights under 'model'"):
        Segmenter(str(tmp_path / "a.pt"), 4, Weights())


def test_a_damaged_file_fails(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", sam2_model())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"a\.pt cannot be read: "):
        Segmenter(str(path), 4, Weights())


def test_a_size_that_sam2_does_not_have_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.pt", sam2_model())
    monkeypatch.delitem(meta_checkpoint.SIZES, TINY)
    with pytest.raises(
        ConfigError, match=r"not a SAM 2 of a known size\. It has \(8, 5\) channels and blocks; known are tiny \(9"
    ):
        Segmenter(str(path), 4, Weights())


def test_a_layer_with_an_absurd_number_keeps_its_name() -> None:
    name = f"memory_encoder.mask_downsampler.encoder.{'9' * 5000}.weight"
    assert list(of_transformers({name: torch.zeros(1)})) == [name]


def test_a_missing_file_fails(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--model\.backend\.segmenter .*no\.pt: there is no file"):
        Segmenter(str(tmp_path / "no.pt"), 4, Weights())


def test_the_identity_is_that_of_the_file(tmp_path: Path) -> None:
    model = sam2_model()
    first = Segmenter(str(save(tmp_path / "a.pt", model)), 4, Weights()).provenance()
    with torch.no_grad():
        model.no_memory_embedding.add_(1)
    assert Segmenter(str(save(tmp_path / "b.pt", model)), 4, Weights()).provenance() != first


@pytest.mark.parametrize(
    "state",
    [
        {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(())},
        {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros((), device="meta").expand(8, 3, 7, 7)},
        {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(()).expand(8, 3, 7, 7), 5: torch.zeros(1)},
        {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(()).expand(1 << 20, 3, 7, 7)},
    ],
)
def test_tensors_that_are_not_plain_or_exceed_their_file_are_refused(tmp_path: Path, state: dict[Any, Any]) -> None:
    torch.save({"model": state}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"a\.pt is (not a file of Meta's SAM 2|damaged: .* is larger than the file)"):
        MetaFile(tmp_path / "a.pt", "--model.backend.segmenter").config()
