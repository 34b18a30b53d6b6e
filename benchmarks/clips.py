"""Videos per second of the clips pipeline on 2 cores, compared with a plain script, other tools and the limit.

    python benchmarks/clips.py --peers /tmp/peers/bin/python    # 15 minutes, and 4 more the first time
    python benchmarks/clips.py --memory                         # does memory grow with the corpus? 40 GB of disk
    python benchmarks/clips.py --nvdec                          # frames/s by the GPU's decoder

Of every video, 16 evenly spaced frames of 256x160 px, uint8 RGB, are stored with the video's text, without tokens. The
contenders are `preprocess run`, as users start it, and those of `clip_peers.py`. Ray, which conflicts with packages of
this environment, may be in another one (`--peers`). The table marks contenders that neither environment has.

A turn of a contender is a fresh process that reads the same videos in the same order from the page cache, and writes
its results to disk. Contenders take turns: those of the verdicts (preprocess, script, bare) in all rounds, the others
in the first `--peer-rounds`. Videos are made once and kept in `--media`; `clip_media.py` describes them. Real videos
(`--real`) are a third group, repeated several times. Groups are never averaged.

| column  | meaning                                                                                          |
|---------|--------------------------------------------------------------------------------------------------|
| steady  | videos per second from the first finished one to the last                                        |
| whole   | videos per second from starting the process (imports and all) to its end                         |
| CPU ms  | CPU milliseconds per video, from the first finished one to the last, over all processes          |
| CPU %   | share of `--workers` cores used in that time; shows how well videos of mixed sizes are shared    |
| first s | seconds from starting the process to the first finished video                                    |
| MB      | size of its folder at the end                                                                    |

On a machine that others use too, CPU ms are more reliable than rates.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import NamedTuple

import clip_media
import clip_peers
from datamodules.run.folder import Run
from measuring import Ratio, Watch, print_machine, print_table, print_verdict

_REPOSITORY = Path(__file__).parents[1]
_OURS, _SCRIPT, _BARE = "preprocess", "script", "bare"
_LEAST_TO_SCRIPT = {"b-frames": 1.45}
_LEAST_TO_OTHERS, _LEAST_TO_BARE, _LEAST_CPU_PERCENT = 1.0, 0.95, 93.0
_REAL_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi")
_REAL_REPEATS = 12  # the real videos are short
_MEMORY_CLIPS = 500, 10_000
_MOST_GROWTH = 1.1
_NVDEC_FRAMES = 64  # frames that one call decodes


class Turn(NamedTuple):
    """Result of one turn of one contender; the fields are the columns of the module's table."""

    steady: float
    whole: float
    cpu_ms: float
    cpu_percent: float
    first_seconds: float
    written_mb: float


