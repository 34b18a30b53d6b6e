"""Samples of a run in a bucket, for workers. They import this module, which is light: a test module takes seconds."""

import os
from typing import Any

from datamodules.samples.keypoints import KeypointSamples


class BucketSamples(KeypointSamples):
    """Gives workers the server's address of their test: the server that forks them may come from an earlier one."""

    def __getstate__(self) -> dict[str, Any]:
        return {"environment": {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        os.environ.update(state["environment"])
        self.__init__()  # type: ignore[misc]
