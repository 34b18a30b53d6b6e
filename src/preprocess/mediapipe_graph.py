"""MediaPipe Holistic on the CPU: the landmarks of one image, by the graph and the models in mediapipe's wheel.

| mode   | equal, bit for bit, to `mp.solutions.holistic.Holistic(model_complexity=1, …)` | state                      |
|--------|--------------------------------------------------------------------------------|----------------------------|
| static | `static_image_mode=True`, a new one for each image                             | none                       |
| video  | `static_image_mode=False, smooth_landmarks=True`, with the frames of one video | the video, until `reset()` |

A `Holistic(static_image_mode=True)` that is *reused* equals neither: its face and hand regions follow the image before.

MediaPipe's C++ code writes about ten lines to stderr whenever a graph starts; no setting of MediaPipe suppresses them.
"""

import os
import sys
import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import ConfigError, ExtractError
from datamodules.samples.keypoint_layouts import PARTS, Layout

Mode = Literal["static", "video"]

MEDIAPIPE_VERSION = "0.10.21"

_GRAPH = "mediapipe/modules/holistic_landmark/holistic_landmark_cpu.binarypb"
_FRAME_MICROSECONDS = 33_333  # mp.solutions counts 30 frames per second, whatever the video has
_MAX_SIDE_PX = 32_766  # from SHRT_MAX on, OpenCV throws an exception that nothing catches: the process aborts

_first_pid: int | None = None  # the process that started the first graph


@dataclass(frozen=True, eq=False)
class Landmarks:
    """The detected parts of one person, in pixels of the input image; None where a part was not detected.

    Attributes:
        pose: float32 [33, 4]: x, y, z in px (z relative to the hips, towards the camera negative), visibility 0 to 1.
            Points may lie outside the image.
        face: float32 [468, 3]: x, y, z in px; [478, 3] with refined landmarks, whose last ten are the irises.
        left_hand: float32 [21, 3]: x, y, z in px, z relative to the wrist.
        right_hand: float32 [21, 3], likewise.
    """

    pose: NDArray[np.float32] | None = None
    face: NDArray[np.float32] | None = None
    left_hand: NDArray[np.float32] | None = None
    right_hand: NDArray[np.float32] | None = None

    @property
    def presence(self) -> NDArray[np.uint8]:
        """uint8 [4]: 1 for each detected part, in the order of `PARTS`."""
        return np.array([getattr(self, part) is not None for part in PARTS], np.uint8)

    @property
    def pose_visibility(self) -> NDArray[np.float32]:
        """float32 [33], 0 to 1: how likely each pose point is visible; zeros without a pose."""
        return np.zeros(33, np.float32) if self.pose is None else self.pose[:, 3]

    def keypoints(self, layout: Layout) -> NDArray[np.float32]:
        """Return float32 [K, 3]: x, y, z in px of the K keypoints of `layout`; zeros where a part was not detected."""
        keypoints = np.zeros((layout.num_keypoints, 3), np.float32)
        for part in layout.parts:
            points = getattr(self, part.name)
            if points is not None:
                keypoints[layout.part_slices[part.name]] = points[list(part.points), :3]
        return keypoints


def require_mediapipe() -> None:
    """Check that the only usable release of mediapipe is installed, without importing it.

    Raises:
        ConfigError: mediapipe is missing, or another release is installed.
    """
    try:
        installed = version("mediapipe")
    except PackageNotFoundError:
        installed = "none"
    if installed != MEDIAPIPE_VERSION:
        python = "{}.{}".format(*sys.version_info)
        advice = (
            f"It has no wheel for Python {python}. Use backend litert, or Python 3.10 to 3.12"
            if sys.version_info >= (3, 13)
            else "It is the last release with mp.solutions and the models in its wheel, and needs numpy<2. Install it "
            f"with: pip install mediapipe=={MEDIAPIPE_VERSION}"
        )
        raise ConfigError(f"mediapipe {MEDIAPIPE_VERSION} is needed, but {installed} is installed. {advice}")


