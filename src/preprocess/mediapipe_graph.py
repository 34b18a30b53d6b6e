"""MediaPipe Holistic on the CPU: one image in, `Landmarks` out, by the graph and the models in mediapipe's wheel.

| mode   | equal, bit for bit, to `mp.solutions.holistic.Holistic(model_complexity=1, …)` | remembers                  |
|--------|--------------------------------------------------------------------------------|----------------------------|
| static | `static_image_mode=True`, made afresh for every image                          | nothing                    |
| video  | `static_image_mode=False, smooth_landmarks=True`, fed the frames of one video  | the video, until `reset()` |

A `Holistic(static_image_mode=True)` that is *reused* is neither: its face and hand regions follow the image before.

MediaPipe's C++ side writes about ten lines to stderr whenever a graph starts; no setting of its reaches them.
"""

import os
import warnings
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import ConfigError, ExtractError
from datamodules.samples.keypoint_layouts import PARTS
from preprocess.holistic.landmarks import Landmarks

__all__ = ["MEDIAPIPE_VERSION", "HolisticGraph", "Landmarks", "Mode", "require_mediapipe"]

Mode = Literal["static", "video"]

MEDIAPIPE_VERSION = "0.10.21"

_GRAPH = "mediapipe/modules/holistic_landmark/holistic_landmark_cpu.binarypb"
_POSE = "poselandmarkcpu__"
_POSE_DETECTION = _POSE + "posedetectioncpu__TensorsToDetectionsCalculator"
_POSE_PRESENCE = _POSE + "poselandmarkbyroicpu__tensorstoposelandmarksandsegmentation__ThresholdingCalculator"
_FRAME_MICROSECONDS = 33_333  # mp.solutions counts 30 frames per second, whatever the video has
_MAX_SIDE_PX = 32_766  # at SHRT_MAX, OpenCV's remap throws where nothing catches it: the process would abort

_first_pid: int | None = None  # of the process that first started a graph


def require_mediapipe() -> None:
    """Check, without importing it, that the one usable release of mediapipe is installed.

    Raises:
        ConfigError: it is missing, or another version is installed.
    """
    try:
        found = version("mediapipe")
    except PackageNotFoundError:
        found = "none"
    if found != MEDIAPIPE_VERSION:
        raise ConfigError(
            f"mediapipe {MEDIAPIPE_VERSION} is wanted, found {found}: it is the last release with mp.solutions and the "
            f"models inside the wheel. It needs numpy<2 and Python<3.13: pip install mediapipe=={MEDIAPIPE_VERSION}"
        )


