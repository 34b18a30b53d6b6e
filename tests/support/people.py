"""Images of people, and distances between the landmarks of two implementations."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from PIL import Image
from skimage.data import astronaut

from datamodules.samples.keypoint_layouts import PARTS
from preprocess.holistic.landmarks import HolisticLandmarks
from preprocess.mediapipe_graph import Landmarks

Picture = NDArray[np.uint8]

MEDIA = Path(__file__).resolve().parents[2] / "../shared/media"
_LANDMARKS = Path(__file__).with_name("mediapipe_landmarks.npz")
MOST_P50_PX, MOST_P99_PX, MOST_FLIPS = 0.05, 1.0, 0.01
_LEAST_HANDS = 8  # a hand's points move together: of fewer, the median is chance


def demo_pictures() -> list[Picture]:
    """Return two photographs without hands: unchanged, mirrored, cropped and rotated."""
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        hopper = np.asarray(image.convert("RGB"))
    space = astronaut()
    views = [
        hopper,
        space,
        hopper[:, ::-1],
        space[:300, :300],
        hopper[:400, 60:460],
        space[::2, ::2],
        _turned(space, 20),
    ]
    return [np.ascontiguousarray(view) for view in views]


def stored_landmarks() -> list[Landmarks]:
    """Return what MediaPipe's graph detects in the small `demo_pictures`, for machines without mediapipe."""
    with np.load(_LANDMARKS) as stored:
        return [Landmarks(*(stored.get(f"{part} {index}") for part in PARTS)) for index in range(len(demo_pictures()))]


def turned_pictures() -> list[Picture]:
    """Return the two photographs, rotated and cropped in other ways."""
    hopper, space = demo_pictures()[:2]
    turned = [_turned(hopper, -15), _turned(hopper, 10)[:, ::-1], _turned(space, -20), _turned(space, 8)[:400, 50:450]]
    return [np.ascontiguousarray(view) for view in (*turned, hopper[:450, 30:])]


def perturbed(picture: Picture) -> Picture:
    """Return the image with 1 % of its values changed by 1."""
    rng = np.random.default_rng(0)
    steps = rng.choice([-1, 1], picture.shape) * (rng.random(picture.shape) < 0.01)
    return (picture.astype(int) + steps).clip(0, 255).astype(np.uint8)


def more_pictures(frames_of_each: int = 1) -> list[Picture]:
    """Return images of hands and signers, if shared/media exists; signers also rotated and cropped."""
    pictures = [_open(path) for path in sorted(MEDIA.glob("hands/*.jpg"))]
    for number, path in enumerate(sorted(MEDIA.glob("signs/*.mkv"))):
        video = cv2.VideoCapture(str(path))
        frames: list[Picture] = []
        while (read := video.read())[0]:
            frames.append(np.ascontiguousarray(read[1][:, :, ::-1]))
        chosen = frames[20 :: max(1, (len(frames) - 20) // frames_of_each)][:frames_of_each]
        pictures += (
            [*chosen, _turned(chosen[0], 15 * (-1) ** number)] if number % 2 else [*chosen, chosen[0][:, 100:420]]
        )
    return [np.ascontiguousarray(picture) for picture in pictures]


def small(picture: Picture) -> Picture:
    """Return the image at 210x260 px, the size of frames of PHOENIX-2014-T."""
    return np.array(Image.fromarray(picture).resize((210, 260)))


def tensors(pictures: Sequence[Picture]) -> list[torch.Tensor]:
    """uint8 [3, H, W] each."""
    return [torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in pictures]


def _open(path: Path) -> Picture:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _turned(picture: Picture, degrees: float) -> Picture:
    return np.array(Image.fromarray(np.ascontiguousarray(picture)).rotate(degrees))


class Distance(NamedTuple):
    """Distances between two sets of landmarks.

    Attributes:
        px: by part, float64 [M]: of each point that both have, in the image.
        flips: the share of parts that only one has.
    """

    px: dict[str, NDArray[np.float64]]
    flips: float

    def groups(self) -> dict[str, NDArray[np.float64]]:
        """Return the distances of all points, of the pose, of the face, and of both hands if enough were found."""
        hands = np.concatenate([self.px["left_hand"], self.px["right_hand"]])
        groups = {"all": np.concatenate([*self.px.values()]), "pose": self.px["pose"], "face": self.px["face"]}
        return {**groups, "hands": hands} if hands.size >= 21 * _LEAST_HANDS else groups

    @property
    def outside(self) -> list[str]:
        """Names of the groups of points whose distances exceed the limits."""
        return [
            name
            for name, px in self.groups().items()
            if not (np.median(px) < MOST_P50_PX and np.percentile(px, 99) < MOST_P99_PX)
        ]

    @property
    def passes(self) -> bool:
        """Whether every group of points is within the limits, and few parts are found by only one finder."""
        return not self.outside and self.flips <= MOST_FLIPS

    def __str__(self) -> str:
        parts = {part: px for part, px in self.px.items() if px.size}
        figures = [f"{part} {np.median(px):.4f} and {np.percentile(px, 99):.3f}" for part, px in parts.items()]
        return f"{100 * self.flips:.2f} % flips; p50 and p99 in px: {', '.join(figures)}"


def distance(ours: HolisticLandmarks, theirs: Sequence[Landmarks], scales: Sequence[float] | None = None) -> Distance:
    """Between landmarks of a batch and those of the same images one by one; times `scales`, one for each image."""
    there = np.array([landmarks.presence for landmarks in theirs], bool)
    found = ours.presence.cpu().numpy()
    px = {}
    for column, part in enumerate(PARTS):
        apart = [np.empty(0)]
        for index in np.nonzero(there[:, column] & found[:, column])[0]:
            points = getattr(ours, part)[index, :, :2].double().cpu().numpy()
            scale = scales[index] if scales else 1.0
            apart.append(scale * np.linalg.norm(points - getattr(theirs[index], part)[:, :2], axis=1))
        px[part] = np.concatenate(apart)
    return Distance(px, float((there != found).mean()))


def in_batches(
    landmarker: Callable[[Any], HolisticLandmarks], pictures: Sequence[Picture], size: int = 8
) -> HolisticLandmarks:
    """Return the landmarks of `pictures`, computed in batches of this size."""
    parts = [landmarker(tensors(pictures[start : start + size])) for start in range(0, len(pictures), size)]
    return HolisticLandmarks(*(torch.cat(each) for each in zip(*parts, strict=True)))


def stacked(landmarks: Sequence[Landmarks]) -> HolisticLandmarks:
    """Return MediaPipe's landmarks of single images in the form of a batch."""
    shapes = {"pose": (33, 3), "face": (468, 3), "left_hand": (21, 3), "right_hand": (21, 3)}
    parts = {
        part: torch.stack(
            [
                torch.zeros(shape) if (points := getattr(each, part)) is None else torch.from_numpy(points[:, :3])
                for each in landmarks
            ]
        )
        for part, shape in shapes.items()
    }
    presence = torch.tensor([list(each.presence) for each in landmarks]).bool()
    return HolisticLandmarks(**parts, visibility=torch.zeros(len(landmarks), 33), presence=presence)
