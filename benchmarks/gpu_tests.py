"""Part `tests` of `gpu.py`: the tests that need a GPU, without those that compile for minutes."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gpu_part import Measurement, Setting
from gpu_results import Figures

_TESTS = Path(__file__).resolve().parents[1] / "tests"
_FIRST = "test_replay.py"  # Holistic's, which matter most
_MOST_SECONDS = 52.0
_OUTCOME = re.compile(r"^(\S+::\S+.*?) (PASSED|FAILED|ERROR|SKIPPED)", re.MULTILINE)
_NOT_COLLECTED = re.compile(r"^ERROR (\S+\.py)\b(?!::)", re.MULTILINE)


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Yield the only measurement of this part."""
    yield "pytest -m gpu", partial(_run, setting)


def _run(setting: Setting) -> Figures:
    if setting.tiny:
        chosen = ["-m", "not gpu", str(_TESTS / "preprocess" / "holistic" / "test_micro_batch.py")]
    else:
        files = [path for path in _TESTS.rglob("test_*.py") if "mark.gpu" in path.read_text()]
        files.sort(key=lambda path: (path.name != _FIRST, path))
        chosen = ["-m", "gpu", "-k", "not compiled", *map(str, files)]
    # a newer or older library may warn, which is not what these tests are about
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-W", "default", "-p", "no:cacheprovider"]
    with subprocess.Popen(
        [*command, "--continue-on-collection-errors", *chosen], cwd=_TESTS.parent, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=_MOST_SECONDS)
            end = ""
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            end = f"stopped after {_MOST_SECONDS:.0f} s; "
    print(output, flush=True)  # into the log
    passed, note = summary(output)
    return Figures(passed, "tests passed", note=end + note)


def summary(output: str) -> tuple[int, str]:
    """Return how many tests passed, and text about the others, of what `pytest -v` printed."""
    outcomes = _OUTCOME.findall(output)
    of = {outcome: [name.rpartition("/")[2] for name, each in outcomes if each == outcome] for _, outcome in outcomes}
    parts = [
        f"{len(names)} {outcome.lower()}: {', '.join(names)}" for outcome, names in of.items() if outcome != "PASSED"
    ]
    if broken := _NOT_COLLECTED.findall(output):
        parts.append(f"cannot be imported: {', '.join(name.rpartition('/')[2] for name in dict.fromkeys(broken))}")
    return len(of.get("PASSED", ())), "; ".join(parts) or "all of them"
