"""What the sessions of SAM 2, EdgeTAM and SAM 3 remember of an object; they are alike in transformers."""

from typing import Any

Outputs = dict[str, dict[int, dict[str, Any]]]  # what was made on conditioning frames, and on others, by their places


def forget_frames(outputs: Outputs, place: int, max_memory_frames: int, config: Any) -> None:
    """Drop from an object's outputs what no frame after `place` looks at.

    `_gather_memory_frame_outputs` reads the memory of conditioning frames and of the `num_maskmem` - 1 frames before,
    `_get_object_pointers` the pointers of conditioning frames and of `max_object_pointers_in_encoder` - 1 before;
    masks are read on their own frame alone.

    Args:
        outputs: of one object; see `Sam2VideoInferenceSession.output_dict_per_obj`.
        place: of the frame that is done.
        max_memory_frames: conditioning frames to keep, the newest.
        config: of the model.
    """
    conditioning, others = outputs["cond_frame_outputs"], outputs["non_cond_frame_outputs"]
    for old in sorted(conditioning)[:-max_memory_frames]:
        del conditioning[old]
    num_frames = max(config.max_object_pointers_in_encoder, config.num_maskmem)
    for old in [each for each in others if each <= place + 1 - num_frames]:
        del others[old]
    for output in (*conditioning.values(), *others.values()):
        output.pop("high_res_masks", None)
        output.pop("pred_masks", None)
    for old in [each for each in others if each <= place + 1 - config.num_maskmem]:
        others[old] = {"object_pointer": others[old]["object_pointer"]}
