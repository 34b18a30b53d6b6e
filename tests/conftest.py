"""One thread for each process that computes: tiny models gain nothing by more, and lose much where cores are shared.

This process, and those that it forks, leave fsync out. No test crashes a machine, except a simulated one, and waiting
for the disk took a third of the time of tests that commit shards. Processes that tests start call it.
"""

import gc
import os
import sys

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in all processes that tests start
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}  # no requests, no token in the home folder
os.fsync = lambda fd: None
gc.disable()  # until all tests are collected: none of the millions of objects that this makes is garbage

pytest_plugins = ["support.s3_server"]  # fixtures that tests in several folders share

_LONGEST = (
    "test_run.py", "test_run_faults.py", "test_loader.py", "test_sam3.py", "test_tracking.py", "test_clips.py",
    "test_keypoints.py", "test_local.py", "test_sam2.py", "test_tracking_models.py", "test_mediapipe_graph.py",
)  # fmt: skip


def pytest_collection_finish(session: pytest.Session) -> None:
    """Hide GPUs, here and in all processes that tests start, unless a test needs one: the others are of CPUs."""
    gc.freeze()  # what was imported lives on: the collector need not visit it again and again
    gc.enable()
    if not any(item.get_closest_marker("gpu") for item in session.items):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # torch reads it when it is first asked for GPUs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none of them runs alone at the end of `make test`.

    Tests that compare with MediaPipe itself are skipped where it cannot be installed, and only there.
    """
    items.sort(key=lambda item: item.path.name not in _LONGEST)
    if sys.version_info >= (3, 13):
        no_wheel = pytest.mark.skip(reason="mediapipe 0.10.21 has no wheel for Python 3.13 and later")
        for item in items:
            if item.get_closest_marker("reference"):
                item.add_marker(no_wheel)
