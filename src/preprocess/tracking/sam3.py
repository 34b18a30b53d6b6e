"""SAM 3, which takes the prompt itself: it detects, follows and matches on each frame.

A streamed session of transformers never removes an object, so it keeps the doubles that a session over the whole video
removes in an object's first frames (hot start). Here the stream decides as a session over the whole video does: an
object that began less than `hotstart_delay` frames ago is removed from all frames once it was unmatched on
`hotstart_unmatch_thresh` frames, or once a detection matched it and an older object on `hotstart_dup_thresh` frames.
Results are therefore given `hotstart_delay` - 1 frames late, as `propagate_in_video_iterator` gives them. The numbers
are those of the checkpoint's config. On the frame on which an object is removed, transformers 5.23 gives the masks of
the objects after it to their neighbours (`build_outputs` pairs the ids after the removal with the masks before it);
here each keeps its own.

A session over the whole video divides the ages of remembered frames by the smaller of the video's length and
`max_object_pointers_in_encoder` (16). A stream does not know its length, so a shorter video is tracked like the
beginning of a longer one.

Unlike in transformers, objects end as in `tracks`, and after each frame the session drops (checked against
`modeling_sam3_video.py` and `modeling_sam3_tracker_video.py` of transformers 5.23, which read no more of it for any
later frame):

| of                                                   | kept                                                      |
|------------------------------------------------------|-----------------------------------------------------------|
| frames                                               | the current one                                           |
| undecided frames, `hotstart_delay` - 1               | the model's masks and scores, not yet enlarged            |
| each object's conditioning frames                    | the newest `max_memory_frames`: memory features, pointer  |
| its other frames, for the next `num_maskmem` - 1     | memory features, pointer                                  |
| for the next `max_object_pointers_in_encoder` - 1    | pointer                                                   |
| mismatches and doubles                               | those of the last `hotstart_delay` frames' new objects    |
| scores of each frame                                 | nothing: the session only writes them                     |
| objects that have ended                              | nothing                                                   |
"""

import sys
from collections import defaultdict
from importlib.metadata import version
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Sam3VideoModel
from transformers.utils.generic import ModelOutput

from datamodules.errors import ConfigError, ExtractError
from preprocess.checkpoints.model_folder import ModelFolder
from preprocess.checkpoints.parts import TOKENIZER
from preprocess.tracking.backend import TrackedObject, TrackingBackend
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
        self._checkpoint = ModelFolder.find(checkpoint, "--model.backend.checkpoint", (TOKENIZER,), ("sam3_video",))
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
            tokenizer = self._processor.tokenizer
            tokens = tokenizer(name)["input_ids"]
            num_tokens = len(tokens)
            if num_tokens > self._max_tokens:
                raise ExtractError(
                    f"the class {name!r} has {num_tokens} tokens with its marks, but SAM 3 takes {self._max_tokens}: "
                    "use fewer words"
                )
            marks = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
            if not tokens[1:-1] or marks.intersection(tokens[1:-1]):
                raise ExtractError(f"SAM 3's tokenizer does not know the class {name!r}: use other words")

    def start(self, classes: tuple[str, ...]) -> "Sam3Tracker":
        """See `TrackingBackend`."""
        self.check(classes)
        return Sam3Tracker(self._model, self._processor, classes, self.max_memory_frames, self._identity)

    def provenance(self) -> dict[str, str]:
        """See `TrackingBackend`."""
        kernels = {_KERNELS: version(_KERNELS)} if find_spec(_KERNELS) else {}
        versions = {name: version(name) for name in _DECIDE}
        return {"segmenter": self._checkpoint.identity(), **versions, **kernels}


class _LastFrame(dict[int, Tensor]):
    """The newest frame. It counts as a long video: transformers divides ages by `min(frames, pointers)`."""

    def __setitem__(self, place: int, frame: Tensor) -> None:
        self.clear()
        super().__setitem__(place, frame)

    def __len__(self) -> int:
        return sys.maxsize


