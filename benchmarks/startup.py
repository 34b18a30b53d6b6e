"""Seconds until the first frame, the first committed sample and the end of small runs, compared with other tools.

    python benchmarks/startup.py                               # the demo corpus
    python benchmarks/startup.py --videos ../shared/media/signs --rounds 3

| contender       | meaning                                                                                           |
|-----------------|---------------------------------------------------------------------------------------------------|
| script          | a pool of processes with a reused `mp.solutions` Holistic each; see `keypoint_contenders.py`      |
| preprocess      | `preprocess run keypoints` over the same 240 frames of the demo corpus, 210x260 px                |
| videos_to_poses | pose-format's command over the videos, each twice; it tracks people from frame to frame           |
| preprocess      | `preprocess run keypoints_videos` over these videos: each frame by itself, the default            |
| mode video      | the same with `--model.mode video`, which runs the same graph as videos_to_poses                  |

All contenders compute in `--workers` processes, and take turns. A turn is a fresh process with an empty output folder,
timed from its start to its end. The first turn of each is not counted; after it, all files are in the disk cache.

Steps of `preprocess run` are seconds from its start; `startup_probe/sitecustomize.py` records them:

| step       | in       | when                                                                                         |
|------------|----------|----------------------------------------------------------------------------------------------|
| python     | rank     | the interpreter runs                                                                         |
| cli        | rank     | the command line is imported; it starts the fork server of the workers                       |
| torch      | rank     | torch is imported                                                                            |
| lightning  | rank     | Lightning is imported                                                                        |
| command    | rank     | everything that `run` needs is imported                                                      |
| parsed     | rank     | the configuration is parsed, and the extractor and the corpus are made                       |
| opened     | rank     | the corpus is listed, and the run is planned                                                 |
| server     | server   | the fork server has imported what workers need                                               |
| worker     | worker   | the first worker begins                                                                      |
| transform  | worker   | its models are loaded                                                                        |
| frame      | worker   | it has the results of its first group of frames                                              |
| sample     | rank     | the first sample is spooled                                                                  |
| commit     | rank     | the first shard, of one sample here, is committed                                            |
| last       | rank     | the last shard is committed                                                                  |
| end        | rank     | the process has ended                                                                        |
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeAlias

from datamodules.run.folder import Run
from keypoint_contenders import script
from measuring import Ratio, Watch, print_machine, print_table, print_verdict
from preprocess.commands.sample import make_sample_corpus

_REPOSITORY = Path(__file__).parents[1]
_RANK = ("python", "cli", "torch", "lightning", "command", "parsed", "opened", "sample")
_WORKER = ("worker", "transform", "frame")
STEPS = (*_RANK[:-1], "server", *_WORKER, "sample", "commit", "last", "end")
_MOST_TO_FRAME, _MOST_TO_COMMIT = 4.0, 6.0  # s
_MOST_TO_SCRIPT, _MOST_TO_POSES = 1.2, 0.9


class Turn(NamedTuple):
    """Result of one turn.

    Attributes:
        whole: seconds from start to end.
        cpu: CPU seconds of all processes.
        steps: seconds from the start to each of `STEPS`; empty if the turn was not of `preprocess run`.
    """

    whole: float
    cpu: float
    steps: Mapping[str, float]


Contender: TypeAlias = Callable[[Path, Path, int], Mapping[str, float]]  # corpus, new folder, workers; returns steps


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    has_poses = find_spec("pose_format") is not None
    print_machine("ai-edge-litert", "mediapipe", "torch", "lightning", *(["pose-format"] if has_poses else []))
    with tempfile.TemporaryDirectory() as scratch:
        if options.videos is None:
            _compare_demo(Path(scratch), options)
        elif has_poses and options.videos.is_dir():
            _compare_videos(Path(scratch), options)
        else:
            print(f"skipped: pose-format is not installed, or {options.videos} is not a folder", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="a folder of sign videos, instead of the demo corpus")
    parser.add_argument("--without-mode-video", action="store_true", help="with --videos: leave out this contender")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: 5)")
    parser.add_argument("--workers", type=int, default=2, help="processes that compute (default: 2)")
    options: argparse.Namespace = parser.parse_args()
    return options


def _compare_demo(scratch: Path, options: argparse.Namespace) -> None:
    corpus = scratch / "corpus"
    make_sample_corpus(corpus, 24)
    turns = _take_turns({"script": _script, "preprocess": _preprocess("keypoints")}, corpus, scratch, options)
    _print_whole(turns)
    steps = [turn.steps for turn in turns["preprocess"]]
    print_steps(steps)
    ratio = _ratio(turns, "preprocess", "script")
    print_verdict(f"<= {_MOST_TO_SCRIPT} x script", str(ratio), ratio.median <= _MOST_TO_SCRIPT)


def _compare_videos(scratch: Path, options: argparse.Namespace) -> None:
    corpus = scratch / "corpus"
    corpus.mkdir()
    for video in sorted(options.videos.iterdir()):
        for copy in ("a", "b"):
            shutil.copyfile(video, corpus / f"{video.stem}_{copy}{video.suffix}")
    ours = _preprocess("keypoints_videos")
    contenders: dict[str, Contender] = {"videos_to_poses": _videos_to_poses, "preprocess": ours}
    if not options.without_mode_video:
        contenders["mode video"] = _preprocess("keypoints_videos", "--model.mode=video", "--model.backend=mediapipe")
    turns = _take_turns(contenders, corpus, scratch, options)
    _print_whole(turns)
    ratio = _ratio(turns, "preprocess", "videos_to_poses")
    print_verdict(f"<= {_MOST_TO_POSES} x videos_to_poses", str(ratio), ratio.median <= _MOST_TO_POSES)


def _take_turns(
    contenders: Mapping[str, Contender], corpus: Path, scratch: Path, options: argparse.Namespace
) -> dict[str, list[Turn]]:
    """Return the turns of each contender, after one that is not counted."""
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for number in range(options.rounds + 1):
        for name, contender in contenders.items():
            with Watch() as watch:
                began = time.time()
                steps = contender(corpus, scratch / f"{name}{number}", options.workers)
                ended = time.time()
            turn = Turn(ended - began, watch.cpu_seconds(began, ended), _since(began, steps, ended))
            print(f"round {number}, {name}: {turn.whole:.2f} s", file=sys.stderr)
            if number:
                turns[name].append(turn)
    return turns


def _since(began: float, steps: Mapping[str, float], ended: float) -> dict[str, float]:
    return {step: at - began for step, at in {**steps, "end": ended}.items()} if steps else {}


# The contenders


def _script(corpus: Path, out: Path, workers: int) -> Mapping[str, float]:
    script(corpus, out, workers, static_image_mode=True)
    return {}


def _videos_to_poses(corpus: Path, out: Path, workers: int) -> Mapping[str, float]:
    shutil.copytree(corpus, out, copy_function=os.link)  # poses are written beside the videos
    code = "from pose_format.bin.directory import main; main()"
    options = ["--directory", str(out), "--num-workers", str(workers)]
    subprocess.run([sys.executable, "-c", code, *options], check=True, capture_output=True)
    assert len(list(out.glob("*.pose"))) == len(list(corpus.iterdir()))
    return {}


def _preprocess(config: str, *others: str) -> Contender:
    def run(corpus: Path, out: Path, workers: int) -> Mapping[str, float]:
        steps = out.with_name(f"{out.name}.steps")
        steps.mkdir()
        command = [sys.executable, "-m", "preprocess", "run", f"--config={_REPOSITORY}/configs/{config}.yaml"]
        command += [f"--data.root={corpus}", f"--output.dir={out}", f"--data.num_workers={workers}", *others]
        paths = os.pathsep.join([str(_REPOSITORY / "benchmarks" / "startup_probe"), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "STARTUP_STEPS": str(steps)}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return times(steps, Run(out))

    return run


def times(folder: Path, run: Run) -> dict[str, float]:
    """Return when the steps of a run were done, in seconds since the epoch; see the module."""
    processes = [
        {name: float(at) for name, at in (line.split() for line in file.read_text().splitlines())}
        for file in folder.iterdir()
    ]
    (rank,) = (process for process in processes if "command" in process)
    workers = [process for process in processes if "frame" in process]
    servers = [p for p in processes if "loader" in p and "command" not in p and "worker" not in p]
    committed = [run.committed_at(shard) for shard in run.committed()]
    return {
        **{step: rank[step] for step in _RANK},
        **{step: min(worker[step] for worker in workers) for step in _WORKER if workers},
        "server": max(at for server in servers for name, at in server.items() if name in ("loader", "cv2")),
        "commit": min(committed),
        "last": max(committed),
    }


# The results


def _ratio(turns: Mapping[str, Sequence[Turn]], numerator: str, denominator: str) -> Ratio:
    return Ratio.of_pairs(*([turn.whole for turn in turns[name]] for name in (numerator, denominator)))


def _print_whole(turns: Mapping[str, Sequence[Turn]]) -> None:
    rows = []
    for name, taken in turns.items():
        seconds, cpu = [turn.whole for turn in taken], median(turn.cpu for turn in taken)
        rows.append((name, *(f"{value(seconds):.1f}" for value in (median, min, max)), f"{cpu:.1f}"))
    print_table(("contender", "whole s: median", "least", "greatest", "CPU s"), rows)


def print_steps(turns: Sequence[Mapping[str, float]]) -> None:
    """Print the medians of the steps of several turns, and the verdicts on them."""
    medians = {step: median(turn[step] for turn in turns) for step in STEPS}
    print_table(("step", "s from the start"), [(step, f"{seconds:.2f}") for step, seconds in medians.items()])
    for name, step, most in (("frame", "frame", _MOST_TO_FRAME), ("committed sample", "commit", _MOST_TO_COMMIT)):
        print_verdict(f"first {name} <= {most:.0f} s", f"{medians[step]:.2f} s", medians[step] <= most)


if __name__ == "__main__":
    main()
