"""Count lost, doubled and changed samples when items crash, hang or raise, and ranks and workers are killed.

    python benchmarks/chaos.py

| run         | meaning                                                                                          |
|-------------|--------------------------------------------------------------------------------------------------|
| undisturbed | 2 processes of `preprocess run` with 2 workers each; the poison in the corpus does nothing       |
| poisoned    | the same, but the poison acts (its kinds: `poison.py`)                                           |
| disturbed   | like poisoned, with SIGKILL to workers and ranks, and SIGTERM to ranks, every few seconds        |
| litData     | litData's `optimize` with 2 workers over the same items without poison; SIGKILL to 1 worker      |
| killed      | like litData; SIGKILL to workers as often as in disturbed, or until none is left                 |
| resumed     | like litData with `use_checkpoint=True`; SIGKILL to `optimize` itself, which is then resumed     |

Every command is restarted until it exits with 0. Poison and signals are drawn from a seed: the bad items are the same
in all runs, and no others may fail. Lost, doubled and foreign items are counted by comparing the keys in the tars (for
litData: the keys that its `StreamingDataset` yields) and in the failure rows with the listing of the corpus. Workers
sleep for every frame instead of running a model.

`- timeouts` is the ratio without the time spent on waiting for hung items: the sum of attempts times
`--timeout-seconds`, divided by the number of ranks, which wait side by side. litData is no dependency: without
`pip install litdata` its runs are left out.
"""

import argparse
import hashlib
import json
import random
import signal
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.media.image import read_image
from datamodules.run.folder import Run
from measuring import print_machine, print_table, print_verdict
from poison import POISONS, MeanTransform, Poisoned, make_images
from soaking import Disturbance, Soak, Tally, soak

_NUM_RANKS, _NUM_WORKERS = 2, 2
_MOST_TO_UNDISTURBED = 1.5
_CHUNK_BYTES = 2048  # some 20 items, so that a litData worker that dies loses little
_COLUMNS = ("", "planned", "written", "failed", "lost", "doubled", "foreign", "signals", "restarts", "seconds")


class Finished(NamedTuple):
    """Results of a run of Framemill after its soak.

    Attributes:
        soak: course of the soak.
        tally: comparison of its results with the planned items.
        failures: reason class of every failure row, by key.
        timeouts_seconds: time spent on waiting for hung items; see the module.
        digests: sha256 of the tars, by name.
    """

    soak: Soak
    tally: Tally
    failures: dict[str, str]
    timeouts_seconds: float
    digests: dict[str, str]


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    print_machine("torch", "lightning", *(["litdata"] if find_spec("litdata") else []))
    with nullcontext(options.dest) if options.dest else tempfile.TemporaryDirectory() as dest:
        folder = Path(dest)
        make_images(folder / "images")
        num_poisoned = round(options.items * options.poisoned)
        corpus = Poisoned(str(folder / "images"), options.items, num_poisoned, options.kinds, options.seed)
        _framemill(folder, corpus, options)
        if find_spec("litdata"):
            _litdata(folder, corpus, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=3000, help="items of the corpus (default: 3000)")
    parser.add_argument("--poisoned", type=float, default=0.01, help="share of them (default: 0.01)")
    parser.add_argument("--kinds", nargs="+", choices=POISONS, default=list(POISONS), help="of poison (default: all)")
    parser.add_argument("--kills", type=int, default=20, help="signals to each disturbed run (default: 20)")
    parser.add_argument("--every-seconds", type=float, default=5, help="time between signals, on average (default: 5)")
    parser.add_argument("--timeout-seconds", type=float, default=4, help="until a hang is ended (default: 4)")
    parser.add_argument("--seconds-per-frame", type=float, default=0.1, help="time that workers sleep (default: 0.1)")
    parser.add_argument("--max-seconds", type=float, default=1800, help="a run that takes longer hangs (default: 1800)")
    parser.add_argument("--seed", type=int, default=0, help="seed of poison and signals (default: 0)")
    parser.add_argument("--dest", type=Path, help="a new folder to keep runs and logs in (default: none are kept)")
    options: argparse.Namespace = parser.parse_args()
    return options


