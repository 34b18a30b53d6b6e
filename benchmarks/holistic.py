"""Images per second of MediaPipe Holistic in torch and in MediaPipe's graph, and distances of their landmarks.

    python benchmarks/holistic.py [--compiled]               # one CPU core each, in turn
    python benchmarks/holistic.py --make-reference R.npz      # MediaPipe's landmarks, for a machine without mediapipe
    python benchmarks/holistic.py --gpu [--reference R.npz] [--models DIR]
    python benchmarks/holistic.py --decoders [--gpu]          # differences between decoders: values and landmarks
    python benchmarks/holistic.py --end-to-end --workers 16   # `preprocess run` on a GPU: from PNGs, JPEGs and videos

On a GPU, mediapipe is not needed: the six model files in DIR are enough. Images have 210x260 px, as in PHOENIX-2014-T,
and are on the GPU already.

| column       | meaning                                                                                              |
|--------------|------------------------------------------------------------------------------------------------------|
| images/s     | median of `--rounds` turns of `--seconds` seconds after a warm-up; on one core per second of CPU time|
| of the bound | memory traffic of an image (512 MB in fp32 eager, 250 MB compiled, half in fp16) times images/s,     |
|              | relative to the bandwidth of a copy within the GPU in the same run                                   |
| p50, p99     | px between points and MediaPipe's, or another decoder's; `flips`: parts that only one of both detects|
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.samples.keypoint_layouts import PARTS
from measuring import Ratio, in_fresh_process, print_machine, print_table, print_verdict
from preprocess.holistic.landmarks import HolisticLandmarks
from preprocess.holistic.models import HOLISTIC, find_models
from preprocess.holistic.replay import Replay
from preprocess.holistic.torch_landmarker import Precision, TorchLandmarker

_PHOENIX_FRAMES = 947_756
_TRAFFIC_MB = {False: 512, True: 250}  # of an image in fp32, by whether compiled
_LEAST = {"fp32": 3000.0, "fp16": 6000.0}  # target on an H200
_DECODINGS: list[tuple[str, list[str]]] = [  # of end-to-end runs
    ("png", []),
    ("jpeg", []),
    ("jpeg", ["--data.decoding.images=nvjpeg"]),
    ("video", []),
    ("video", ["--data.decoding.backend=torchcodec", "--data.decoding.device=cuda"]),
]
_WAYS = {"eager": (False, False), "graph": (False, True), "compiled": (True, False), "compiled + graph": (True, True)}


class Row(NamedTuple):
    """Measurement of one way to run the model on a GPU."""

    precision: Precision
    way: str
    batch: int
    per_second: float
    of_bound: float
    parity: str


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    print_machine("torch", "numpy", *(() if options.gpu else ("mediapipe",)))
    if options.make_reference:
        photos = _photos()
        np.savez_compressed(options.make_reference, photos=photos, **_landmarks(photos))
    elif options.decoders:
        _measure_decoders(options)
    elif options.gpu:
        _measure_gpu(options)
    elif options.end_to_end:
        _measure_end_to_end(options)
    else:
        _measure_cpu(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiled", action="store_true", help="on the CPU: also compiled, which takes minutes")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--decoders", action="store_true")
    parser.add_argument("--end-to-end", action="store_true")
    parser.add_argument("--make-reference", type=Path, metavar="FILE")
    parser.add_argument("--reference", type=Path, metavar="FILE")
    parser.add_argument("--models", type=Path, metavar="DIR", help="default: those in mediapipe's wheel")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128], help="(default: 16 32 64 128)")
    parser.add_argument("--ways", nargs="+", default=list(_WAYS), choices=_WAYS, help="(default: all)")
    parser.add_argument("--precisions", nargs="+", default=list(_LEAST), choices=_LEAST, help="(default: both)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn (default: 3)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of end-to-end runs (default: all cores)")
    parser.add_argument("--frames", type=int, default=4000, help="of each end-to-end run (default: 4000)")
    options: argparse.Namespace = parser.parse_args()
    return options


def _photos() -> NDArray[np.uint8]:
    """Return uint8 [B, 260, 210, 3]: rotated and shifted crops of two photographs of people."""
    from matplotlib.cbook import get_sample_data
    from PIL import Image
    from skimage.data import astronaut

    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        space: Any = astronaut()
        originals = [image.convert("RGB").resize((230, 280)), Image.fromarray(space).resize((280, 280))]
    turned = [image.rotate(angle) for image in originals for angle in (-12, 0, 9)]
    return np.stack([np.asarray(image.crop((x, 10, x + 210, 270))) for image in turned for x in (0, 18)])


def _timed(
    step: Callable[[], Any], images: int, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the images per second of `step`, which processes `images` of them, over about `seconds` of `clock`."""
    started, done = clock(), 0
    while (spent := clock() - started) < seconds:
        step()
        done += images
    return done / spent


