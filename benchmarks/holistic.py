"""Speed of MediaPipe Holistic by LiteRT, in torch and in MediaPipe's graph, and distances of their landmarks.

    python benchmarks/holistic.py [--images DIR …]            # one CPU core; `gpu.py` measures a GPU
    python benchmarks/holistic.py --decoders [--gpu]          # differences between decoders: values and landmarks

The images have 210x260 px, as in PHOENIX-2014-T. They show people without visible hands: `--images` adds images and
frames of videos, at their size; the table groups all by the hands that MediaPipe detects.

| column             | meaning                                                                                        |
|--------------------|------------------------------------------------------------------------------------------------|
| ms                 | CPU time of an image, with one thread: least and median of `--rounds` turns; see `holistic_cpu` |
| networks, crops    | share of LiteRT's time within the networks; for cropping their inputs; and all the rest        |
| p50, p99           | px between points and MediaPipe's, or another decoder's; `flips`: parts that only one of both  |
|                    | detects                                                                                        |
"""

import argparse
from pathlib import Path

from holistic_cpu import measure_cpu
from holistic_decoders import measure_decoders
from holistic_images import as_tensors, photos, photos_of_nobody, read_folder
from measuring import print_machine
from preprocess.mediapipe_graph import require_mediapipe


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    if options.decoders:
        print_machine("torch", "numpy")
        measure_decoders(options.gpu, options.models)
    else:
        require_mediapipe()
        print_machine("torch", "numpy", "ai-edge-litert", "mediapipe", "opencv-contrib-python")
        more = (image for folder in options.images for image in read_folder(folder, options.frames_of_each))
        measure_cpu([*photos_of_nobody(), *as_tensors(photos()), *more], options.rounds, options.torch)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", default=[], metavar="DIR", help="more images")
    parser.add_argument("--frames-of-each", type=int, default=3, help="frames of each of their videos (default: 3)")
    parser.add_argument("--no-torch", dest="torch", action="store_false", help="leave torch out")
    parser.add_argument("--gpu", action="store_true", help="also the decoders of a GPU")
    parser.add_argument("--decoders", action="store_true")
    parser.add_argument("--models", type=Path, metavar="DIR", help="default: see `preprocess models`")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    options: argparse.Namespace = parser.parse_args()
    return options


if __name__ == "__main__":
    main()
