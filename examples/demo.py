"""The whole of it on a small corpus, as `make demo` runs it: each step is a command that a user would type.

python examples/demo.py demo
"""

import shlex
import subprocess
import sys
from pathlib import Path

from datamodules import FramesDataModule
from datamodules.samples.keypoints import KeypointSamples

_CONFIG = Path(__file__).parents[1] / "configs" / "keypoints.yaml"


def preprocess(*arguments: str | Path) -> None:
    """Show and run one command; end with its exit status if it fails."""
    words = [str(argument) for argument in arguments]
    print("\n$ preprocess", shlex.join(words), flush=True)
    status = subprocess.run([sys.executable, "-m", "preprocess", *words], check=False).returncode
    if status:
        sys.exit(status)


def read_one_batch(shards: Path) -> None:
    """Load the first training batch, as training code does."""
    data = FramesDataModule(shards=shards, samples=KeypointSamples(), batch_size=4, num_workers=0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    print("\n>>> next(iter(FramesDataModule(shards=…, samples=KeypointSamples(), batch_size=4).train_dataloader()))")
    for name in ("keypoints", "presence", "visibility", "mask"):
        print(f"{name}: {str(batch[name].dtype).removeprefix('torch.')} {list(batch[name].shape)}")
    print(f"lengths: {batch['lengths'].tolist()}")
    print(f"glosses: {[meta['glosses'] for meta in batch['meta']]}")


def main(folder: Path) -> None:
    """Make a corpus below `folder`, preprocess, verify, export and draw it, and read a batch back."""
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} holds something already; remove it, or name another folder: make demo DEMO=…")
    corpus, shards, exported, pictures = (folder / name for name in ("corpus", "shards", "npz", "pictures"))
    preprocess("sample", corpus)
    preprocess(
        *("run", "--config", _CONFIG, "--data.root", corpus, "--output.dir", shards),
        *("--trainer.devices", "2", "--data.num_workers", "1"),
    )
    preprocess("verify", shards)
    preprocess("export", shards, "--format", "phoenix-npz", "--dest", exported)
    preprocess("visualize", shards, "--dest", pictures)
    read_one_batch(shards)
    print(f"\ncorpus    {corpus}\nshards    {shards}\nexport    {exported}\npictures  {pictures}")
    print(f"next      {sys.executable} examples/train_signs.py --shards {shards}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
