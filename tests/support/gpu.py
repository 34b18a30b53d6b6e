"""What tests on a GPU check."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
