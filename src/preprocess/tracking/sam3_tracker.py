"""The session of SAM 3 for one video: a stream with the results of a session over the whole video.

A streamed session of transformers never removes an object, so it keeps duplicates that a session over the whole video
removes in the first frames of an object (hot start). This tracker decides as a session over the whole video does: it
removes an object that started less than `hotstart_delay` frames ago from all frames, once it was unmatched on
`hotstart_unmatch_thresh` frames, or once a detection matched it and an older object on `hotstart_dup_thresh` frames.
Results are therefore final `hotstart_delay` - 1 frames later, as in `propagate_in_video_iterator`. These numbers are in
the checkpoint's config. On the frame on which an object is removed, transformers 5.23 gives the masks of later objects
to their neighbours (`build_outputs` pairs the ids after the removal with the masks before it); here each object keeps
its own mask.

A session over the whole video divides the ages of remembered frames by the smaller of the video's length and
`max_object_pointers_in_encoder` (16). The length of a stream is unknown, so a shorter video is tracked as the beginning
of a longer one.

Unlike in transformers, objects end as in `tracks`. After each frame, the session keeps only what
`modeling_sam3_video.py` and `modeling_sam3_tracker_video.py` of transformers 5.23 read for later frames:

| state                                                | kept                                                      |
|------------------------------------------------------|-----------------------------------------------------------|
| frames                                               | the current one                                           |
| frames that are not final, `hotstart_delay` - 1      | the model's masks and scores, not yet upsampled           |
| conditioning frames of each object                   | the newest `max_memory_frames`: memory features, pointer  |
| its other frames, for the next `num_maskmem` - 1     | memory features, pointer                                  |
| for the next `max_object_pointers_in_encoder` - 1    | pointer                                                   |
| mismatches and duplicates                            | those of objects of the last `hotstart_delay` frames      |
| scores of each frame                                 | nothing: the session only writes them                     |
| objects that have ended                              | nothing                                                   |
"""

import sys
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from preprocess.tracking.backend import TrackedObject
from preprocess.tracking.memory import forget_frames
from preprocess.tracking.options import Identity
from preprocess.tracking.stepping import SteppedTracker


class _LastFrame(dict[int, Tensor]):
    """Keeps the newest frame only, but has the length of a long video.

    transformers divides ages by `min(frames, pointers)`.
    """

    def __setitem__(self, frame_idx: int, frame: Tensor) -> None:
        self.clear()
        super().__setitem__(frame_idx, frame)

    def __len__(self) -> int:
        return sys.maxsize


class _Pending(NamedTuple):
    """A tracked frame that is not final: objects on it may still be removed.

    Attributes:
        output: of the model, with masks that are not yet upsampled.
        prompt_ids: id of the class of each object.
        size: height and width of the frame, in px.
    """

    output: Any
    prompt_ids: dict[int, int]
    size: tuple[int, int]


