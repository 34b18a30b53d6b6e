"""What tests on a GPU check."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn
from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def tf32_of_modules() -> Iterator[set[bool]]:
    """Collect whether TF32 was on when modules were called within the block: {False} if it never was."""
    states: set[bool] = set()
    assert cudnn.allow_tf32, "TF32 is off outside of models already"
    handle = register_module_forward_pre_hook(lambda *_: states.add(cudnn.allow_tf32))
    try:
        yield states
    finally:
        handle.remove()
    assert cudnn.allow_tf32, "TF32 was not restored"


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise RuntimeError where the process waits for a GPU within the block."""
    try:
        with warnings.catch_warnings():
            # torch warns once that this is a prototype, as an error only after it has set the mode
            warnings.filterwarnings("ignore", message="Synchronization debug mode")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
