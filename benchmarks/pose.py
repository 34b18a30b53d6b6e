"""People per second of OpenPose's decoding and images per second of the pose pipeline, compared with plain code.

    python benchmarks/pose.py             # 3 minutes on 2 cores

| decoding | meaning                                                                                                  |
|----------|----------------------------------------------------------------------------------------------------------|
| plain    | `tests/support/openpose_reference.py`: image by image, as pytorch-openpose and ControlNet do             |
| decode   | `preprocess.pose.decoding.decode`, a batch at once                                                       |

Both get one thread and the same maps of rendered people, in the form of the network's output. CPU times are compared,
because others may use the machine.

| images     | meaning                                                                                                |
|------------|--------------------------------------------------------------------------------------------------------|
| script     | the usual: a process pool, `mp.solutions.pose.Pose` made for every image; a text file for each         |
| once       | the same with `Pose` made once in each process                                                         |
| preprocess | `preprocess run pose`                                                            |

These have the same number of computing processes, and take turns. The steady rate counts from the first finished
image, or shard, to the last; the whole rate from starting the process to its end.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from datamodules.run.folder import Run
from measuring import Ratio, in_fresh_process, print_machine, print_table, print_verdict

_REPOSITORY = Path(__file__).parents[1]
sys.path.append(str(_REPOSITORY / "tests"))  # for the plain implementation and the rendering of people
_SIZE_PX = 256
_LEAST_TO_PLAIN, _LEAST_TO_ONCE = 20.0, 1.0
_CROWDS = (1, 3, 5)
_SHARD_IMAGES = 4


class Turn(NamedTuple):
    """Result of one turn of one contender: images per second, steady and whole."""

    steady: float
    whole: float


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    print_machine("torch", "mediapipe", "numpy", "scipy", "opencv-contrib-python")
    os.environ["OMP_NUM_THREADS"] = "1"  # for the process that decodes: waiting threads of libraries use CPU time
    in_fresh_process(_compare_decoding, options.decodings, options.maps)
    del os.environ["OMP_NUM_THREADS"]
    with tempfile.TemporaryDirectory(prefix="framemill-pose-") as scratch:
        _compare_images(Path(scratch), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender for MediaPipe (default: 3)")
    parser.add_argument("--decodings", type=int, default=9, help="turns of each decoding (default: 9)")
    parser.add_argument("--maps", type=int, default=32, help="images to decode in a turn (default: 32)")
    parser.add_argument("--images", type=int, default=160, help="images for MediaPipe in a turn (default: 160)")
    parser.add_argument("--workers", type=int, default=2, help="processes that compute (default: 2)")
    options: argparse.Namespace = parser.parse_args()
    return options


# Decoding


def _compare_decoding(rounds: int, num_maps: int) -> None:
    """Compare the decodings in a process of its own with one thread."""
    import cv2

    cv2.setNumThreads(1)
    rows, ratios = [], []
    for count in _CROWDS:
        ratio, row = _compare_crowd(count, rounds, num_maps)
        ratios.append(ratio)
        rows.append((f"{count}", *row, str(ratio)))
    columns = ("people in an image", "plain: people/s", "ms/image", "decode: people/s", "ms/image", "decode to plain")
    print_table(columns, rows)
    least = min(ratio.median for ratio in ratios)
    target = f"decode ≥ {_LEAST_TO_PLAIN:.0f} x plain, people per second of CPU time"
    print_verdict(target, f"{least:.1f} x", least >= _LEAST_TO_PLAIN)


def _compare_crowd(count: int, rounds: int, num_maps: int) -> tuple[Ratio, list[str]]:
    import torch

    from preprocess.pose.decoding import decode
    from preprocess.pose.maps import Maps, upsampling_matrix
    from support.openpose_reference import plain_decode
    from support.pose_runs import crowd, rendered

    drawn = np.random.default_rng(0)
    scenes = [rendered(crowd(drawn, count), (_SIZE_PX, _SIZE_PX)) for _ in range(num_maps)]
    line = upsampling_matrix(_SIZE_PX // 8, _SIZE_PX, _SIZE_PX, 8)
    pafs, heatmaps = (torch.from_numpy(np.stack([getattr(scene, name) for scene in scenes])) for name in _MAPS)

    def plain() -> int:
        decoded = (plain_decode(scene.pafs, scene.heatmaps, scene.size, scene.stride) for scene in scenes)
        return sum(len(scores) for _, scores in decoded)

    def ours() -> int:
        return sum(len(people.scores) for people in decode([Maps(pafs, heatmaps, line, line)]))

    num_people = ours()
    assert num_people == plain(), "the decodings differ in the number of people"
    seconds = [(_cpu_seconds(plain), _cpu_seconds(ours)) for _ in range(rounds)]
    row = []
    for times in zip(*seconds, strict=True):
        row += [f"{num_people / median(times):,.0f}", f"{1000 * median(times) / num_maps:.2f}"]
    return Ratio.of_pairs(*zip(*seconds, strict=True)), row


_MAPS = ("pafs", "heatmaps")


def _cpu_seconds(function: Callable[[], int]) -> float:
    before = time.process_time()
    function()
    return time.process_time() - before


# MediaPipe


def _compare_images(scratch: Path, options: argparse.Namespace) -> None:
    images = _make_images(scratch / "images", options.images)
    contenders: dict[str, Callable[[Path, Path, int], list[float]]]
    contenders = {"script": _script, "once": partial(_script, once=True), "preprocess": _preprocess}
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for number in range(options.rounds):
        for name, contender in contenders.items():
            started = time.perf_counter()
            times = sorted(contender(images, scratch / f"{name}{number}", options.workers))
            whole = time.perf_counter() - started
            steady = (options.images - options.images / len(times)) / (times[-1] - times[0])
            turns[name].append(Turn(steady, options.images / whole))
            print(f"round {number}, {name}: {turns[name][-1]}", file=sys.stderr)
    _print_images(turns)


def _print_images(turns: dict[str, list[Turn]]) -> None:
    def ratio(other: str) -> Ratio:
        return Ratio.of_pairs(*([turn.steady for turn in turns[name]] for name in ("preprocess", other)))

    rows = [
        (name, f"{median(turn.steady for turn in taken):.1f}", f"{median(turn.whole for turn in taken):.1f}")
        for name, taken in turns.items()
    ]
    print_table(("", "steady images/s", "whole images/s"), rows)
    print(f"preprocess to script: {ratio('script')} x, steady")
    once = ratio("once")
    print_verdict(
        f"preprocess ≥ {_LEAST_TO_ONCE} x the script whose detector is made once, steady images/s",
        f"{once} x",
        once.median >= _LEAST_TO_ONCE,
    )


def _make_images(folder: Path, count: int) -> Path:
    """Make JPEGs of 400x400 px: several crops of a photograph of an astronaut."""
    from PIL import Image
    from skimage import data

    folder.mkdir(parents=True)
    astronaut: Any = data.astronaut()
    for number in range(count):
        x = number * 7 % 112
        Image.fromarray(astronaut[:400, x : x + 400]).save(folder / f"{number:05d}.jpg", quality=90)
    return folder


def _script(images: Path, out: Path, workers: int, once: bool = False) -> list[float]:
    return in_fresh_process(_run_script, images, out, workers, once).value


def _run_script(images: Path, out: Path, workers: int, once: bool) -> list[float]:
    out.mkdir()
    with ProcessPoolExecutor(workers, initializer=_make_pose if once else None) as pool:
        return list(pool.map(partial(_script_image, out), sorted(images.iterdir())))


_pose: Any = None


def _make_pose() -> None:
    global _pose
    import mediapipe as mp

    _pose = mp.solutions.pose.Pose(static_image_mode=True, model_complexity=1)


def _script_image(out: Path, path: Path) -> float:
    import cv2
    import mediapipe as mp

    bgr: Any = cv2.imread(str(path))
    image = cv2.resize(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), (_SIZE_PX, _SIZE_PX))
    if _pose is None:
        with mp.solutions.pose.Pose(static_image_mode=True, model_complexity=1) as pose:
            result = pose.process(image)
    else:
        result = _pose.process(image)
    lines = [f"{point.x * _SIZE_PX} {point.y * _SIZE_PX}" for point in result.pose_landmarks.landmark]
    (out / f"{path.stem}.txt").write_text("\n".join(lines))
    return time.time()


def _preprocess(images: Path, out: Path, workers: int) -> list[float]:
    options = {
        "config": _REPOSITORY / "configs" / "pose.yaml",
        "data.root": images,
        "output.dir": out,
        "data.num_workers": workers,
        "output.shards.max_items": _SHARD_IMAGES,
        "output.shards.min_shards": 1,
    }
    command = [sys.executable, "-m", "preprocess", "run", *(f"--{name}={value}" for name, value in options.items())]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    run = Run(out)
    return [run.committed_at(record.shard) for record in run.records()]


if __name__ == "__main__":
    main()
