"""Frames per second of the keypoints pipeline on 2 cores, compared with a plain script and the limit.

    python benchmarks/keypoints.py             # frames/s
    python benchmarks/keypoints.py --memory    # does memory grow with the corpus?

| contender  | meaning                                                                                                |
|------------|--------------------------------------------------------------------------------------------------------|
| script     | ProcessPoolExecutor; one reused `mp.solutions` Holistic per process; cv2; pickles                      |
| preprocess | `preprocess run`, as users start it: Lightning, workers, spool, commit                                 |
| limit      | the bare `HolisticGraph` over frames that are decoded in memory already; nothing is written            |

All have the same number of computing processes, and take turns: script, preprocess, limit, script, … A turn is a fresh
process. The steady rate and the CPU time count from the first finished sentence to the last; the whole rate counts from
starting the process (imports and all) to its end. On a machine that others use too, the CPU time per frame, over all
processes of the contender, is more reliable than the rate.

Frames are PNGs of 210x260 px in PHOENIX-2014-T's layout, made from two photographs, or the frames in `--root`.
"""

import argparse
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from datamodules.corpora.phoenix import Phoenix2014T
from datamodules.corpora.videos import Videos
from datamodules.run.folder import Run
from measuring import Ratio, Watch, in_fresh_process, print_machine, print_table, print_verdict

_CONFIGS = Path(__file__).parents[1] / "configs"
_LEAST_TO_SCRIPT, _LEAST_TO_LIMIT = 1.0, 0.93
_MEMORY_FRAMES = 1_000, 10_000
_MOST_GROWTH = 1.1


class Finished(NamedTuple):
    """End of one sentence: time in seconds since the epoch, and its number of frames."""

    time: float
    num_frames: int


