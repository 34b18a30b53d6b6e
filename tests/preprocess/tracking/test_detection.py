"""GroundingDINO with tiny random weights, loaded like a real one."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoProcessor, GroundingDinoForObjectDetection

from datamodules.errors import ConfigError, ExtractError
from preprocess.tracking.detection import Detector
from preprocess.tracking.options import Thresholds, Weights
from preprocess.tracking.tracks import Detection
from support.tracking_checkpoints import make_grounding_dino, make_sam2

CPU = torch.device("cpu")
CLASSES = ("car", "red person", "zebra")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_grounding_dino(tmp_path_factory.mktemp("grounding_dino"))


def load(folder: Path, box: float = 0.25, text: float = 0.25) -> Detector:
    detector = Detector(str(folder), Thresholds(box, text), Weights())
    detector.load(CPU)
    return detector


def pictures(number: int = 4, height: int = 60, width: int = 90) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    small = torch.randint(0, 256, (number, 3, 4, 6), generator=generator).float()
    large = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    return list(large.to(torch.uint8))


def detect(detector: Detector, frames: Sequence[Tensor], classes: tuple[str, ...] = CLASSES) -> list[list[Detection]]:
    return detector.detect(detector.query(classes), frames)


def probabilities(folder: Path, frame: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of each token for each query, and boxes x1, y1, x2, y2 in px, computed by transformers."""
    model, processor = GroundingDinoForObjectDetection.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    inputs = processor(images=frame, text="car. red person. zebra.", return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs)
    found = processor.post_process_grounded_object_detection(
        output, threshold=0.0, target_sizes=[tuple(frame.shape[-2:])]
    )
    return output.logits[0].sigmoid(), found[0]["boxes"]


def test_boxes_and_scores_are_those_of_transformers_and_the_class_has_the_best_token(folder: Path) -> None:
    frame = pictures(1)[0]
    tokens, boxes = probabilities(folder, frame)
    places = {"car": [1], "red person": [3, 4], "zebra": list(range(6, 11))}  # 0, 2, 5, 11: [CLS] and full stops
    found = detect(load(folder, 0.5, 0.6), [frame])[0]
    assert len(found) >= 3
    assert {each.label for each in found} > {"car"}
    for label, score, box in found:
        inside = boxes.clamp(min=0).minimum(torch.tensor([90, 60, 90, 60]))
        query = int((inside - torch.tensor(box)).abs().sum(1).argmin())
        assert torch.allclose(inside[query], torch.tensor(box), atol=1e-3)
        assert score == pytest.approx(float(tokens[query].max()), abs=1e-5)
        best = {name: float(tokens[query, at].max()) for name, at in places.items()}
        assert max(best, key=lambda name: best[name]) == label
        assert best[label] >= 0.6


def test_detections_descend_by_score_and_boxes_are_inside_the_frame(folder: Path) -> None:
    for found in detect(load(folder), pictures()):
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
        for x1, y1, x2, y2 in (each.box for each in found):
            assert 0 <= x1 < x2 <= 90
            assert 0 <= y1 < y2 <= 60


def test_a_batch_gives_what_each_frame_gives_alone(folder: Path) -> None:
    detector, frames = load(folder), pictures()
    together, alone = detect(detector, frames), [detect(detector, [frame])[0] for frame in frames]
    assert len({tuple(found) for found in together}) == 4, "frames differ"
    for several, single in zip(together, alone, strict=True):
        assert [each.label for each in several] == [each.label for each in single]
        for one, other in zip(several, single, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)
            assert one.box == pytest.approx(other.box, abs=1e-2)


def test_higher_thresholds_give_fewer_detections(folder: Path) -> None:
    frames = pictures()
    everything, sure = (sum(map(len, detect(load(folder, box), frames))) for box in (0.1, 0.999))
    assert 0 < sure < everything
    named = sum(map(len, detect(load(folder, 0.1, 0.99), frames)))
    assert 0 < named < everything
    assert detect(load(folder, 1.0), frames) == [[], [], [], []]


