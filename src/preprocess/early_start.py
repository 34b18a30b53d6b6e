"""Starts the fork server of the workers while the rank imports Lightning: each takes seconds, on a core of its own.

Without torch.
"""

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import yaml

from datamodules.errors import ConfigError
from datamodules.run.files import CONFIG
from datamodules.worker_process import fork_server
from preprocess.configurations import with_config

_NO_RUN = frozenset({"--model", "--help", "--help-all", "-h", "--print_config"})  # or a run of another pipeline
_PRELOAD = ("datamodules.loading.loader", "datamodules.media.backends.pyav", "cv2", "preprocess.cli")
_TRANSFORMS = {  # by pipeline: modules that its workers import besides
    "preprocess.pipelines.clips.Clips": ("preprocess.frame_transforms",),
    "preprocess.pipelines.keypoints.Keypoints": (
        *("preprocess.holistic.frame_results", "preprocess.holistic.follow", "scipy.special"),
    ),
    "preprocess.pipelines.pose.Pose": ("preprocess.pose.transform",),
    "preprocess.pipelines.tracking.Tracking": (),
}
_MAX_CHARACTERS = 100_000  # of a configuration


def start_fork_server(command: str, argv: Sequence[str]) -> None:
    """Start the fork server if it is known already what the workers of a command will need.

    That is so for the pipelines of `_TRANSFORMS`. For captions, whose workers share a processor of 240 MB that depends
    on the model, and for an extractor of the user's own, the loader starts the server, when it knows the transform.
    Should an option change the pipeline, its workers only start more slowly.

    If the command fails before it has workers, the server ends with it, or as soon as it has imported its modules.

    Args:
        command: `run`, or a command with the options of `run`, or `retry`.
        argv: its options. Nothing is started if they are wrong.
    """
    try:
        config, num_workers = _configuration(command, argv)
        transforms = _TRANSFORMS[config["model"]["class_path"]]
        has_workers = int(num_workers or config["data"]["num_workers"]) > 0
    except (ConfigError, OSError, ValueError, LookupError, TypeError, RecursionError, yaml.YAMLError):
        return  # the parser of the options will say what is wrong with them
    if has_workers:
        fork_server((*_PRELOAD, *transforms))


def _configuration(command: str, argv: Sequence[str]) -> tuple[Any, str | None]:
    """Return the content of the configuration that `argv` names, and the number of workers that overrides it."""
    if command != "retry":
        argv = with_config(argv)
    words = [word for argument in argv for word in argument.split("=", 1)]
    if not _NO_RUN.isdisjoint(words):
        raise LookupError("no pipeline of a configuration runs")
    options = dict(pairwise(words))
    if command == "retry":
        (path,) = (path for word in words if os.path.isfile(path := os.path.join(word, CONFIG)))
    else:
        path = options.get("-c") or options["--config"]
    if not os.path.isfile(path):  # a pipe, for example, can be read only once
        raise LookupError(path)
    with open(path, encoding="utf-8") as file:
        return yaml.safe_load(file.read(_MAX_CHARACTERS)), options.get("--data.num_workers")
