"""HolisticGraph compared with `mp.solutions.holistic`, value by value, on photographs and on videos of people.

The photographs come in the wheels of matplotlib and scikit-image, and show no hands. Where shared/media lies beside the
repository, photographs of hands and videos of signers are added.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from PIL import Image
from skimage.data import astronaut

from datamodules.errors import ConfigError, ExtractError
from datamodules.samples.keypoint_layouts import PARTS
from preprocess import mediapipe_graph
from preprocess.mediapipe_graph import HolisticGraph, Landmarks

Picture = NDArray[np.uint8]

MEDIA = Path(__file__).resolve().parents[2] / "../shared/media"


@pytest.fixture(scope="module")
def mp() -> Any:
    return mediapipe_graph._import_mediapipe()


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    hopper = _open(get_sample_data("grace_hopper.jpg", asfileobj=False))
    space = astronaut()
    return [
        *(hopper, space, hopper[:, ::-1], space[:, ::-1], space[:300, :300], hopper[:400, 60:460], space[::2, ::2]),
        *(space[:400, x : x + 400] for x in (0, 50, 56, 62)),
        *(_open(path) for path in sorted(MEDIA.glob("hands/*.jpg"))[::2]),
        *(frame for path in sorted(MEDIA.glob("signs/*.mkv")) for frame in _frames(path)[30:31]),
    ]


@pytest.fixture(scope="module")
def fresh(mp: Any, pictures: list[Picture]) -> list[Landmarks]:
    """Return the landmarks of a new Holistic for each image, the reference of static mode."""
    found = []
    for picture in pictures:
        with mp.solutions.holistic.Holistic(static_image_mode=True) as holistic:
            found.append(_process(holistic, picture))
    return found


@pytest.fixture(scope="module")
def videos() -> list[list[Picture]]:
    pan = [astronaut()[:400, x : x + 400] for x in range(0, 80, 8)]
    return [pan, *(_frames(path)[20:30] for path in sorted(MEDIA.glob("signs/*.mkv"))[:1])]


def _open(path: str | Path) -> Picture:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _frames(path: Path) -> list[Picture]:
    video = cv2.VideoCapture(str(path))
    frames: list[Picture] = []
    while (read := video.read())[0]:
        image: Any = read[1]
        frames.append(image[:, :, ::-1])
    return frames


def _process(holistic: Any, picture: Picture) -> Landmarks:
    """Return the landmarks of mp.solutions in pixels."""
    results = holistic.process(np.ascontiguousarray(picture))
    height, width = np.float32(picture.shape[0]), np.float32(picture.shape[1])

    def points(part: str) -> NDArray[np.float32] | None:
        found = getattr(results, f"{part}_landmarks")
        if found is None:
            return None
        x, y, z, visibility = (
            np.array([getattr(point, name) for point in found.landmark], np.float32)
            for name in ("x", "y", "z", "visibility")
        )
        columns = [x * width, y * height, z * width, visibility]
        stacked: NDArray[np.float32] = np.stack(columns if part == "pose" else columns[:3], axis=1)
        return stacked

    return Landmarks(**{part: points(part) for part in PARTS})


def _same(ours: Landmarks, theirs: Landmarks) -> bool:
    if not np.array_equal(ours.presence, theirs.presence):
        return False
    found = [part for part, is_there in zip(PARTS, ours.presence, strict=True) if is_there]
    return all(np.array_equal(getattr(ours, part), getattr(theirs, part)) for part in found)


def _num_same(ours: Sequence[Landmarks], theirs: Sequence[Landmarks]) -> int:
    return sum(_same(a, b) for a, b in zip(ours, theirs, strict=True))


def _with_kernel(kernel_size: int) -> HolisticGraph:
    """A static graph whose kernel_size is said outright, in text, past the Python API that would lose it."""
    holistic = HolisticGraph()
    node = 'calculator: "RefineLandmarksFromHeatmapCalculator"\n'
    option = f"[mediapipe.RefineLandmarksFromHeatmapCalculatorOptions.ext] {{ kernel_size: {kernel_size} }}"
    text = str(holistic._config)
    assert text.count(node) == 1
    holistic._config = text.replace(node, f"{node} options {{ {option} }}\n")
    holistic._graph = holistic._start()
    return holistic


@pytest.mark.reference
def test_static_mode_equals_a_new_holistic_for_each_image(pictures: list[Picture], fresh: list[Landmarks]) -> None:
    with HolisticGraph() as holistic:
        found = [holistic(picture) for picture in pictures]

    assert _num_same(found, fresh) == len(pictures)
    presence = np.array([landmarks.presence for landmarks in found])
    assert presence[:11, :2].all()
    if MEDIA.is_dir():
        assert presence.any(axis=0).tolist() == [True] * 4
        assert presence[:, 2:].sum() > 10


@pytest.mark.reference
def test_the_order_of_images_changes_nothing(pictures: list[Picture], fresh: list[Landmarks]) -> None:
    order = np.random.default_rng(0).permutation(len(pictures))[::2]
    with HolisticGraph() as holistic:
        found = [holistic(pictures[i]) for i in order]
        holistic.reset()
        again = holistic(pictures[0])

    assert _num_same(found, [fresh[i] for i in order]) == len(order)
    assert _same(again, fresh[0])


@pytest.mark.reference
def test_refined_faces_equal_those_of_a_new_holistic(mp: Any, pictures: list[Picture], fresh: list[Landmarks]) -> None:
    options = {"static_image_mode": True, "refine_face_landmarks": True}
    with HolisticGraph(refine_face_landmarks=True) as holistic:
        found = [holistic(picture) for picture in pictures[:3]]
    for landmarks, picture, plain in zip(found, pictures, fresh, strict=False):
        with mp.solutions.holistic.Holistic(**options) as theirs:
            assert _same(landmarks, _process(theirs, picture))
        assert landmarks.face is not None
        assert plain.face is not None
        assert landmarks.face.shape == (478, 3)
        apart = np.linalg.norm(landmarks.face[:468, :2] - plain.face[:, :2], axis=1)
        assert 0.1 < np.median(apart) < 0.05 * np.ptp(plain.face[:, 0])  # another model, of the same face


@pytest.mark.reference
def test_a_reused_holistic_leaks_from_image_to_image(mp: Any, pictures: list[Picture], fresh: list[Landmarks]) -> None:
    with mp.solutions.holistic.Holistic(static_image_mode=True) as holistic:
        found = [_process(holistic, picture) for picture in pictures[7:11]]

    assert _same(found[0], fresh[7])
    assert _num_same(found[2:], fresh[9:11]) == 0  # they show what the one before shows, moved by 6 px


@pytest.mark.reference
def test_kernel_9_is_the_reference_and_7_is_not(pictures: list[Picture], fresh: list[Landmarks]) -> None:
    with _with_kernel(9) as nine, _with_kernel(7) as seven:
        assert _num_same([nine(picture) for picture in pictures[:5]], fresh[:5]) == 5
        found = [seven(picture) for picture in pictures[:5]]

    assert _num_same(found, fresh[:5]) == 0
    assert found[1].pose is not None
    assert fresh[1].pose is not None
    assert 1 < np.abs(found[1].pose[:, :2] - fresh[1].pose[:, :2]).max() < 10


@pytest.mark.reference
def test_the_kernel_stays_9_when_its_protobuf_module_is_imported(fresh: list[Landmarks], tmp_path: Path) -> None:
    """With that import, mp.solutions itself changes to 7: its results depend on who imported what before."""
    program = f"""