class Turn(NamedTuple):
    """Result of one turn of one contender.

    Attributes:
        steady: frames per second from the first result to the last.
        whole: frames per second from start to end.
        cpu_ms: CPU milliseconds per frame from the first result to the last.
    """

    steady: float
    whole: float
    cpu_ms: float


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    print_machine("mediapipe", "torch", "lightning", "opencv-contrib-python", "numpy")
    with tempfile.TemporaryDirectory() as scratch:
        if options.memory:
            _compare_memory(Path(scratch), options)
        else:
            root = options.root or make_corpus(Path(scratch) / "corpus", options.sentences, options.frames)
            _compare_speed(root, Path(scratch), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a PHOENIX-2014-T folder or a folder of videos; default: made")
    parser.add_argument("--sentences", type=int, default=24, help="sentences of the made corpus (default: 24)")
    parser.add_argument("--frames", type=int, default=40, help="frames in a sentence (default: 40)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: 5)")
    parser.add_argument("--workers", type=int, default=2, help="processes that compute (default: 2)")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    options: argparse.Namespace = parser.parse_args()
    return options


def make_corpus(dest: Path, num_sentences: int, num_frames: int) -> Path:
    """Make a corpus of `num_sentences` (10 or more) in PHOENIX-2014-T's layout. Sentences share frames by links."""
    from preprocess.commands.sample import make_sample_corpus

    make_sample_corpus(dest, num_frames)
    table = dest / "annotations" / "manual" / "PHOENIX-2014-T.train.corpus.csv"
    header, *rows = table.read_text().splitlines()
    folder = dest / "features" / "fullFrame-210x260px" / "train"
    originals, num_made = list(rows), len(list(Phoenix2014T(str(dest)).items()))
    for number in range(num_sentences - num_made):
        row = originals[number % len(originals)]
        name = row.partition("|")[0]
        rows.append(row.replace(name, f"{name}_{number}"))
        (folder / f"{name}_{number}").symlink_to(folder / name)
    table.write_text("\n".join([header, *rows]) + "\n")
    return dest


def _compare_speed(root: Path, scratch: Path, options: argparse.Namespace) -> None:
    contenders = {"script": _script, "preprocess": _preprocess, "limit": _limit}
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for number in range(options.rounds):
        for name, contender in contenders.items():
            turns[name].append(_take_turn(contender, root, scratch / f"{name}{number}", options.workers))
            print(f"round {number}, {name}: {turns[name][-1]}", file=sys.stderr)
    _print_turns(turns)


def _print_turns(turns: dict[str, list[Turn]]) -> None:
    def figures(name: str) -> list[str]:
        whole = median(turn.whole for turn in turns[name])
        figures = [median(turn.steady for turn in turns[name]), median(turn.cpu_ms for turn in turns[name])]
        return [*(f"{figure:.1f}" for figure in figures), f"{whole:.1f}" if name != "limit" else "–"]

    def ratios(field: str, to: str) -> Ratio:
        return Ratio.of_pairs(*([getattr(turn, field) for turn in turns[name]] for name in ("preprocess", to)))

    print_table(("", "steady frames/s", "CPU ms/frame", "whole frames/s"), ((name, *figures(name)) for name in turns))
    print(f"preprocess to script: {ratios('whole', 'script')} x whole, {ratios('cpu_ms', 'script')} x CPU time")
    print(f"preprocess to limit: {ratios('cpu_ms', 'limit')} x CPU time")
    to_script, to_limit = ratios("steady", "script"), ratios("steady", "limit")
    print_verdict(
        f"preprocess ≥ {_LEAST_TO_SCRIPT} x script and ≥ {_LEAST_TO_LIMIT} x limit, steady frames/s",
        f"{to_script} x and {to_limit} x",
        to_script.median >= _LEAST_TO_SCRIPT and to_limit.median >= _LEAST_TO_LIMIT,
    )


def _take_turn(contender: Callable[[Path, Path, int], list[Finished]], root: Path, out: Path, workers: int) -> Turn:
    started = time.perf_counter()
    with Watch() as watch:
        finished = sorted(contender(root, out, workers))
    whole_seconds = time.perf_counter() - started
    first, last = finished[0], finished[-1]
    num_frames = sum(sentence.num_frames for sentence in finished)
    return Turn(
        (num_frames - first.num_frames) / (last.time - first.time),
        num_frames / whole_seconds,
        1000 * watch.cpu_seconds(first.time, last.time) / (num_frames - first.num_frames),
    )


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


# The plain script


def _script(root: Path, out: Path, workers: int) -> list[Finished]:
    return in_fresh_process(_run_script, root, out, workers).value


def _run_script(root: Path, out: Path, workers: int) -> list[Finished]:
    out.mkdir()
    with ProcessPoolExecutor(workers, initializer=_make_holistic) as pool:
        return list(pool.map(partial(_script_sentence, out), _paths(root)))


_holistic: Any = None


def _make_holistic() -> None:
    global _holistic
    import mediapipe as mp

    _holistic = mp.solutions.holistic.Holistic(static_image_mode=True, model_complexity=1)


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


def _preprocess(root: Path, out: Path, workers: int) -> list[Finished]:
    subprocess.run(_command(root, out, workers), check=True, stderr=subprocess.DEVNULL)
    run = Run(out)
    assert len(run.committed()) == run.plan.num_items, "the end of a sentence is known only if it is a shard of its own"
    return [Finished(run.record_path(r.shard).stat().st_mtime, r.num_frames) for r in run.records()]


def _command(root: Path, out: Path, workers: int) -> list[str]:
    config = _CONFIGS / ("keypoints.yaml" if (root / "annotations").is_dir() else "keypoints_videos.yaml")
    options = {"config": config, "data.root": root, "output.dir": out, "data.num_workers": workers}
    command = [sys.executable, "-m", "preprocess", "run"]
    return command + [f"--{name}={value}" for name, value in options.items()]


# The limit


def _limit(root: Path, out: Path, workers: int) -> list[Finished]:
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
    from preprocess.mediapipe_graph import HolisticGraph

    sentences = [list(_frames(path)) for path in paths]
    with HolisticGraph() as graph:
        ready.wait()
        for sentence in sentences:
            for frame in sentence:
                graph(frame)
            results.put(Finished(time.time(), len(sentence)))


# Memory


def _compare_memory(scratch: Path, options: argparse.Namespace) -> None:
    peaks = []
    for num_frames in _MEMORY_FRAMES:
        root = make_corpus(scratch / f"corpus{num_frames}", num_frames // options.frames, options.frames)
        with Watch(memory=True) as watch:
            _preprocess(root, scratch / f"out{num_frames}", options.workers)
        peaks.append(watch.peak_mb)
    rows = [(f"{frames:,}", f"{peak:.0f}") for frames, peak in zip(_MEMORY_FRAMES, peaks, strict=True)]
    print_table(("frames", "peak MB, all processes"), rows)
    growth = peaks[-1] / peaks[0]
    print_verdict(
        f"flat memory, ≤ {_MOST_GROWTH} x from {_MEMORY_FRAMES[0]:,} to {_MEMORY_FRAMES[-1]:,} frames",
        f"{growth:.3f} x",
        growth <= _MOST_GROWTH,
    )


if __name__ == "__main__":
    main()
