"""SAM 2 and EdgeTAM with tiny random weights, loaded like real ones, compared with the sessions of transformers."""

import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoProcessor, Sam2VideoModel

from datamodules.errors import ConfigError
from preprocess.tracking.options import Weights
from preprocess.tracking.sam2 import MODELS, SegmentedVideo, Segmenter
from support.tracking_checkpoints import make_edgetam, make_grounding_dino, make_sam2, moving_square

CPU = torch.device("cpu")
SIZE = (48, 64)
FAMILIES = ("sam2_video", "edgetam_video")
BOXES = ((2.0, 10.0, 16.0, 26.0), (30.0, 5.0, 60.0, 40.0))
NUM_FRAMES = 26  # more than any memory: 16 pointers


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("segmenters")
    return {"sam2_video": make_sam2(folder / "sam2"), "edgetam_video": make_edgetam(folder / "edgetam")}


@pytest.fixture(scope="module")
def followed(segmenters: dict[str, Segmenter]) -> dict[str, list[Tensor]]:
    """Return the streamed masks of both boxes, without corrections."""
    return {family: streamed(segmenter.start(), BOXES) for family, segmenter in segmenters.items()}


@pytest.fixture(scope="module")
def segmenters(folders: dict[str, Path]) -> dict[str, Segmenter]:
    return {family: load(folder) for family, folder in folders.items()}


def load(folder: Path, max_memory_frames: int = 4, weights: Weights = Weights()) -> Segmenter:  # noqa: B008
    segmenter = Segmenter(str(folder), max_memory_frames, weights)
    segmenter.load(CPU)
    return segmenter


def streamed(
    video: SegmentedVideo,
    boxes: Sequence[Sequence[float]],
    corrections: Sequence[int] = (),
    num_frames: int = NUM_FRAMES,
) -> list[Tensor]:
    """Return masks bool [frames, objects, H, W] of objects that boxes start, and correct on some frames."""
    memories: list[Any] = []
    masks = []
    for place, frame in enumerate(moving_square(num_frames)):
        video.set_frame(place, frame)
        if place == 0:
            begun = [video.segment(box) for box in boxes]
            memories = [memory for memory, _ in begun]
            masks.append(torch.stack([mask for _, mask in begun]))
            continue
        found = [video.propagate(memory) for memory in memories]
        if place in corrections:
            for index, box in enumerate(boxes):
                seen, found[index] = video.segment(box)
                video.correct(memories[index], seen)
        masks.append(torch.stack(found))
    return masks


def whole(folder: Path, family: str, box: Sequence[float], corrections: Sequence[int] = ()) -> list[Tensor]:
    """Return the same masks from a session of transformers over the whole video, for one object.

    Memories of several are encoded together, which changes their last places, and by these some pixels.
    """
    processor: Any = AutoProcessor.from_pretrained(folder)
    model_class: Any = MODELS[family]
    model = model_class.from_pretrained(folder).eval()
    session = processor.init_video_session(video=torch.stack(moving_square(NUM_FRAMES)))
    masks: dict[int, Tensor] = {}
    stops = [*corrections, NUM_FRAMES]
    for first, stop in zip([0, *corrections], stops, strict=True):
        processor.add_inputs_to_inference_session(session, first, 1, input_boxes=[[list(box)]])
        for output in _outputs(model, session, first, stop):
            masks[output.frame_idx] = processor.post_process_masks([output.pred_masks], original_sizes=[SIZE])[0][0]
    return [masks[place] for place in range(NUM_FRAMES)]


def _outputs(model: Any, session: Any, first: int, stop: int) -> Iterator[Any]:
    yield model(session, frame_idx=first)
    if stop > first + 1:
        yield from model.propagate_in_video_iterator(session, first + 1, stop - first - 2)


