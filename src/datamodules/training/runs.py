"""The runs of a training: one, several of one kind that are mixed, or several by name that are joined."""

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from datamodules.errors import ConfigError
from datamodules.run.bucket import open_store
from datamodules.run.condition import Condition
from datamodules.run.folder import Run
from datamodules.run.tar_cache import TarCache
from datamodules.samples import SampleKind
from datamodules.training.joined import RESERVED_NAMES, JoinedSplits
from datamodules.training.mixed import MixedSplits
from datamodules.training.splits import RunSplits, TrainingSplits

Shards = str | Path | Sequence[str | Path] | Mapping[str, str | Path]


def open_runs(shards: Shards) -> dict[str, Run]:
    """Open the runs of a training.

    Args:
        shards: folder or URL of a run, a list of them, or such by name.

    Returns:
        The runs by name; by number, from "0", of a list.

    Raises:
        ConfigError: there are none, or a name has another meaning in batches.
        RunError: one is not a run.
    """
    if isinstance(shards, (str, Path)):
        named: Mapping[str, str | Path] = {"0": shards}
    else:
        named = shards if isinstance(shards, Mapping) else {str(number): run for number, run in enumerate(shards)}
    if not named:
        raise ConfigError("shards is empty. Give the folder or URL of a run, a list of them, or runs by name")
    if reserved := next((name for name in RESERVED_NAMES if name in named), None):
        raise ConfigError(f"shards has a run named {reserved!r}, which batches have of their own. Give another name")
    return {name: Run(open_store(run, option="shards")) for name, run in named.items()}


def splits_of(
    runs: Mapping[str, Run],
    shards: Shards,
    samples: SampleKind[Any] | Mapping[str, SampleKind[Any]],
    weights: Sequence[float] | None,
    on: str,
    join: str,
    where: str | Mapping[str, str] | None,
    excluded: Collection[str],
    cache: TarCache | None,
    opened: dict[str, dict[str, Any]],
    loading: Mapping[str, Any],
) -> TrainingSplits:
    """Return the splits of a training.

    Args:
        runs: what `open_runs` returned for `shards`.
        shards, samples, weights, on, join, where: see `FramesDataModule`.
        excluded: keys of samples to leave out, a set.
        cache: of tars in a bucket; None: no cache.
        opened: samples that were opened before, by name of the run and by split.
        loading: arguments of `TrainingSplits`.

    Raises:
        ConfigError: the options do not fit together, or `where` is no condition.
    """
    is_joined = isinstance(shards, Mapping)
    _check_join(on, join, is_joined, loading["reading"])
    kinds = _by_name(samples, runs, "samples", is_joined)
    conditions = _by_name(where, runs, "where", is_joined and isinstance(where, Mapping))
    if is_joined and (missing := runs.keys() - kinds.keys()):
        raise ConfigError(f"samples has no kind for the run {min(missing)!r}. Give one for each name in shards")
    if cache and all(run.store.num_reads_at_once == 1 for run in runs.values()):
        raise ConfigError("cache_dir has no effect without a run in a bucket. Leave it out")
    is_mixed = not is_joined and not isinstance(shards, (str, Path))
    _check_weights(weights, len(runs), is_mixed)
    parts = {}
    for name, run in runs.items():
        text, kind = conditions.get(name), kinds[name]
        condition = None if text is None else Condition(text, [metric.name for metric in kind.metrics])
        samples_of = opened.setdefault(name, {})
        parts[name] = RunSplits(run, kind, cache, samples_of, excluded, condition, is_joined, **loading)
    if is_joined:
        return JoinedSplits(parts, opened.setdefault("key", {}), on, join == "outer", **loading)
    return MixedSplits(parts, weights, **loading) if is_mixed else parts["0"]


def _by_name(value: Any, runs: Mapping[str, Run], option: str, is_named: bool) -> Mapping[str, Any]:
    """Return the value of an option for each run, which has one for all of them or is by name.

    Raises:
        ConfigError: it is by name where runs are not, or the other way round, or has a name that no run has.
    """
    if not is_named and isinstance(value, Mapping):
        raise ConfigError(f"{option} is by name, but shards is not. Give runs by name in shards")
    if not is_named:
        return dict.fromkeys(runs, value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"shards has runs by name, so {option} must have one for each name: {', '.join(runs)}")
    if unknown := next((name for name in value if name not in runs), None):
        raise ConfigError(f"{option} names {unknown!r}, which is no run in shards. Its runs are {', '.join(runs)}")
    return value


def _check_join(on: str, join: str, is_joined: bool, reading: str) -> None:
    """Raise ConfigError unless `on`, `join` and `reading` fit together."""
    if join not in ("inner", "outer"):
        raise ConfigError(f"{join = } must be 'inner' or 'outer'")
    if not is_joined and (on, join) != ("key", "inner"):
        raise ConfigError("on and join have no effect without runs by name in shards. Leave them out")
    if is_joined and reading == "sequential":
        raise ConfigError(
            "reading='sequential' cannot join runs, whose shards have their samples in different orders. Leave it out"
        )


def _check_weights(weights: Any, num_runs: int, is_mixed: bool) -> None:
    """Raise ConfigError unless `weights` are None, or a sequence of one positive number for each run of a list."""
    if weights is None:
        return
    if not is_mixed:
        raise ConfigError("weights have no effect without a list of runs in shards. Leave them out")
    is_numbers = isinstance(weights, Sequence) and all(isinstance(weight, Real) for weight in weights)
    if not is_numbers:
        raise ConfigError(
            f"weights = {weights!r:.200} is not a list of numbers. Give one for each run in shards, in order"
        )
    if len(weights) != num_runs:
        raise ConfigError(f"weights has {len(weights)} numbers, but shards has {num_runs} runs. Give one for each")
    if not all(0 < weight < math.inf for weight in weights):
        raise ConfigError(
            f"weights = {list(weights)} must be above 0 and finite. Leave a run out of shards instead of 0"
        )
