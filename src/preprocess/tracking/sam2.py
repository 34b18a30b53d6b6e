"""SAM 2 and EdgeTAM: masks propagated through a video, with sessions of transformers that do not grow.

Each object has its own session, so that objects do not affect each other: a session of several objects binarises all
their masks when one of them is corrected. All sessions share the features of the current frame. A session starts with a
box, and its first output is the mask in it; if that is the mask of a track, the output becomes a conditioning frame of
the track.

After each frame, a session keeps only what `modeling_sam2_video.py` and `modeling_edgetam_video.py` of transformers
5.23 read for later frames:

| frames                                                           | kept                                     |
|------------------------------------------------------------------|------------------------------------------|
| conditioning frames, the newest `max_memory_frames`              | memory features, pointer                 |
| other frames, for the next `num_maskmem` - 1                     | memory features, pointer                 |
| other frames, for the next `max_object_pointers_in_encoder` - 1  | pointer                                  |
| the current frame                                                | its features, once for all objects       |
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import EdgeTamVideoModel, Sam2VideoModel

from datamodules.errors import ConfigError
from preprocess.checkpoints.checkpoint import Checkpoint
from preprocess.checkpoints.model_folder import ModelFolder
from preprocess.tracking.memory import forget_frames
from preprocess.tracking.meta_checkpoint import SUFFIXES, MetaFile
from preprocess.tracking.options import Weights

MODELS = {"sam2_video": Sam2VideoModel, "edgetam_video": EdgeTamVideoModel}
_OBJECT = 1  # id of the only object of a session
_OPTION = "--model.backend.segmenter"


class Segmenter:
    """A SAM 2 or EdgeTAM. `load` reads the weights.

    Args:
        checkpoint: a folder, a name on the Hugging Face hub, such as `facebook/sam2.1-hiera-tiny`, or a file of Meta.
        max_memory_frames: how many conditioning frames of an object are kept, the newest. SAM 3, which detections
            condition too, reads 4 (`max_cond_frame_num`).
        weights: how the weights are loaded.

    Raises:
        ConfigError: the model cannot be found, is incomplete, or has another type.
    """

    def __init__(self, checkpoint: str, max_memory_frames: int, weights: Weights) -> None:
        if max_memory_frames < 1:
            raise ConfigError(f"{max_memory_frames = } must be 1 or more, because objects start with one")
        self._checkpoint = _find_checkpoint(checkpoint)
        self._processor = self._checkpoint.processor()
        self._max_memory_frames, self._weights = max_memory_frames, weights
        self._model: Any = None

    def load(self, device: torch.device) -> None:
        """See `Backend`."""
        model_class = MODELS[self._checkpoint.config().model_type]
        self._model = self._checkpoint.load(model_class, self._weights.dtype, device)
        if self._weights.compile:
            self._model.vision_encoder.compile()

    def provenance(self) -> dict[str, str]:
        """See `Backend`."""
        return {"segmenter": self._checkpoint.identity()}

    def start(self) -> "SegmentedVideo":
        """Return a segmenter for a new video."""
        return SegmentedVideo(self._model, self._processor, self._max_memory_frames)


def _find_checkpoint(checkpoint: str) -> Checkpoint:
    path = Path(checkpoint)
    if path.suffix not in SUFFIXES:
        return ModelFolder.find(checkpoint, _OPTION, types=tuple(MODELS))
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that is too long for a path
        raise ConfigError(f"{_OPTION} {checkpoint}: there is no file {path.absolute()}")
    return MetaFile(path, _OPTION)


class SegmentedVideo:
    """A `VideoSegmenter` whose memories are sessions of transformers.

    Args:
        model: a video model of transformers, such as `Sam2VideoModel`.
        processor: the processor of the model.
        max_memory_frames: see `Segmenter`.
    """

    def __init__(self, model: Any, processor: Any, max_memory_frames: int) -> None:
        self._model, self._processor, self._max_memory_frames = model, processor, max_memory_frames
        self._cache = self._session().cache
        self._frame_idx, self._size = -1, (0, 0)  # of the current frame; height and width in px
        self._pixels: Tensor

    def set_frame(self, frame_idx: int, frame: Tensor) -> None:
        """See `VideoSegmenter`."""
        self._frame_idx, self._size = frame_idx, (frame.shape[-2], frame.shape[-1])
        images = self._processor(images=frame, device=self._model.device, return_tensors="pt")
        self._pixels = images["pixel_values"][0].to(self._model.dtype)

    def segment(self, box: Sequence[float]) -> tuple[Any, Tensor]:
        """See `VideoSegmenter`."""
        session = self._session()
        session.cache = self._cache
        boxes = [[list(box)]]
        self._processor.add_inputs_to_inference_session(
            session, self._frame_idx, _OBJECT, input_boxes=boxes, original_size=self._size
        )
        return session, self.propagate(session)

    def propagate(self, memory: Any) -> Tensor:
        """See `VideoSegmenter`."""
        memory.processed_frames = None  # drops the previous frame
        output = self._model(inference_session=memory, frame_idx=self._frame_idx, frame=self._pixels)
        self._forget(memory)
        masks = self._processor.post_process_masks([output.pred_masks.float()], original_sizes=[self._size])
        mask: Tensor = masks[0][0, 0]
        return mask

    def correct(self, memory: Any, detected: Any) -> None:
        """See `VideoSegmenter`."""
        known, new = memory.output_dict_per_obj[0], detected.output_dict_per_obj[0]
        known["non_cond_frame_outputs"].pop(self._frame_idx, None)
        known["cond_frame_outputs"].update(new["cond_frame_outputs"])
        self._forget(memory)

    def _session(self) -> Any:
        return self._processor.init_video_session(inference_device=self._model.device, dtype=self._model.dtype)

    def _forget(self, session: Any) -> None:
        """Drop what no later frame reads; see the module's table."""
        forget_frames(session.output_dict_per_obj[0], self._frame_idx, self._max_memory_frames, self._model.config)
        session.frames_tracked_per_obj[0].clear()
        session.point_inputs_per_obj[0].clear()
