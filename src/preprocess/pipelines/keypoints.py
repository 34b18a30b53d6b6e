"""Keypoints of a person by MediaPipe Holistic: pose, face, hands. Samples: `datamodules.samples.keypoints`."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from torch import Tensor

from datamodules.errors import ConfigError
from datamodules.line.frames import End, FrameRequest
from datamodules.line.item import Item
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from preprocess.extractor import Extractor
from preprocess.holistic.graph import MEDIAPIPE_VERSION, HolisticGraph, Mode, require_mediapipe
from preprocess.holistic.layouts import LAYOUTS, Layout


class Keypoints(Extractor):
    """MediaPipe Holistic on the CPU, inside the DataLoader workers: as fast as there are cores.

    Args:
        mode: `static`: each frame by itself, so results depend on nothing else; `video`: MediaPipe's tracking within an
            item, smoother and a little faster, dropped between items.
        layout: which keypoints. 143: 68 of the face (dlib order), 21 of each hand, 33 of the pose; 75: pose and hands;
            543: all of MediaPipe's.
        model_complexity: of the pose model; 1 is the one whose weights are in mediapipe's wheel.
        slice_frames: frames that a worker hands over at once.

    Raises:
        ConfigError: an argument is none of these, or the installed mediapipe is not the one that is wanted.
    """

    samples = KeypointSamples()

    def __init__(
        self,
        mode: Mode = "static",
        layout: Literal[143, 75, 543] = 143,
        model_complexity: int = 1,
        slice_frames: int = 32,
    ) -> None:
        super().__init__()
        if model_complexity != 1:
            raise ConfigError(f"{model_complexity = }: use 1; the weights of 0 and 2 are not in mediapipe's wheel")
        if slice_frames < 1:
            raise ConfigError(f"{slice_frames = }: use 1 or more")
        require_mediapipe()
        self.save_hyperparameters()
        self.layout = layout
        self.frames = FrameRequest(slice_frames, partial(HolisticTransform, mode, LAYOUTS[layout]))

    def ingredients(self) -> dict[str, str]:
        """The release of mediapipe, whose wheel holds the weights."""
        return {"mediapipe": MEDIAPIPE_VERSION}

    def assemble(self, item: Item, results: Sequence[Any], end: End) -> KeypointSample:
        """The frames' keypoints, one after another."""
        keypoints, presence, visibility = (np.stack(values) for values in zip(*results, strict=True))
        assert end["size"] is not None
        meta = {
            **item.meta,
            "layout": self.layout,
            "height": end["size"][0],
            "width": end["size"][1],
            "fps": end["fps"],
            "path": item.path,
            "frames": list(item.frames),
            "backend": f"mediapipe {MEDIAPIPE_VERSION}, {self.hparams['mode']}",
        }
        return KeypointSample(item.key, keypoints, presence, visibility, meta)


class HolisticTransform:
    """The keypoints, presence and visibility of each frame (`Layout.keypoints`, `Landmarks`), in one worker."""

    def __init__(self, mode: Mode, layout: Layout) -> None:
        self._graph = HolisticGraph(mode)
        self._layout = layout

    def start(self, item: Item) -> None:
        """Forget the item before."""
        self._graph.reset()

    def __call__(self, frame: Tensor) -> tuple[Any, Any, Any]:
        """(float32 [K, 3], uint8 [4], float32 [33]) of a frame, uint8 [3, H, W].

        Raises:
            ExtractError: MediaPipe failed on it.
        """
        landmarks = self._graph(frame.permute(1, 2, 0).numpy())
        return self._layout.keypoints(landmarks), landmarks.presence, landmarks.pose_visibility