class _Undecided(NamedTuple):
    """A frame that is tracked, while objects of it may still be removed.

    Attributes:
        output: the model's, its masks not yet enlarged.
        prompt_ids: by object, which class it is of.
        size: height and width of the frame, px.
    """

    output: Any
    prompt_ids: dict[int, int]
    size: tuple[int, int]


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
        super().__init__(delay=max(0, model.hotstart_delay - 1))
        self._model, self._processor = model, processor
        self._max_memory_frames, self._identity = max_memory_frames, identity
        self._session = processor.init_video_session(inference_device=model.device, dtype=model.dtype)
        self._session.processed_frames = _LastFrame()
        processor.add_text_prompt(self._session, list(classes))
        self._confirmed: dict[int, int] = {}  # by the session's ids: the last frame with a detection of it
        self._undecided: list[_Undecided] = []
        self._removed: set[int] = set()  # of those that an undecided frame may show
        self._obj_ids: dict[int, int] = {}
        self._num_objects = 0

    def step(self, place: int, frame: Tensor) -> list[TrackedObject]:
        """See `SteppedTracker`."""
        before = {name: _copied(value) for name, value in vars(self._session).items() if name != "cache"}
        try:
            output, confirmed = self._tracked(place, frame)
            removed = self._to_remove(place)
            prompt_ids, size = dict(self._session.obj_id_to_prompt_id), (frame.shape[-2], frame.shape[-1])
            undecided = [*self._undecided, _Undecided(output, prompt_ids, size)]
            oldest = undecided.pop(0) if len(undecided) > self.delay else None
            objects = self._objects_of(oldest, self._removed | removed) if oldest else []
        except BaseException:
            vars(self._session).update(before)
            raise
        self._undecided = undecided
        self._removed |= removed
        for known in self._session.obj_ids:
            if known in confirmed or known not in self._confirmed:
                self._confirmed[known] = place
        self._forget(place, removed)
        return objects

    def finish(self) -> list[list[TrackedObject]]:
        """See `VideoTracker`."""
        return [self._objects_of(each, self._removed) for each in self._undecided]

    def _tracked(self, place: int, frame: Tensor) -> tuple[Any, set[int]]:
        """Return the model's output for a frame, and the objects that its detections confirm."""
        images = self._processor(images=frame, device=self._model.device, return_tensors="pt")
        pixels = images["pixel_values"][0]
        output = self._model(inference_session=self._session, frame=pixels, frame_idx=place)
        output.suppressed_obj_ids = self._suppressed()
        unmatched = {each for each, places in self._session.unmatched_frame_inds.items() if place in places}
        masks = output.obj_id_to_mask
        is_there = torch.stack([(mask > 0).any() for mask in masks.values()]).tolist() if masks else []
        return output, {each for each, there in zip(masks, is_there, strict=True) if there and each not in unmatched}

    def _to_remove(self, place: int) -> set[int]:
        """Return the objects that `_process_hotstart` of transformers removes at this frame of a whole video."""
        model, session = self._model, self._session
        young = {each for each, first in session.obj_first_frame_idx.items() if first > place - model.hotstart_delay}
        unmatched = {
            each
            for each, places in session.unmatched_frame_inds.items()
            if len(places) >= model.hotstart_unmatch_thresh
        }
        doubles = {
            each
            for (_, each), places in session.overlap_pair_to_frame_inds.items()
            if len(places) >= model.hotstart_dup_thresh
        }
        return young & (unmatched | doubles)

    def _suppressed(self) -> set[int]:
        """Return the objects that `_process_hotstart` hides on this frame alone."""
        if self._model.suppress_unmatched_only_within_hotstart:
            return set()
        session = self._session
        return {each for each in session.unmatched_frame_inds if session.trk_keep_alive[each] <= 0}

    def _objects_of(self, frame: _Undecided, removed: set[int]) -> list[TrackedObject]:
        """Return what a frame shows besides the objects that are `removed`."""
        session = SimpleNamespace(  # what postprocessing reads of the session, as it was at that frame
            video_height=None,
            video_width=None,
            hotstart_removed_obj_ids=removed,
            obj_id_to_prompt_id=frame.prompt_ids,
            prompts=self._session.prompts,
        )
        found = self._processor.postprocess_outputs(session, frame.output, original_sizes=[list(frame.size)])
        areas = found["masks"].sum(dim=(1, 2)).tolist()
        objects = [self._object(found, index) for index, area in enumerate(areas) if area >= self._identity.min_area_px]
        return sorted(objects, key=lambda each: each.obj_id)

    def _object(self, found: dict[str, Any], index: int) -> TrackedObject:
        known = int(found["object_ids"][index])
        if known not in self._obj_ids:
            self._num_objects += 1
            self._obj_ids[known] = self._num_objects
        label = next(text for text, ids in found["prompt_to_obj_ids"].items() if known in ids)
        return TrackedObject(self._obj_ids[known], label, float(found["scores"][index]), found["masks"][index])

    def _forget(self, place: int, removed: set[int]) -> None:
        """End objects that are lost or `removed`, and drop what no later frame looks at; see the module's table."""
        session = self._session
        limit = self._identity.num_lost_frames
        lost = {known for known, confirmed in self._confirmed.items() if place + 1 - confirmed > limit}
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
        session.obj_id_to_score = {each: score for each, score in session.obj_id_to_score.items() if each in alive}
        shown = alive.union(*(each.prompt_ids for each in self._undecided))
        self._removed &= shown
        self._obj_ids = {known: obj_id for known, obj_id in self._obj_ids.items() if known in shown}
        self._forget_mismatches(place)
        for outputs in session.output_dict_per_obj.values():
            forget_frames(outputs, place, self._max_memory_frames, self._model.tracker_model.config)
        for inputs in (session.mask_inputs_per_obj, session.point_inputs_per_obj, session.frames_tracked_per_obj):
            for of_object in inputs.values():
                of_object.clear()
        session.suppressed_obj_ids.clear()
        session.obj_id_to_tracker_score_frame_wise.clear()

    def _forget_mismatches(self, place: int) -> None:
        """Drop the mismatches and doubles of objects that are too old to be removed at a later frame."""
        session = self._session
        oldest = place + 2 - self._model.hotstart_delay
        young = {each for each, first in session.obj_first_frame_idx.items() if first >= oldest}
        for known in session.unmatched_frame_inds.keys() - young:
            session.unmatched_frame_inds[known] = []  # that there was one is looked at by `_suppressed`
        for pair in list(session.overlap_pair_to_frame_inds):
            if pair[0] not in session.obj_first_frame_idx or pair[1] not in young:
                del session.overlap_pair_to_frame_inds[pair]


def _copied(value: Any) -> Any:
    """The same tensors in containers of their own."""
    if isinstance(value, defaultdict):
        return defaultdict(value.default_factory, {key: _copied(each) for key, each in value.items()})
    if isinstance(value, dict) and not isinstance(value, ModelOutput):
        copy = type(value)()
        copy.update({key: _copied(each) for key, each in value.items()})
        return copy
    return type(value)(value) if isinstance(value, list | set) else value