# One CPU core


def _measure_cpu(options: argparse.Namespace) -> None:
    ways = ["mediapipe", "eager", *(["compiled"] if options.compiled else [])]
    turns: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(options.rounds):
        for way in ways:
            turns[way].append(in_fresh_process(_cpu_turn, way, options.seconds).value)
            print(f"round {number}, {way}: {turns[way][-1]:.2f} images/s", file=sys.stderr)
    ratios = {way: Ratio.of_pairs(turns[way], turns["mediapipe"]) for way in ways}
    rows = [(way, f"{median(turns[way]):.2f}", f"{ratios[way]} x") for way in ways]
    print_table(("", "images/s of a core", "to MediaPipe"), rows)
    print(f"torch to MediaPipe's landmarks: {in_fresh_process(_cpu_parity).value}")


def _cpu_turn(way: str, seconds: float) -> float:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    photos = _photos()
    if way == "mediapipe":
        from preprocess.mediapipe_graph import HolisticGraph

        with HolisticGraph() as graph:
            graph(photos[0])
            return _timed(lambda: [graph(photo) for photo in photos], len(photos), seconds, time.process_time)
    torch.set_num_threads(1)
    run = Replay(TorchLandmarker(find_models(HOLISTIC)), compile=way == "compiled")
    images = torch.from_numpy(photos[:4]).permute(0, 3, 1, 2)
    run(images)
    return _timed(lambda: run(images), len(images), seconds, time.process_time)


def _cpu_parity() -> str:
    photos = _photos()
    images = torch.from_numpy(photos).permute(0, 3, 1, 2)
    return _parity(TorchLandmarker(find_models(HOLISTIC))(images), _landmarks(photos))


# A GPU


