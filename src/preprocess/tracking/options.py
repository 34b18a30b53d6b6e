"""Options of tracking."""

from dataclasses import dataclass

from datamodules.errors import ConfigError
from preprocess.checkpoints.dtypes import Dtype, require_dtype


@dataclass(frozen=True)
class Identity:
    """Which masks are the same object.

    Attributes:
        detection_frequency: every so many frames is looked for objects, from the first on.
        match_iou: a detection whose mask overlaps that of a track so much (intersection over union) is that track.
            0.5: above it, masks that do not overlap each other match one at most (Kirillov et al., Panoptic
            Segmentation, 2019), and tracks are scored by it (Voigtlaender et al., MOTS, 2019). Grounded-SAM-2 has 0.8,
            with which an object whose mask a detection draws a little differently gets a second id.
        max_objects: that are followed at a time; those of the best scores are taken up.
        min_area_px: of a mask: smaller ones are not taken up, and not written.
        max_lost_frames: an object ends when no detection has confirmed it for so long; at least `detection_frequency`.
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
            raise ConfigError(f"match_iou = {self.match_iou} must be above 0, and 1 at most")

    @property
    def num_lost_frames(self) -> int:
        """After which an object that nothing confirmed ends."""
        return max(self.max_lost_frames, self.detection_frequency)


@dataclass(frozen=True)
class Thresholds:
    """What is a detection.

    Attributes:
        box: the highest probability of any token of the prompt must be above it.
        text: the highest probability of any token of a class must be as much, for the box to be of that class.
    """

    box: float = 0.25
    text: float = 0.25

    def __post_init__(self) -> None:
        if not (0 <= self.box <= 1 and 0 <= self.text <= 1):
            raise ConfigError(f"box_threshold = {self.box} and text_threshold = {self.text} must be 0 to 1")


@dataclass(frozen=True)
class Weights:
    """How weights are held.

    Attributes:
        dtype: `auto`: as the checkpoint says.
        compile: the image encoder of what makes masks, by torch.
    """

    dtype: Dtype = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        require_dtype(self.dtype, "--model.backend.weights.dtype")
