"""Keypoint layouts: which of MediaPipe Holistic's points a sample has, in which order, and the lines between them.

| layout | keypoints, in this order                                  | who expects it                              |
|--------|-----------------------------------------------------------|---------------------------------------------|
| 143    | 68 face, 21 left hand, 21 right hand, 33 pose             | code for PHOENIX-2014-T, dlib face points   |
| 75     | 33 pose, 21 left hand, 21 right hand                      | sequence models without a face              |
| 543    | 33 pose, 468 face, 21 left hand, 21 right hand            | MediaPipe's own order                       |
| 553    | 33 pose, 478 face, 21 left hand, 21 right hand            | the same with the irises                    |

Left and right are the person's own. Points are numbered as MediaPipe numbers them: PoseLandmark, HandLandmark, and the
468 vertices of its canonical face mesh. Then come the irises: 468 to 472 of the right eye, 473 to 477 of the left one.
The first point of an iris is its centre; the others are its edges towards the right, top, left and bottom of the image,
if the face is upright.

    left_hand = batch["keypoints"][:, :, LAYOUTS[143].part_slices["left_hand"]]  # [B, T, 21, 3]
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise

Edge = tuple[int, int]

PARTS = ("pose", "face", "left_hand", "right_hand")  # the columns of `presence` in a sample


@dataclass(frozen=True)
class Part:
    """A part of a layout.

    Attributes:
        name: one of `PARTS`.
        points: numbers of MediaPipe's points of this part, in the layout's order.
        edges: lines of its skeleton, as pairs of indices into `points`.
    """

    name: str
    points: tuple[int, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Layout:
    """Parts in the order in which their points follow one another."""

    parts: tuple[Part, ...]

    @cached_property
    def part_slices(self) -> dict[str, slice]:
        """The keypoints of each part, by name of the part."""
        slices, start = {}, 0
        for part in self.parts:
            slices[part.name] = slice(start, start + len(part.points))
            start += len(part.points)
        return slices

    @cached_property
    def part_edges(self) -> dict[str, tuple[Edge, ...]]:
        """Lines of each part's skeleton, by name of the part, as pairs of indices of keypoints."""
        starts = {name: keypoints.start for name, keypoints in self.part_slices.items()}
        return {
            part.name: tuple((a + starts[part.name], b + starts[part.name]) for a, b in part.edges)
            for part in self.parts
        }

    @cached_property
    def part_columns(self) -> tuple[int, ...]:
        """The part of each keypoint, as a column of `presence`."""
        return tuple(PARTS.index(part.name) for part in self.parts for _ in part.points)

    @cached_property
    def mirrored(self) -> tuple[int, ...]:
        """For each keypoint the one that takes its place in a mirror: of the other hand, the other side of the body."""
        points = {part.name: part.points for part in self.parts}
        return tuple(
            self.part_slices[other].start + points[other].index(_MIRRORED.get(part.name, {}).get(point, point))
            for part in self.parts
            for other in [swap_sides(part.name)]
            for point in part.points
        )

    @cached_property
    def reduced(self) -> tuple[int, ...]:
        """Keypoints without doubles and legs: shoulders, elbows, wrists and hips, hands, and the contours of the face.

        These are the points of `reduce_holistic` in pose_format/utils/generic.py of pose-format 0.15; of 68 face points
        all.
        """
        contours = {point for edge in FACE_468_EDGES for point in edge}
        is_mesh = any(part.name == "face" and part.points != FACE_68 for part in self.parts)
        kept = {"pose": _BODY, **({"face": contours} if is_mesh else {})}
        points = [(part.name, point) for part in self.parts for point in part.points]
        return tuple(index for index, (name, point) in enumerate(points) if point in kept.get(name, (point,)))

    @property
    def num_keypoints(self) -> int:
        return sum(len(part.points) for part in self.parts)


def swap_sides(name: str) -> str:
    """Return a name with `left` in place of `right` and the other way round."""
    return "left".join(part.replace("left", "right") for part in name.split("right"))


def _chains(*chains: Iterable[int]) -> tuple[Edge, ...]:
    """Return the edges along chains of points."""
    return tuple(chain.from_iterable(pairwise(points) for points in chains))


# 68 of the 468 face points, in the order of dlib and iBUG. No sign-language project publishes such a list. This one is
# the most common in public code, for instance `landmark_points_68` in latentsync/utils/image_processor.py of
# ByteDance's LatentSync 1.5 (Apache-2.0).
FACE_68 = (
    *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),  # jaw
    *(71, 63, 105, 66, 107),  # right brow
    *(336, 296, 334, 293, 301),  # left brow
    *(168, 197, 5, 4),  # bridge of the nose
    *(75, 97, 2, 326, 305),  # below the nose
    *(33, 160, 158, 133, 153, 144),  # right eye
    *(362, 385, 387, 263, 373, 380),  # left eye
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # outer lips
    *(78, 82, 13, 312, 308, 317, 14, 87),  # inner lips
)