def _disturbances(options: argparse.Namespace, kinds: Sequence[tuple[str, signal.Signals]]) -> list[Disturbance]:
    rng = random.Random(options.seed)
    longest = 2 * options.every_seconds
    return [Disturbance(rng.uniform(0, longest), *rng.choice(kinds), rng.random()) for _ in range(options.kills)]


def _row(name: str, result: Soak, tally: Tally, *more: str) -> tuple[str, ...]:
    counts = [tally.planned, tally.written, tally.failed, len(tally.lost), len(tally.doubled), len(tally.foreign)]
    counts += [result.sent.total(), result.exits.total()]
    seconds = f"{result.seconds:.1f}" if result.ended else f"did not end in {result.seconds:.0f}"
    return (name, *(f"{count:,}" for count in counts), seconds, *more)


def _print_signals(results: dict[str, Soak]) -> None:
    for name, result in results.items():
        for label, counts in (("sent", result.sent), ("ended with", result.exits)):
            if counts:
                print(f"{name}, {label}: " + ", ".join(f"{count} x {event}" for event, count in counts.most_common()))


# Framemill


def _framemill(folder: Path, corpus: Poisoned, options: argparse.Namespace) -> None:
    kill, term = signal.SIGKILL, signal.SIGTERM
    disturbances = _disturbances(options, [("worker", kill), ("worker", kill), ("rank", kill), ("rank", term)])
    undisturbed = _preprocess(folder / "undisturbed", corpus, options, [], poisonous=False)
    poisoned = _preprocess(folder / "poisoned", corpus, options, [])
    disturbed = _preprocess(folder / "disturbed", corpus, options, disturbances)
    runs = {"undisturbed": undisturbed, "poisoned": poisoned, "disturbed": disturbed}
    rows, base = [], undisturbed.soak.seconds
    for name, run in runs.items():
        seconds = run.soak.seconds
        ratios = f"{seconds / base:.2f}", f"{(seconds - run.timeouts_seconds) / base:.2f}"
        rows.append(_row(name, run.soak, run.tally, *ratios))
    print_table((*_COLUMNS, "ratio", "- timeouts"), rows)
    _print_signals({name: run.soak for name, run in runs.items()})
    expected = {item.key: item.meta["poison"] for item in corpus.items() if item.meta["poison"]}
    _judge(runs, {key: POISONS[poison].reason_class for key, poison in expected.items()})
    same = disturbed.digests == poisoned.digests
    print_verdict("the same tars, poisoned and disturbed", f"{len(disturbed.digests)} tars", same)
    bound = _MOST_TO_UNDISTURBED * base + poisoned.timeouts_seconds
    seconds = poisoned.soak.seconds
    target = f"poisoned ≤ {_MOST_TO_UNDISTURBED} x undisturbed + timeouts = {bound:.1f} s"
    print_verdict(target, f"{seconds:.1f} s", seconds <= bound)


def _judge(runs: dict[str, Finished], expected: dict[str, str]) -> None:
    exact = all(run.soak.ended and run.tally.is_exact for run in runs.values())
    print_verdict("every item once, written or failed", "the table above", exact)
    wrong = []
    for name, run in runs.items():
        planned = expected if name != "undisturbed" else {}
        for key in sorted(planned.keys() | run.failures.keys()):
            if planned.get(key) != run.failures.get(key):
                wrong.append(f"{name}, {key}: expected {planned.get(key)}, got {run.failures.get(key)}")
    classes = ", ".join(f"{count} {name}" for name, count in sorted(Counter(expected.values()).items()))
    print_verdict(f"poisoned items fail in their classes ({classes})", f"{len(wrong)} exceptions", not wrong)
    print(*wrong, sep="\n", end="\n" if wrong else "")