def differing(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[int]:
    """Return the number of differing pixels on each frame."""
    return [int((one != other).sum()) for one, other in zip(first, second, strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_change_with_the_frame_and_the_box(
    segmenters: dict[str, Segmenter], followed: dict[str, list[Tensor]], family: str
) -> None:
    masks = followed[family]
    assert [int(mask.sum()) for mask in masks[0]] != [0, 0]
    assert sum(not torch.equal(one, other) for one, other in pairwise(masks)) >= 20
    assert sum(not torch.equal(*both) for both in masks) >= 20, "objects differ"
    corrected = streamed(segmenters[family].start(), BOXES, [4], 8)
    assert sum(differing(masks[:4], corrected[:4])) == 0
    assert sum(differing(masks[5:8], corrected[5:])) > 0, "memory decides"


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_masks_are_those_of_a_session_of_the_whole_video(
    followed: dict[str, list[Tensor]], folders: dict[str, Path], family: str
) -> None:
    masks = followed[family]
    for index, box in enumerate(BOXES):
        alone = whole(folders[family], family, box)
        assert differing([each[index : index + 1] for each in masks], alone) == [0] * NUM_FRAMES


@pytest.mark.parametrize("family", FAMILIES)
def test_corrected_masks_are_those_of_a_session_of_the_whole_video(
    segmenters: dict[str, Segmenter], folders: dict[str, Path], family: str
) -> None:
    masks = streamed(segmenters[family].start(), BOXES[:1], [9, 20])
    assert differing(masks, whole(folders[family], family, BOXES[0], [9, 20])) == [0] * NUM_FRAMES


def test_objects_do_not_affect_each_other(segmenters: dict[str, Segmenter]) -> None:
    both = streamed(segmenters["sam2_video"].start(), BOXES, [5], 8)
    alone = streamed(segmenters["sam2_video"].start(), BOXES[1:], [5], 8)
    assert sum(differing([masks[1:] for masks in both], alone)) == 0


def test_the_newest_conditioning_frames_are_kept(folders: dict[str, Path]) -> None:
    corrections = [2, 4, 6, 8]
    few, many = (streamed(load(folders["sam2_video"], number).start(), BOXES[:1], corrections, 12) for number in (2, 9))
    assert sum(differing(few[:5], many[:5])) == 0
    assert sum(differing(few[5:], many[5:])) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_image_is_encoded_once_per_frame(
    segmenters: dict[str, Segmenter], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = segmenters[family]._model
    calls, encode = [], model.get_image_features

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return encode(*args, **kwargs)

    monkeypatch.setattr(model, "get_image_features", counted)
    streamed(segmenters[family].start(), BOXES, [2], 5)
    assert len(calls) == 5


def held(value: Any, seen: set[int]) -> list[int]:
    """Return the bytes of all distinct storages within `value`."""
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        if storage.data_ptr() in seen:
            return []
        seen.add(storage.data_ptr())
        return [storage.nbytes()]
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    return [size for each in within for size in held(each, seen)]


@pytest.mark.parametrize(("family", "every"), [("sam2_video", 1), ("edgetam_video", 5)])
def test_memory_of_an_object_is_the_same_after_20_and_80_frames(
    segmenters: dict[str, Segmenter], family: str, every: int
) -> None:
    video = segmenters[family].start()
    frames, tensors, things = moving_square(81), {}, {}
    video.set_frame(0, frames[0])
    memory, _ = video.segment(BOXES[0])
    for place in range(1, 81):
        video.set_frame(place, frames[place])
        video.propagate(memory)
        if place % every == 0:
            video.correct(memory, video.segment(BOXES[0])[0])
        if place in (20, 40, 80):
            state = {name: value for name, value in vars(memory).items() if name != "cache"}
            tensors[place] = held({**state, "cache": memory.cache._vision_features}, set())
            things[place] = sum(len(value) for value in state.values() if hasattr(value, "__len__"))
    assert len(tensors[20]) == len(tensors[40]) == len(tensors[80]) > 5
    assert sum(tensors[20]) == sum(tensors[40]) == sum(tensors[80])
    assert things[20] == things[40] == things[80]


def test_a_session_of_transformers_grows(folders: dict[str, Path]) -> None:
    processor: Any = AutoProcessor.from_pretrained(folders["sam2_video"])
    model = Sam2VideoModel.from_pretrained(folders["sam2_video"]).eval()
    session, sizes = processor.init_video_session(), []
    for place, frame in enumerate(moving_square(10)):
        pixels = processor(images=frame, return_tensors="pt")["pixel_values"][0]
        if place == 0:
            processor.add_inputs_to_inference_session(session, 0, 1, input_boxes=[[list(BOXES[0])]], original_size=SIZE)
        model(inference_session=session, frame=pixels)
        sizes.append(sum(held(vars(session), set())))
    assert sizes[9] - sizes[8] == sizes[2] - sizes[1] > 0


def test_videos_do_not_affect_each_other(segmenters: dict[str, Segmenter]) -> None:
    alone = streamed(segmenters["sam2_video"].start(), BOXES[:1], num_frames=6)
    streamed(segmenters["sam2_video"].start(), BOXES[1:], num_frames=6)
    assert sum(differing(streamed(segmenters["sam2_video"].start(), BOXES[:1], num_frames=6), alone)) == 0


def test_propagating_to_a_frame_again_gives_the_same_mask(segmenters: dict[str, Segmenter]) -> None:
    video, frames = segmenters["sam2_video"].start(), moving_square(3)
    video.set_frame(0, frames[0])
    memory, _ = video.segment(BOXES[0])
    for place in (1, 2):
        video.set_frame(place, frames[place])
        assert torch.equal(video.propagate(memory), video.propagate(memory))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_masks_in_half_precision_have_the_size_of_the_frame(folders: dict[str, Path], family: str, dtype: Any) -> None:
    video = load(folders[family], weights=Weights(dtype)).start()
    for place, frame in enumerate(moving_square(3)):
        video.set_frame(place, frame)
        if place == 0:
            memory, mask = video.segment(BOXES[0])
        else:
            mask = video.propagate(memory)
        assert (mask.dtype, mask.shape) == (torch.bool, SIZE)
    assert video._model.dtype in (torch.bfloat16, torch.float16)


def test_compile_compiles_the_image_encoder(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiled.append(type(self).__name__))
    load(folders["sam2_video"], weights=Weights(compile=True))
    load(folders["sam2_video"])
    assert compiled == ["Sam2VisionModel"]


@pytest.mark.parametrize(("how", "message"), [("missing", "its weights lack memory"), ("besides", "have besides new")])
def test_weights_that_do_not_match_the_class_fail(
    folders: dict[str, Path], tmp_path: Path, how: str, message: str
) -> None:
    shutil.copytree(folders["sam2_video"], tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    if how == "missing":
        del weights["memory_temporal_positional_encoding"]
    else:
        weights["new.weight"] = torch.zeros(2)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=rf"--model\.backend\.segmenter .*{message}.*not those of Sam2VideoModel"):
        load(tmp_path)


def test_a_model_of_another_type_fails(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a grounding-dino model\. Use one of type sam2_video or edgetam_video"):
        Segmenter(str(make_grounding_dino(tmp_path)), 4, Weights())


def test_a_memory_without_frames_fails(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="max_memory_frames = 0 must be 1 or more, because objects start"):
        Segmenter(str(folders["sam2_video"]), 0, Weights())


def test_another_dtype_fails() -> None:
    with pytest.raises(ConfigError, match=r"weights\.dtype int8: use auto, bf16, fp16, fp32"):
        Weights("int8")  # type: ignore[arg-type]
