"""The environment of the processes that tests start."""

import os
from pathlib import Path

_TESTS = Path(__file__).parents[1]


def process_environment(**more: str) -> dict[str, str]:
    """Return this process's environment with `more`, in which `import support` works and PYTHONPATH is kept."""
    inherited = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), *inherited]), **more}
