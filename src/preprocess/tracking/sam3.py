"""SAM 3, which takes the prompt itself: it detects, follows and matches on each frame.

Its session of transformers never ends an object when streamed, and keeps something of every frame. Here objects end
as in `tracks`, and after each frame the session drops (checked against `modeling_sam3_video.py` and
`modeling_sam3_tracker_video.py` of transformers 5.23, which read no more of it for any later frame):

| of                                                   | kept                                                      |
|------------------------------------------------------|-----------------------------------------------------------|
| frames                                               | the current one, and how many there were                  |
| each object's conditioning frames                    | the newest `max_memory_frames`: memory features, pointer  |
| its other frames, for the next `num_maskmem` - 1     | memory features, pointer                                  |
| for the next `max_object_pointers_in_encoder` - 1    | pointer                                                   |
| scores, mismatches, overlaps of each frame           | nothing: a streamed session only writes them              |
| objects that have ended                              | nothing                                                   |
"""

from collections import defaultdict
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers import Sam3VideoModel
from transformers.utils.generic import ModelOutput

from datamodules.errors import ConfigError, ExtractError
from preprocess.checkpoints import TOKENIZER
from preprocess.tracking.backend import TrackedObject, TrackingBackend
from preprocess.tracking.loading import ModelFolder
from preprocess.tracking.memory import forget_frames
from preprocess.tracking.options import Identity, Weights
from preprocess.tracking.stepping import SteppedTracker

_DECIDE = ("transformers", "tokenizers", "torchvision")
_WEIGHTS = Weights()
_KERNELS = "kernels"  # with it, transformers fetches kernels that fill holes and drop doubles


class Sam3(TrackingBackend):
    """SAM 3. What a detection is, and which is the same object, its checkpoint's config says.

    A score is that of the detection that an object began with: SAM 3 tells no later ones.

    Args:
        checkpoint: a folder, or a name on the Hugging Face hub, as `facebook/sam3`.
        max_objects: see `Identity`, as for
        min_area_px: of a mask, and
        max_lost_frames: without a detection.
        max_memory_frames: conditioning frames that are remembered of each object, the newest.
        weights: how they are held.

    Raises:
        ConfigError: the checkpoint is not there, not whole, or of another kind; or a number is too small.
    """

    def __init__(
        self,
        checkpoint: str,
        max_objects: int = 100,
        min_area_px: int = 1,
        max_lost_frames: int = 30,
        max_memory_frames: int = 4,
        weights: Weights = _WEIGHTS,
    ) -> None:
        if max_memory_frames < 1:
            raise ConfigError(f"{max_memory_frames = } must be 1 or more: objects begin with one")
        self.checkpoint, self.max_objects, self.min_area_px = checkpoint, max_objects, min_area_px
        self.max_lost_frames, self.max_memory_frames, self.weights = max_lost_frames, max_memory_frames, weights
        self._identity = Identity(max_objects=max_objects, min_area_px=min_area_px, max_lost_frames=max_lost_frames)
        self._checkpoint = ModelFolder.find(checkpoint, "--model.backend.checkpoint", ("sam3_video",), (TOKENIZER,))
        self._processor = self._checkpoint.processor()
        self._max_tokens = int(self._checkpoint.config().detector_config.text_config.max_position_embeddings)
        self._model: Any = None

    def load(self, device: torch.device) -> None:
        """See `TrackingBackend`."""
        self._model = self._checkpoint.load(Sam3VideoModel, self.weights.dtype, device)
        self._model.max_num_objects = self.max_objects
        if self.weights.compile:
            self._model.detector_model.vision_encoder.compile()

    def check(self, classes: tuple[str, ...]) -> None:
        """See `TrackingBackend`."""
        for name in classes:
            num_tokens = len(self._processor.tokenizer(name)["input_ids"])
            if num_tokens > self._max_tokens:
                raise ExtractError(
                    f"the class {name!r} has {num_tokens} tokens with its marks, but SAM 3 takes {self._max_tokens}: "
                    "use fewer words"
                )

    def start(self, classes: tuple[str, ...]) -> "Sam3Tracker":
        """See `TrackingBackend`."""
        self.check(classes)
        return Sam3Tracker(self._model, self._processor, classes, self.max_memory_frames, self._identity)

    def ingredients(self) -> dict[str, str]:
        """See `TrackingBackend`."""
        kernels = {_KERNELS: version(_KERNELS)} if find_spec(_KERNELS) else {}
        versions = {name: version(name) for name in _DECIDE}
        return {"segmenter": self._checkpoint.identity(), **versions, **kernels}


