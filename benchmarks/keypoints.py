"""The keypoints pipeline on CPU cores, compared with plain scripts and the limit: frames per second, and memory.

    python benchmarks/keypoints.py                        # frames/s
    python benchmarks/keypoints.py --memory               # does memory grow with the corpus?
    python benchmarks/keypoints.py --memory-per-worker    # how much does one more process take?

| contender  | meaning                                                                                                |
|------------|--------------------------------------------------------------------------------------------------------|
| script     | ProcessPoolExecutor; one reused `mp.solutions` Holistic per process (`static_image_mode=True`); cv2;   |
|            | pickles. It runs the same networks as a new one for each frame, but in the regions of the frame before |
| tracking   | the same with `static_image_mode=False`: while it tracks a person, it skips the first of the networks, |
|            | a quarter of the work                                                                                  |
| mediapipe  | `preprocess run --model.backend mediapipe`                                                             |
| preprocess | `preprocess run` with the default backend, litert                                                      |
| limit      | the bare `HolisticLandmarker` over frames that are decoded in memory already; nothing is written       |

All have the same number of computing processes, and take turns: script, tracking, …, limit, script, … A turn is a fresh
process. The steady rate and the CPU time of a frame count from the first finished sentence to the last; whole seconds
count from starting the process (imports and all) to its end. CPU times are of all processes of a contender, and more
reliable than rates on a machine that others use too. Without mediapipe, only the last two contenders run.

Frames are PNGs of 210x260 px in PHOENIX-2014-T's layout, made from two photographs without hands, or those in `--root`.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import NamedTuple

from datamodules.corpora.phoenix import Phoenix2014T
from keypoint_contenders import Contender, contenders, preprocess
from measuring import Ratio, Watch, print_machine, print_table, print_verdict

_LEAST_TO_SCRIPT, _LEAST_TO_LIMIT = 1.2, 0.93
_MEMORY_FRAMES = 1_000, 10_000
_MEMORY_WORKERS = 1, 3
_MOST_GROWTH = 1.1


class Turn(NamedTuple):
    """Result of one turn of one contender.

    Attributes:
        steady: frames per second from the first result to the last.
        cpu_ms: CPU milliseconds per frame from the first result to the last.
        whole: seconds from start to end.
        whole_cpu: CPU seconds from start to end.
    """

    steady: float
    cpu_ms: float
    whole: float
    whole_cpu: float


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    with_mediapipe = ("mediapipe", "opencv-contrib-python") if find_spec("mediapipe") else ()
    print_machine("ai-edge-litert", *with_mediapipe, "torch", "lightning", "numpy")
    with tempfile.TemporaryDirectory() as scratch:
        if options.memory:
            _compare_growth(Path(scratch), options)
        else:
            root = options.root or make_corpus(Path(scratch) / "corpus", options.sentences, options.frames)
            compare = _compare_memory if options.memory_per_worker else _compare_speed
            compare(root, Path(scratch), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a PHOENIX-2014-T folder or a folder of videos; default: made")
    parser.add_argument("--sentences", type=int, default=24, help="sentences of the made corpus (default: 24)")
    parser.add_argument("--frames", type=int, default=40, help="frames in a sentence (default: 40)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: 5)")
    parser.add_argument("--workers", type=int, default=2, help="processes that compute (default: 2)")
    names = list(contenders())
    parser.add_argument("--contenders", nargs="+", default=names, choices=names, help="(default: all)")
    parser.add_argument("--memory", action="store_true", help="measure the growth of memory instead of speed")
    parser.add_argument("--memory-per-worker", action="store_true", help="measure the memory of a worker instead")
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
    turns: dict[str, list[Turn]] = {name: [] for name in options.contenders}
    for number in range(options.rounds):
        for name in turns:
            contender, out = contenders()[name], scratch / f"{name}{number}"
            turns[name].append(_take_turn(contender, root, out, options.workers))
            print(f"round {number}, {name}: {turns[name][-1]}", file=sys.stderr)
    print_turns(turns)


def _take_turn(contender: Contender, root: Path, out: Path, workers: int) -> Turn:
    started, clock = time.perf_counter(), time.time()
    with Watch() as watch:
        finished = sorted(contender(root, out, workers))
    first, last = finished[0], finished[-1]
    num_frames = sum(sentence.num_frames for sentence in finished) - first.num_frames
    return Turn(
        num_frames / (last.time - first.time),
        1000 * watch.cpu_seconds(first.time, last.time) / num_frames,
        time.perf_counter() - started,
        watch.cpu_seconds(clock, time.time()),
    )


def print_turns(turns: Mapping[str, Sequence[Turn]]) -> None:
    """Print the table of all contenders, and what preprocess is to each."""

    def figures(name: str) -> list[str]:
        medians = [median(values) for values in zip(*turns[name], strict=True)]
        return [f"{figure:.1f}" for figure in (medians[:2] if name == "limit" else medians)]

    def speed(field: str, to: str) -> Ratio:
        """Return how many times as fast preprocess is, by a field that is a time."""
        return Ratio.of_pairs(*([getattr(turn, field) for turn in turns[name]] for name in (to, "preprocess")))

    columns = ("", "steady frames/s", "CPU ms/frame", "whole s", "whole CPU s")
    print_table(columns, ([name, *figures(name), *["–"] * 2][: len(columns)] for name in turns))
    if "preprocess" not in turns:
        return
    for name in turns.keys() - {"preprocess", "limit"}:
        whole, whole_cpu = speed("whole", name), speed("whole_cpu", name)
        print(f"preprocess to {name}: {speed('cpu_ms', name)} x by CPU, whole {whole} x, whole CPU {whole_cpu} x")
    for name, least in (("script", _LEAST_TO_SCRIPT), ("limit", _LEAST_TO_LIMIT)):
        if name in turns:
            ratio = speed("cpu_ms", name)
            print_verdict(f"preprocess ≥ {least} x {name}, frames per CPU second", f"{ratio} x", ratio.median >= least)


# Memory


def _compare_memory(root: Path, scratch: Path, options: argparse.Namespace) -> None:
    rows = []
    for name in options.contenders:
        if name == "limit":  # holds all frames
            continue
        contender = contenders()[name]
        few, many = (_peak_mb(contender, root, scratch / f"{name}{number}", number) for number in _MEMORY_WORKERS)
        per_worker = (many - few) / (_MEMORY_WORKERS[1] - _MEMORY_WORKERS[0])
        rows.append((name, f"{per_worker:.0f}", *(f"{peak:.0f}" for peak in (few, many))))
    print_table(("", "MB per worker", *(f"peak MB, workers: {number}" for number in _MEMORY_WORKERS)), rows)


def _compare_growth(scratch: Path, options: argparse.Namespace) -> None:
    peaks = []
    for num_frames in _MEMORY_FRAMES:
        root = make_corpus(scratch / f"corpus{num_frames}", num_frames // options.frames, options.frames)
        peaks.append(_peak_mb(preprocess, root, scratch / f"out{num_frames}", options.workers))
    rows = [(f"{frames:,}", f"{peak:.0f}") for frames, peak in zip(_MEMORY_FRAMES, peaks, strict=True)]
    print_table(("frames", "peak MB, all processes"), rows)
    growth = peaks[-1] / peaks[0]
    print_verdict(
        f"flat memory, ≤ {_MOST_GROWTH} x from {_MEMORY_FRAMES[0]:,} to {_MEMORY_FRAMES[-1]:,} frames",
        f"{growth:.3f} x",
        growth <= _MOST_GROWTH,
    )


def _peak_mb(contender: Contender, root: Path, out: Path, workers: int) -> float:
    with Watch(memory=True) as watch:
        contender(root, out, workers)
    return watch.peak_mb


if __name__ == "__main__":
    main()
