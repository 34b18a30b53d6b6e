"""Options that the backends of tracking share."""

from dataclasses import dataclass

from datamodules.errors import ConfigError
from preprocess.checkpoints.dtypes import Dtype, require_dtype


@dataclass(frozen=True)
class Identity:
    """Which masks are the same object.

    Attributes:
        detection_frequency: objects are detected on every n-th frame, from the first on.
        match_iou: a detection whose mask overlaps that of a track by this intersection over union is that track.
            Above 0.5, masks that do not overlap each other match one at most (Kirillov et al., Panoptic Segmentation,
            2019), and tracks are evaluated with it (Voigtlaender et al., MOTS, 2019). With the 0.8 of Grounded-SAM-2,
            an object whose mask changes a little between detections gets a second id.
        max_objects: the largest number of objects that are followed at a time; new ones are added by score.
        min_area_px: the smallest area of a mask; objects with smaller masks are not added, and not written.
        max_lost_frames: an object ends after so many frames without a detection; at least `detection_frequency`.
    """

    detection_frequency: int = 1
    match_iou: float = 0.5
    max_objects: int = 100
    min_area_px: int = 1
    max_lost_frames: int = 30

    def __post_init__(self) -> None:
        if min(self.detection_frequency, self.max_objects, self.min_area_px, self.max_lost_frames) < 1:
            raise ConfigError(
                f"detection_frequency = {self.detection_frequency}, max_objects = {self.max_objects}, min_area_px = "
                f"{self.min_area_px} and max_lost_frames = {self.max_lost_frames} must be 1 or more"
            )
        if not 0 < self.match_iou <= 1:
            raise ConfigError(f"match_iou = {self.match_iou} must be above 0 and at most 1")

    @property
    def num_lost_frames(self) -> int:
        """The number of frames without a detection after which an object ends."""
        return max(self.max_lost_frames, self.detection_frequency)


@dataclass(frozen=True)
class Thresholds:
    """The lowest probabilities of a detection.

    Attributes:
        box: the highest probability of any token of the prompt must be above it.
        text: the highest probability of any token of its class must be at least this.
    """

    box: float = 0.25
    text: float = 0.25

    def __post_init__(self) -> None:
        if not (0 <= self.box <= 1 and 0 <= self.text <= 1):
            raise ConfigError(f"box_threshold = {self.box} and text_threshold = {self.text} must be 0 to 1")


@dataclass(frozen=True)
class Weights:
    """How the weights of the models are loaded.

    Attributes:
        dtype: of the weights; `auto`: the dtype that the checkpoint names. float32 does not use TF32 on a GPU.
        compile: whether to compile the image encoder of the segmenter with torch.compile.
    """

    dtype: Dtype = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        require_dtype(self.dtype, "--model.backend.weights.dtype")
