"""GroundingDINO: boxes of the objects that a prompt names."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_convert, clip_boxes_to_image, nms, remove_small_boxes
from transformers import GroundingDinoForObjectDetection

from datamodules.errors import ExtractError
from preprocess.checkpoints.model_folder import ModelFolder
from preprocess.checkpoints.parts import TOKENIZER
from preprocess.device_copies import to_device
from preprocess.float32 import without_tf32
from preprocess.tracking.options import Thresholds, Weights
from preprocess.tracking.prompt import text_of
from preprocess.tracking.tracks import Detection

_SAME_BOX_IOU = 0.8  # from which two boxes are the same object: NMS_THRESHOLD of Grounded-Segment-Anything


class Query(NamedTuple):
    """A tokenized prompt.

    Attributes:
        classes: names of the classes.
        tokens: for each class, the indices of its tokens in the text.
        inputs: input_ids, token_type_ids and attention_mask of the text, int64 [1, L], on the CPU.
    """

    classes: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    inputs: dict[str, Tensor]


class Detector:
    """Detects objects with GroundingDINO. `load` reads the weights.

    Args:
        checkpoint: a folder, or a name on the Hugging Face hub, such as `IDEA-Research/grounding-dino-tiny`.
        thresholds: the lowest probabilities of a detection.
        weights: how the weights are loaded.

    Raises:
        ConfigError: the model cannot be found, is incomplete, or has another type.
    """

    def __init__(self, checkpoint: str, thresholds: Thresholds, weights: Weights) -> None:
        self._folder = ModelFolder.find(checkpoint, "--model.backend.detector", (TOKENIZER,), ("grounding-dino",))
        self._processor = self._folder.processor()
        self._max_tokens = int(self._folder.config().max_text_len)
        self._thresholds, self._weights = thresholds, weights
        self._model: Any = None

    def load(self, device: torch.device) -> None:
        """See `Backend`."""
        self._model = self._folder.load(GroundingDinoForObjectDetection, self._weights.dtype, device)

    def provenance(self) -> dict[str, str]:
        """See `Backend`."""
        return {"detector": self._folder.identity()}

    def query(self, classes: tuple[str, ...]) -> Query:
        """Return the tokenized prompt for these classes; needs no weights.

        Raises:
            ExtractError: the prompt is too long for the model, or its tokenizer does not know a word of it.
        """
        text = text_of(classes)
        inputs = self._processor.tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        spans = inputs.pop("offset_mapping")[0].tolist()
        if len(spans) > self._max_tokens:
            raise ExtractError(
                f"the prompt has {len(classes)} classes, {len(spans)} tokens with separators, but the detector takes "
                f"{self._max_tokens}. Name fewer classes, or make several runs"
            )
        ids = inputs["input_ids"][0].tolist()
        unknown = {index for index, token in enumerate(ids) if token == self._processor.tokenizer.unk_token_id}
        tokens, start = [], 0
        for name in classes:
            stop = start + len(name)
            tokens.append(tuple(index for index, (left, right) in enumerate(spans) if start <= left < right <= stop))
            start = stop + len(". ")
            if not tokens[-1] or unknown.intersection(tokens[-1]):
                raise ExtractError(f"the detector's tokenizer does not know the class {name!r}. Use other words")
        return Query(classes, tuple(tokens), dict(inputs))

    @torch.inference_mode()
    @without_tf32()
    def detect(self, query: Query, frames: Sequence[Tensor]) -> list[list[Detection]]:
        """Return the detections on each frame, by descending score.

        The class of a box is the one whose tokens have the highest probability. Its score is the highest probability of
        any token.

        Args:
            query: the tokenized prompt.
            frames: uint8 [3, H, W], RGB, of one size, on the model's device.
        """
        device = self._model.device
        images = self._processor.image_processor(images=list(frames), device=device, return_tensors="pt")
        text = {name: to_device(value, device).expand(len(frames), -1) for name, value in query.inputs.items()}
        pixels = images["pixel_values"].to(self._model.dtype)
        output = self._model(pixel_values=pixels, pixel_mask=images["pixel_mask"], **text)
        probabilities = output.logits.float().sigmoid()  # [B, Q, max_text_len], 0 after the text
        of_classes = torch.stack([probabilities[..., list(indices)].amax(-1) for indices in query.tokens], -1)
        best = of_classes.max(-1)
        scores = probabilities.amax(-1)
        is_detected = (scores > self._thresholds.box) & (best.values >= self._thresholds.text)
        boxes = box_convert(output.pred_boxes.float(), "cxcywh", "xyxy")
        detections = []
        for index, kept in enumerate(is_detected):
            height, width = frames[index].shape[-2:]
            of_frame = boxes[index][kept] * boxes.new_tensor([width, height, width, height])
            of_frame = clip_boxes_to_image(of_frame, (height, width))
            detections.append(_best(query.classes, of_frame, scores[index][kept], best.indices[index][kept]))
        return detections


def _best(classes: Sequence[str], boxes: Tensor, scores: Tensor, labels: Tensor) -> list[Detection]:
    """Return the detections of a frame by descending score, without boxes that nearly equal a better one."""
    kept = remove_small_boxes(boxes, 1.0)
    kept = kept[nms(boxes[kept], scores[kept], _SAME_BOX_IOU)]
    rows = zip(labels[kept].tolist(), scores[kept].tolist(), boxes[kept].tolist(), strict=True)
    return [Detection(classes[label], score, tuple(box)) for label, score, box in rows]