def test_detections_depend_on_the_prompt(folder: Path) -> None:
    detector, frames = load(folder), pictures()
    assert {each.label for found in detect(detector, frames, ("dog",)) for each in found} == {"dog"}
    assert detect(detector, frames, ("dog",)) != detect(detector, frames, ("cat",))


def test_each_class_has_the_indices_of_its_tokens(folder: Path) -> None:
    query = Detector(str(folder), Thresholds(), Weights()).query(("car", "red car", "z"))
    assert query.tokens == ((1,), (3, 4), (6,))
    assert query.inputs["input_ids"].shape == (1, 9)


def test_a_prompt_with_too_many_tokens_fails(folder: Path) -> None:
    detector = Detector(str(folder), Thresholds(), Weights())
    detector.query(tuple(letter * 2 for letter in "abcdefghij"))  # 2 tokens and a full stop each, and 2 marks
    with pytest.raises(ExtractError, match="11 classes, 35 tokens with separators, but the detector takes 32"):
        detector.query(tuple(letter * 2 for letter in "abcdefghijk"))


@pytest.mark.parametrize("name", ["\u200b", "🚗", "red 🚗", "汽车"])
def test_a_class_without_tokens_or_with_an_unknown_word_fails(folder: Path, name: str) -> None:
    detector = Detector(str(folder), Thresholds(), Weights())
    with pytest.raises(ExtractError, match=r"the detector's tokenizer does not know the class '.*'\. Use other words"):
        detector.query(("car", name))


def test_bf16_gives_nearly_the_same_detections(folder: Path) -> None:
    detector = Detector(str(folder), Thresholds(), Weights("bf16"))
    detector.load(CPU)
    assert all(0 < each.score <= 1 for found in detect(detector, pictures(2)) for each in found)


def test_a_model_of_another_type_fails(tmp_path: Path) -> None:
    make_sam2(tmp_path)
    shutil.copy(make_grounding_dino(tmp_path / "other") / "tokenizer.json", tmp_path)
    with pytest.raises(ConfigError, match=r"backend\.detector .* is a sam2_video model\. Use one of type grounding-di"):
        Detector(str(tmp_path), Thresholds(), Weights())


@pytest.mark.parametrize("part", ["tokenizer", "processor"])
def test_a_checkpoint_without_a_part_fails(folder: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob(f"{part}*"):
        path.unlink()
    with pytest.raises(ConfigError, match=f"has no {part}"):
        Detector(str(tmp_path), Thresholds(), Weights())


def change(folder: Path, to: Path, how: str) -> None:
    """Copy a model so that weights are missing, unexpected, or of another shape."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    weights = load_file(to / "model.safetensors")
    first = sorted(name for name in weights if name.startswith("model.encoder") and name.endswith("weight"))[0]
    if how == "missing":
        del weights[first]
    elif how == "besides":
        weights["model.encoder.new.weight"] = torch.zeros(2)
    else:
        weights[first] = weights[first][..., :-1].contiguous()
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"its weights lack model\.encoder\..*not those of GroundingDinoForObjectDetection as its config"),
        ("besides", r"its weights have besides model\.encoder\.new\.weight, so they are not those"),
        ("shape", "cannot be loaded on cpu"),
    ],
)
def test_weights_that_do_not_match_the_class_fail(folder: Path, tmp_path: Path, how: str, message: str) -> None:
    change(folder, tmp_path, how)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path)


def test_the_identity_depends_on_the_weights(folder: Path, tmp_path: Path) -> None:
    change(folder, tmp_path, "missing")
    identities = [Detector(str(each), Thresholds(), Weights()).provenance() for each in (folder, folder, tmp_path)]
    assert identities[0] == identities[1]
    assert identities[0] != identities[2]


def test_a_damaged_config_fails(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(ConfigError, match=r"backend\.detector .*: transformers 5\S* cannot load its config"):
        Detector(str(tmp_path), Thresholds(), Weights())


@pytest.mark.parametrize("thresholds", [(-0.1, 0.2), (0.2, 1.1)])
def test_thresholds_outside_0_and_1_fail(thresholds: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="must be 0 to 1"):
        Thresholds(*thresholds)
