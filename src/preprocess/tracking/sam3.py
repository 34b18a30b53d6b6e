"""SAM 3, which takes the prompt itself: it detects, propagates and matches objects on each frame."""

from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from transformers import Sam3VideoModel

from datamodules.errors import ConfigError, ExtractError
from preprocess.checkpoints.model_folder import ModelFolder
from preprocess.checkpoints.parts import TOKENIZER
from preprocess.tracking.backend import TrackingBackend
from preprocess.tracking.options import Identity, Weights
from preprocess.tracking.sam3_tracker import Sam3Tracker

_PACKAGES = ("transformers", "tokenizers", "torchvision")  # whose versions change results
_WEIGHTS = Weights()
_KERNELS = "kernels"  # a package; if it is installed, transformers loads kernels that fill holes and drop duplicates


class Sam3(TrackingBackend):
    """SAM 3 on the rank's device. Thresholds of detections and of matches are those of the checkpoint's config.

    The score of an object is that of its first detection: SAM 3 returns no later ones.

    Args:
        checkpoint: a folder, or a name on the Hugging Face hub, such as `facebook/sam3`.
        max_objects: see `Identity`.
        min_area_px: see `Identity`.
        max_lost_frames: see `Identity`.
        max_memory_frames: how many conditioning frames of an object are kept, the newest.
        weights: how the weights are loaded.

    Raises:
        ConfigError: the model cannot be found, is incomplete or has another type, or a number is too small.
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
            raise ConfigError(f"{max_memory_frames = } must be 1 or more, because objects start with one")
        self.checkpoint, self.max_objects, self.min_area_px = checkpoint, max_objects, min_area_px
        self.max_lost_frames, self.max_memory_frames, self.weights = max_lost_frames, max_memory_frames, weights
        self._identity = Identity(max_objects=max_objects, min_area_px=min_area_px, max_lost_frames=max_lost_frames)
        self._checkpoint = ModelFolder.find(checkpoint, "--model.backend.checkpoint", (TOKENIZER,), ("sam3_video",))
        self._processor = self._checkpoint.processor()
        self._max_tokens = int(self._checkpoint.config().detector_config.text_config.max_position_embeddings)
        self._model: Any = None

    def load(self, device: torch.device) -> None:
        """See `Backend`."""
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
                    f"the class {name!r} has {num_tokens} tokens with start and end, but SAM 3 takes "
                    f"{self._max_tokens}. Use fewer words"
                )
            special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
            if not tokens[1:-1] or special.intersection(tokens[1:-1]):
                raise ExtractError(f"SAM 3's tokenizer does not know the class {name!r}. Use other words")

    def start(self, classes: tuple[str, ...]) -> "Sam3Tracker":
        """See `TrackingBackend`."""
        self.check(classes)
        return Sam3Tracker(self._model, self._processor, classes, self.max_memory_frames, self._identity)

    def provenance(self) -> dict[str, str]:
        """See `Backend`."""
        kernels = {_KERNELS: version(_KERNELS)} if find_spec(_KERNELS) else {}
        versions = {name: version(name) for name in _PACKAGES}
        return {"segmenter": self._checkpoint.identity(), **versions, **kernels}