class Job(NamedTuple):
    """The input of every contender of a group.

    Attributes:
        clips: folder of the videos, links to the real files.
        pairs: list of the videos and texts in CLIP4MC's format, for Framemill.
        peer_pairs: the same list in the format of `clip_peers.py`.
        workers: number of processes that decode.
    """

    clips: Path
    pairs: Path
    peer_pairs: Path
    workers: int


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    print_machine("torch", "lightning", "av", "decord", "torchcodec", "numpy")
    with tempfile.TemporaryDirectory() as scratch:
        if options.memory:
            _compare_memory(Path(scratch), options)
        elif options.nvdec:
            _measure_nvdec(options)
        else:
            _compare_speed(Path(scratch), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    media, real = Path("~/.cache/framemill/benchmark-clips").expanduser(), _REPOSITORY.parent / "shared" / "media"
    parser.add_argument("--media", type=Path, default=media, help=f"where made videos are kept (default: {media})")
    parser.add_argument("--real", type=Path, default=real, help=f"folder of real videos (default: {real})")
    parser.add_argument("--groups", nargs="+", choices=[*clip_media.GROUPS, "real"], help="(default: all that exist)")
    parser.add_argument("--peers", type=Path, help="Python of another environment with more contenders")
    parser.add_argument("--videos", type=int, default=60, help="made videos in a turn (default: 60)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the contenders of verdicts (default: 3)")
    parser.add_argument("--peer-rounds", type=int, default=1, help="turns of the others, at most (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode (default: 2)")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--nvdec", action="store_true", help="measure the GPU's decoder instead of speed")
    options: argparse.Namespace = parser.parse_args()
    return options


def make_job(folder: Path, videos: Iterable[Path], workers: int) -> Job:
    """Return a job over `videos`, which may repeat, in the new folder `folder`."""
    clips = folder / "clips"
    clips.mkdir(parents=True)
    rows, pairs = [], []
    for number, video in enumerate(videos):
        path, text = clips / f"{number:05d}{video.suffix}", f"this is number {number}"
        path.symlink_to(video)
        rows.append({"vid": path.stem, "clip_path": path.name, "transcript": text, "size": [1.0]})
        pairs.append([str(path), text])
    (folder / "train_pairs.json").write_text(json.dumps(rows))
    (folder / "pairs.json").write_text(json.dumps(pairs))
    return Job(clips, folder / "train_pairs.json", folder / "pairs.json", workers)


# Speed


def _compare_speed(scratch: Path, options: argparse.Namespace) -> None:
    pythons = {name: _python_of(name, options.peers) for name in clip_peers.CONTENDERS}
    absent = [name for name, python in pythons.items() if python is None]
    for name, videos in _groups(options).items():
        job = make_job(scratch / name, videos, options.workers)
        for video in set(videos):
            video.read_bytes()  # into the page cache
        turns: dict[str, list[Turn]] = {}
        for number in range(options.rounds):
            for contender in _contenders(number, pythons, options):
                out = scratch / f"{name}-{contender}-{number}"
                turns.setdefault(contender, []).append(_take_turn(contender, pythons.get(contender), job, out))
                print(f"{name}, round {number}, {contender}: {turns[contender][-1]}", file=sys.stderr)
        _print_group(name, len(videos), turns, absent)


def _groups(options: argparse.Namespace) -> dict[str, list[Path]]:
    """Return the videos of a turn by group. Missing ones are made."""
    names = options.groups or [*clip_media.GROUPS, *(["real"] if options.real.is_dir() else [])]
    groups = {}
    for name in names:
        if name == "real":
            groups[name] = _real_videos(options.real) * _REAL_REPEATS
        else:
            made = clip_media.group(name, options.media, options.workers)
            groups[name] = (made * -(-options.videos // len(made)))[-options.videos :]
    return groups


def _real_videos(folder: Path) -> list[Path]:
    """Return the videos with one video stream: of several streams, decoders choose different ones."""
    import av

    paths = sorted(path for part in ("videos", "signs") for path in (folder / part).iterdir())
    videos = []
    for path in paths:
        if path.suffix in _REAL_SUFFIXES:
            with av.open(str(path)) as container:
                videos += [path] if len(container.streams.video) == 1 else []
    return videos


def _python_of(contender: str, peers: Path | None) -> str | None:
    """Return the first Python that has the packages of `contender`; None if neither has them."""
    imports = "import " + ", ".join(clip_peers.MODULES[contender])
    for python in (sys.executable, *([str(peers)] if peers else [])):
        if subprocess.run([python, "-c", imports], capture_output=True).returncode == 0:
            return python
    return None


def _contenders(number: int, pythons: dict[str, str | None], options: argparse.Namespace) -> list[str]:
    """Return the contenders of round `number` in order: those that are compared are neighbours."""
    others = [name for name in pythons if name not in (_SCRIPT, _BARE)] if number < options.peer_rounds else []
    return [name for name in (_SCRIPT, _OURS, _BARE, *others) if name == _OURS or pythons[name]]


def _take_turn(contender: str, python: str | None, job: Job, out: Path) -> Turn:
    os.sync()  # write out the files of the previous turn
    started = time.time()
    with Watch() as watch:
        finished = sorted(_peer(contender, python, job, out) if python else _preprocess(job, out))
        whole_seconds = time.time() - started
    first, last = finished[0], finished[-1]
    cpu_seconds = watch.cpu_seconds(first, last)
    num_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    return Turn(
        steady=(len(finished) - 1) / (last - first),
        whole=len(finished) / whole_seconds,
        cpu_ms=1000 * cpu_seconds / (len(finished) - 1),
        cpu_percent=100 * cpu_seconds / (last - first) / job.workers,
        first_seconds=first - started,
        written_mb=num_bytes / 1e6,
    )


def _preprocess(job: Job, out: Path) -> list[float]:
    """Run Framemill. Returns when the videos were finished, in seconds since the epoch."""
    options = {"config": _REPOSITORY / "configs" / "clips.yaml", "model.tokenizer": "null", "output.dir": out}
    options |= {"data.clips_dir": job.clips, "data.pairs": job.pairs, "data.num_workers": job.workers}
    command = [sys.executable, "-m", "preprocess", "run", *(f"--{name}={value}" for name, value in options.items())]
    _call(command)
    run = Run(out)
    records = list(run.records())
    assert sum(record.committed for record in records) == run.plan.num_items, "a video failed"
    # all videos of a shard count as finished when it is committed
    return [run.committed_at(r.shard) for r in records for _ in range(r.committed)]


def _peer(contender: str, python: str, job: Job, out: Path) -> list[float]:
    """Run a contender of `clip_peers.py`. Returns when the videos were finished, in seconds since the epoch."""
    command = [python, clip_peers.__file__, contender, str(job.peer_pairs), str(out), str(job.workers)]
    _call(command)
    finished = clip_peers.finished_times(str(out))
    num_pairs = len(json.loads(job.peer_pairs.read_text()))
    assert len(finished) == num_pairs, f"{contender} finished {len(finished)} of {num_pairs} videos"
    return finished


def _call(command: Sequence[str]) -> None:
    """Run `command` silently. Raises RuntimeError with the end of its error output if it fails."""
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def _print_group(name: str, num_videos: int, turns: dict[str, list[Turn]], absent: Sequence[str]) -> None:
    def ratio(field: str, to: str) -> Ratio:
        pairs = zip(turns[_OURS], turns[to], strict=False)  # other tools have fewer turns
        ours, theirs = zip(*((getattr(a, field), getattr(b, field)) for a, b in pairs), strict=True)
        return Ratio.of_pairs(ours, theirs)

    print(f"\n{name}, {num_videos} videos a turn")
    print_table(
        ("", "steady/s", "whole/s", "CPU ms", "CPU %", "first s", "MB", "ours to it, steady", "CPU time"),
        [
            *((who, *_figures(turns[who]), str(ratio("steady", who)), str(ratio("cpu_ms", who))) for who in turns),
            *((who, "not installed", *["–"] * 7) for who in absent),
        ],
    )
    bounds = {_SCRIPT: _LEAST_TO_SCRIPT.get(name, _LEAST_TO_OTHERS), _BARE: _LEAST_TO_BARE}
    for who in (who for who in turns if who != _OURS):
        least, got = bounds.get(who, _LEAST_TO_OTHERS), ratio("steady", who)
        print_verdict(f"{name}: preprocess ≥ {least} x {who}, steady", f"{got} x", got.median >= least)
    percent = median(turn.cpu_percent for turn in turns[_OURS])
    print_verdict(
        f"{name}: preprocess keeps the cores busy, ≥ {_LEAST_CPU_PERCENT} %",
        f"{percent:.1f} %",
        percent >= _LEAST_CPU_PERCENT,
    )


def _figures(turns: Sequence[Turn]) -> list[str]:
    medians = Turn(*(median(column) for column in zip(*turns, strict=True)))
    decimals = Turn(2, 2, 0, 1, 1, 1)
    return [f"{figure:.{digits}f}" for figure, digits in zip(medians, decimals, strict=True)]


# Memory


def _compare_memory(scratch: Path, options: argparse.Namespace) -> None:
    videos = clip_media.tiny(10, options.media, options.workers)
    peaks = []
    for num_clips in _MEMORY_CLIPS:
        job = make_job(scratch / str(num_clips), videos * (num_clips // len(videos)), options.workers)
        with Watch(memory=True) as watch:
            _preprocess(job, scratch / f"out{num_clips}")
        peaks.append(watch.peak_mb)
        shutil.rmtree(scratch / f"out{num_clips}")
    rows = [(f"{clips:,}", f"{peak:.0f}") for clips, peak in zip(_MEMORY_CLIPS, peaks, strict=True)]
    print_table(("clips", "peak MB, all processes"), rows)
    growth = peaks[-1] / peaks[0]
    print_verdict(
        f"flat memory, ≤ {_MOST_GROWTH} x from {_MEMORY_CLIPS[0]:,} to {_MEMORY_CLIPS[-1]:,} clips",
        f"{growth:.3f} x",
        growth <= _MOST_GROWTH,
    )


# NVDEC


def _measure_nvdec(options: argparse.Namespace) -> None:
    """Decode every frame of the made videos with B-frames on the GPU, with several decoders at once."""
    import torch

    if not torch.cuda.is_available():
        print("torch cannot use a GPU on this machine: nothing is measured")
        return
    videos = clip_media.group("b-frames", options.media, options.workers)
    _decode_all(videos[0])  # starts CUDA
    rows = []
    for num_decoders in (1, 2, 4, 8):
        started = time.perf_counter()
        with ThreadPoolExecutor(num_decoders) as pool:
            num_frames = sum(pool.map(_decode_all, videos))
        rows.append((str(num_decoders), f"{num_frames / (time.perf_counter() - started):,.0f}"))
    print(torch.cuda.get_device_name())
    print_table(("decoders at once", "frames/s"), rows)


def _decode_all(video: Path) -> int:
    """Decode every frame. Returns their number."""
    import torch
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(video), device="cuda")
    num_frames = len(decoder)
    for start in range(0, num_frames, _NVDEC_FRAMES):
        decoder.get_frames_in_range(start, min(start + _NVDEC_FRAMES, num_frames))
    torch.cuda.synchronize()
    return num_frames


if __name__ == "__main__":
    main()