import numpy as np, mediapipe
from mediapipe.calculators.util import refine_landmarks_from_heatmap_calculator_pb2
from skimage.data import astronaut
from preprocess.mediapipe_graph import HolisticGraph
theirs = mediapipe.solutions.holistic.Holistic(static_image_mode=True).process(astronaut()).pose_landmarks.landmark
np.savez({str(tmp_path / "found.npz")!r}, ours=HolisticGraph()(astronaut()).pose, theirs=[512 * p.x for p in theirs])
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

    found = np.load(tmp_path / "found.npz")
    assert fresh[1].pose is not None
    assert np.array_equal(found["ours"], fresh[1].pose)
    assert np.abs(found["theirs"] - fresh[1].pose[:, 0]).max() > 1


@pytest.mark.reference
def test_video_mode_equals_holistic_with_the_frames_of_one_video(mp: Any, videos: list[list[Picture]]) -> None:
    with HolisticGraph("video") as ours:
        for frames in videos:
            with mp.solutions.holistic.Holistic() as theirs:
                expected = [_process(theirs, frame) for frame in frames]
            ours.reset()

            assert _num_same([ours(frame) for frame in frames], expected) == len(frames)


@pytest.mark.reference
def test_video_mode_keeps_its_state_until_reset(videos: list[list[Picture]]) -> None:
    frames = videos[0][:4]
    with HolisticGraph("video") as holistic:
        first = [holistic(frame) for frame in frames]
        second = [holistic(frame) for frame in frames]
        holistic.reset()
        third = [holistic(frame) for frame in frames]

    assert _num_same(second, first) == 0
    assert _num_same(third, first) == len(frames)


