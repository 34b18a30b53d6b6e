"""Speed of MediaPipe Holistic by LiteRT, in torch and in MediaPipe's graph, and distances of their landmarks.

    python benchmarks/holistic.py [--images DIR …]            # one CPU core
    python benchmarks/holistic.py --make-reference R.npz      # MediaPipe's landmarks, for a machine without mediapipe
    python benchmarks/holistic.py --gpu [--reference R.npz] [--models DIR]
    python benchmarks/holistic.py --decoders [--gpu]          # differences between decoders: values and landmarks
    python benchmarks/holistic.py --end-to-end --workers 16   # `preprocess run` on a GPU: from PNGs, JPEGs and videos

The images have 210x260 px, as in PHOENIX-2014-T. They show people without visible hands: `--images` adds images and
frames of videos, at their size; the CPU's table groups all by the hands that MediaPipe detects. On a GPU, mediapipe is
not needed: the model files in DIR are enough.

| column             | meaning                                                                                        |
|--------------------|------------------------------------------------------------------------------------------------|
| ms                 | CPU time of an image, with one thread: least and median of `--rounds` turns; see `holistic_cpu` |
| networks, crops    | share of LiteRT's time within the networks; for cropping their inputs; and all the rest        |
| images/s           | on a GPU, median of `--rounds` turns of `--seconds` seconds after a warm-up                    |
| of the bound       | memory traffic of an image (512 MB in fp32 eager, 250 MB compiled, half in fp16) times         |
|                    | images/s, relative to the bandwidth of a copy within the GPU in the same run                   |
| p50, p99           | px between points and MediaPipe's, or another decoder's; `flips`: parts that only one of both  |
|                    | detects                                                                                        |
"""

import argparse
import os
from pathlib import Path

import numpy as np

from holistic_cpu import measure_cpu
from holistic_decoders import measure_decoders
from holistic_end_to_end import measure_end_to_end
from holistic_gpu import LEAST, WAYS, measure_gpu
from holistic_images import as_tensors, photos, photos_of_nobody, read_folder
from holistic_parity import mediapipe_points
from measuring import print_machine
from preprocess.mediapipe_graph import require_mediapipe


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    if options.make_reference:
        images = photos()
        np.savez_compressed(options.make_reference, photos=images, **mediapipe_points(list(images)))
        return
    on_cpu = not (options.decoders or options.gpu or options.end_to_end)
    if on_cpu:
        require_mediapipe()
    print_machine("torch", "numpy", *(("ai-edge-litert", "mediapipe", "opencv-contrib-python") if on_cpu else ()))
    if options.decoders:
        measure_decoders(options.gpu, options.models)
    elif options.gpu:
        measure_gpu(options)
    elif options.end_to_end:
        measure_end_to_end(options)
    else:
        more = (image for folder in options.images for image in read_folder(folder, options.frames_of_each))
        measure_cpu([*photos_of_nobody(), *as_tensors(photos()), *more], options.rounds, options.torch)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", default=[], metavar="DIR", help="on the CPU: more images")
    parser.add_argument("--frames-of-each", type=int, default=3, help="frames of each of their videos (default: 3)")
    parser.add_argument("--no-torch", dest="torch", action="store_false", help="on the CPU: leave torch out")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--decoders", action="store_true")
    parser.add_argument("--end-to-end", action="store_true")
    parser.add_argument("--make-reference", type=Path, metavar="FILE")
    parser.add_argument("--reference", type=Path, metavar="FILE")
    parser.add_argument("--models", type=Path, metavar="DIR", help="default: see `preprocess models`")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128], help="(default: 16 32 64 128)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, help="(default: all)")
    parser.add_argument("--precisions", nargs="+", default=list(LEAST), choices=LEAST, help="(default: both)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn on a GPU (default: 3)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of end-to-end runs (default: all cores)")
    parser.add_argument("--frames", type=int, default=4000, help="of each end-to-end run (default: 4000)")
    options: argparse.Namespace = parser.parse_args()
    return options


if __name__ == "__main__":
    main()