class _LastFrame(dict[int, Tensor]):
    """The newest frame; it counts as all that there were, for transformers looks at their number."""

    def __setitem__(self, place: int, frame: Tensor) -> None:
        self.clear()
        super().__setitem__(place, frame)

    def __len__(self) -> int:
        return max(self, default=-1) + 1


class Sam3Tracker(SteppedTracker):
    """A `VideoTracker`.

    Args:
        model: a `Sam3VideoModel`.
        processor: its.
        classes: to look for.
        max_memory_frames: conditioning frames that are remembered of each object.
        identity: when objects end, and which are too small.
    """

    def __init__(
        self, model: Any, processor: Any, classes: tuple[str, ...], max_memory_frames: int, identity: Identity
    ) -> None:
        super().__init__()
        self._model, self._processor = model, processor
        self._max_memory_frames, self._identity = max_memory_frames, identity
        self._session = processor.init_video_session(inference_device=model.device, dtype=model.dtype)
        self._session.processed_frames = _LastFrame()
        processor.add_text_prompt(self._session, list(classes))
        self._confirmed: dict[int, int] = {}  # by the session's ids
        self._obj_ids: dict[int, int] = {}
        self._num_objects = 0

    def step(self, place: int, frame: Tensor) -> list[TrackedObject]:
        """See `SteppedTracker`."""
        before = {name: _copied(value) for name, value in vars(self._session).items() if name != "cache"}
        try:
            found, confirmed = self._found(place, frame)
        except BaseException:
            vars(self._session).update(before)
            raise
        for known in found["obj_ids"]:
            if known in confirmed or known not in self._confirmed:
                self._confirmed[known] = place
        objects = [self._object(found, index) for index in found["written"]]
        self._forget(place)
        return sorted(objects, key=lambda each: each.obj_id)

    def _found(self, place: int, frame: Tensor) -> tuple[dict[str, Any], set[int]]:
        """What the session says of a frame, and which objects its detections confirm."""
        images = self._processor(images=frame, device=self._model.device, return_tensors="pt")
        pixels = images["pixel_values"][0]
        output = self._model(inference_session=self._session, frame=pixels, frame_idx=place)
        found = self._processor.postprocess_outputs(self._session, output, original_sizes=[list(frame.shape[-2:])])
        unmatched = {each for each, places in self._session.unmatched_frame_inds.items() if place in places}
        masks = output.obj_id_to_mask
        is_there = torch.stack([(mask > 0).any() for mask in masks.values()]).tolist() if masks else []
        confirmed = {each for each, there in zip(masks, is_there, strict=True) if there and each not in unmatched}
        areas = found["masks"].sum(dim=(1, 2)).tolist()
        written = [index for index, area in enumerate(areas) if area >= self._identity.min_area_px]
        return {**found, "obj_ids": list(self._session.obj_ids), "written": written}, confirmed

    def _object(self, found: dict[str, Any], index: int) -> TrackedObject:
        known = int(found["object_ids"][index])
        if known not in self._obj_ids:
            self._num_objects += 1
            self._obj_ids[known] = self._num_objects
        label = next(text for text, ids in found["prompt_to_obj_ids"].items() if known in ids)
        return TrackedObject(self._obj_ids[known], label, float(found["scores"][index]), found["masks"][index])

    def _forget(self, place: int) -> None:
        """End lost objects, and drop what no later frame looks at; see the module's table."""
        session = self._session
        limit = self._identity.num_lost_frames
        for known in [each for each, confirmed in self._confirmed.items() if place + 1 - confirmed > limit]:
            session.remove_object(known)
            for of_objects in (session.obj_id_to_score, session.obj_id_to_last_occluded, session.obj_first_frame_idx):
                of_objects.pop(known, None)
            session.trk_keep_alive.pop(known, None)
            del self._confirmed[known]
            self._obj_ids.pop(known, None)
        for outputs in session.output_dict_per_obj.values():
            forget_frames(outputs, place, self._max_memory_frames, self._model.tracker_model.config)
        for inputs in (session.mask_inputs_per_obj, session.point_inputs_per_obj, session.frames_tracked_per_obj):
            for of_object in inputs.values():
                of_object.clear()
        for of_frames in (session.unmatched_frame_inds, session.overlap_pair_to_frame_inds, session.suppressed_obj_ids):
            of_frames.clear()
        session.obj_id_to_tracker_score_frame_wise.clear()


def _copied(value: Any) -> Any:
    """The same tensors in containers of their own."""
    if isinstance(value, defaultdict):
        return defaultdict(value.default_factory, {key: _copied(each) for key, each in value.items()})
    if isinstance(value, dict) and not isinstance(value, ModelOutput):
        copy = type(value)()
        copy.update({key: _copied(each) for key, each in value.items()})
        return copy
    return type(value)(value) if isinstance(value, list | set) else value
