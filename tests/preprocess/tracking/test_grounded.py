"""GroundingDINO with SAM 2 or EdgeTAM, all with tiny random weights, called as the pipeline calls them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.errors import ExtractError
from preprocess.tracking.backend import TrackedObject
from preprocess.tracking.grounded import GroundedSam2
from preprocess.tracking.options import Identity, Thresholds, Weights
from support.gpu import tf32_of_modules
from support.tracking_checkpoints import make_edgetam, make_grounding_dino, make_sam2, moving_square

Objects = Sequence[Sequence[TrackedObject]]
NUM_FRAMES = 6


def make_backend(
    folder: Path,
    make: Any = make_sam2,
    identity: Identity = Identity(detection_frequency=2),  # noqa: B008
    weights: Weights = Weights(),  # noqa: B008
) -> GroundedSam2:
    detector, segmenter = make_grounding_dino(folder / "detector"), make(folder / "segmenter")
    backend = GroundedSam2(str(detector), str(segmenter), Thresholds(0.9, 0.9), identity, weights=weights)
    backend.load(torch.device("cpu"))
    return backend


@pytest.fixture(scope="module", params=[make_sam2, make_edgetam])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GroundedSam2:
    return make_backend(tmp_path_factory.mktemp("backend"), request.param)


def track(backend: GroundedSam2, sizes: Sequence[int], classes: tuple[str, ...] = ("car", "dog")) -> Objects:
    tracker, frames, results = backend.start(classes), moving_square(sum(sizes)), []
    first = 0
    for size in sizes:
        results += tracker.track(first, frames[first : first + size])
        first += size
    return results


def rows(objects: Objects) -> list[list[tuple[int, str, int]]]:
    return [[(each.obj_id, each.label, int(each.mask.sum())) for each in frame] for frame in objects]


def test_objects_are_detected_and_propagated(backend: GroundedSam2) -> None:
    objects = track(backend, [NUM_FRAMES])
    ids = [[each.obj_id for each in frame] for frame in objects]
    assert all(each == sorted(set(each)) for each in ids)
    assert min(each for frame in ids for each in frame) == 1
    assert any(set(one) & set(other) for one, other in zip(ids[0::2], ids[1::2], strict=True))
    for frame in objects:
        for each in frame:
            assert each.label in ("car", "dog")
            assert 0.9 < each.score <= 1
            assert (each.mask.dtype, each.mask.shape) == (torch.bool, (48, 64))


def test_results_do_not_depend_on_the_size_of_slices(backend: GroundedSam2) -> None:
    assert rows(track(backend, [1, 2, 3])) == rows(track(backend, [NUM_FRAMES]))


def test_videos_do_not_affect_each_other(backend: GroundedSam2) -> None:
    alone = rows(track(backend, [4]))
    backend.start(("person",)).track(0, moving_square(4)[::-1])
    assert rows(track(backend, [4])) == alone


def test_running_out_of_memory_once_changes_nothing(backend: GroundedSam2, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, model = rows(track(backend, [6])), backend._segmenter._model
    whole, calls = model._encode_new_memory, []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 7:
            raise torch.OutOfMemoryError("out of memory, once")
        return whole(*args, **kwargs)

    monkeypatch.setattr(model, "_encode_new_memory", failing)
    tracker, frames = backend.start(("car", "dog")), moving_square(6)
    with pytest.raises(torch.OutOfMemoryError):
        tracker.track(0, frames)
    assert rows([*tracker.track(0, frames[:3]), *tracker.track(3, frames[3:])]) == expected


def test_models_run_without_tf32(backend: GroundedSam2) -> None:
    with tf32_of_modules() as states:
        track(backend, [1])
        backend._detector.detect(backend._detector.query(("car",)), moving_square(1))
    assert states == {False}


def test_half_precision_tracks_objects(tmp_path: Path) -> None:
    backend = make_backend(tmp_path, weights=Weights("bf16"))
    assert sum(map(len, track(backend, [3]))) > 0


def test_a_prompt_too_long_fails_before_weights_are_loaded(tmp_path: Path) -> None:
    backend = GroundedSam2(str(make_grounding_dino(tmp_path / "detector")), str(make_sam2(tmp_path / "sam2")))
    backend.check(("car", "dog"))
    with pytest.raises(ExtractError, match="but the detector takes 32"):
        backend.check(("z" * 40,))


def test_provenance_names_both_weights_and_the_packages(backend: GroundedSam2) -> None:
    provenance = backend.provenance()
    assert set(provenance) == {"detector", "segmenter", "transformers", "tokenizers", "torchvision", "scipy"}
    assert len(provenance["detector"]) == len(provenance["segmenter"]) == 64
