"""Time that a process saves when its heap keeps freed memory (`datamodules.malloc`), compared with plain glibc.

    python benchmarks/heap.py             # 3 minutes on 2 cores

| work    | meaning                                                                  |
|---------|--------------------------------------------------------------------------|
| photo   | decode a JPEG of 12 megapixels to RGB, as a worker does                  |
| 4k      | decode a video of 3840x2160 px frame by frame with PyAV, as a worker does|
| 720p    | the same with a video of 1280x720 px                                     |
| vitpose | run ViTPose-S with random weights on 16 people at once, on the CPU       |

A turn is a fresh process; turns with kept and given-back memory alternate. MB are the peak resident memory.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

import clip_media
from datamodules.malloc import keep_freed_memory
from measuring import Measured, Ratio, in_fresh_process, print_machine, print_table, print_verdict

_MOST = 1.0  # time relative to plain glibc
_CALLS = 12  # calls of the work in a process
_WARM_UP_CALLS = 3  # of these, not counted
_VIDEO_FRAMES = 24


def main() -> None:
    """Run the benchmark and print its table and verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    options = parser.parse_args()
    print_machine("torch", "transformers", "pillow", "av")
    rows, ratios = [], {}
    with tempfile.TemporaryDirectory(prefix="framemill-heap-") as name:
        for work in _WORK:
            turns = [[_turn(work, Path(name), kept) for kept in (True, False)] for _ in range(options.rounds)]
            ratios[work] = Ratio.of_pairs(*zip(*((kept.value, given.value) for kept, given in turns), strict=True))
            of_each = [(median(t.value for t in of), median(t.peak_mb for t in of)) for of in zip(*turns, strict=True)]
            figures = [f"{1000 * seconds:.1f} ms, {peak:,.0f} MB" for seconds, peak in of_each]
            rows.append((work, *figures, str(ratios[work])))
    print_table(("", "kept", "given back", "kept to given back"), rows)
    for work, ratio in ratios.items():
        print_verdict(f"{work}: ≤ {_MOST} x the time", f"{ratio} x", ratio.median <= _MOST)


def _turn(work: str, folder: Path, kept: bool) -> Measured[float]:
    return in_fresh_process(_seconds, work, folder, kept)


def _seconds(work: str, folder: Path, kept: bool) -> float:
    """Return the median time of a call of `work` in seconds."""
    call = _WORK[work](folder)
    if kept:
        keep_freed_memory()
    taken = []
    for _ in range(_CALLS):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return median(taken[_WARM_UP_CALLS:])


def _photo(folder: Path) -> Callable[[], object]:
    from datamodules.media.image import decode_image

    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    written = io.BytesIO()
    coarse.resize((4000, 3000), Image.Resampling.BICUBIC).save(written, "JPEG", quality=90)
    return lambda: decode_image(written.getvalue(), "photo.jpg")


def _video(size: tuple[int, int], folder: Path) -> Callable[[], object]:
    from datamodules.media.video import Video

    [path] = clip_media.made([clip_media.Scene(0, size, 30, 3, _VIDEO_FRAMES)], folder, 1)
    return lambda: [None for _ in Video(path).frames(range(_VIDEO_FRAMES))]


def _vitpose(folder: Path) -> Callable[[], object]:
    import torch
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    small = VitPoseBackboneConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=12)
    model: Any = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=small))
    model.eval()
    people = torch.rand(16, 3, 256, 192)
    return torch.inference_mode()(lambda: model(people))


_WORK: dict[str, Callable[[Path], Callable[[], object]]] = {
    "photo": _photo,
    "4k": lambda folder: _video((3840, 2160), folder),
    "720p": lambda folder: _video((1280, 720), folder),
    "vitpose": _vitpose,
}

if __name__ == "__main__":
    main()