@pytest.mark.reference
def test_landmarks_are_in_pixels_of_the_image() -> None:
    with HolisticGraph() as holistic:
        found = holistic(astronaut())
        small = holistic(np.ascontiguousarray(astronaut()[:, ::2]))

    assert found.pose is not None
    assert found.face is not None
    assert (found.pose.shape, found.pose.dtype) == ((33, 4), np.dtype(np.float32))
    assert (found.face.shape, found.face.dtype) == ((468, 3), np.dtype(np.float32))
    assert found.pose[0, :2] == pytest.approx([223, 128], abs=5)  # the nose
    assert found.pose[0, 3] == pytest.approx(1, abs=0.01)
    assert np.ptp(found.face[:, 0]) == pytest.approx(np.ptp(found.face[:, 2]), rel=0.5)  # a head is as deep as wide
    assert found.presence.tolist() == [1, 1, 0, 0]
    assert small.pose is not None
    assert small.pose[0, :2] == pytest.approx([223 / 2, 128], abs=8)


@pytest.mark.parametrize("view", [lambda a: a[:, ::-1], lambda a: a[::2, 3::3], lambda a: a[:, :, ::-1]])
@pytest.mark.reference
def test_views_give_the_same_as_their_copies(view: Callable[[Picture], Picture]) -> None:
    picture = view(astronaut())
    read_only = picture.copy()
    read_only.flags.writeable = False
    with HolisticGraph() as holistic:
        found = holistic(picture)

        assert found.pose is not None
        assert _same(holistic(read_only), found)


@pytest.mark.parametrize("mode", ["static", "video"])
@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 1, 3), (3, 500, 3), (500, 3, 3)])
@pytest.mark.reference
def test_an_image_without_people_gives_none(mode: mediapipe_graph.Mode, shape: tuple[int, ...]) -> None:
    with HolisticGraph(mode) as holistic:
        found = holistic(np.zeros(shape, np.uint8))

    assert (found.pose, found.face, found.left_hand, found.right_hand) == (None, None, None, None)
    assert found.presence.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), "u1")]
)
@pytest.mark.reference
def test_an_array_that_is_not_an_rgb_image_is_refused(image: Any) -> None:
    with HolisticGraph() as holistic, pytest.raises(ValueError, match=r"image\.shape = .*uint8 \[H, W, 3\]"):
        holistic(image)


@pytest.mark.reference
def test_too_large_an_image_fails_instead_of_aborting_the_process() -> None:
    with HolisticGraph() as holistic:
        assert holistic(np.zeros((1, 32_766, 3), np.uint8)).pose is None
        with pytest.raises(ExtractError, match="32767x1 px; MediaPipe takes sides up to 32766 px"):
            holistic(np.zeros((1, 32_767, 3), np.uint8))


@pytest.mark.parametrize("mode", ["static", "video"])
@pytest.mark.reference
def test_after_a_failure_of_mediapipe_the_next_image_is_like_a_first_one(mode: mediapipe_graph.Mode) -> None:
    with HolisticGraph(mode) as holistic:
        first = holistic(astronaut())
        holistic._time_us = 0  # MediaPipe refuses a time that has been
        with pytest.raises(ExtractError, match=r"MediaPipe failed on an image of 512x512 px: .*timestamp"):
            holistic(astronaut())

        assert _same(holistic(astronaut()), first)


@pytest.mark.reference
def test_a_closed_graph_refuses_images() -> None:
    holistic = HolisticGraph()
    holistic.close()
    holistic.close()
    holistic.reset()
    with pytest.raises(ValueError, match="the graph is closed"):
        holistic(astronaut())


def test_another_mode_fails() -> None:
    with pytest.raises(ConfigError, match="mode = 'images' is not one of static, video"):
        HolisticGraph("images")  # type: ignore[arg-type]


def test_another_release_of_mediapipe_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mediapipe_graph, "version", {"mediapipe": "0.10.32"}.__getitem__)
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    message = r"0\.10\.21 is needed, but 0\.10\.32 is installed\. .* needs numpy<2\. .*pip install mediapipe==0\.10\.21"
    with pytest.raises(ConfigError, match=message):
        HolisticGraph()


@pytest.mark.parametrize(
    ("python", "advice"),
    [
        ((3, 12, 1), r".*Install it with: pip install mediapipe==0\.10\.21"),
        ((3, 13, 0), r"It has no wheel for Python 3\.13\. Use backend litert, or Python 3\.10 to 3\.12"),
    ],
)
def test_a_missing_mediapipe_fails(python: tuple[int, int, int], advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(mediapipe_graph, "version", version)
    monkeypatch.setattr(sys, "version_info", python)
    with pytest.raises(ConfigError, match=rf"^mediapipe 0\.10\.21 is needed, but none is installed\. {advice}$"):
        mediapipe_graph.require_mediapipe()


@pytest.mark.reference
def test_a_process_forked_from_one_that_started_mediapipe_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mediapipe_graph, "_first_pid", 1)
    with pytest.raises(RuntimeError, match=r"process 1 started MediaPipe before \d+ was forked.*'spawn'"):
        HolisticGraph()


def test_mediapipe_is_not_imported_before_it_is_used() -> None:
    program = "import sys, preprocess.mediapipe_graph; sys.exit('mediapipe' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
