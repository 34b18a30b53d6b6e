"""Count lost, doubled and changed samples when items crash, hang or raise, and ranks and workers are killed.

    python benchmarks/chaos.py
    python benchmarks/chaos.py --store s3 --contenders framemill ray-data

| run          | meaning                                                                                         |
|--------------|-------------------------------------------------------------------------------------------------|
| undisturbed  | 2 processes of `preprocess run` with 2 workers each; the poison in the corpus does nothing      |
| poisoned     | the same, but the poison acts (its kinds: `poison.py`)                                          |
| disturbed    | like poisoned, with SIGKILL to workers and ranks, and SIGTERM to ranks, every few seconds       |
| litData      | `optimize` (`chaos_litdata.py`) with 2 workers over these items without poison; SIGKILL to one  |
| killed       | like litData; SIGKILL to workers as often as in disturbed, or until none is left                |
| resumed      | like litData with `use_checkpoint=True`; SIGKILL to `optimize` itself, which is then resumed    |
| ray-data     | Ray Data with checkpoints (`chaos_ray.py`), 4 tasks at once, over the same items without poison |
| ray-signals  | the same; its one driver and its workers get the signals of disturbed                           |
| ray-poisoned | like ray-data, but poison that raises acts, and Ray Data drops the blocks that fail             |

With `--store s3`, the runs of Framemill and Ray Data are repeated over a bucket of moto's, on this machine. Every
command is restarted until it exits with 0. Poison and signals are drawn from a seed: the bad items are the same in all
runs, and no others may fail. Lost, doubled and foreign items are counted by comparing the keys in the tars (for
litData: the keys that its `StreamingDataset` yields) and in the failure rows with the listing of the corpus. Workers
sleep for every frame instead of running a model, and no signal is sent before the first frame is computed (litData:
before its first chunk). `repeated` is lost work: frames that were computed again, as a share of those of all samples.

Ray Data has no failure rows. With `max_errored_blocks`, it drops a block in which an item raises, with a log line.
Poison that crashes or hangs has no such option, and is left out of ray-poisoned.

`- timeouts` is the ratio without the time spent on waiting for hung items: the sum of attempts times
`--timeout-seconds`, divided by the number of ranks, which wait side by side. litData is no dependency, and Ray Data
needs pandas: without `pip install litdata`, and `pip install ray pandas`, their runs are left out.
"""

import argparse
import hashlib
import io
import json
import os
import random
import signal
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from chaos_litdata import keys_in_chunks
from chaos_ray import write_items
from datamodules.run.bucket import as_store, open_store
from datamodules.run.folder import Run
from datamodules.run.store import Store
from measuring import print_machine, print_table, print_verdict
from poison import POISONS, Poisoned, make_images
from soaking import Disturbance, Soak, Tally, soak
from support.s3_server import running_s3_server

_NUM_RANKS, _NUM_WORKERS = 2, 2
_MOST_TO_UNDISTURBED = 1.5
_COLUMNS = ("", "planned", "written", "failed", "lost", "doubled", "foreign", "signals", "restarts", "seconds")
_NEEDS = {"framemill": (), "litdata": ("litdata",), "ray-data": ("ray", "pandas")}  # modules, by contender


class Finished(NamedTuple):
    """Results of a run of Framemill after its soak.

    Attributes:
        soak: course of the soak.
        tally: comparison of its results with the planned items.
        failures: reason class of every failure row, by key.
        timeouts_seconds: time spent on waiting for hung items; see the module.
        repeated: see the module.
        digests: sha256 of the tars, by name.
    """

    soak: Soak
    tally: Tally
    failures: dict[str, str]
    timeouts_seconds: float
    repeated: float
    digests: dict[str, str]


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    present = [name for name in options.contenders if all(map(find_spec, _NEEDS[name]))]
    print_machine("torch", "lightning", *(module for name in present for module in _NEEDS[name]))
    with nullcontext(options.dest) if options.dest else tempfile.TemporaryDirectory() as dest:
        folder = Path(dest)
        make_images(folder / "images")
        num_poisoned = round(options.items * options.poisoned)
        corpus = Poisoned(str(folder / "images"), options.items, num_poisoned, options.kinds, options.seed)
        with _locations(folder, options.store) as locations:
            if "framemill" in present:
                _framemill(folder, corpus, locations, options)
            if "litdata" in present:
                _litdata(folder, corpus, options)
            if "ray-data" in present:
                _ray_data(folder, corpus, locations, options)


@contextmanager
def _locations(folder: Path, store: str) -> Iterator[dict[str, str]]:
    """Yield where runs are written, by store. A server of the bucket runs meanwhile, if there is one."""
    if store == "folder":
        yield {"folder": str(folder)}
        return
    with running_s3_server(page_size=1000) as server:
        os.environ.update(server.environment)
        yield {"folder": str(folder), "s3": f"s3://{server.make_bucket()}"}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=["folder", "s3"], default="folder", help="s3: also s3 (default: folder)")
    parser.add_argument("--contenders", nargs="+", choices=_NEEDS, default=list(_NEEDS), help="which (default: all)")
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


