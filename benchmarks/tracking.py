"""Frames per second of the tracking pipeline, compared with a bare loop of the same calls; and its peak memory.

    python benchmarks/tracking.py             # 5 minutes on 2 cores
    python benchmarks/tracking.py --memory    # peak memory of videos of 200 to 3,200 frames
    python benchmarks/tracking.py --gpu       # SAM 2.1 tiny and large at 720p on a GPU: frames/s, utilization

Models have random weights: the tests' tiny models, and with `--gpu` models of the published sizes. Contenders take
turns over the same videos. A turn is a fresh process without workers:

| contender  | meaning                                                                                     |
|------------|---------------------------------------------------------------------------------------------|
| loop       | `av` decodes; the same tracker with slices of the same size; masks to RLE; a line per frame |
| preprocess | `preprocess run`, a rank without workers                                                    |

The steady rate counts from the end of the first video to that of the last.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import av
import numpy as np

from datamodules.run.folder import Run
from measuring import Ratio, Watch, print_machine, print_table, print_verdict

_REPOSITORY = Path(__file__).parents[1]
_PROMPT, _BATCH_SIZE = "car. person.", 16
_SIZE, _GPU_SIZE = (240, 320), (720, 1280)
_MOST_OVERHEAD, _MOST_GROWTH, _LEAST_BUSY_PERCENT = 1.10, 1.10, 85.0
_MEMORY_FRAMES = (200, 800, 3_200)


class Job(NamedTuple):
    """The input of every contender.

    Attributes:
        models: folder with the checkpoints `dino` and `sam2`.
        videos: folder of the videos, which have the same length.
        num_frames: number of frames of a video.
        options: more options of `preprocess run`.
    """

    models: Path
    videos: Path
    num_frames: int
    options: dict[str, str]


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    print_machine("torch", "transformers", "lightning", "av")
    with tempfile.TemporaryDirectory(prefix="framemill-tracking-") as name:
        measure = _measure_gpu if options.gpu else _measure_memory if options.memory else _compare
        measure(Path(name), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=5, help="videos in a turn (default: 5)")
    parser.add_argument("--frames", type=int, default=48, help="frames of a video (default: 48)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    which.add_argument("--gpu", action="store_true", help="measure models of the published sizes on a GPU")
    return parser.parse_args()


def _compare(scratch: Path, options: argparse.Namespace) -> None:
    job = Job(_tiny_models(scratch), _make_videos(scratch, options.videos, options.frames, _SIZE), options.frames, {})
    rates: dict[str, list[float]] = {"loop": [], "preprocess": []}
    for number in range(options.rounds):
        for name, turn in (("loop", _loop), ("preprocess", _preprocess)):
            rates[name].append(turn(job, scratch / "out"))
            print(f"round {number}, {name}: {rates[name][-1]:.2f} frames/s", flush=True)
    print_table(("", "frames/s"), [(name, f"{median(turns):.2f}") for name, turns in rates.items()])
    ratio = Ratio.of_pairs(rates["loop"], rates["preprocess"])
    print_verdict(f"time per frame ≤ {_MOST_OVERHEAD} x the loop's", f"{ratio} x", ratio.median <= _MOST_OVERHEAD)


def _measure_memory(scratch: Path, options: argparse.Namespace) -> None:
    models, peaks = _tiny_models(scratch), []
    for num_frames in _MEMORY_FRAMES:
        videos = _make_videos(scratch / str(num_frames), 1, num_frames, _SIZE)
        with Watch(memory=True) as watch:
            _preprocess(Job(models, videos, num_frames, {}), scratch / "out")
        peaks.append(watch.peak_mb)
        print(f"{num_frames:,} frames: {watch.peak_mb:,.0f} MB", flush=True)
    growth = peaks[-1] / peaks[0]
    target = f"flat memory, ≤ {_MOST_GROWTH} x from {_MEMORY_FRAMES[0]:,} to {_MEMORY_FRAMES[-1]:,} frames"
    print_verdict(target, f"{growth:.3f} x", growth <= _MOST_GROWTH)


def _measure_gpu(scratch: Path, options: argparse.Namespace) -> None:
    import torch

    from tracking_models import save_grounding_dino, save_sam2

    if not torch.cuda.is_available():
        print("this machine has no GPU: nothing is measured")
        return
    print(torch.cuda.get_device_name())
    videos = _make_videos(scratch, 4, 240, _GPU_SIZE)
    gpu = {"trainer.accelerator": "gpu", "data.num_workers": "2", "model.backend.weights.dtype": "bf16"}
    gpu |= {"model.backend.identity.max_objects": "3", "model.backend.identity.detection_frequency": "8"}
    # random weights give low scores
    gpu |= {"model.backend.thresholds.box": "0.0", "model.backend.thresholds.text": "0.0"}
    for size in ("tiny", "large"):
        models = scratch / size
        save_grounding_dino(models / "dino")
        save_sam2(models / "sam2", size)
        rate = _preprocess(Job(models, videos, 240, gpu), scratch / "out")
        machines = [record.machine.get("gpu", {}) for record in Run(scratch / "out").records()]
        busy = [machine.get("utilization_percent", {}).get("mean") for machine in machines]
        percent = float(median(share for share in busy if share is not None))
        print(f"SAM 2.1 {size}, 720p: {rate:.1f} frames/s")
        print_verdict(f"GPU busy ≥ {_LEAST_BUSY_PERCENT} %", f"{percent:.1f} %", percent >= _LEAST_BUSY_PERCENT)


def _tiny_models(scratch: Path) -> Path:
    from tracking_models import make_grounding_dino, make_sam2

    make_grounding_dino(scratch / "models" / "dino")
    make_sam2(scratch / "models" / "sam2")
    return scratch / "models"


def _make_videos(scratch: Path, count: int, num_frames: int, size: tuple[int, int]) -> Path:
    """Make H.264 videos of two boxes that cross over soft noise."""
    folder = scratch / "videos"
    folder.mkdir(parents=True)
    drawn = np.random.default_rng(0)
    for number in range(count):
        ground = drawn.integers(0, 90, (size[0] // 8, size[1] // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        with av.open(str(folder / f"{number:02d}.mp4"), "w") as file:
            stream = file.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            stream.height, stream.width = ground.shape[:2]
            stream.pix_fmt = "yuv420p"
            for index in range(num_frames):
                frame, left = ground.copy(), 3 * index % (size[1] - 60)
                frame[size[0] // 4 : size[0] // 2, left : left + 60] = (220, 40, 40)
                frame[size[0] // 3 : size[0] // 2, size[1] - 60 - left : size[1] - left] = (40, 60, 220)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode())
    return folder


def _loop(job: Job, out: Path) -> float:
    shutil.rmtree(out, ignore_errors=True)
    models = [str(job.models / "dino"), str(job.models / "sam2")]
    loop = str(Path(__file__).with_name("tracking_loop.py"))
    _call([sys.executable, loop, *models, str(job.videos), str(out), str(_BATCH_SIZE), _PROMPT])
    return _rate([path.stat().st_mtime for path in out.glob("*.jsonl")], job)


def _preprocess(job: Job, out: Path) -> float:
    shutil.rmtree(out, ignore_errors=True)
    values = {
        "model.backend.detector": str(job.models / "dino"),
        "model.backend.segmenter": str(job.models / "sam2"),
        "model.backend.thresholds.box": "0.9",  # few detections of random weights pass
        "model.backend.thresholds.text": "0.9",
        "model.backend.identity.max_objects": "2",
        "model.prompt": _PROMPT,
        "model.batch_size": str(_BATCH_SIZE),
        "data.root": str(job.videos),
        "data.num_workers": "0",
        "output.dir": str(out),
        "output.shards.max_items": "1",
        "trainer.accelerator": "cpu",
        **job.options,
    }
    options = [f"--{name}={value}" for name, value in values.items()]
    _call([sys.executable, "-m", "preprocess", "run", "--config", str(_REPOSITORY / "configs/tracking.yaml"), *options])
    run = Run(out)
    assert sum(record.committed for record in run.records()) == run.plan.num_items, "a video failed"
    return _rate([run.committed_at(record.shard) for record in run.records()], job)


def _rate(finished: Sequence[float], job: Job) -> float:
    """Return the frames per second from the end of the first video to that of the last; NaN for a single video."""
    seconds = max(finished) - min(finished)
    return (len(finished) - 1) * job.num_frames / seconds if seconds else float("nan")


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        raise RuntimeError(f"{command[:4]} failed:\n{done.stderr[-3000:]}")


if __name__ == "__main__":
    main()
