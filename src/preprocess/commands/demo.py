"""`preprocess demo`: preprocess a small corpus, check and export the run, load a batch of it, and open its report.

Each step is a command that a user would type, and is printed before it runs.
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.errors import ConfigError
from preprocess.commands.arguments import local_path
from preprocess.terminal import Parser, say


def main(arguments: Sequence[str]) -> int:
    """Run `preprocess demo`.

    Returns:
        The exit status: that of the first step that fails, or 0.

    Raises:
        ConfigError: the folder is not empty.
    """
    folder: Path = parser().parse_args(arguments).dest
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty: name a folder that is new or empty")
    corpus, shards, exported, report = (folder / name for name in ("corpus", "shards", "npz", "report"))
    two_ranks = ("--trainer.devices", "2", "--data.num_workers", "1")
    steps: list[list[str | Path]] = [
        ["sample", corpus],
        ["run", "keypoints", "--data.root", corpus, "--output.dir", shards, *two_ranks],
        ["verify", shards],
        ["export", shards, "--format", "phoenix-npz", "--dest", exported],
    ]
    for step in steps:
        if status := _run(step):
            return status
    _show_batch(shards)
    say("")
    for name, path in (("corpus", corpus), ("shards", shards), ("export", exported)):
        say(f"{name}  {path}")
    say("next    `preprocess configs` lists the pipelines for a corpus of yours")
    return _run(["report", shards, "--dest", report, "--open"])


def parser() -> Parser:
    """Return the parser of the command's options."""
    parser = Parser(
        "preprocess demo",
        description="Make a small corpus from two photographs, extract its keypoints, check and export the run, load a "
        "training batch of it, and open its report in a browser. It takes a minute on a CPU.",
    )
    parser.add_argument("dest", metavar="D", nargs="?", type=local_path, default=Path("demo"), help="new folder (demo)")
    return parser


def _run(step: Sequence[str | Path]) -> int:
    """Print and run one command, in a process of its own, as the ranks of `run` start copies of theirs.

    Returns:
        Its exit status; 128 + n if signal n ended it.
    """
    words = [str(word) for word in step]
    say("")
    say(f"$ preprocess {shlex.join(words)}")
    sys.stdout.flush()
    with subprocess.Popen([sys.executable, "-m", "preprocess", *words]) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:  # the command got Ctrl-C as well, and may need some seconds to end
            status = process.wait()
    return status if status >= 0 else 128 - status


def _show_batch(shards: Path) -> None:
    """Load the first training batch, as training code does, and print its shapes."""
    from datamodules import FramesDataModule  # imports torch, which takes seconds
    from datamodules.samples.keypoints import KeypointSamples

    data = FramesDataModule(shards=shards, samples=KeypointSamples(), batch_size=4, num_workers=0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    say("")
    say(">>> next(iter(FramesDataModule(shards=…, samples=KeypointSamples(), batch_size=4).train_dataloader()))")
    for name in ("keypoints", "presence", "visibility", "mask"):
        say(f"{name}: {str(batch[name].dtype).removeprefix('torch.')} {list(batch[name].shape)}")
    say(f"lengths: {batch['lengths'].tolist()}")
    say(f"glosses: {[meta['glosses'] for meta in batch['meta']]}")
