"""Make, preprocess, verify, export and draw a small corpus, then load a batch of it. `make demo` runs this.

    python examples/demo.py demo

Each step is a command that a user would type.
"""

import shlex
import subprocess
import sys
from pathlib import Path

from datamodules import FramesDataModule
from datamodules.samples.keypoints import KeypointSamples

_CONFIG = Path(__file__).parents[1] / "configs" / "keypoints.yaml"


def preprocess(*arguments: str | Path) -> None:
    """Print and run one command. Exits with its status if it fails."""
    words = [str(argument) for argument in arguments]
    print("\n$ preprocess", shlex.join(words), flush=True)
    status = subprocess.run([sys.executable, "-m", "preprocess", *words], check=False).returncode
    if status:
        sys.exit(status)


def read_one_batch(shards: Path) -> None:
    """Load the first training batch, as training code does, and print its shapes."""
    data = FramesDataModule(shards=shards, samples=KeypointSamples(), batch_size=4, num_workers=0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    print("\n>>> next(iter(FramesDataModule(shards=…, samples=KeypointSamples(), batch_size=4).train_dataloader()))")
    for name in ("keypoints", "presence", "visibility", "mask"):
        print(f"{name}: {str(batch[name].dtype).removeprefix('torch.')} {list(batch[name].shape)}")
    print(f"lengths: {batch['lengths'].tolist()}")
    print(f"glosses: {[meta['glosses'] for meta in batch['meta']]}")


def main(folder: Path) -> None:
    """Make a corpus below `folder`; preprocess, verify, export and draw it; and load a batch of it."""
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty. Remove it, or name another folder: make demo DEMO=…")
    corpus, shards, exported, drawn = (folder / name for name in ("corpus", "shards", "npz", "pictures"))
    preprocess("sample", corpus)
    preprocess(
        *("run", "--config", _CONFIG, "--data.root", corpus, "--output.dir", shards),
        *("--trainer.devices", "2", "--data.num_workers", "1"),
    )
    preprocess("verify", shards)
    preprocess("export", shards, "--format", "phoenix-npz", "--dest", exported)
    preprocess("visualize", shards, "--dest", drawn)
    read_one_batch(shards)
    print(f"\ncorpus    {corpus}\nshards    {shards}\nexport    {exported}\npictures  {drawn}")
    print(f"next      {sys.executable} examples/train_signs.py --shards {shards}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