def _signals(options: argparse.Namespace) -> list[Disturbance]:
    kill, term = signal.SIGKILL, signal.SIGTERM
    return _disturbances(options, [("worker", kill), ("worker", kill), ("rank", kill), ("rank", term)])


def _row(name: str, result: Soak, tally: Tally, *more: str) -> tuple[str, ...]:
    counts = [tally.planned, tally.written, tally.failed, len(tally.lost), len(tally.doubled), len(tally.foreign)]
    counts += [result.sent.total(), result.exits.total()]
    seconds = f"{result.seconds:.1f}" if result.ended else f"did not end in {result.seconds:.0f}"
    row = (name, *(f"{count:,}" for count in counts), seconds, *more)
    print(*row, sep="  ", file=sys.stderr)
    return row


def _print_signals(results: dict[str, Soak]) -> None:
    for name, result in results.items():
        for label, counts in (("sent", result.sent), ("ended with", result.exits)):
            if counts:
                print(f"{name}, {label}: " + ", ".join(f"{count} x {event}" for event, count in counts.most_common()))


# Framemill


def _framemill(folder: Path, corpus: Poisoned, locations: dict[str, str], options: argparse.Namespace) -> None:
    runs, rows = {}, []
    for store, location in locations.items():
        for name, disturbances in {"undisturbed": [], "poisoned": [], "disturbed": _signals(options)}.items():
            name = f"{store}-{name}"
            run = _preprocess(folder / name, f"{location}/{name}", corpus, options, disturbances)
            runs[name], base = run, runs.get(f"{store}-undisturbed", run).soak.seconds
            seconds = run.soak.seconds
            ratios = f"{seconds / base:.2f}", f"{(seconds - run.timeouts_seconds) / base:.2f}"
            rows.append(_row(name, run.soak, run.tally, f"{run.repeated:.1%}", *ratios))
    print_table((*_COLUMNS, "repeated", "ratio", "- timeouts"), rows)
    _print_signals({name: run.soak for name, run in runs.items()})
    expected = {item.key: item.meta["poison"] for item in corpus.items() if item.meta["poison"]}
    _judge(runs, {key: POISONS[poison].reason_class for key, poison in expected.items()})
    without_signals = runs["folder-poisoned"].digests
    same = all(run.digests == without_signals for name, run in runs.items() if not name.endswith("undisturbed"))
    print_verdict("the same tars, poisoned and disturbed, in all stores", f"{len(without_signals)} tars", same)
    for store in locations:
        poisoned, base = runs[f"{store}-poisoned"], runs[f"{store}-undisturbed"].soak.seconds
        bound, seconds = _MOST_TO_UNDISTURBED * base + poisoned.timeouts_seconds, poisoned.soak.seconds
        target = f"{store}: poisoned ≤ {_MOST_TO_UNDISTURBED} x undisturbed + timeouts = {bound:.1f} s"
        print_verdict(target, f"{seconds:.1f} s", seconds <= bound)


def _judge(runs: dict[str, Finished], expected: dict[str, str]) -> None:
    exact = all(run.soak.ended and run.tally.is_exact for run in runs.values())
    print_verdict("every item once, written or failed", "the table above", exact)
    wrong = []
    for name, run in runs.items():
        planned = {} if name.endswith("undisturbed") else expected
        for key in sorted(planned.keys() | run.failures.keys()):
            if planned.get(key) != run.failures.get(key):
                wrong.append(f"{name}, {key}: expected {planned.get(key)}, got {run.failures.get(key)}")
    classes = ", ".join(f"{count} {name}" for name, count in sorted(Counter(expected.values()).items()))
    print_verdict(f"poisoned items fail in their classes ({classes})", f"{len(wrong)} exceptions", not wrong)
    print(*wrong, sep="\n", end="\n" if wrong else "")


