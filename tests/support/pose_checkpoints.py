"""Tiny models of the pose backends with random weights, saved in the files that their makers publish."""

from pathlib import Path

import torch
from transformers import (
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
    VitPoseImageProcessor,
)

from preprocess.pose.openpose_net import OpenPoseNet


def make_rtdetr(folder: Path, labels: tuple[str, ...] = ("person", "bicycle")) -> Path:
    """Save an RT-DETR with an input of 64x64 px, half of whose detections have high scores."""
    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(  # type: ignore[call-arg]
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=backbone, id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)},
        encoder_in_channels=[16, 16, 16], encoder_hidden_dim=16, encoder_layers=1, encoder_ffn_dim=16,
        encoder_attention_heads=2, d_model=16, num_queries=8, decoder_in_channels=[16, 16, 16], decoder_ffn_dim=16,
        decoder_layers=1, decoder_attention_heads=2, decoder_n_points=2, num_denoising=0,
    )  # fmt: skip
    model = RTDetrForObjectDetection(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "class_embed" in name or "score_head" in name:
                parameter.copy_(torch.randn_like(parameter) * (3 if parameter.ndim > 1 else 0))
            elif "bbox" in name and parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def make_vitpose(folder: Path, num_experts: int = 1) -> Path:
    """Save a ViTPose with an input of 64x48 px."""
    torch.manual_seed(0)
    backbone = VitPoseBackboneConfig(  # type: ignore[call-arg]
        image_size=(64, 48), patch_size=(16, 16), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        mlp_ratio=2, num_experts=num_experts, part_features=8, out_indices=[1],
    )  # fmt: skip
    model = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=17))  # type: ignore[call-arg]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    VitPoseImageProcessor(size={"height": 64, "width": 48}).save_pretrained(folder)
    return folder


def make_openpose(path: Path) -> Path:
    """Save random weights of OpenPose's body network, 209 MB, whose maps have some peaks of people."""
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    net = OpenPoseNet()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                torch.nn.init.kaiming_normal_(parameter)
    torch.save(net.state_dict(), path)
    return path
