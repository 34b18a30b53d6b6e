"""TF32 is off within a block only, however the process has set it."""

import subprocess
import sys

import torch

from preprocess.float32 import without_tf32

SETTINGS = [
    "pass",
    "torch.set_float32_matmul_precision('high')",
    "torch.backends.cudnn.allow_tf32 = False",
    "torch.backends.fp32_precision = 'tf32'",
    "torch.backends.fp32_precision = 'ieee'",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
]

# torch cannot return to a state in which nothing is set, so each setting is made in a fork of its own.
SCRIPT = f"""
import os
import torch
from torch import backends
from preprocess.float32 import without_tf32

def new():
    parts = (backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    return [part.fp32_precision for part in parts] + [backends.cudnn.deterministic]

def old():
    try:
        return torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    except RuntimeError:  # set in both ways
        return None

def check():
    before = new(), old()
    with without_tf32():
        assert (new(), old()) == (["ieee"] * 4 + [True], ("highest", False)), (new(), old())
    assert new() == before[0], (before, new())
    assert old() == before[1] or before[1] is None, (before, old())

for setting in {SETTINGS}:
    if os.fork() == 0:
        exec(setting)
        check()
        check()
        try:
            with without_tf32():
                raise KeyError
        except KeyError:
            check()
        os._exit(0)
    assert os.wait()[1] == 0, setting
"""


def test_tf32_is_off_within_the_block_only() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], check=True)


def test_the_last_block_that_ends_restores_what_was_set() -> None:
    """Blocks of several threads may end in any order."""
    first, second = without_tf32(), without_tf32()
    with first:
        second.__enter__()
    assert not torch.backends.cudnn.allow_tf32
    second.__exit__(None, None, None)
    assert torch.backends.cudnn.allow_tf32