def _preprocess(
    files: Path,
    location: str,
    corpus: Poisoned,
    options: argparse.Namespace,
    disturbances: Sequence[Disturbance],
) -> Finished:
    """Run Framemill over `location`. `files` and an ending is the path of its configuration, log, tally and scratch."""
    poisonous, tally = not location.endswith("undisturbed"), files.with_suffix(".frames")
    extractor = {"poisonous": poisonous, "seconds_per_frame": options.seconds_per_frame, "tally": str(tally)}
    scratch = str(files.with_suffix(".scratch")) if location.startswith("s3:") else None
    config = {
        "model": {"class_path": "poison.Chaotic", "init_args": extractor},
        "data": {
            "corpus": {"class_path": "poison.Poisoned", "init_args": vars(corpus)},
            "num_workers": _NUM_WORKERS,
            "worker_timeout_seconds": options.timeout_seconds,
        },
        "output": {"dir": location, "scratch": scratch, "extract_timeout_seconds": options.timeout_seconds},
        "trainer": {"accelerator": "cpu"},
    }
    path = files.with_suffix(".yaml")
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "preprocess", "run", "--config", str(path)]
    log = files.with_suffix(".log")
    result = soak([command] * _NUM_RANKS, log, disturbances, options.max_seconds, begun=tally.exists)
    run = Run(open_store(location, scratch))
    rows = [row for shard in sorted(run.committed()) for row in run.table(shard).to_pylist()]
    failed = {row["key"]: row for row in rows if row["status"] == "failed"}
    attempts = sum(row["attempts"] for key, row in failed.items() if row["reason_class"] == "timeout")
    written = list(keys_in_tars(run.store))
    return Finished(
        result,
        Tally.of([item.key for item in corpus.items()], written, list(failed)),
        {key: row["reason_class"] for key, row in failed.items()},
        attempts * options.timeout_seconds / _NUM_RANKS,
        repeated_share(corpus, written, tally),
        {name: hashlib.sha256(run.store.read(name)).hexdigest() for name in _tars(run.store)},
    )


def repeated_share(corpus: Poisoned, written: Sequence[str], tally: Path) -> float:
    """Return the share of the frames of `written` items that were computed once more, by the `tally` of all frames."""
    once = set(written)
    num_frames = sum(len(item.frames) for item in corpus.items() if item.key in once)
    return tally.stat().st_size / num_frames - 1 if written else 0.0


def keys_in_tars(location: str | Path | Store) -> Iterator[str]:
    """Yield the key of every sample in the tars at `location`, whose members are named `{key}.json`."""
    store = as_store(location)
    for name in _tars(store):
        with tarfile.open(fileobj=io.BytesIO(store.read(name))) as tar:
            for member in tar.getnames():
                yield member.removesuffix(".json")


def _tars(store: Store) -> list[str]:
    return [name for name in store.names() if name.endswith(".tar")]


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
        arguments = {"corpus": vars(corpus), "dest": str(dest), "num_workers": _NUM_WORKERS}
        arguments |= {"seconds_per_frame": options.seconds_per_frame, "resume": name == "resumed"}
        script = "import json, sys, chaos_litdata; chaos_litdata.optimize(**json.loads(sys.argv[1]))"
        command = [sys.executable, "-c", script, json.dumps(arguments)]
        begun = partial(_has_chunks, dest)  # signals are sent while it works, not while it starts
        results[name] = soak([command], dest.with_suffix(".log"), disturbances, options.max_seconds, begun)
        rows.append(_row(name, results[name], Tally.of((item.key for item in corpus.items()), keys_in_chunks(dest))))
    print_table(_COLUMNS, rows)
    _print_signals(results)


def _has_chunks(dest: Path) -> bool:
    return any(dest.glob("*.bin"))


# Ray Data


def _ray_data(folder: Path, corpus: Poisoned, locations: dict[str, str], options: argparse.Namespace) -> None:
    results: dict[str, Soak] = {}
    rows = []
    for store, location in locations.items():
        for kind, disturbances in {"ray-data": [], "ray-signals": _signals(options), "ray-poisoned": []}.items():
            name = f"{store}-{kind}"
            results[name] = _ray_run(folder / name, f"{location}/{name}", corpus, options, disturbances)
            written = list(keys_in_tars(f"{location}/{name}/tars"))
            tally = Tally.of([item.key for item in corpus.items()], written)
            repeated = repeated_share(corpus, written, (folder / name).with_suffix(".frames"))
            ratio = results[name].seconds / results[f"{store}-ray-data"].seconds
            rows.append(_row(name, results[name], tally, f"{repeated:.1%}", f"{ratio:.2f}"))
    print_table((*_COLUMNS, "repeated", "ratio"), rows)
    _print_signals(results)


def _ray_run(
    files: Path, dest: str, corpus: Poisoned, options: argparse.Namespace, disturbances: Sequence[Disturbance]
) -> Soak:
    """Run Ray Data over `dest`. `files` and an ending is the path of its items, log and tally."""
    raising = [kind for kind in options.kinds if kind in ("damaged", "refused")]
    init = vars(corpus) | {"kinds": raising, "num_poisoned": corpus.num_poisoned if raising else 0}
    items, tally = files.with_suffix(".parquet"), files.with_suffix(".frames")
    write_items(Poisoned(**init), items)
    arguments = {
        "items": str(items),
        "root": corpus.root,
        "dest": dest,
        "num_cpus": _NUM_RANKS * _NUM_WORKERS,
        "seconds_per_frame": options.seconds_per_frame,
        "poisonous": dest.endswith("poisoned"),
        "tally": str(tally),
    }
    script = "import json, sys, chaos_ray; chaos_ray.run(**json.loads(sys.argv[1]))"
    command = [sys.executable, "-c", script, json.dumps(arguments)]
    return soak([command], files.with_suffix(".log"), disturbances, options.max_seconds, begun=tally.exists)


if __name__ == "__main__":
    main()
