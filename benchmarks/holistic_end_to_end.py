"""`preprocess run` of keypoints on a GPU, from PNGs, JPEGs and videos to samples: frames per second and bottleneck."""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from holistic_images import photos
from measuring import print_table

_DECODINGS: list[tuple[str, list[str]]] = [
    ("png", []),
    ("jpeg", []),
    ("jpeg", ["--data.decoding.images=nvjpeg"]),
    ("video", []),
    ("video", ["--data.decoding.backend=torchcodec", "--data.decoding.device=cuda"]),
]


def measure_end_to_end(options: argparse.Namespace) -> None:
    """Print frames per second for each kind of files and decoder; see `holistic.py`."""
    from datamodules.run.folder import Run

    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind, decoding in _DECODINGS:
            corpus, config = make_corpus(Path(scratch) / f"{kind}{len(rows)}", kind, options.frames)
            output = Path(scratch) / f"out{len(rows)}"
            command = [sys.executable, "-m", "preprocess", "run", "--config", str(config), "--data.root", str(corpus)]
            command += ["--output.dir", str(output), f"--data.num_workers={options.workers}", *_on_gpu()]
            command += decoding
            started = time.perf_counter()
            narrow = _watched(command, output)
            whole = time.perf_counter() - started
            run = Run(output)
            ends = sorted((run.record_path(r.shard).stat().st_mtime, r.num_frames) for r in run.records())
            frames = sum(number for _, number in ends)
            steady = (frames - ends[0][1]) / max(ends[-1][0] - ends[0][0], 1e-9)
            source = " ".join([kind, *decoding])
            rows.append((source, f"{frames:,}", f"{steady:,.0f}", f"{frames / whole:,.0f}", narrow))
    print_table(("frames from", "frames", "steady frames/s", "whole frames/s", "bottleneck"), rows)


def _watched(command: list[str], output: Path) -> str:
    """Run `command`. Returns the last bottleneck that its status shows; `read` is decoding."""
    narrow = "?"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(2)
            status = subprocess.run([*command[:3], "status", str(output)], capture_output=True, text=True)
            if "bottleneck: " in status.stdout:
                narrow = status.stdout.partition("bottleneck: ")[2].split()[0]
    assert process.returncode == 0, f"{' '.join(command)} ended with {process.returncode}"
    return narrow


def _on_gpu() -> list[str]:
    options = {"backend": "torch", "batch_size": 64, "cuda_graph": True}
    return ["--trainer.accelerator=gpu", *(f"--model.{name}={value}" for name, value in options.items())]


def make_corpus(folder: Path, kind: str, num_frames: int) -> tuple[Path, Path]:
    """Make a corpus of `num_frames` frames. Returns it and the configuration that reads it."""
    import av
    from PIL import Image

    configs = Path(__file__).parents[1] / "configs"
    images = [Image.fromarray(photo) for photo in photos()]
    folder.mkdir(parents=True)
    if kind == "video":
        for number in range(-(-num_frames // 250)):
            with av.open(str(folder / f"{number:04d}.mp4"), "w") as container:
                stream = container.add_stream("libx264", rate=25)
                stream.width, stream.height, stream.pix_fmt = 210, 260, "yuv420p"
                for index in range(250):
                    photo = np.asarray(images[(number + index) % len(images)])
                    frame = av.VideoFrame.from_ndarray(photo, format="rgb24")
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())
        return folder, configs / "keypoints_videos.yaml"
    if kind == "png":
        from keypoints import make_corpus as make_phoenix

        return make_phoenix(folder / "corpus", max(10, num_frames // 100), 100), configs / "keypoints.yaml"
    for number in range(num_frames):
        images[number % len(images)].save(folder / f"{number:06d}.jpg", quality=90)
    return folder, _images_config(folder.with_suffix(".yaml"))


def _images_config(path: Path) -> Path:
    path.write_text(
        "model:\n  class_path: preprocess.pipelines.keypoints.Keypoints\n"
        "data:\n  corpus:\n    class_path: datamodules.corpora.images.Images\n    init_args: {root: images}\n"
    )
    return path
