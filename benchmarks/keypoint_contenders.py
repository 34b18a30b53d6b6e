"""What `benchmarks/keypoints.py` compares: scripts, `preprocess run`, and the bare landmarker.

Each takes the folder of a corpus, its output folder and the number of processes that compute, and returns when it was
done with which sentence.
"""

import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from datamodules.corpora.phoenix import Phoenix2014T
from datamodules.corpora.videos import Videos
from datamodules.run.folder import Run
from measuring import in_fresh_process

_CONFIGS = Path(__file__).parents[1] / "configs"


class Finished(NamedTuple):
    """End of one sentence: time in seconds since the epoch, and its number of frames."""

    time: float
    num_frames: int


Contender: TypeAlias = Callable[[Path, Path, int], list[Finished]]


def contenders() -> dict[str, Contender]:
    """Return the contenders by name; those that run MediaPipe only where it is installed."""
    ours: dict[str, Contender] = {"preprocess": preprocess, "limit": limit}
    if find_spec("mediapipe") is None:
        return ours
    return {
        "script": partial(script, static_image_mode=True),
        "tracking": partial(script, static_image_mode=False),
        "mediapipe": partial(preprocess, backend="mediapipe"),
        **ours,
    }


def _paths(root: Path) -> list[Path]:
    """Return the folders of frames, or the videos."""
    corpus = Phoenix2014T(str(root)) if (root / "annotations").is_dir() else Videos(str(root))
    return [root / item.path for item in corpus.items()]


def _frames(path: Path) -> Iterator[Any]:
    """Yield the frames of a folder or a video, RGB, read with OpenCV."""
    import cv2

    if path.is_dir():
        for file in sorted(path.glob("*.png")):
            image: Any = cv2.imread(str(file))
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    else:
        video = cv2.VideoCapture(str(path))
        while (frame := video.read())[0]:
            yield cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB)


# The scripts


def script(root: Path, out: Path, workers: int, *, static_image_mode: bool) -> list[Finished]:
    """Run a pool of processes with a reused `mp.solutions` Holistic each."""
    return in_fresh_process(_run_script, root, out, workers, static_image_mode).value


def _run_script(root: Path, out: Path, workers: int, static_image_mode: bool) -> list[Finished]:
    out.mkdir()
    with ProcessPoolExecutor(workers, initializer=_make_holistic, initargs=(static_image_mode,)) as pool:
        return list(pool.map(partial(_script_sentence, out), _paths(root)))


_holistic: Any = None


def _make_holistic(static_image_mode: bool) -> None:
    global _holistic
    import mediapipe as mp

    _holistic = mp.solutions.holistic.Holistic(static_image_mode=static_image_mode, model_complexity=1)


def _script_sentence(out: Path, path: Path) -> Finished:
    sentence = [_script_frame(_holistic.process(frame)) for frame in _frames(path)]
    with open(out / f"{path.stem}.pkl", "wb") as file:
        pickle.dump(sentence, file)
    return Finished(time.time(), len(sentence))


def _script_frame(result: Any) -> dict[str, Any]:
    import numpy as np

    parts = ("pose_landmarks", "face_landmarks", "left_hand_landmarks", "right_hand_landmarks")
    landmarks = {part: getattr(result, part) for part in parts}
    return {
        p: np.array([(x.x, x.y, x.z) for x in of.landmark], np.float32) if of else None for p, of in landmarks.items()
    }


# preprocess run


def preprocess(
    root: Path, out: Path, workers: int, *, backend: str = "auto", launcher: Sequence[str] = ()
) -> list[Finished]:
    """Run the pipeline, as users start it. `launcher` are words before `run`, for example `ray`."""
    subprocess.run(_command(root, out, workers, backend, launcher), check=True, stderr=subprocess.DEVNULL)
    run = Run(out)
    assert len(run.committed()) == run.plan.num_items, "the end of a sentence is known only if it is a shard of its own"
    return [Finished(run.committed_at(r.shard), r.num_frames) for r in run.records()]


def _command(root: Path, out: Path, workers: int, backend: str, launcher: Sequence[str]) -> list[str]:
    config = _CONFIGS / ("keypoints.yaml" if (root / "annotations").is_dir() else "keypoints_videos.yaml")
    folders = {"config": config, "data.root": root, "output.dir": out}
    options = {**folders, "data.num_workers": workers, "model.backend": backend}
    command = [sys.executable, "-m", "preprocess", *launcher, "run"]
    return command + [f"--{name}={value}" for name, value in options.items()]


# The limit


def limit(root: Path, out: Path, workers: int) -> list[Finished]:
    """Run the bare landmarker over frames that are decoded in memory already; nothing is written."""
    return in_fresh_process(_run_limit, root, workers).value


def _run_limit(root: Path, workers: int) -> list[Finished]:
    context = get_context("fork")
    results = context.SimpleQueue()
    ready = context.Barrier(workers)
    paths = _paths(root)
    processes = [
        context.Process(target=_limit_process, args=(paths[worker::workers], ready, results))
        for worker in range(workers)
    ]
    for process in processes:
        process.start()
    finished: list[Finished] = [results.get() for _ in paths]
    for process in processes:
        process.join()
    return finished


def _limit_process(paths: Sequence[Path], ready: Any, results: Any) -> None:
    import cv2
    import torch

    from preprocess.holistic.landmarker import HolisticLandmarker

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    sentences = [[torch.from_numpy(frame).permute(2, 0, 1) for frame in _frames(path)] for path in paths]
    landmarker = HolisticLandmarker.load("cpu")
    ready.wait()
    for sentence in sentences:
        for frame in sentence:
            landmarker([frame])
        results.put(Finished(time.time(), len(sentence)))
