"""Keypoints pipeline: pose, face and hands by MediaPipe Holistic. Samples: `datamodules.samples.keypoints`."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from datamodules.corpus import Item
from datamodules.errors import ConfigError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.loading.request import FrameRequest, FrameTransform, GroupTransform
from datamodules.media.facts import seconds_beyond
from datamodules.samples.keypoint_layouts import LAYOUTS
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from preprocess.holistic.follow import FollowTransform, Person
from preprocess.holistic.frame_results import HolisticBatches, LiteRTTransform, MediaPipeTransform
from preprocess.holistic.landmarker import HolisticLandmarker
from preprocess.holistic.litert_landmarker import litert_versions
from preprocess.holistic.micro_batch import Trial, measure, suggest_batch_size
from preprocess.holistic.models import HOLISTIC, combined_sha256, find_models
from preprocess.holistic.networks import Complexity, HolisticOptions
from preprocess.holistic.replay import Replay
from preprocess.holistic.torch_landmarker import Precision, TorchLandmarker, require_precision
from preprocess.job.extractor import Extractor
from preprocess.job.late import LateResults
from preprocess.mediapipe_graph import MEDIAPIPE_VERSION, Mode, require_mediapipe

Backend = Literal["auto", "litert", "torch", "mediapipe"]
UsedBackend = Literal["litert", "torch", "mediapipe"]


class Keypoints(Extractor):
    """Detects keypoints by MediaPipe Holistic's models: on the CPU in the DataLoader workers, or on the rank's GPU.

    Args:
        mode: `static`: each frame by itself; `video`: with MediaPipe's tracking from frame to frame of an item, which
            is smoother, and only in backend mediapipe.
        layout: the keypoints to keep. 143: 68 of the face (dlib order), 21 of each hand, 33 of the pose; 75: pose and
            hands; 543: all of MediaPipe's; 553: these and the irises, which `refine_face_landmarks` finds.
        model_complexity: of the pose network: 0, 1 or 2. The weights of 0 and 2 must be in `model_dir`, and backend
            mediapipe has those of 1 only.
        batch_size: the largest number of frames that a worker hands over at once; in torch they are one batch.
        backend: `litert`: on the CPU, in the workers, the fastest there; `torch`: the same pass in batches, on the
            rank's device; `mediapipe`: MediaPipe's own graph, in the workers, the reference, for which mediapipe
            0.10.21 must be installed; `auto`: torch if the rank has a GPU, else litert, or mediapipe for mode `video`.
        precision: of the nets in torch: `fp32`; or `fp16`, which moves points by 0.1 to 0.3 px on average.
        compile: whether to compile the pass in torch with torch.compile: faster, after minutes at the start.
        cuda_graph: whether to capture the pass in torch as a CUDA graph on a GPU: the same results, with fewer kernel
            launches.
        refine_face_landmarks: whether to find the irises too, and the lips and eyes more closely.
        model_dir: a folder with model files that are preferred to those found elsewhere (`preprocess models`); not for
            backend mediapipe.
        person: whom to follow where several people are in the picture: `any`, the most prominent one of each frame;
            who is in the `left` or `right` half of the image; or in the `box` of the corpus. Not for backend torch.

    Raises:
        ConfigError: an argument is out of range or not for this backend, or mediapipe is missing.
    """

    samples = KeypointSamples()
    retry_invariants = ("extractor.init_args.layout",)
    reserved_fields = frozenset(
        {
            "layout",
            "height",
            "width",
            "pixel_aspect_ratio",
            "num_skipped_frames",
            "missing_seconds",
            "fps",
            "path",
            "frames",
            "backend",
            "crop",
        }
    )

    def __init__(
        self,
        mode: Mode = "static",
        layout: Literal[143, 75, 543, 553] = 143,
        model_complexity: Complexity = 1,
        batch_size: int = 32,
        backend: Backend = "auto",
        precision: Precision = "fp32",
        compile: bool = False,
        cuda_graph: bool = True,
        refine_face_landmarks: bool = False,
        model_dir: Path | None = None,
        person: Person = "any",
    ) -> None:
        super().__init__()
        if refine_face_landmarks and layout == 75:
            raise ConfigError("--model.layout 75 has no face. Leave out --model.refine_face_landmarks")
        if not refine_face_landmarks and layout == 553:
            raise ConfigError("--model.layout 553 has the irises. Set --model.refine_face_landmarks true to find them")
        if batch_size < 1:
            raise ConfigError(f"{batch_size = }: use 1 or more")
        if backend not in get_args(Backend):
            raise ConfigError(f"{backend = } is not one of {', '.join(get_args(Backend))}")
        if person not in get_args(Person):
            raise ConfigError(f"{person = } is not one of {', '.join(get_args(Person))}")
        require_precision(precision)
        self.save_hyperparameters(
            ignore=["backend", "model_dir"]
        )  # their effect belongs to the fingerprint; see `provenance`
        self.layout = layout
        self._options = HolisticOptions(model_complexity, refine_face_landmarks)
        self._requested_backend, self._model_dir = backend, model_dir
        self._checked: str | None = None  # the backend that was checked last
        self._torch: HolisticBatches | None = None
        self._size: Sequence[int] = (260, 210)  # height and width of the last frames, in px
        if backend != "auto":
            self._require(backend)

    @property
    def backend(self) -> UsedBackend:
        """The backend in use; for `auto`, the rank's device decides, and on a CPU the mode.

        Raises:
            ConfigError: other options are not for this backend, or it is not installed.
        """
        if self._requested_backend != "auto":
            return self._requested_backend
        if self.rank_device.type == "cuda":
            return self._require("torch")
        return self._require("litert" if self.hparams["mode"] == "static" else "mediapipe")

    @property
    def frames(self) -> FrameRequest:  # type: ignore[override]
        """The request for frames: unchanged frames for torch, else their results, made in the workers."""
        size, layout = self.hparams["batch_size"], LAYOUTS[self.layout]
        if self.backend == "torch":
            return FrameRequest(size)
        find: Callable[[], FrameTransform | GroupTransform]
        if self.backend == "litert":
            find = partial(LiteRTTransform, layout, self._options, self._model_dir)
        else:
            find = partial(MediaPipeTransform, layout, self.hparams["mode"], self._options)
        person: Person = self.hparams["person"]
        return FrameRequest(size, find if person == "any" else partial(FollowTransform, find, person, layout))

    def _require(self, backend: UsedBackend) -> UsedBackend:
        if backend == self._checked:
            return backend
        if backend == "mediapipe":
            if self._model_dir or self.hparams["model_complexity"] != 1:
                raise ConfigError(
                    "--model.model_dir and .model_complexity 0 and 2 are not for backend mediapipe, which uses the "
                    "models in its wheel. Set --model.backend auto"
                )
        elif self.hparams["mode"] != "static":
            raise ConfigError(
                f"--model.mode {self.hparams['mode']} needs MediaPipe's own tracking. Set --model.backend mediapipe, "
                "or --model.mode static"
            )
        if backend == "torch" and self.hparams["person"] != "any":
            raise ConfigError(
                f"--model.person {self.hparams['person']} is not for backend torch. Set --model.backend litert"
            )
        if backend != "torch" and (self.hparams["precision"] != "fp32" or self.hparams["compile"]):
            raise ConfigError(
                f"--model.precision fp16 and .compile are for backend torch, not {backend}. Set --model.backend torch, "
                "or --trainer.accelerator gpu"
            )
        if backend == "mediapipe":
            require_mediapipe()
        self._checked = backend
        return backend

    def provenance(self) -> dict[str, str]:
        """See `Extractor`: the backend, its weights, and the releases of what computes with them.

        Raises:
            ConfigError: a model is missing and cannot be fetched.
        """
        if self.backend == "mediapipe":
            return {"backend": "mediapipe", "mediapipe": MEDIAPIPE_VERSION}
        names = self._options.networks
        find_models(names, self._model_dir)  # fetched here, before the run is planned; `check` does not need them
        versions = litert_versions() if self.backend == "litert" else {}
        if self.backend == "torch" and self.rank_device.type == "cuda":
            versions["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        return {"backend": self.backend, "weights": combined_sha256(names), **versions}

    def setup(self, stage: str) -> None:
        """Load the models onto the rank's device, if they run there."""
        if self.backend == "torch":
            landmarker = HolisticLandmarker.load(
                self.rank_device,
                self._options,
                backend="torch",
                precision=self.hparams["precision"],
                compile=self.hparams["compile"],
                cuda_graph=self.hparams["cuda_graph"],
                model_dir=self._model_dir,
            )
            self._torch = HolisticBatches(landmarker, LAYOUTS[self.layout], self.hparams["batch_size"])

    def suggest_options(self) -> str | None:
        """See `Extractor`: suggests the batch size on a GPU, from measurements with these options."""
        device = self.rank_device
        if self.backend != "torch" or device.type != "cuda":
            return None
        self._torch = None  # frees its buffers and graphs
        models = find_models(self._options.networks, self._model_dir)
        landmarker = TorchLandmarker(models, self.hparams["precision"], self._options, device)

        def run_trial(size: int) -> Trial:
            run = Replay(landmarker, self.hparams["compile"], self.hparams["cuda_graph"])
            batches = HolisticBatches(run, LAYOUTS[self.layout], size)
            frames = torch.zeros(size, 3, *self._size, dtype=torch.uint8).pin_memory()  # values do not change the time
            return measure(size, lambda: batches(frames.to(device, non_blocking=True)), device)

        return suggest_batch_size(run_trial)

    def extract(self, batch: Batch) -> list[Any] | LateResults:
        """Return the result of each frame: see `Result`."""
        if self.backend != "torch":
            return batch["results"]
        assert self._torch is not None
        self._size = batch["frames"][0].shape[1:]
        results = self._torch.start(batch["frames"], is_part=not batch["summaries"])
        return results if self.rank_device.type == "cuda" else results.get()

    def assemble(self, item: Item, results: Sequence[Any], summary: ItemSummary) -> KeypointSample:
        """Return the sample of an item: the keypoints of all its frames."""
        keypoints, presence, visibility = (
            np.stack([getattr(result, name) for result in results]) for name in ("keypoints", "presence", "visibility")
        )
        assert summary.size is not None
        meta = {
            **item.meta,
            "layout": self.layout,
            "height": summary.size[0],
            "width": summary.size[1],
            "pixel_aspect_ratio": summary.video["pixel_aspect_ratio"] if summary.video else 1.0,
            "fps": summary.fps,
            "path": item.path,
            "frames": list(item.frames),
            "num_skipped_frames": summary.video["num_skipped_frames"] if summary.video else 0,
            "missing_seconds": seconds_beyond(summary.video, item.stop_seconds) if summary.video else 0.0,
            "crop": results[0].crop and list(results[0].crop),
            "backend": self._made_by(),
        }
        return KeypointSample(item.key, keypoints, presence, visibility, meta)

    def _made_by(self) -> str:
        others = "".join(f", {name}" for name in self._options.networks if name not in HOLISTIC)
        if self.backend == "mediapipe":
            return f"mediapipe {MEDIAPIPE_VERSION}, {self.hparams['mode']}{others}"
        compiled = ", compiled" if self.hparams["compile"] else ""
        how = {
            "litert": f"litert {version('ai-edge-litert')}",
            "torch": f"torch {torch.__version__}, {self.hparams['precision']}{compiled}",
        }
        return f"{how[self.backend]}; models of mediapipe {MEDIAPIPE_VERSION}{others}"
