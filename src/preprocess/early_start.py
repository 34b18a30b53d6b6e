"""Starts the fork server of the workers while the rank imports Lightning: each takes seconds, on a core of its own.

Without torch.
"""

from collections.abc import Sequence
from itertools import pairwise

import yaml

from datamodules.errors import ConfigError
from datamodules.worker_process import fork_server
from preprocess.configurations import with_config

_NO_RUN = frozenset({"--model", "--help", "--help-all", "-h", "--print_config"})  # or a run of another pipeline
_PRELOAD = ("datamodules.loading.loader", "datamodules.media.backends.pyav", "cv2", "preprocess.cli")
_TRANSFORMS = {  # by pipeline: modules that its workers import besides
    "Clips": ("preprocess.frame_transforms",),
    "Keypoints": ("preprocess.holistic.frame_results", "preprocess.holistic.follow", "scipy.special"),
    "Pose": ("preprocess.pose.transform",),
    "Tracking": (),
}


def start_fork_server(argv: Sequence[str]) -> None:
    """Start the fork server if it is known already what the workers of a command will need.

    That is so for the pipelines of `_TRANSFORMS`. For captions, whose workers share a processor of 240 MB that depends
    on the model, and for an extractor of the user's own, the loader starts the server, when it knows the transform.
    Should an option change the pipeline, its workers only start more slowly.

    If the command fails before it has workers, the server ends with it, or as soon as it has imported its modules.

    Args:
        argv: options of `preprocess run`. Nothing is started if they are wrong.
    """
    try:
        name, num_workers = _pipeline_and_workers(argv)
    except (ConfigError, OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return  # the parser of the options will say what is wrong with them
    module, _, kind = name.rpartition(".")
    if module.startswith("preprocess.pipelines.") and kind in _TRANSFORMS and num_workers:
        fork_server((*_PRELOAD, *_TRANSFORMS[kind]))


def _pipeline_and_workers(argv: Sequence[str]) -> tuple[str, int]:
    """Return the class path of the pipeline and the number of workers that `argv` and its configuration name."""
    words = [word for argument in with_config(argv) for word in argument.split("=", 1)]
    if not _NO_RUN.isdisjoint(words):
        raise LookupError("no pipeline of a configuration runs")
    options = dict(pairwise(words))
    with open(options.get("-c") or options["--config"], encoding="utf-8") as file:
        config = yaml.safe_load(file)
    num_workers = options.get("--data.num_workers") or config["data"]["num_workers"]
    return str(config["model"]["class_path"]), int(num_workers)
