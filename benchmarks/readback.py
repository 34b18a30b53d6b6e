"""Training samples per second of `FramesDataModule`, webdataset, litData and Hugging Face `datasets`, on the same data.

    python benchmarks/readback.py
    python benchmarks/readback.py --kinds clips jpeg --epochs 5

| contender            | meaning                                                                                   |
|----------------------|-------------------------------------------------------------------------------------------|
| random               | `FramesDataModule.train_dataloader()`: random access in a new order each epoch            |
| sequential           | the same with `reading="sequential"`: shards and a buffer of samples shuffled             |
| webdataset           | `WebDataset(shards).decode("rgb8")`: shard after shard, in their order                    |
| webdataset, shuffled | the same with shuffled shards, and a buffer of 1000 samples                               |
| litdata              | `StreamingDataset` over its own chunks of 64 MB, in their order                           |
| litdata, shuffled    | the same with `shuffle=True`                                                              |
| datasets             | `load_dataset("webdataset", streaming=True)` over our tars, in their order                |

All decode, and deliver the same tensors, which is checked. They have the same batch size and the same number of
workers, which outlive the epochs. Epochs take turns. The first epoch of each is measured in a fresh process that has
imported all it needs: from the making of the loader, with the start of its workers, to the last batch. The kinds of
samples are those of `readback_corpus.py`; all files are in the page cache.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from measuring import Ratio, in_fresh_process, print_machine, print_table, print_verdict

if TYPE_CHECKING:
    from readback_contenders import Source

_OURS = ("random", "sequential")
_LEAST = 1.0


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    # here, because our workers import this file, and need none of the other tools
    from readback_contenders import CONTENDERS, Source
    from readback_corpus import KINDS, Sentences, make_chunks, make_run

    options = _options(list(KINDS), list(CONTENDERS))
    print_machine("torch", "webdataset", "litdata", "datasets", "numpy", "pillow")
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as scratch:
            source = Source(Path(scratch, "run"), Path(scratch, "chunks"), kind, options.batch_size, options.workers)
            num_samples = options.samples or KINDS[kind].num_samples
            make_run(source.run, Sentences(num_samples, options.frames), KINDS[kind], KINDS[kind].per_shard)
            # in a process of its own, because litData makes `spawn` the start method of all that come later
            in_fresh_process(make_chunks, source.run, kind, source.chunks)
            _print(kind, *_measure(source, num_samples, options.contenders, options.epochs))


def _options(kinds: list[str], contenders: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="default: all")
    parser.add_argument("--contenders", nargs="+", choices=contenders, default=contenders, help="default: all")
    parser.add_argument("--samples", type=int, help="of each kind; default: as many as take a second or so")
    parser.add_argument("--frames", type=int, default=115, help="of a sample of keypoints, on average (default: 115)")
    parser.add_argument("--batch-size", type=int, default=16, help="default: 16")
    parser.add_argument("--workers", type=int, default=2, help="workers of each contender (default: 2)")
    parser.add_argument("--epochs", type=int, default=7, help="epochs of each contender after the first (default: 7)")
    options: argparse.Namespace = parser.parse_args()
    return options


def _measure(
    source: "Source", num_samples: int, contenders: list[str], num_epochs: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the samples per second of each contender in its first epoch, and in each later one."""
    from readback_contenders import CONTENDERS, first_epoch, require_same
    from readback_corpus import epoch

    first = {name: in_fresh_process(first_epoch, name, num_samples, source).value for name in contenders}
    loaders = {name: CONTENDERS[name](source) for name in contenders}
    for loader in loaders.values():
        epoch(loader, num_samples)  # starts the workers
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(num_epochs):
        for name, loader in loaders.items():
            rates[name].append(epoch(loader, num_samples))
    for name, loader in loaders.items():
        require_same(name, next(iter(loader)), source)
    return first, rates


def _print(kind: str, first: dict[str, float], rates: dict[str, list[float]]) -> None:
    """Print the table of a kind, and compare ours with the fastest of the others."""
    steady = {name: median(later) for name, later in rates.items()}
    rows = [(name, f"{steady[name]:.0f}", f"{rate:.0f}") for name, rate in first.items()]
    print_table((kind, "samples/s", "first epoch"), rows)
    others = [name for name in first if name not in _OURS]
    for name in (name for name in _OURS if name in first and others):
        fastest = max(others, key=steady.__getitem__)
        ratio = Ratio.of_pairs(rates[name], rates[fastest])
        print_verdict(f"{kind}, {name} ≥ {_LEAST} x {fastest}", f"{ratio} x", ratio.median >= _LEAST)
        fastest = max(others, key=first.__getitem__)
        relative = first[name] / first[fastest]
        target = f"{kind}, {name}, first epoch ≥ {_LEAST} x {fastest}"
        print_verdict(target, f"{relative:.3f} x", relative >= _LEAST)


if __name__ == "__main__":
    main()