def _landmarks(photos: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the points that MediaPipe detects; see `_reference`."""
    from preprocess.mediapipe_graph import HolisticGraph

    with HolisticGraph() as graph:
        detected = [graph(photo) for photo in photos]
    points: dict[str, Any] = {}
    for part, num_points in zip(PARTS, (33, 468, 21, 21), strict=True):
        absent = np.full((num_points, 2), np.nan)
        values = [getattr(landmarks, part) for landmarks in detected]
        points[part] = np.stack([absent if value is None else value[:, :2] for value in values])
    return points


def _reference(path: Path | None) -> dict[str, Any]:
    """Return the images and the points [B, P, 2] of each part, NaN if not detected; without a path, only the images."""
    if path is None:
        return {"photos": _photos()}
    with np.load(path) as file:
        return dict(file)


def _parity(landmarks: HolisticLandmarks, reference: dict[str, Any]) -> str:
    if "pose" not in reference:
        return "no reference"
    is_detected = np.stack([~np.isnan(reference[part][:, 0, 0]) for part in PARTS], 1)
    flips = float((is_detected != landmarks.presence.cpu().numpy()).mean())
    figures = []
    for column, part in enumerate(PARTS):
        both = is_detected[:, column] & landmarks.presence[:, column].cpu().numpy()
        points = getattr(landmarks, part)[..., :2].cpu().numpy()[both]
        if both.any():
            apart = np.linalg.norm(points - reference[part][both], axis=-1)
            figures.append(f"{part} {np.median(apart):.3f} {np.percentile(apart, 99):.2f}")
    return f"{100 * flips:.1f} % flips; p50 p99: {', '.join(figures)}"


def _measure_gpu(options: argparse.Namespace) -> None:
    assert torch.cuda.is_available(), "this machine has no GPU"
    bandwidth = _bandwidth()
    print(f"{torch.cuda.get_device_name()}: a copy moves {bandwidth / 1e12:.2f} TB/s")
    reference = _reference(options.reference)
    rows = []
    for precision in options.precisions:
        landmarker = TorchLandmarker(find_models(HOLISTIC, options.models), precision).to("cuda")
        for way in options.ways:
            for batch in options.batches:
                rows.append(_gpu_row(landmarker, precision, way, batch, reference, bandwidth, options))
                print(rows[-1], file=sys.stderr, flush=True)
    columns = ("", "batch", "images/s", "of the bound", "to MediaPipe's landmarks, px")
    lines = [
        (f"{row.precision}, {row.way}", f"{row.batch}", f"{row.per_second:,.0f}", f"{row.of_bound:.0%}", row.parity)
        for row in rows
    ]
    print_table(columns, lines)
    for precision in options.precisions:
        best = max(row.per_second for row in rows if row.precision == precision)
        hours = _PHOENIX_FRAMES / best / 3600
        target = f"≥ {_LEAST[precision]:,.0f} images/s {precision} (H200)"
        print_verdict(target, f"{best:,.0f}, PHOENIX-2014-T in {hours:.2f} h", best >= _LEAST[precision])


def _gpu_row(
    landmarker: TorchLandmarker,
    precision: Precision,
    way: str,
    batch: int,
    reference: dict[str, Any],
    bandwidth: float,
    options: argparse.Namespace,
) -> Row:
    compiled, cuda_graph = _WAYS[way]
    run = Replay(landmarker, compiled, cuda_graph)
    photos = reference["photos"]
    places = np.arange(max(batch, len(photos))) % len(photos)
    images = torch.from_numpy(photos[places]).permute(0, 3, 1, 2).contiguous().cuda()
    landmarks = [run(images[start : start + batch]) for start in range(0, len(images) - batch + 1, batch)]
    number = min(len(photos), batch * len(landmarks))
    joined = HolisticLandmarks(*(torch.cat(parts)[:number] for parts in zip(*landmarks, strict=True)))
    seen = {name: values[:number] for name, values in reference.items()}

    def step() -> None:
        run(images[:batch])
        torch.cuda.synchronize()

    step()
    per_second = median(_timed(step, batch, options.seconds) for _ in range(options.rounds))
    traffic = _TRAFFIC_MB[compiled] * 1e6 / (2 if precision == "fp16" else 1)
    return Row(precision, way, batch, per_second, per_second * traffic / bandwidth, _parity(joined, seen))


def _bandwidth() -> float:
    """Return the bytes that a copy within the GPU reads and writes per second."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def step() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    step()
    return 2 * source.numel() * _timed(step, 1, 1.0)


# Decoders


def _measure_decoders(options: argparse.Namespace) -> None:
    """Print how the result of each decoder for the same files differs from that of the default decoder."""
    device = torch.device("cuda" if options.gpu else "cpu")
    landmarker = TorchLandmarker(find_models(HOLISTIC, options.models)).to(device)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind, decoders in (("JPEG", _jpeg_decoders(options.gpu)), ("video", _video_decoders(options.gpu))):
            folder = Path(scratch) / kind
            _make_corpus(folder, kind.lower(), len(_photos()))
            default, *others = [(name, torch.stack(list(decode(folder))).cpu()) for name, decode in decoders]
            reference = _points_of(landmarker(default[1]))
            for name, frames in others:
                levels = (frames.int() - default[1].int()).abs()
                parity = _parity(landmarker(frames), reference)
                values = f"{(levels > 0).float().mean():.2%} by {levels.max()} at most, {levels.float().mean():.3f}"
                rows.append((f"{kind}: {name} to {default[0]}", values, parity))
    print_table(("", "values that differ, and by how much on average", "landmarks, px"), rows)


def _jpeg_decoders(gpu: bool) -> list[tuple[str, Callable[[Path], Iterable[Tensor]]]]:
    from datamodules.media.image import read_image
    from datamodules.media.jpeg import decode_jpegs, read_jpeg

    def by_torchvision(folder: Path, device: str) -> Iterable[Tensor]:
        jpegs = [read_jpeg(path.read_bytes(), path.name) for path in sorted(folder.iterdir())]
        return decode_jpegs(jpegs, torch.device(device))

    return [
        ("Pillow", lambda folder: map(read_image, sorted(folder.iterdir()))),
        ("torchvision on the CPU", partial(by_torchvision, device="cpu")),
        *([("nvJPEG", partial(by_torchvision, device="cuda"))] if gpu else []),
    ]


def _video_decoders(gpu: bool) -> list[tuple[str, Callable[[Path], Iterable[Tensor]]]]:
    from datamodules.media.decoding import Decoding
    from datamodules.media.sampling import Uniform
    from datamodules.media.video import read_frames

    def by(folder: Path, decoding: Decoding) -> Tensor:
        return read_frames(next(folder.iterdir()), Uniform(24), decoding=decoding).frames

    decodings = {"PyAV": Decoding(), "torchcodec": Decoding("torchcodec")}
    if gpu:
        decodings["NVDEC"] = Decoding("torchcodec", device="cuda")
    return [(name, partial(by, decoding=decoding)) for name, decoding in decodings.items()]


def _points_of(landmarks: HolisticLandmarks) -> dict[str, Any]:
    """Return the landmarks in the form of a reference; see `_reference`."""
    presence = landmarks.presence.cpu().numpy()
    points = {part: getattr(landmarks, part)[..., :2].cpu().numpy() for part in PARTS}
    return {part: np.where(presence[:, at, None, None], points[part], np.nan) for at, part in enumerate(PARTS)}


# From files to samples


def _measure_end_to_end(options: argparse.Namespace) -> None:
    from datamodules.run.folder import Run

    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind, decoding in _DECODINGS:
            corpus, config = _make_corpus(Path(scratch) / f"{kind}{len(rows)}", kind, options.frames)
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


def _make_corpus(folder: Path, kind: str, num_frames: int) -> tuple[Path, Path]:
    """Make a corpus of `num_frames` frames. Returns it and the configuration that reads it."""
    import av
    from PIL import Image

    configs = Path(__file__).parents[1] / "configs"
    photos = [Image.fromarray(photo) for photo in _photos()]
    folder.mkdir(parents=True)
    if kind == "video":
        for number in range(-(-num_frames // 250)):
            with av.open(str(folder / f"{number:04d}.mp4"), "w") as container:
                stream = container.add_stream("libx264", rate=25)
                stream.width, stream.height, stream.pix_fmt = 210, 260, "yuv420p"
                for index in range(250):
                    photo = np.asarray(photos[(number + index) % len(photos)])
                    frame = av.VideoFrame.from_ndarray(photo, format="rgb24")
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())
        return folder, configs / "keypoints_videos.yaml"
    if kind == "png":
        from keypoints import make_corpus

        return make_corpus(folder / "corpus", max(10, num_frames // 100), 100), configs / "keypoints.yaml"
    for number in range(num_frames):
        photos[number % len(photos)].save(folder / f"{number:06d}.jpg", quality=90)
    return folder, _images_config(folder.with_suffix(".yaml"))


def _images_config(path: Path) -> Path:
    path.write_text(
        "model:\n  class_path: preprocess.pipelines.keypoints.Keypoints\n"
        "data:\n  corpus:\n    class_path: datamodules.corpora.images.Images\n    init_args: {root: images}\n"
    )
    return path


if __name__ == "__main__":
    main()