# As dlib draws its 68 points: dlib/image_processing/render_face_detections.h.
FACE_68_EDGES = _chains(
    range(17),
    range(17, 22),
    range(22, 27),
    range(27, 31),
    (*range(30, 36), 30),
    (*range(36, 42), 36),
    (*range(42, 48), 42),
    (*range(48, 60), 48),
    (*range(60, 68), 60),
)

# FACEMESH_CONTOURS of mediapipe/python/solutions/face_mesh_connections.py (MediaPipe 0.10.21, Apache-2.0).
FACE_468_EDGES = _chains(
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),  # lips
    (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
    (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
    (263, 249, 390, 373, 374, 380, 381, 382, 362),  # left eye
    (263, 466, 388, 387, 386, 385, 384, 398, 362),
    (276, 283, 282, 295, 285),  # left brow
    (300, 293, 334, 296, 336),
    (33, 7, 163, 144, 145, 153, 154, 155, 133),  # right eye
    (33, 246, 161, 160, 159, 158, 157, 173, 133),
    (46, 53, 52, 65, 55),  # right brow
    (70, 63, 105, 66, 107),
    (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152),  # oval
    (152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109, 10),
)

# FACEMESH_CONTOURS and FACEMESH_IRISES of the same file.
FACE_478_EDGES = (*FACE_468_EDGES, *_chains((469, 470, 471, 472, 469), (474, 475, 476, 477, 474)))

# POSE_CONNECTIONS of mediapipe/python/solutions/pose_connections.py.
POSE_EDGES = _chains(
    (0, 1, 2, 3, 7),  # nose, left eye, left ear
    (0, 4, 5, 6, 8),
    (9, 10),  # mouth
    (11, 12),  # shoulders
    (11, 13, 15, 17, 19),  # left arm, wrist, little finger, index finger
    (15, 19),
    (15, 21),  # thumb
    (12, 14, 16, 18, 20),
    (16, 20),
    (16, 22),
    (11, 23, 25, 27, 29, 31),  # left side, leg, heel, toe
    (27, 31),
    (12, 24, 26, 28, 30, 32),
    (28, 32),
    (23, 24),  # hips
)

# HAND_CONNECTIONS of mediapipe/python/solutions/hands_connections.py.
HAND_EDGES = _chains(
    (0, 1, 2, 3, 4),  # wrist, thumb
    (0, 5, 6, 7, 8),  # index finger
    (5, 9, 10, 11, 12),
    (9, 13, 14, 15, 16),
    (13, 17, 18, 19, 20),  # little finger
    (0, 17),
)

# PoseLandmark and HandLandmark of mediapipe/python/solutions, in order.
_FACE_NAMES = "nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear right_ear"
_LIMB_POINTS = "shoulder elbow wrist pinky index thumb hip knee ankle heel foot_index"
POSE_NAMES = tuple(
    name.upper()
    for name in (
        *_FACE_NAMES.split(),
        *("mouth_left", "mouth_right"),
        *(f"{side}_{point}" for point in _LIMB_POINTS.split() for side in ("left", "right")),
    )
)
HAND_NAMES = (
    "WRIST",
    *(f"THUMB_{joint}" for joint in ("CMC", "MCP", "IP", "TIP")),
    *(
        f"{finger}_{joint}"
        for finger in ("INDEX_FINGER", "MIDDLE_FINGER", "RING_FINGER", "PINKY")
        for joint in ("MCP", "PIP", "DIP", "TIP")
    ),
)

_BODY = tuple(
    point for point, name in enumerate(POSE_NAMES) if name.rpartition("_")[2] in ("SHOULDER", "ELBOW", "WRIST", "HIP")
)

# The mesh of the face is symmetric. These points are on its midline; the others below 248, on the person's right,
# mirror 248 to 467 in this order. From MediaPipe's canonical face model, as FLIPPED_FACE_POINTS of pose-format 0.15.
_MIDLINE = (*range(3), 4, 5, 6, *range(8, 20), 94, 151, 152, 164, 168, 175, 195, 197, 199, 200)
_RIGHT = (*(point for point in range(248) if point not in _MIDLINE), 468, 469, 470, 471, 472)
_LEFT = (*range(248, 468), 473, 476, 475, 474, 477)
_MIRRORED = {
    "pose": {point: POSE_NAMES.index(swap_sides(name.lower()).upper()) for point, name in enumerate(POSE_NAMES)},
    "face": dict([*zip(_RIGHT, _LEFT, strict=True), *zip(_LEFT, _RIGHT, strict=True)]),
}

_POSE = Part("pose", tuple(range(33)), POSE_EDGES)
_FACE_68 = Part("face", FACE_68, FACE_68_EDGES)
_FACE_468 = Part("face", tuple(range(468)), FACE_468_EDGES)
_FACE_478 = Part("face", tuple(range(478)), FACE_478_EDGES)
_HANDS = (Part("left_hand", tuple(range(21)), HAND_EDGES), Part("right_hand", tuple(range(21)), HAND_EDGES))

# By number of keypoints; see the table above.
LAYOUTS = {
    143: Layout((_FACE_68, *_HANDS, _POSE)),
    75: Layout((_POSE, *_HANDS)),
    543: Layout((_POSE, _FACE_468, *_HANDS)),
    553: Layout((_POSE, _FACE_478, *_HANDS)),
}
