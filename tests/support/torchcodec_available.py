"""Whether torchcodec can be tested on this machine: it is an extra, and needs FFmpeg's libraries from the system."""

import os

import pytest

from datamodules.errors import ConfigError
from datamodules.media.backends import torchcodec


def _works() -> bool:
    try:
        torchcodec.require()
    except ConfigError:
        return "FRAMEMILL_REQUIRE_TORCHCODEC" in os.environ  # then its tests fail, in place of being skipped
    return True


needs_torchcodec = pytest.mark.skipif(not _works(), reason="torchcodec, or FFmpeg's libraries, are not there")