class HolisticGraph:
    """Finds pose, face and hands of the most prominent person in an image.

    Everything runs on the calling thread. An instance can't be pickled, nor be shared by threads: make it where it is
    used, and none in a process from which others that make one are forked.

    Args:
        mode: what to remember from one image to the next; see the table above.
        min_detection_confidence: 0 to 1, least score of a detected person.
        min_tracking_confidence: 0 to 1, least score of a pose found where the person was detected or tracked.
        parts: of `PARTS`, which to look for; models that serve others alone are not run.

    Raises:
        ConfigError: mediapipe 0.10.21 is not installed, or an argument is none of the above.
        RuntimeError: a process from which this one was forked has started MediaPipe already.
    """

    def __init__(
        self,
        mode: Mode = "static",
        *,
        min_detection_confidence: float = 0.5,
        min_tracking_confidence: float = 0.5,
        parts: Collection[str] = PARTS,
    ) -> None:
        if mode not in get_args(Mode):
            raise ConfigError(f"{mode = } is none of {', '.join(get_args(Mode))}")
        if not 0 <= min_detection_confidence <= 1 or not 0 <= min_tracking_confidence <= 1:
            raise ConfigError(f"{min_detection_confidence = }, {min_tracking_confidence = }: both go from 0 to 1")
        self.mode = mode
        self._mp = _import_mediapipe()
        self._config = _read_config(self._mp)
        _set_thresholds(self._config, min_detection_confidence, min_tracking_confidence)
        if mode == "static":
            _cut_tracking(self._config)
        self._parts = parts
        _keep_only(self._config, {_stream(part) for part in parts})
        self._packets: dict[str, Any] = {}
        self._graph = self._start()

    def __call__(self, image: NDArray[np.uint8]) -> Landmarks:
        """The landmarks of one image, in its pixels.

        Args:
            image: uint8 [H, W, 3], RGB, of any strides; sides up to 32,766 px. In video mode the next frame.

        Raises:
            ExtractError: the image is too large, or MediaPipe failed on it. The next image can be handed in, but in
                video mode what was remembered is gone.
            ValueError: it is no RGB image, or the graph is closed.
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
        except (RuntimeError, ValueError) as error:  # which of them depends on MediaPipe's status code
            self._graph = self._start()  # one that failed refuses every later image
            reason = " ".join(str(error).splitlines()[:2])  # the lines after these repeat it
            raise ExtractError(f"MediaPipe failed on an image of {width}x{height} px: {reason}") from error
        return Landmarks(**{part: self._points(part, width, height) for part in self._parts})

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
        """Forget the video. In static mode, and before the first frame, there is nothing to forget."""
        if self.mode == "video" and self._graph is not None and self._time_us:
            self._graph.close()
            self._graph = self._start()

    def close(self) -> None:
        """Free the models' memory; no image can be handed in any more."""
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
        """A new graph, running, whose results go to `_packets`."""
        global _first_pid
        if _first_pid not in (None, os.getpid()):
            raise RuntimeError(
                f"process {_first_pid} started MediaPipe before {os.getpid()} was forked from it; the libEGL in its "
                "wheel would corrupt memory here: make graphs only in the workers, or start these with 'spawn'"
            )
        _first_pid = os.getpid()
        graph = self._mp.CalculatorGraph(graph_config=self._config)
        for part in self._parts:
            graph.observe_output_stream(_stream(part), self._packets.__setitem__)
        is_video = self.mode == "video"
        flags = {
            "use_prev_landmarks": is_video,
            "smooth_landmarks": is_video,
            "enable_segmentation": False,
            "smooth_segmentation": False,
            "refine_face_landmarks": False,
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
    """The wheel's Holistic graph, subgraphs expanded, as the Python API runs it, but on the calling thread."""
    from mediapipe.framework.calculator_pb2 import CalculatorGraphConfig

    root = Path(mp.__file__).parents[1]
    mp.resource_util.set_resource_dir(str(root))  # the graph names its models relative to it
    validated = mp.ValidatedGraphConfig()
    validated.initialize(binary_graph_path=str(root / _GRAPH))
    config = CalculatorGraphConfig.FromString(validated.binary_config)
    for node in config.node:
        # The Python API loses options whose protobuf module nobody imported. Of these only kernel_size moves landmarks:
        # the graph says 7, the API runs the default of 9.
        if node.calculator == "RefineLandmarksFromHeatmapCalculator":
            node.ClearField("options")
    config.executor[0].type = "ApplicationThreadExecutor"
    return config


def _set_thresholds(config: Any, min_detection_confidence: float, min_tracking_confidence: float) -> None:
    from mediapipe.calculators.tensor.tensors_to_detections_calculator_pb2 import TensorsToDetectionsCalculatorOptions
    from mediapipe.calculators.util.thresholding_calculator_pb2 import ThresholdingCalculatorOptions

    nodes = {node.name: node.options.Extensions for node in config.node}
    nodes[_POSE_DETECTION][TensorsToDetectionsCalculatorOptions.ext].min_score_thresh = min_detection_confidence
    nodes[_POSE_PRESENCE][ThresholdingCalculatorOptions.ext].threshold = min_tracking_confidence


def _cut_tracking(config: Any) -> None:
    """Take the tracking of face and hands out of the graph. That of the pose obeys `use_prev_landmarks`.

    A RoiTrackingCalculator chooses between the region around the previous image's landmarks and the one found in this
    image (RECROP_RECT). Whoever reads its choice reads the latter instead.
    """
    found_here = {}
    for node in config.node:
        if node.calculator == "RoiTrackingCalculator":
            streams = dict(stream.split(":") for stream in (*node.input_stream, *node.output_stream))
            found_here[streams["TRACKING_RECT"]] = streams["RECROP_RECT"]
    kept = [node for node in config.node if "tracking__" not in node.name]
    for node in kept:
        for i, stream in enumerate(node.input_stream):
            tag, _, name = stream.rpartition(":")
            if name in found_here:
                node.input_stream[i] = f"{tag}:{found_here[name]}"
    del config.node[:]
    config.node.extend(kept)


def _keep_only(config: Any, wanted: set[str]) -> None:
    """Take all nodes out of the graph of which the streams `wanted` need nothing."""
    kept: set[int] = set()
    while needed := [place for place, node in enumerate(config.node) if place not in kept and _made(node) & wanted]:
        kept.update(needed)
        wanted = wanted.union(*(_taken(config.node[place]) for place in needed))
    nodes = [node for place, node in enumerate(config.node) if place in kept]
    del config.node[:]
    config.node.extend(nodes)


def _made(node: Any) -> set[str]:
    return _names(*node.output_stream, *node.output_side_packet)


def _taken(node: Any) -> set[str]:
    return _names(*node.input_stream, *node.input_side_packet)


def _names(*streams: str) -> set[str]:
    """Without their tags."""
    return {stream.rpartition(":")[2] for stream in streams}