class HolisticGraph:
    """Detects pose, face and hands of the most prominent person in an image.

    Everything runs on the calling thread. An instance cannot be pickled or shared by threads: make it where it is used.
    Do not make one in a process from which others that make one are forked.

    Args:
        mode: what is remembered from one image to the next; see the table above.
        refine_face_landmarks: whether to find the irises, and the lips and eyes more closely, by the larger face model.

    Raises:
        ConfigError: mediapipe 0.10.21 is not installed, or there is no such mode.
        RuntimeError: this process was forked from one that has started MediaPipe.
    """

    def __init__(
        self,
        mode: Mode = "static",
        *,
        refine_face_landmarks: bool = False,
    ) -> None:
        if mode not in get_args(Mode):
            raise ConfigError(f"{mode = } is not one of {', '.join(get_args(Mode))}")
        self.mode = mode
        self._mp = _import_mediapipe()
        self._config = _read_config(self._mp)
        if mode == "static":
            _cut_tracking(self._config)
        self._refine_face_landmarks = refine_face_landmarks
        _keep_only(self._config, {_stream(part) for part in PARTS})
        self._packets: dict[str, Any] = {}
        self._graph = self._start()

    def __call__(self, image: NDArray[np.uint8]) -> Landmarks:
        """Return the landmarks of one image, in px of it.

        Args:
            image: uint8 [H, W, 3], RGB, of any strides, with sides of up to 32,766 px; in video mode the next frame.

        Raises:
            ExtractError: the image is too large, or MediaPipe failed on it. The graph can be used for the next image,
                but in video mode its state is lost.
            ValueError: the image has another dtype or shape, or the graph is closed.
        """
        if self._graph is None:
            raise ValueError("the graph is closed")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"{image.dtype = }, {image.shape = }: an image is uint8 [H, W, 3]")
        height, width = image.shape[:2]
        if max(height, width) > _MAX_SIDE_PX:
            raise ExtractError(f"the image has {width}x{height} px; MediaPipe takes sides up to {_MAX_SIDE_PX} px")

        self._packets.clear()
        self._time_us += _FRAME_MICROSECONDS
        frame = self._mp.packet_creator.create_image_frame(
            np.ascontiguousarray(image), image_format=self._mp.ImageFormat.SRGB, copy=True
        )
        try:
            self._graph.add_packet_to_input_stream("image", frame.at(self._time_us))
            self._graph.wait_until_idle()
        except (RuntimeError, ValueError) as error:  # the type depends on MediaPipe's status code
            self._graph = self._start()  # a graph that failed refuses all later images
            reason = " ".join(str(error).splitlines()[:2])  # later lines repeat it
            raise ExtractError(f"MediaPipe failed on an image of {width}x{height} px: {reason}") from error
        return Landmarks(**{part: self._points(part, width, height) for part in PARTS})

    def _points(self, part: str, width: int, height: int) -> NDArray[np.float32] | None:
        packet = self._packets.get(_stream(part))
        if packet is None:
            return None
        landmarks = self._mp.packet_getter.get_proto(packet).landmark
        if part == "pose":
            points = np.array([(p.x, p.y, p.z, p.visibility) for p in landmarks], np.float32)
        else:
            points = np.array([(p.x, p.y, p.z) for p in landmarks], np.float32)
        points[:, :3] *= np.array([width, height, width], np.float32)  # z has the scale of x
        return points

    def reset(self) -> None:
        """Forget the video; does nothing in static mode and before the first frame."""
        if self.mode == "video" and self._graph is not None and self._time_us:
            self._graph.close()
            self._graph = self._start()

    def close(self) -> None:
        """Free the memory of the models. The graph cannot be used afterwards."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def __enter__(self) -> "HolisticGraph":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> Any:
        """Return a new, running graph, which writes its results to `_packets`."""
        global _first_pid
        if _first_pid not in (None, os.getpid()):
            raise RuntimeError(
                f"process {_first_pid} started MediaPipe before {os.getpid()} was forked from it, and the libEGL in "
                "mediapipe's wheel would corrupt memory here. Make graphs in the workers only, or start them by 'spawn'"
            )
        _first_pid = os.getpid()
        graph = self._mp.CalculatorGraph(graph_config=self._config)
        for part in PARTS:
            graph.observe_output_stream(_stream(part), self._packets.__setitem__)
        is_video = self.mode == "video"
        flags = {
            "use_prev_landmarks": is_video,
            "smooth_landmarks": is_video,
            "enable_segmentation": False,
            "smooth_segmentation": False,
            "refine_face_landmarks": self._refine_face_landmarks,
        }
        packets = {name: self._mp.packet_creator.create_bool(value) for name, value in flags.items()}
        graph.start_run({"model_complexity": self._mp.packet_creator.create_int(1), **packets})
        self._time_us = 0
        return graph


def _stream(part: str) -> str:
    return f"{part}_landmarks"


def _import_mediapipe() -> Any:
    require_mediapipe()
    with warnings.catch_warnings():
        # protobuf 4 on Python 3.12, https://github.com/protocolbuffers/protobuf/issues/15077
        warnings.filterwarnings("ignore", r"Type google\._upb\._message\.", DeprecationWarning)
        import mediapipe
    return mediapipe


def _read_config(mp: Any) -> Any:
    """Return the wheel's Holistic graph as the Python API runs it, subgraphs expanded, but on the calling thread."""
    from mediapipe.framework.calculator_pb2 import CalculatorGraphConfig

    root = Path(mp.__file__).parents[1]
    mp.resource_util.set_resource_dir(str(root))  # paths of models in the graph are relative to it
    validated = mp.ValidatedGraphConfig()
    validated.initialize(binary_graph_path=str(root / _GRAPH))
    config = CalculatorGraphConfig.FromString(validated.binary_config)
    for node in config.node:
        # The Python API loses options whose protobuf module is not imported. Of these only kernel_size moves landmarks:
        # the graph says 7, but the API uses the default of 9.
        if node.calculator == "RefineLandmarksFromHeatmapCalculator":
            node.ClearField("options")
    config.executor[0].type = "ApplicationThreadExecutor"
    return config


