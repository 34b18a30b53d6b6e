"""Keypoints of a person over the frames of an item.

| file in the shard | type, shape       | meaning                                                                    |
|-------------------|-------------------|----------------------------------------------------------------------------|
| keypoints.npy     | float32 [T, K, 3] | x, y, z in px of the frame, z towards the camera negative; zeros if absent |
| presence.npy      | uint8 [T, 4]      | whether pose, face, left hand, right hand were detected: see `PARTS`       |
| visibility.npy    | float32 [T, 33]   | MediaPipe's visibility of each pose point, 0 to 1; zeros without a pose    |
| json              | object            | see below                                                                  |

The json holds the `FIELDS` below, and any other fields that the corpus has for the item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.errors import ConfigError, RunError
from datamodules.samples import SampleKind
from datamodules.samples.arrays import Array, read_arrays, to_npy
from datamodules.samples.batching import require_alike
from datamodules.samples.columns import Column, rates, span
from datamodules.samples.drawing import SourceFrames, VideoDrawing
from datamodules.samples.fields import Field, decode_json, encode_json
from datamodules.samples.keypoint_layouts import LAYOUTS, PARTS, Layout
from datamodules.samples.keypoint_metrics import METRICS
from datamodules.samples.keypoint_preparation import Augmentation, Keypoints, Normalization, Preparation
from datamodules.samples.sentence_fields import SENTENCE_FIELDS

Points = Literal["all", "reduced"]

FIELDS = (
    Field("path", pa.string(), "of the video, or the folder of the frames; relative to the corpus root"),
    Field("frames", pa.list_(pa.string()), "file names in that folder; empty for a video"),
    *SENTENCE_FIELDS,
    Field("num_missing_frames", pa.int32(), "PHOENIX: gaps in the numbering of the frames", of_corpus=True),
    Field("layout", pa.int32(), "K, the number of keypoints: 143, 75, 543 or 553"),
    Field("width", pa.int32(), "of the frames", "px"),
    Field("height", pa.int32(), "of the frames", "px"),
    Field("fps", pa.float64(), "frames per second that were taken, by their times; null for images", "1/s"),
    Field(
        "pixel_aspect_ratio",
        pa.float64(),
        "width of the pixels that the video stores by their height; 1.0: square, or unknown",
    ),
    Field("num_skipped_frames", pa.int32(), "frames of the video that no decoder can show; 0 for images"),
    Field(
        "missing_seconds",
        pa.float64(),
        "how much of the part that the corpus names is beyond the end of the video; 0: nothing, or less than a frame",
        "s",
    ),
    Field(
        "crop",
        pa.list_(pa.int32()),
        "left, top, right, bottom of the part of the frames that was searched; null: all of it",
        "px",
    ),
    Field("backend", pa.string(), "what found the keypoints, and its version"),
)
ARRAYS = {
    "keypoints.npy": Array("float32", ("T", "K", 3)),
    "presence.npy": Array("uint8", ("T", 4)),
    "visibility.npy": Array("float32", ("T", 33)),
}

_FLOATS = pa.list_(pa.float32())
COLUMNS = (
    Column("num_frames", "T", lambda sample: len(sample.keypoints), pa.int64(), span),
    Column(
        "keypoints",
        "[T, K, 3], flat: x, y, z in px; zeros where a part was not found",
        lambda sample: np.ravel(sample.keypoints),
        _FLOATS,
    ),
    Column(
        "keypoints_shape",
        "[T, K, 3], for `row.keypoints.reshape(row.keypoints_shape)`",
        lambda sample: list(sample.keypoints.shape),
        pa.list_(pa.int32()),
    ),
    Column(
        "presence",
        "[T, 4], flat: whether pose, face, left hand, right hand were found",
        lambda sample: np.ravel(sample.presence),
        pa.list_(pa.uint8()),
        rates(PARTS),
    ),
    Column(
        "visibility",
        "[T, 33], flat: of each pose point, 0 to 1; zeros without a pose",
        lambda sample: np.ravel(sample.visibility),
        _FLOATS,
    ),
)


@dataclass
class KeypointSample:
    """The keypoints of one item.

    Attributes:
        key: of the item; in the names of the files, not in their content.
        keypoints: float32 [T, K, 3], in px.
        presence: uint8 [T, 4].
        visibility: float32 [T, 33], 0 to 1.
        meta: the json of the table above.
    """

    key: str
    keypoints: NDArray[np.float32]
    presence: NDArray[np.uint8]
    visibility: NDArray[np.float32]
    meta: dict[str, Any]

    @property
    def layout(self) -> Layout:
        """The layout that the json names.

        Raises:
            RunError: there is no such layout, or the arrays do not have its shape.
        """
        number, num_frames = self.meta.get("layout"), len(self.keypoints)
        layout = LAYOUTS.get(number) if isinstance(number, int) else None
        if layout is None:
            raise RunError(f"{self.key} has the layout {number!r}; known are {', '.join(map(str, LAYOUTS))}")
        shapes = (self.keypoints.shape, self.presence.shape)
        if shapes != ((num_frames, number, 3), (num_frames, len(PARTS))):
            raise RunError(f"{self.key}: keypoints and presence have shapes {shapes}, not those of layout {number}")
        return layout


class KeypointSamples(SampleKind[KeypointSample]):
    """The sample kind of the keypoints pipeline. Its training batches have keypoints, as they are or prepared.

    Points of parts that were not found are zeros, whatever is chosen here.

    Args:
        points: `all` of the layout, or the `reduced` ones: without doubles and legs; see `Layout.reduced`.
        dims: 3: x, y and z; 2: x and y.
        normalize: `shoulders`: shoulders 1 apart around 0; `none`: px. See `keypoint_preparation`.
        fill_hands: longest gap of a hand that is interpolated, in frames; 0: none. The batch says where, in `filled`.
        augment: random changes of training samples.

    Raises:
        ConfigError: an argument has none of these values.
    """

    fields = FIELDS
    columns = COLUMNS
    metrics = METRICS

    def __init__(
        self,
        points: Points = "all",
        dims: Literal[2, 3] = 3,
        normalize: Normalization = "none",
        fill_hands: int = 0,
        augment: Augmentation | None = None,
    ) -> None:
        for name, value, choices in (("points", points, Points), ("normalize", normalize, Normalization)):
            if value not in get_args(choices):
                raise ConfigError(f"{name} = {value!r}: choose from {', '.join(get_args(choices))}")
        if dims not in (2, 3) or fill_hands < 0:
            raise ConfigError(f"{dims = } must be 2 or 3, and {fill_hands = } 0 or more")
        self.points, self.dims, self.normalize = points, dims, normalize
        self.fill_hands, self.augment = fill_hands, augment

    def for_evaluation(self) -> "KeypointSamples":
        """Return the same kind, without random changes."""
        return KeypointSamples(self.points, self.dims, self.normalize, self.fill_hands)

    def encode(self, sample: KeypointSample) -> dict[str, bytes]:
        """Return the files of the table above. A lone surrogate, which UTF-8 cannot hold, becomes a question mark."""
        return {
            "keypoints.npy": to_npy(sample.keypoints),
            "presence.npy": to_npy(sample.presence),
            "visibility.npy": to_npy(sample.visibility),
            "json": encode_json(sample.meta, FIELDS),
        }

    def decode(self, key: str, members: Mapping[str, bytes]) -> KeypointSample:
        """Return the sample that has these files.

        Raises:
            RunError: a file is missing, or is not what `encode` writes.
        """
        try:
            keypoints, presence, visibility = read_arrays(members, ARRAYS).values()
            meta = decode_json(members["json"], FIELDS)
        except (KeyError, ValueError) as error:
            raise RunError(f"{key} is no keypoint sample: {error}; run `preprocess verify`") from error
        return KeypointSample(key, keypoints, presence, visibility, meta)

    def draw(self, sample: KeypointSample, source: SourceFrames) -> VideoDrawing:
        """Return the first 300 frames with their skeletons; parts have the colours of the legend.

        Raises:
            RunError: the sample has no frames, no known layout, or a size that no image can have.
        """
        from datamodules.samples.drawing.keypoints import draw_sample

        return draw_sample(sample, source)

    def collate(self, samples: Sequence[KeypointSample]) -> dict[str, Any]:
        """Return a batch of samples, padded at their ends with zeros to the longest.

        Returns:
            `keypoints` float32 [B, T, K, 3], `presence` uint8 [B, T, 4], `visibility` float32 [B, T, 33], `lengths`
            int64 [B], `mask` bool [B, T] (True: a frame, not padding), `key` and `meta`, lists of B. With `fill_hands`
            also `filled` bool [B, T, 4]: parts that are interpolated, and absent in `presence`.

        Raises:
            RunError: their layouts differ, or one cannot be prepared as asked.
        """
        import torch  # exports and `view` decode samples without it
        from torch.utils.data import default_collate  # stacks in shared memory, in a worker

        require_alike([(sample.key, f"{sample.keypoints.shape[1]} keypoints") for sample in samples])
        arrays = [self._arrays(sample) for sample in samples]
        lengths = torch.tensor([len(of_sample["keypoints"]) for of_sample in arrays])
        longest = int(lengths.max())

        def pad(name: str) -> "torch.Tensor":
            tensors = [torch.from_numpy(of_sample[name]) for of_sample in arrays]
            unchanged = [0, 0] * (tensors[0].ndim - 1)  # the last dimensions; `pad` takes them first
            pads = [torch.nn.functional.pad(values, [*unchanged, 0, longest - len(values)]) for values in tensors]
            stacked: torch.Tensor = default_collate(pads)
            return stacked

        return {
            "key": [sample.key for sample in samples],
            **{name: pad(name) for name in arrays[0]},
            "lengths": lengths,
            "mask": torch.arange(longest) < lengths[:, None],
            "meta": [sample.meta for sample in samples],
        }

    def _arrays(self, sample: KeypointSample) -> dict[str, NDArray[Any]]:
        """Return the arrays of a sample for a batch, by name."""
        arrays: dict[str, NDArray[Any]] = {
            "keypoints": sample.keypoints,
            "presence": sample.presence,
            "visibility": sample.visibility,
        }
        if self.fill_hands or self.augment or self.normalize != "none":
            prepared = self._prepared(sample)
            presence = prepared.presence.astype(np.uint8)
            arrays = {"keypoints": prepared.points, "presence": presence, "visibility": prepared.visibility}
            if self.fill_hands:
                arrays["filled"] = prepared.filled
        if self.points == "reduced":
            arrays["keypoints"] = arrays["keypoints"][:, sample.layout.reduced]
        return {**arrays, "keypoints": arrays["keypoints"][..., : self.dims]}

    def _prepared(self, sample: KeypointSample) -> Keypoints:
        presence = sample.presence > 0
        keypoints = Keypoints(sample.layout, sample.keypoints, presence, sample.visibility, np.zeros_like(presence))
        preparation = Preparation(self.fill_hands, self.augment, self.normalize)
        return preparation(sample.key, keypoints, (sample.meta["width"], sample.meta["height"]))
