"""Part `end to end` of `gpu.py`: `preprocess run` of keypoints, from files of each kind to committed samples.

A run has more frames than it can process in its time, is then stopped as Ctrl-C does, and its committed shards count.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.run.folder import Run
from gpu_part import Measurement, Missing, Setting
from gpu_results import Figures
from holistic_images import photos, write_jpegs, write_video
from keypoints import make_corpus

_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_NUM_FRAMES, _TINY_NUM_FRAMES = 100_000, 40
_IN_VIDEO, _IN_SENTENCE, _NUM_VIDEOS = 250, 100, 4  # frames of each; videos that differ
_SECONDS, _MOST_SECONDS = 15.0, 60.0  # of a run, from its first shard on; with imports and planning
_GRACE_SECONDS = 3.0  # to end it
_IMAGES = """\
model:
  class_path: preprocess.pipelines.keypoints.Keypoints
data:
  corpus:
    class_path: datamodules.corpora.images.Images
    init_args: {root: images}
"""


class _Case(NamedTuple):
    name: str
    kind: str  # of the files
    items_in_shard: int
    options: tuple[str, ...] = ()
    package: str = "av"  # of the decoder


_NVDEC = ("--data.decoding.backend=torchcodec", "--data.decoding.device=cuda")
_CASES = [
    _Case("PNG, Pillow", "png", 4),
    _Case("JPEG, Pillow", "jpeg", 500),
    _Case("JPEG, nvJPEG", "jpeg", 500, ("--data.decoding.images=nvjpeg",), "torchvision"),
    _Case("video, PyAV", "video", 2),
    _Case("video, NVDEC", "video", 2, _NVDEC, "torchcodec"),
]


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Yield the measurements of this part."""
    for case in _CASES[: 1 if setting.tiny else None]:
        yield case.name, partial(_measure, setting, case)


def _measure(setting: Setting, case: _Case) -> Figures:
    if not find_spec(case.package):
        raise Missing(case.package)
    with tempfile.TemporaryDirectory(prefix="framemill-gpu-") as scratch:
        corpus, config = _corpus(Path(scratch), case.kind, setting)
        output = Path(scratch) / "run"
        command = [sys.executable, "-m", "preprocess", "run", "--config", str(config), "--data.root", str(corpus)]
        command += ["--output.dir", str(output), f"--output.shards.max_items={case.items_in_shard}"]
        command += [f"--data.num_workers={setting.workers}", *case.options, f"--grace-seconds={_GRACE_SECONDS}"]
        command += _options(setting)
        bottleneck = _run(command, output, setting)
        run = Run(output)
        records = list(run.records())
        decoders = {name for record in records for name in run.rows(record.shard, ["decoder"])["decoder"].to_pylist()}
        ends = sorted((run.committed_at(record.shard), record.num_frames) for record in records)
    assert len(ends) > 1, f"{len(ends)} shards were committed; the log says why"
    num_frames = sum(number for _, number in ends[1:])
    rate = num_frames / max(ends[-1][0] - ends[0][0], 1e-9)
    notes = [f"{num_frames:,} frames, {setting.workers} workers", f"bottleneck: {bottleneck}"]
    if decoded_by := sorted(filter(None, decoders)):  # torchcodec falls back from NVDEC to the CPU
        notes.append(f"decoded by {', '.join(decoded_by)}")
    return Figures(rate, "frames", note="; ".join(notes))


def _options(setting: Setting) -> list[str]:
    if setting.device == "cpu":
        return ["--trainer.accelerator=cpu"]
    options = ["--trainer.accelerator=gpu", "--model.backend=torch", "--model.batch_size=64", "--model.cuda_graph=true"]
    return [*options, *([f"--model.model_dir={setting.models}"] if setting.models else [])]


def _run(command: list[str], output: Path, setting: Setting) -> str:
    """Run a command until it ends or its time is over. Returns the bottleneck that `status` shows, if any."""
    bottleneck, end, has_shard = "?", time.monotonic() + (600 if setting.tiny else _MOST_SECONDS), False
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.5)
            if not has_shard and any(output.glob("records/*.json")):
                has_shard, end = True, end if setting.tiny else min(end, time.monotonic() + _SECONDS)
            if has_shard and bottleneck == "?" and time.monotonic() > end - _SECONDS / 2:
                bottleneck = _bottleneck([*command[:3], "status", str(output)])
        process.send_signal(signal.SIGINT)
        try:
            process.wait(3 * _GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    return bottleneck


def _bottleneck(status: list[str]) -> str:
    shown = subprocess.run(status, stdout=subprocess.PIPE, text=True, check=False).stdout
    return shown.partition("bottleneck: ")[2].partition("\n")[0].strip() or "–"


# Files: a few originals, and many links to them


def _corpus(folder: Path, kind: str, setting: Setting) -> tuple[Path, Path]:
    """Make a corpus. Returns its folder and the configuration that reads it."""
    num_frames, in_sentence = (_TINY_NUM_FRAMES, 4) if setting.tiny else (_NUM_FRAMES, _IN_SENTENCE)
    if kind == "png":
        return make_corpus(folder / "corpus", num_frames // in_sentence, in_sentence), _CONFIGS / "keypoints.yaml"
    images = _images(setting.reference)
    originals, corpus = folder / "originals", folder / "corpus"
    originals.mkdir()
    corpus.mkdir()
    if kind == "jpeg":
        write_jpegs(originals, images)
    else:
        for number in range(_NUM_VIDEOS):
            write_video(originals / f"{number}.mp4", np.roll(images, number, 0), _IN_VIDEO)
    paths = sorted(originals.iterdir())
    for number in range(num_frames // (1 if kind == "jpeg" else _IN_VIDEO)):
        path = paths[number % len(paths)]
        os.link(path, corpus / f"{number:06d}{path.suffix}")
    shutil.rmtree(originals)
    config = folder / "images.yaml"
    config.write_text(_IMAGES)
    return corpus, config if kind == "jpeg" else _CONFIGS / "keypoints_videos.yaml"


def _images(reference: Path | None) -> NDArray[np.uint8]:
    """Return uint8 [N, H, W, 3]: the images of the reference, or of two photographs."""
    if reference is None:
        return photos()
    with np.load(reference) as file:
        stored: NDArray[np.uint8] = file["photos"]
    return stored