def _preprocess(
    folder: Path,
    corpus: Poisoned,
    options: argparse.Namespace,
    disturbances: Sequence[Disturbance],
    poisonous: bool = True,
) -> Finished:
    extractor = {"poisonous": poisonous, "seconds_per_frame": options.seconds_per_frame}
    config = {
        "model": {"class_path": "poison.Chaotic", "init_args": extractor},
        "data": {
            "corpus": {"class_path": "poison.Poisoned", "init_args": vars(corpus)},
            "num_workers": _NUM_WORKERS,
            "worker_timeout_seconds": options.timeout_seconds,
        },
        "output": {"dir": str(folder), "extract_timeout_seconds": options.timeout_seconds},
        "trainer": {"accelerator": "cpu"},
    }
    path = folder.with_suffix(".yaml")
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "preprocess", "run", "--config", str(path)]
    result = soak([command] * _NUM_RANKS, folder.with_suffix(".log"), disturbances, options.max_seconds)
    run = Run(folder)
    rows = [row for shard in sorted(run.committed()) for row in run.table(shard).to_pylist()]
    failed = {row["key"]: row for row in rows if row["status"] == "failed"}
    poisons = {item.key: item.meta["poison"] or "" for item in corpus.items()}
    attempts = sum(row["attempts"] for key, row in failed.items() if row["reason_class"] == "timeout")
    return Finished(
        result,
        Tally.of(poisons, list(keys_in_tars(folder)), list(failed)),
        {key: row["reason_class"] for key, row in failed.items()},
        attempts * options.timeout_seconds / _NUM_RANKS,
        {tar.name: hashlib.sha256(tar.read_bytes()).hexdigest() for tar in folder.glob("*.tar")},
    )


def keys_in_tars(folder: Path) -> Iterator[str]:
    """Yield the key of every sample in the tars of `folder`, whose members are named `{key}.json`."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                yield name.removesuffix(".json")


# litData


def _litdata(folder: Path, corpus: Poisoned, options: argparse.Namespace) -> None:
    kill = signal.SIGKILL
    all_disturbances = {
        "litData": [Disturbance(options.every_seconds, "worker", kill, 0.0)],
        "killed": _disturbances(options, [("worker", kill)]),
        "resumed": _disturbances(options, [("rank", kill)]),
    }
    results, rows = {}, []
    for name, disturbances in all_disturbances.items():
        dest = folder / name
        arguments = {"corpus": vars(corpus), "dest": str(dest), "seconds_per_frame": options.seconds_per_frame}
        arguments["resume"] = name == "resumed"
        script = "import json, sys, chaos; chaos.optimize(**json.loads(sys.argv[1]))"
        command = [sys.executable, "-c", script, json.dumps(arguments)]
        begun = partial(_has_chunks, dest)  # signals are sent while it works, not while it starts
        results[name] = soak([command], dest.with_suffix(".log"), disturbances, options.max_seconds, begun)
        rows.append(_row(name, results[name], Tally.of((item.key for item in corpus.items()), _keys_in_chunks(dest))))
    print_table(_COLUMNS, rows)
    _print_signals(results)


def _has_chunks(dest: Path) -> bool:
    return any(dest.glob("*.bin"))


def optimize(corpus: dict[str, Any], dest: str, seconds_per_frame: float, resume: bool) -> None:
    """Run litData's `optimize` over the corpus. Called in the subprocess of litData."""
    import litdata

    # lists, because litData refuses to resume with tuples
    inputs = [[item.key, list(item.frames)] for item in Poisoned(**corpus).items()]
    litdata.optimize(
        partial(mean_sample, corpus["root"], seconds_per_frame),
        inputs,
        dest,
        chunk_bytes=_CHUNK_BYTES,
        num_workers=_NUM_WORKERS,
        use_checkpoint=resume,
    )


def mean_sample(root: str, seconds_per_frame: float, item: list[Any]) -> dict[str, Any]:
    """Return the sample of one item in litData's form."""
    key, frames = item
    mean = MeanTransform(False, seconds_per_frame)
    return {"key": key, "means": [mean(read_image(Path(root, name))) for name in frames]}


def _keys_in_chunks(dest: Path) -> list[str]:
    import litdata

    index = dest / "index.json"
    if not index.exists() or not json.loads(index.read_text())["chunks"]:  # StreamingDataset refuses an empty index
        return []
    return [sample["key"] for sample in litdata.StreamingDataset(str(dest))]


if __name__ == "__main__":
    main()