def _cut_tracking(config: Any) -> None:
    """Remove the tracking of face and hands from the graph. The option `use_prev_landmarks` turns off that of the pose.

    A RoiTrackingCalculator chooses between the region around the previous image's landmarks and the region detected in
    the current image (RECROP_RECT). The nodes that read its choice are made to read RECROP_RECT.
    """
    current_regions = {}
    for node in config.node:
        if node.calculator == "RoiTrackingCalculator":
            streams = dict(stream.split(":") for stream in (*node.input_stream, *node.output_stream))
            current_regions[streams["TRACKING_RECT"]] = streams["RECROP_RECT"]
    kept = [node for node in config.node if "tracking__" not in node.name]
    for node in kept:
        for index, stream in enumerate(node.input_stream):
            tag, _, name = stream.rpartition(":")
            if name in current_regions:
                node.input_stream[index] = f"{tag}:{current_regions[name]}"
    del config.node[:]
    config.node.extend(kept)


def _keep_only(config: Any, streams: set[str]) -> None:
    """Remove all nodes from the graph that the output `streams` do not depend on."""
    kept: set[int] = set()
    while needed := [i for i, node in enumerate(config.node) if i not in kept and _outputs(node) & streams]:
        kept.update(needed)
        streams = streams.union(*(_inputs(config.node[i]) for i in needed))
    nodes = [node for i, node in enumerate(config.node) if i in kept]
    del config.node[:]
    config.node.extend(nodes)


def _outputs(node: Any) -> set[str]:
    return _names(*node.output_stream, *node.output_side_packet)


def _inputs(node: Any) -> set[str]:
    return _names(*node.input_stream, *node.input_side_packet)


def _names(*streams: str) -> set[str]:
    """Return the names of streams without their tags."""
    return {stream.rpartition(":")[2] for stream in streams}
