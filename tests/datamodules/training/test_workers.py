"""The start of the workers of a training."""

import multiprocessing
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from datamodules.samples.keypoints import KeypointSamples
from datamodules.training.batches import with_tensors
from datamodules.training.workers import context_of, start_server


class Holding(Dataset[Any]):
    """A dataset that holds something."""

    def __init__(self, value: Any) -> None:
        self.value = value


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script that a process appears to run; a process that imports it ends with status 1."""
    script, path = ModuleType("__main__"), tmp_path / "train.py"
    path.write_text("raise SystemExit")
    script.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "__main__", script)
    return script


def exit_status(value: Any) -> int | None:
    """Return the exit status of a worker that gets a dataset with this value."""
    start_server(KeypointSamples())
    batches = Holding(value)
    worker = context_of(batches).Process(target=id, args=(batches,))
    worker.start()
    worker.join()
    return worker.exitcode


def test_workers_do_not_import_a_script_that_their_samples_do_not_need(script: ModuleType) -> None:
    assert exit_status(KeypointSamples()) == 0
    assert str(script.__file__).endswith("train.py")


def test_workers_import_the_script_that_defines_their_samples(script: ModuleType) -> None:
    own = type("OwnSamples", (), {"__module__": "__main__"})
    script.OwnSamples = own  # type: ignore[attr-defined]
    assert exit_status(own()) == 1


@pytest.mark.usefixtures("script")
def test_workers_import_the_script_if_it_is_unknown_what_their_samples_need() -> None:
    assert exit_status(multiprocessing.get_context("forkserver").Lock()) == 1


def test_batches_of_any_reading_need_no_lightning() -> None:
    modules = ("datamodules.training.batches", "datamodules.training.sequential", "datamodules.samples.clips")
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules, 'lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


def test_arrays_in_batches_become_tensors_and_other_values_stay() -> None:
    meta = [{"frames": ["a.png"], "values": np.zeros(2)}]
    joined = {"ids": np.arange(2), "none": None}
    batch = with_tensors({"keypoints": np.ones((2, 3), np.float32), "run": joined, "meta": meta})
    assert torch.equal(batch["keypoints"], torch.ones(2, 3))
    assert torch.equal(batch["run"]["ids"], torch.arange(2))
    assert batch["run"]["none"] is None
    assert batch["meta"] is meta
