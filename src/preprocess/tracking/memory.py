"""Outputs that sessions of SAM 2, EdgeTAM and SAM 3 keep of an object, with the same layout in transformers."""

from typing import Any

Outputs = dict[str, dict[int, dict[str, Any]]]  # of conditioning and of other frames, by frame index


def forget_frames(outputs: Outputs, frame_idx: int, max_memory_frames: int, config: Any) -> None:
    """Drop the outputs of an object that no frame after `frame_idx` reads.

    `_gather_memory_frame_outputs` of transformers reads the memory of conditioning frames and of the `num_maskmem` - 1
    previous frames; `_get_object_pointers` reads the pointers of conditioning frames and of the
    `max_object_pointers_in_encoder` - 1 previous frames. Masks are read on their own frame only.

    Args:
        outputs: of one object; see `Sam2VideoInferenceSession.output_dict_per_obj`.
        frame_idx: the frame that was tracked last.
        max_memory_frames: how many conditioning frames to keep, the newest.
        config: of the model.
    """
    conditioning, others = outputs["cond_frame_outputs"], outputs["non_cond_frame_outputs"]
    for old in sorted(conditioning)[:-max_memory_frames]:
        del conditioning[old]
    num_frames = max(config.max_object_pointers_in_encoder, config.num_maskmem)
    for old in [index for index in others if index <= frame_idx + 1 - num_frames]:
        del others[old]
    for output in (*conditioning.values(), *others.values()):
        output.pop("high_res_masks", None)
        output.pop("pred_masks", None)
    for old in [index for index in others if index <= frame_idx + 1 - config.num_maskmem]:
        others[old] = {"object_pointer": others[old]["object_pointer"]}
