"""Time and disk space that an installation takes: `pip install` of this project into a new virtual environment.

    python benchmarks/install.py --python python3.12 --python python3.13   # 5 minutes and 7 GB each, in turn
    python benchmarks/install.py --project DIR                             # another checkout

Packages come from pip's cache if they are in it: run it twice to measure without downloads. CPU seconds are those of
pip, which other processes disturb less than its seconds. MB are 1,000,000 bytes in files of site-packages.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import print_machine, print_table

_ROOT = Path(__file__).parents[1]
_GPU_PACKAGES = ("torch", "nvidia", "triton", "cuda")  # torch and what it brings for GPUs: folders that begin so
_VERSIONS = ("mediapipe", "numpy", "pyarrow")


def main() -> None:
    """Install the project for each Python and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", metavar="COMMAND", help="(default: the one that runs this)")
    parser.add_argument("--project", type=Path, default=_ROOT, metavar="DIR", help="(default: this checkout)")
    options = parser.parse_args()
    print_machine()
    rows = [_install(python, options.project) for python in options.python or [sys.executable]]
    print_table(("Python", "packages", "s", "CPU s", "MB", "torch, CUDA", "the rest", "releases"), rows)


def _install(python: str, project: Path) -> tuple[str, ...]:
    """Return the row of the table for `python`, a command."""
    with tempfile.TemporaryDirectory(prefix="framemill-install-") as name:
        subprocess.run([python, "-m", "venv", name], check=True)
        started, cpu_before = time.perf_counter(), _cpu_seconds()
        subprocess.run([f"{name}/bin/pip", "install", "--quiet", str(project)], check=True)
        seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - cpu_before
        [packages] = Path(name).glob("lib/python*/site-packages")
        sizes = {path.name: _num_bytes(path) / 1e6 for path in packages.iterdir()}
        releases = sorted(path.name.removesuffix(".dist-info") for path in packages.glob("*.dist-info"))
    total = sum(sizes.values())
    of_gpu = sum(size for folder, size in sizes.items() if folder.startswith(_GPU_PACKAGES))
    return (
        packages.parent.name.removeprefix("python"),
        str(len(releases)),
        f"{seconds:.0f}",
        f"{cpu_seconds:.0f}",
        *(f"{size:,.0f}" for size in (total, of_gpu, total - of_gpu)),
        ", ".join(release.replace("-", " ") for release in releases if release.startswith(_VERSIONS)),
    )


def _cpu_seconds() -> float:
    """Return the CPU seconds of all processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _num_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    main()
