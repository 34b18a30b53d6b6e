"""What Ray costs: `preprocess ray --address local run` and `preprocess run` on the same cores.

    python benchmarks/on_ray.py

Both extract keypoints from the made corpus of `keypoints.py`, with one rank of 2 workers, and take turns: run, ray,
run, … In a turn with Ray, the command starts a Ray cluster on this machine and ends it again, as it does without one.

| column   | meaning                                                                                              |
|----------|------------------------------------------------------------------------------------------------------|
| first    | seconds from the start of the command to the first finished sentence                                 |
| steady   | frames per second from the first finished sentence to the last                                       |
| CPU      | CPU milliseconds for each of these frames, of all processes, those of Ray and of the driver included |
| end      | seconds from the last finished sentence to the end of the command                                    |

The ratios are of neighbouring turns. Those of CPU times are more reliable on a machine that others use too.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from keypoint_contenders import preprocess
from keypoints import make_corpus
from measuring import Ratio, Watch, print_machine, print_table, print_verdict

_WORKERS = 2
_LAUNCHERS = {"run": (), "ray": ("ray", "--address", "local", "--ranks", "1", "--cpus-per-rank", str(_WORKERS))}
_MOST_TO_RUN = 1.05


class Turn(NamedTuple):
    """Result of one turn; see the columns above."""

    first: float
    steady: float
    cpu_ms: float
    end: float


def main() -> None:
    """Run the benchmark and print its table and verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=60, help="sentences of the corpus (default: 60)")
    parser.add_argument("--frames", type=int, default=20, help="frames in a sentence (default: 20)")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each command (default: 4)")
    options = parser.parse_args()
    print_machine("ray", "ai-edge-litert", "torch", "lightning", "numpy")
    turns: dict[str, list[Turn]] = {name: [] for name in _LAUNCHERS}
    with tempfile.TemporaryDirectory() as scratch:
        root = make_corpus(Path(scratch) / "corpus", options.sentences, options.frames)
        for number in range(options.rounds):
            for name, launcher in _LAUNCHERS.items():
                turns[name].append(_take_turn(launcher, root, Path(scratch) / f"{name}{number}"))
                print(f"round {number}, {name}: {turns[name][-1]}", file=sys.stderr)
    _print(turns["run"], turns["ray"])


def _take_turn(launcher: Sequence[str], root: Path, out: Path) -> Turn:
    started = time.time()
    with Watch() as watch:
        finished = sorted(preprocess(root, out, _WORKERS, launcher=launcher))
    ended, first, last = time.time(), finished[0], finished[-1]
    num_frames = sum(sentence.num_frames for sentence in finished) - first.num_frames
    return Turn(
        first.time - started,
        num_frames / (last.time - first.time),
        1000 * watch.cpu_seconds(first.time, last.time) / num_frames,
        ended - last.time,
    )


def _print(run: Sequence[Turn], ray: Sequence[Turn]) -> None:
    medians = ([f"{median(values):.1f}" for values in zip(*turns, strict=True)] for turns in (run, ray))
    columns = ("", "first s", "steady frames/s", "CPU ms/frame", "end s")
    print_table(columns, ([name, *figures] for name, figures in zip(_LAUNCHERS, medians, strict=True)))
    first, end = (
        median(getattr(b, field) - getattr(a, field) for a, b in zip(run, ray, strict=True))
        for field in ("first", "end")
    )
    print(f"start-up with Ray: {first:+.1f} s until the first result; end: {end:+.1f} s")
    by_cpu = Ratio.of_pairs([turn.cpu_ms for turn in ray], [turn.cpu_ms for turn in run])
    by_time = Ratio.of_pairs([turn.steady for turn in run], [turn.steady for turn in ray])
    for unit, ratio in (("CPU time", by_cpu), ("time", by_time)):
        target = f"ray ≤ {_MOST_TO_RUN} x run after the start, {unit} per frame"
        print_verdict(target, f"{ratio} x", ratio.median <= _MOST_TO_RUN)


if __name__ == "__main__":
    main()
