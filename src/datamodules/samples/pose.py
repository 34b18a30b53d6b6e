"""Poses: the 18 joints of each person in an image (`skeleton.py`), with some backends also feet, face and hands
(`wholebody.py`). On demand also their drawing, and the image.

| file in the shard | type, shape        | meaning                                                                     |
|-------------------|--------------------|-----------------------------------------------------------------------------|
| keypoints.npy     | float32 [P, 18, 3] | x, y in px of the processed image, score; a missing joint is 0, 0, 0        |
| json              | object             | see below                                                                   |
| wholebody.npy     | float32 [P, 133,   | likewise, the points of COCO-WholeBody; only of backends that find them     |
|                   | 3]                 |                                                                             |
| pose.png          | PNG                | the skeletons on black, as large as the processed image; `store_pose_map`   |
| jpg, png, webp, … | bytes              | the image; `store_images`                                                   |

The json holds the `FIELDS` below, and any other fields that the corpus has for the item. An image without people is a
valid sample, with keypoints [0, 18, 3] and an empty list of people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.errors import ConfigError, RunError
from datamodules.samples import SampleKind
from datamodules.samples.arrays import Array, read_arrays, to_npy
from datamodules.samples.batching import stack
from datamodules.samples.columns import Column, counts, rates
from datamodules.samples.drawing import ImageDrawing, SourceFrames, display_size
from datamodules.samples.fields import Field, decode_json, encode_json, size_of_frames, struct_of
from datamodules.samples.metrics import Metric, mean
from datamodules.samples.skeleton import JOINTS, Keypoints, draw, mirrored, pose_map, rescaled
from datamodules.samples.stored_image import decode_stored, find_image, require_image
from datamodules.samples.wholebody import MIRRORED, POINTS, WholeBody

if TYPE_CHECKING:
    from torch import Tensor

Coordinates = Literal["processed", "original"]
Condition = Literal["pose_map", "keypoints"]

_POINTS = pa.list_(pa.list_(pa.float64()))
FIELDS = (
    Field("image", pa.string(), "path relative to the corpus root"),
    Field("caption", pa.string(), "null without one"),
    Field(
        "people",
        pa.list_(struct_of(score=pa.float64(), keypoints=_POINTS, original_keypoints=_POINTS)),
        "the surest first: its score; its joints in the processed, and in the original image, 18 lists of x, y in px, "
        "and score",
    ),
    Field("width", pa.int32(), "of the processed image", "px"),
    Field("height", pa.int32(), "of the processed image", "px"),
    Field("original_width", pa.int32(), "of the image, upright as its EXIF says", "px"),
    Field("original_height", pa.int32(), "of the image, upright as its EXIF says", "px"),
    Field("resize", pa.string(), "how the image was resized"),
    Field("backend", pa.string(), "what found the people"),
)
ARRAYS = {
    "keypoints.npy": Array("float32", ("P", len(JOINTS), 3)),
    "wholebody.npy": Array("float32", ("P", len(POINTS), 3)),  # not of all backends
}
_FLOATS = pa.list_(pa.float32())
COLUMNS = (
    Column("people", "number of people in an image", lambda sample: len(sample.scores), summary=counts),
    Column("joints", "of a person", lambda sample: sample.keypoints[..., 2] > 0, summary=rates(JOINTS)),
    Column("num_people", "P; in place of `people`", lambda sample: len(sample.scores), pa.int32()),
    Column("scores", "[P], the surest person first", lambda sample: sample.scores, _FLOATS),
    Column(
        "keypoints",
        "[P, 18, 3], flat: x, y in px of the processed image, and score; zeros for a missing joint",
        lambda sample: np.ravel(sample.keypoints),
        _FLOATS,
    ),
    Column(
        "original_keypoints",
        "the same in px of the original image",
        lambda sample: np.ravel(sample.keypoints_in("original")),
        _FLOATS,
    ),
    Column(
        "wholebody",
        "[P, 133, 3], flat, of the processed image: the points of COCO-WholeBody; null with a backend of 18 joints",
        lambda sample: None if sample.wholebody is None else np.ravel(sample.wholebody),
        _FLOATS,
    ),
)
METRICS = (
    Metric("num_people", "people in the image", lambda sample: len(sample.scores), worst="low"),
    Metric("mean_score", "of the people, on the backend's scale", lambda sample: mean(sample.scores), worst="low"),
    Metric(
        "mean_joints",
        "joints found of a person, 0 to 18",
        lambda sample: mean((sample.keypoints[..., 2] > 0).sum(-1)),
        worst="low",
    ),
)
_POSE_MAP, _WHOLEBODY = "pose.png", "wholebody.npy"
_DECIMALS = 3  # of px and scores in the json


@dataclass
class PoseSample:
    """The people in one image.

    Attributes:
        key: of the item; in the names of the files, not in their content.
        keypoints: float32 [P, 18, 3]; see the table above.
        scores: float32 [P], of each person, above 0; what they mean depends on the backend.
        meta: the json of the table above, without `people`.
        pose_map: content of `pose.png`; None if it is not stored.
        image: content of the image's file; None if it is not stored.
        image_ending: one of `datamodules.media.suffixes.IMAGE_SUFFIXES`, without its dot.
        wholebody: float32 [P, 133, 3]; see the table above. None if the backend does not find them.
    """

    key: str
    keypoints: Keypoints
    scores: NDArray[np.float32]
    meta: dict[str, Any]
    pose_map: bytes | None = None
    image: bytes | None = None
    image_ending: str | None = None
    wholebody: WholeBody | None = None

    def size(self, coordinates: Coordinates = "processed") -> tuple[int, int]:
        """Return (height, width) in px of the processed or the original image."""
        prefix = "" if coordinates == "processed" else "original_"
        return self.meta[f"{prefix}height"], self.meta[f"{prefix}width"]

    def keypoints_in(self, coordinates: Coordinates) -> Keypoints:
        """Return float32 [P, 18, 3], in px of the processed or the original image.

        Coordinates below 0 become 0, because a negative coordinate means a missing joint.
        """
        return self._scaled(self.keypoints, coordinates)

    def wholebody_in(self, coordinates: Coordinates) -> WholeBody | None:
        """Return float32 [P, 133, 3], as `keypoints_in`; None if the backend does not find them."""
        return None if self.wholebody is None else self._scaled(self.wholebody, coordinates)

    def _scaled(self, points: NDArray[np.float32], coordinates: Coordinates) -> NDArray[np.float32]:
        scaled = rescaled(points, self.size(), self.size(coordinates))
        scaled[..., :2] = np.maximum(scaled[..., :2], 0)
        return scaled


class PoseSamples(SampleKind[PoseSample]):
    """The sample kind of the pose pipeline. Its training batches have images, their condition, and captions.

    Args:
        condition: what a model is conditioned on: a `pose_map`, drawn for the batch, or the `keypoints`.
        size: (height, width) in px to which images, pose maps and keypoints are resized; None: size of the processed
            image.
        flip: probability, 0 to 1, that a training sample is mirrored, by torch's generator; right joints become left
            ones.

    Raises:
        ConfigError: an argument has none of these values.
    """

    fields = FIELDS
    columns = COLUMNS
    metrics = METRICS

    def __init__(
        self, condition: Condition = "pose_map", size: tuple[int, int] | None = None, flip: float = 0.0
    ) -> None:
        if condition not in get_args(Condition):
            raise ConfigError(f"{condition = }: choose from {', '.join(get_args(Condition))}")
        if min(size or (1,)) < 1 or not 0 <= flip <= 1:
            raise ConfigError(f"{size = } must be 1 or more, and {flip = } from 0 to 1")
        self.condition, self.size, self.flip = condition, size, flip

    def for_evaluation(self) -> "PoseSamples":
        """Return the same kind, without mirrored samples."""
        return PoseSamples(self.condition, self.size)

    def encode(self, sample: PoseSample) -> dict[str, bytes]:
        """Return the files of the table above."""
        meta = encode_json({**sample.meta, "people": _people(sample)}, FIELDS)
        files = {"keypoints.npy": to_npy(sample.keypoints), "json": meta}
        if sample.wholebody is not None:
            files[_WHOLEBODY] = to_npy(sample.wholebody)
        if sample.pose_map is not None:
            files[_POSE_MAP] = sample.pose_map
        if sample.image is not None:
            files[require_image(sample.key, sample.image_ending)] = sample.image
        return files

    def decode(self, key: str, members: Mapping[str, bytes]) -> PoseSample:
        """Return the sample that has these files.

        Raises:
            RunError: a file is missing, or is not what `encode` writes.
        """
        ending = find_image(members)
        try:
            stored = {name: array for name, array in ARRAYS.items() if name != _WHOLEBODY or name in members}
            arrays = read_arrays(members, stored)
            keypoints = arrays["keypoints.npy"]
            meta = decode_json(members["json"], FIELDS)
            for prefix in ("", "original_"):
                size_of_frames(meta, prefix)
            scores = np.array([(person or {})["score"] for person in meta.pop("people") or ()], np.float32)
            if len(keypoints) != len(scores) or not np.isfinite(scores).all():
                raise ValueError(f"it has keypoints of {len(keypoints)} people, but the scores {scores.tolist()!s:.80}")
        except (KeyError, ValueError) as error:
            raise RunError(f"{key} is no pose sample: {error}; run `preprocess verify`") from error
        image = members[ending] if ending else None
        wholebody = arrays.get(_WHOLEBODY)
        return PoseSample(key, keypoints, scores, meta, members.get(_POSE_MAP), image, ending, wholebody)

    def draw(self, sample: PoseSample, source: SourceFrames) -> ImageDrawing:
        """Return the image with its people drawn over it and, beside it, these alone, as ControlNet takes them."""
        original = sample.size("original")
        size = display_size(*original)
        keypoints = rescaled(sample.keypoints_in("original"), original, size)
        wholebody = sample.wholebody_in("original")
        points = None if wholebody is None else rescaled(wholebody, original, size)
        image = draw(next(source.images(size)), keypoints, points)
        return ImageDrawing(np.concatenate([image, pose_map(keypoints, size, points)], 1))

    def collate(self, samples: Sequence[PoseSample]) -> dict[str, Any]:
        """Return a batch of images, if all samples have one, of what a model is conditioned on, and of captions.

        Returns:
            `images` uint8 [B, 3, H, W], RGB, if they are stored. `pose_maps` uint8 [B, 3, H, W], RGB; or, with the
            condition `keypoints`, `keypoints` float32 [B, P, 18, 3], zeros for fewer people than P, and `people_mask`
            bool [B, P] (True: a person); if all samples have them, also `wholebody` float32 [B, P, 133, 3]. Images and
            pose maps of different sizes are lists of B. `flipped` bool [B]. `text`, a list of B captions, "" for a
            sample without one. `key` and `meta`, lists of B.

        Raises:
            RunError: an image is damaged.
        """
        import torch  # exports and `view` decode samples without it

        flipped = torch.rand(len(samples)) < self.flip
        people = [self._keypoints(sample, bool(flip)) for sample, flip in zip(samples, flipped, strict=True)]
        points_of = [self._wholebody(sample, bool(flip)) for sample, flip in zip(samples, flipped, strict=True)]
        batch: dict[str, Any] = {
            "flipped": flipped,
            "text": [sample.meta.get("caption") or "" for sample in samples],
            "key": [sample.key for sample in samples],
            "meta": [sample.meta for sample in samples],
        }
        if self.condition == "pose_map":
            maps = [
                pose_map(keypoints, self._size(sample), points)
                for keypoints, points, sample in zip(people, points_of, samples, strict=True)
            ]
            batch["pose_maps"] = stack([torch.from_numpy(image).permute(2, 0, 1) for image in maps])
        else:
            batch["keypoints"], batch["people_mask"] = _padded(people)
            if all(points is not None for points in points_of):
                batch["wholebody"], _ = _padded([points for points in points_of if points is not None])
        if all(sample.image is not None for sample in samples):
            images = (self._image(sample, bool(flip)) for sample, flip in zip(samples, flipped, strict=True))
            batch["images"] = stack(list(images))
        return batch

    def _size(self, sample: PoseSample) -> tuple[int, int]:
        return self.size or sample.size()

    def _keypoints(self, sample: PoseSample, flip: bool) -> Keypoints:
        keypoints = rescaled(sample.keypoints, sample.size(), self._size(sample))
        return mirrored(keypoints, self._size(sample)[1]) if flip else keypoints

    def _wholebody(self, sample: PoseSample, flip: bool) -> WholeBody | None:
        if sample.wholebody is None:
            return None
        points = rescaled(sample.wholebody, sample.size(), self._size(sample))
        return mirrored(points, self._size(sample)[1], MIRRORED) if flip else points

    def _image(self, sample: PoseSample, flip: bool) -> "Tensor":
        from datamodules.media.resize import resize

        assert sample.image is not None
        image = resize(decode_stored(sample.key, sample.image, sample.image_ending), self._size(sample))
        return image.flip(2) if flip else image


def _people(sample: PoseSample) -> list[dict[str, Any]]:
    """Return the `people` of the json."""
    processed, original = (
        sample.keypoints_in(coordinates).astype(float).round(_DECIMALS) for coordinates in get_args(Coordinates)
    )
    return [
        {"score": score, "keypoints": keypoints.tolist(), "original_keypoints": original_keypoints.tolist()}
        for score, keypoints, original_keypoints in zip(sample.scores.tolist(), processed, original, strict=True)
    ]


def _padded(people: Sequence[NDArray[np.float32]]) -> "tuple[Tensor, Tensor]":
    """Return (points of each image's people [B, P, K, 3], which of them are people [B, P]) for B times [P, K, 3]."""
    import torch

    num_people = torch.tensor([len(keypoints) for keypoints in people])
    most = int(num_people.max())
    padded = np.zeros((len(people), most, *people[0].shape[1:]), np.float32)
    for row, keypoints in zip(padded, people, strict=True):
        row[: len(keypoints)] = keypoints
    return torch.from_numpy(padded), torch.arange(most) < num_people[:, None]