class Sam3Tracker(SteppedTracker):
    """A `VideoTracker` with one streamed session of SAM 3.

    Args:
        model: a `Sam3VideoModel`.
        processor: the processor of the model.
        classes: the classes to look for.
        max_memory_frames: see `Sam3`.
        identity: when objects end, and which are too small.
    """

    def __init__(
        self, model: Any, processor: Any, classes: tuple[str, ...], max_memory_frames: int, identity: Identity
    ) -> None:
        super().__init__(delay=max(0, model.hotstart_delay - 1))
        self._model, self._processor = model, processor
        self._max_memory_frames, self._identity = max_memory_frames, identity
        self._session = processor.init_video_session(inference_device=model.device, dtype=model.dtype)
        self._session.processed_frames = _LastFrame()
        processor.add_text_prompt(self._session, list(classes))
        self._confirmed: dict[int, int] = {}  # by the session's id of an object: the last frame with a detection
        self._pending: list[_Pending] = []
        self._removed: set[int] = set()  # of the objects that a pending frame may show
        self._obj_ids: dict[int, int] = {}  # ids in the sample, by the session's ids
        self._num_objects = 0

    def step(self, frame_idx: int, frame: Tensor) -> list[TrackedObject]:
        """See `SteppedTracker`."""
        # the session is restored after an exception, so that the frame can be tracked again
        before = {name: _copied(value) for name, value in vars(self._session).items() if name != "cache"}
        try:
            output, confirmed = self._tracked(frame_idx, frame)
            removed = self._to_remove(frame_idx)
            prompt_ids, size = dict(self._session.obj_id_to_prompt_id), (frame.shape[-2], frame.shape[-1])
            pending = [*self._pending, _Pending(output, prompt_ids, size)]
            oldest = pending.pop(0) if len(pending) > self.delay else None
            objects = self._objects_of(oldest, self._removed | removed) if oldest else []
        except BaseException:
            vars(self._session).update(before)
            raise
        self._pending = pending
        self._removed |= removed
        for known in self._session.obj_ids:
            if known in confirmed or known not in self._confirmed:
                self._confirmed[known] = frame_idx
        self._forget(frame_idx, removed)
        return objects

    def finish(self) -> list[list[TrackedObject]]:
        """See `VideoTracker`."""
        return [self._objects_of(frame, self._removed) for frame in self._pending]

    def _tracked(self, frame_idx: int, frame: Tensor) -> tuple[Any, set[int]]:
        """Return the model's output for a frame, and the ids of objects that its detections confirm."""
        images = self._processor(images=frame, device=self._model.device, return_tensors="pt")
        pixels = images["pixel_values"][0]
        output = self._model(inference_session=self._session, frame=pixels, frame_idx=frame_idx)
        output.suppressed_obj_ids = self._suppressed()
        unmatched = {known for known, frames in self._session.unmatched_frame_inds.items() if frame_idx in frames}
        masks = output.obj_id_to_mask
        is_visible = torch.stack([(mask > 0).any() for mask in masks.values()]).tolist() if masks else []
        visible = {known for known, visible in zip(masks, is_visible, strict=True) if visible}
        return output, visible - unmatched

    def _to_remove(self, frame_idx: int) -> set[int]:
        """Return the ids that `_process_hotstart` of transformers removes at this frame of a whole video."""
        model, session = self._model, self._session
        oldest = frame_idx + 1 - model.hotstart_delay
        young = {known for known, first in session.obj_first_frame_idx.items() if first >= oldest}
        unmatched = {
            known
            for known, frames in session.unmatched_frame_inds.items()
            if len(frames) >= model.hotstart_unmatch_thresh
        }
        duplicates = {
            known
            for (_, known), frames in session.overlap_pair_to_frame_inds.items()
            if len(frames) >= model.hotstart_dup_thresh
        }
        return young & (unmatched | duplicates)

    def _suppressed(self) -> set[int]:
        """Return the ids that `_process_hotstart` of transformers hides on this frame only."""
        if self._model.suppress_unmatched_only_within_hotstart:
            return set()
        session = self._session
        return {known for known in session.unmatched_frame_inds if session.trk_keep_alive[known] <= 0}

    def _objects_of(self, frame: _Pending, removed: set[int]) -> list[TrackedObject]:
        """Return the objects on a frame, without those that are `removed`."""
        session = SimpleNamespace(  # what postprocessing reads of the session, as it was at that frame
            video_height=None,
            video_width=None,
            hotstart_removed_obj_ids=removed,
            obj_id_to_prompt_id=frame.prompt_ids,
            prompts=self._session.prompts,
        )
        results = self._processor.postprocess_outputs(session, frame.output, original_sizes=[list(frame.size)])
        areas = results["masks"].sum(dim=(1, 2)).tolist()
        objects = [
            self._object(results, index) for index, area in enumerate(areas) if area >= self._identity.min_area_px
        ]
        return sorted(objects, key=lambda tracked: tracked.obj_id)

    def _object(self, results: dict[str, Any], index: int) -> TrackedObject:
        known = int(results["object_ids"][index])
        if known not in self._obj_ids:
            self._num_objects += 1
            self._obj_ids[known] = self._num_objects
        label = next(text for text, ids in results["prompt_to_obj_ids"].items() if known in ids)
        return TrackedObject(self._obj_ids[known], label, float(results["scores"][index]), results["masks"][index])

    def _forget(self, frame_idx: int, removed: set[int]) -> None:
        """End objects that are lost or `removed`, and drop what no later frame reads; see the module's table."""
        session = self._session
        limit = self._identity.num_lost_frames
        lost = {known for known, confirmed in self._confirmed.items() if frame_idx + 1 - confirmed > limit}
        for known in lost | removed:
            session.remove_object(known)
            for of_objects in (
                session.obj_id_to_last_occluded,
                session.obj_first_frame_idx,
                session.trk_keep_alive,
                session.unmatched_frame_inds,
                self._confirmed,
            ):
                of_objects.pop(known, None)
        alive = set(session.obj_ids)
        session.obj_id_to_score = {known: score for known, score in session.obj_id_to_score.items() if known in alive}
        shown = alive.union(*(frame.prompt_ids for frame in self._pending))
        self._removed &= shown
        self._obj_ids = {known: obj_id for known, obj_id in self._obj_ids.items() if known in shown}
        self._forget_mismatches(frame_idx)
        for outputs in session.output_dict_per_obj.values():
            forget_frames(outputs, frame_idx, self._max_memory_frames, self._model.tracker_model.config)
        for inputs in (session.mask_inputs_per_obj, session.point_inputs_per_obj, session.frames_tracked_per_obj):
            for of_object in inputs.values():
                of_object.clear()
        session.suppressed_obj_ids.clear()
        session.obj_id_to_tracker_score_frame_wise.clear()

    def _forget_mismatches(self, frame_idx: int) -> None:
        """Drop the mismatches and duplicates of objects that are too old to be removed at a later frame."""
        session = self._session
        oldest = frame_idx + 2 - self._model.hotstart_delay
        young = {known for known, first in session.obj_first_frame_idx.items() if first >= oldest}
        for known in session.unmatched_frame_inds.keys() - young:
            session.unmatched_frame_inds[known] = []  # not deleted: `_suppressed` reads that there was one
        for pair in list(session.overlap_pair_to_frame_inds):
            if pair[0] not in session.obj_first_frame_idx or pair[1] not in young:
                del session.overlap_pair_to_frame_inds[pair]


def _copied(value: Any) -> Any:
    """Return a copy of nested containers; their tensors are not copied."""
    if isinstance(value, defaultdict):
        return defaultdict(value.default_factory, {key: _copied(element) for key, element in value.items()})
    if isinstance(value, dict) and not isinstance(value, ModelOutput):
        copy = type(value)()
        copy.update({key: _copied(element) for key, element in value.items()})
        return copy
    return type(value)(value) if isinstance(value, list | set) else value
