"""All figures of Framemill on a GPU, by one command of about ten minutes.

    python benchmarks/gpu.py --prepare DIR       # on a machine with mediapipe: a folder to carry to one with a GPU
    python DIR/benchmarks/gpu.py --minutes 9     # there
    python benchmarks/gpu.py --minutes 9         # or both on one machine

Parts are measured in the order below, each until its time is over; what is left of them then gets the time that
remains. Every measurement is written at once to `--out`, as JSON and as a Markdown table (`.md`); the same command
again makes only those that are missing or failed. Each part is a process, so that an error ends no more than one
measurement. What the processes print is in a third file (`.log`).

| part       | measures                                                                                               |
|------------|--------------------------------------------------------------------------------------------------------|
| tests      | `pytest -m gpu`: tests that pass, of those that ran in the time                                        |
| holistic   | Holistic in torch by precision, way and batch size, for images of 210x260 px on the GPU; parity        |
| end to end | `preprocess run` of keypoints, from PNGs, JPEGs (Pillow, nvJPEG) and videos (PyAV, NVDEC)              |
| openpose   | OpenPose's network by precision, size and batch size; and with the decoding of three people in each    |
| tracking   | GroundingDINO, and SAM 2.1 tiny and large with random weights, at 720p                                 |
| captions   | Qwen2.5-VL with random weights in the shape of 7B                                                      |

Only torch 2.11 or later and numpy are needed for `holistic`, with Triton for the compiled ways. Parts whose packages
are missing are skipped, and the table names these.

| column       | meaning                                                                                              |
|--------------|------------------------------------------------------------------------------------------------------|
| of the limit | bytes that one image moves through the memory (`gpu_traffic`), relative to what a copy moves in the  |
|              | same time; compiled: as if all but convolutions, pooling and crops were fused                        |
| memory MB    | peak of the GPU's memory per image, beyond the weights and the images themselves                     |
| p50, p99     | px between points and MediaPipe's; `flips`: parts that only one of both detects                      |
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import IO, Any, NamedTuple

_ROOT = Path(__file__).resolve().parents[1]
_FOLDERS = [str(_ROOT / name) for name in ("src", "packages", "tests") if (_ROOT / name).is_dir()]
sys.path[1:1] = _FOLDERS  # a carried folder is not installed

from gpu_results import Figures, Results, Row  # noqa: E402

_LEAST_SECONDS = 5.0  # to begin a part with


class _Part(NamedTuple):
    module: str  # has `measurements`
    packages: tuple[str, ...]  # without which it cannot be measured
    seconds: float  # at most, while later parts wait


_RUN = ("jsonargparse", "lightning", "pyarrow", "psutil", "rich", "yaml", "PIL")
PARTS = {
    "tests": _Part("gpu_tests", ("pytest", "pytest_timeout", "PIL", "skimage", "matplotlib"), 60),
    "holistic": _Part("gpu_holistic", ("array_api_compat", "flatbuffers", "ai_edge_litert"), 180),
    "end to end": _Part("gpu_end_to_end", (*_RUN, "av", "array_api_compat", "cv2", "platformdirs"), 150),
    "openpose": _Part("gpu_openpose", (), 30),
    "tracking": _Part("gpu_tracking", ("transformers", "torchvision", "scipy"), 60),
    "captions": _Part("gpu_captions", ("transformers",), 60),
}


def main() -> None:
    """Measure all parts, or one of them as their process, or prepare a folder."""
    options = _options()
    if options.prepare:
        from gpu_folder import prepare

        prepare(options.prepare, options.images)
    elif options.part:
        _measure_part(options)
    else:
        _measure_all(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="make a folder to carry")
    parser.add_argument("--images", type=Path, nargs="+", default=[], metavar="DIR", help="its reference has these too")
    parser.add_argument("--minutes", type=float, default=9.0, help="(default: 9)")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="file of results (default: gpu.json)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    models, reference = _ROOT / "models", _ROOT / "reference.npz"
    parser.add_argument("--models", type=Path, metavar="DIR", default=models if models.is_dir() else None)
    parser.add_argument("--reference", type=Path, metavar="FILE", default=reference if reference.is_file() else None)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="that decode (default: all cores)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn (default: 1)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: for a trial")
    parser.add_argument("--tiny", action="store_true", help="the sizes of a trial, which say nothing about speed")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # measure it in this process
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # seconds since the epoch
    parser.add_argument("--tried", nargs="*", default=[], help=argparse.SUPPRESS)  # measurements to leave out
    options: argparse.Namespace = parser.parse_args()
    return options


# The process that measures all parts


def _measure_all(options: argparse.Namespace) -> None:
    end = time.time() + 60 * options.minutes
    results = Results(options.out)
    missing = {name: [package for package in PARTS[name].packages if not find_spec(package)] for name in options.parts}
    with open(options.out.with_suffix(".log"), "ab") as log:
        for is_first in (True, False):
            for name in options.parts:
                if missing[name]:
                    results.put(_skipped(name, "", ", ".join(missing[name])))
                elif is_first or results.has_left(name):
                    until = min(end, time.time() + PARTS[name].seconds) if is_first else end
                    _run_part(name, until, results, log, options)
    print(results.markdown())


def _run_part(name: str, until: float, results: Results, log: IO[bytes], options: argparse.Namespace) -> None:
    """Measure a part in new processes, one after another, until nothing is left or the time is over."""
    while until - time.time() >= _LEAST_SECONDS and not _ran_to_the_end(name, until, results, log, options):
        pass


def _ran_to_the_end(name: str, until: float, results: Results, log: IO[bytes], options: argparse.Namespace) -> bool:
    """Measure a part in a new process. Returns False if a measurement ended it: the next process leaves that out."""
    begun = ""
    log.write(f"\n{time.strftime('%H:%M:%S')} {name}\n".encode())
    log.flush()
    begin_of_log = log.tell()
    process = subprocess.Popen(
        [*_command(name, until, options), "--tried", *sorted(results.tried(name))],
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [*_FOLDERS, os.environ.get("PYTHONPATH")]))},
        start_new_session=True,
    )
    timer = Timer(max(0.0, until - time.time()) + _LEAST_SECONDS, _kill, [process.pid])
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            begun = _take(json.loads(line), name, results)
        status = process.wait()
    finally:
        timer.cancel()
        _kill(process.pid)  # and what it has started
    if status == 0 or time.time() >= until:
        return True
    note = _last_words(Path(log.name), begin_of_log) or f"ended with {status}"
    results.put(Row(name, begun, "failed", Figures(0.0, "", note=note)))
    return not begun


def _command(name: str, until: float, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--until", str(until)]
    command += ["--device", options.device, "--workers", str(options.workers), "--seconds", str(options.seconds)]
    for option in ("models", "reference"):
        if path := getattr(options, option):
            command += [f"--{option}", str(path)]
    return [*command, *(["--tiny"] if options.tiny else [])]


def _take(message: dict[str, Any], part: str, results: Results) -> str:
    """Note what the process of a part says. Returns the measurement that it has begun, if any."""
    if "facts" in message:
        results.set_facts(message["facts"])
        results.plan(part, message["names"])
    if "figures" in message:
        results.put(Row(part, message["name"], "measured", Figures(*message["figures"])))
        print(f"{part}: {message['name']}", file=sys.stderr, flush=True)
    if "missing" in message:
        results.put(_skipped(part, message["name"], message["missing"]))
    return str(message.get("begun", ""))


def _skipped(part: str, name: str, missing: str) -> Row:
    return Row(part, name, "skipped", Figures(0.0, "", note=f"missing: {missing}"))


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _last_words(log: Path, begin: int) -> str:
    """Return the last line of a log that says what went wrong."""
    lines = log.read_bytes()[begin:].decode(errors="replace").strip().splitlines()
    return next(
        (line for line in reversed(lines) if "Error" in line or "Exception" in line), lines[-1] if lines else ""
    )


# The process of one part


def _measure_part(options: argparse.Namespace) -> None:
    """Measure what was not tried yet, and tell the parent: each message is a line of JSON on standard output."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log
    from gpu_part import Missing, Setting, machine_facts

    def tell(**message: Any) -> None:
        print(json.dumps(message), file=channel, flush=True)

    setting = Setting(options.device, options.tiny, options.models, options.reference, options.workers, options.seconds)
    measurements = dict(importlib.import_module(PARTS[options.part].module).measurements(setting))
    tell(facts=machine_facts(setting), names=list(measurements))
    for name, measure in measurements.items():
        if name not in options.tried and time.time() < options.until:
            tell(begun=name)
            try:
                tell(name=name, figures=measure())
            except Missing as error:
                tell(name=name, missing=str(error))


if __name__ == "__main__":
    main()
