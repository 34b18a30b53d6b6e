"""Joined runs: samples of several runs that were made of the same items, in one batch."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_info

from datamodules.errors import ConfigError, RunError
from datamodules.run.folder import Run
from datamodules.run.parallel_reads import read_each
from datamodules.run.typed_json import load
from datamodules.training.batches import JoinedBatches, JoinedSamples
from datamodules.training.sampler import EpochSampler, ReadAheadSampler
from datamodules.training.splits import RunSplits, TrainingSplits, Use

RESERVED_NAMES = ("key", "present")  # of a batch


class JoinedSplits(TrainingSplits):
    """Loads batches of the splits that several runs have, whose samples are joined.

    Args:
        parts: the runs, by name; they keep the keys of their samples.
        opened: the joined samples of splits, by name, that an earlier object opened; this one adds to them.
        on: `key`, or the field of the corpus whose values must be equal.
        outer: whether a row may lack the samples of some runs.
        loading: see `TrainingSplits`.
    """

    def __init__(
        self, parts: Mapping[str, RunSplits], opened: dict[str, JoinedSamples], on: str, outer: bool, **loading: Any
    ) -> None:
        super().__init__(**loading)
        self._parts, self._opened, self._on, self._outer = parts, opened, on, outer
        self.planned = sorted(set.intersection(*(set(part.planned) for part in parts.values())))
        for part in parts.values():
            part.names = {use: self.split(use) for use in self.names}

    def source(self, use: Use) -> dict[str, Any]:
        """Return the sources of all runs by name, and how they are joined."""
        sources = {name: part.source(use) for name, part in self._parts.items()}
        return {
            "runs": sources,
            "order": list(sources),  # the first run's samples come first
            "on": self._on,
            "join": "outer" if self._outer else "inner",
        }

    def identity(self, use: Use) -> str:
        """Return the number of joined samples of a split, and a digest of what they are, in one line."""
        joined = self.open(use)
        digest = hashlib.sha256(json.dumps([part.identity(use) for part in self._parts.values()]).encode())
        digest.update(joined.digest())
        return f"{len(joined.rows):,} (digest {digest.hexdigest()[:16]})"

    @property
    def selection(self) -> dict[str, Any]:
        """Those of all runs by name."""
        return {name: part.selection for name, part in self._parts.items()}

    def batches(self, use: Use, shuffle: bool) -> tuple[JoinedBatches, EpochSampler]:
        """Return (joined batches of a split, the order of its samples)."""
        joined = self.open(use)
        batches = JoinedBatches({name: part.dataset(use) for name, part in self._parts.items()}, joined, self._outer)
        return batches, ReadAheadSampler(batches, self._batch_size, shuffle, self._seed, self._num_workers)

    def open(self, use: Use) -> JoinedSamples:
        """Return the joined samples of a split. Logs once how many samples each run lacks.

        Raises:
            RunError: a run lacks the split, or has no committed samples of it; or no samples belong together.
            ConfigError: no item of a run has the field.
        """
        split = self.split(use)
        for name, part in self._parts.items():
            if split not in part.planned:
                common = f"Set {use}_split to one of {', '.join(self.planned)}" if self.planned else "They share none"
                raise RunError(
                    f"the run {name} ({part.run.store}) has no split {split!r}, which joined runs must share. {common}"
                )
        if split not in self._opened:
            values = {name: self._values(part, name, use) for name, part in self._parts.items()}
            joined = join(values, self._outer)
            _report(values, split, self._on)
            if not len(joined.rows):
                examples = ", ".join(f"{name} has {column[0].as_py()!r:.100}" for name, column in values.items())
                raise RunError(
                    f"no samples of split {split!r} have the same {self._on}: {examples}. "
                    "Set on=… to a field of the corpora, or select other samples"
                )
            self._opened[split] = joined
        return self._opened[split]

    def _values(self, part: RunSplits, name: str, use: Use) -> Any:
        """Return what is compared, for each sample of a split: a ChunkedArray of strings."""
        keys: Any = part.open(use).item_keys
        if self._on == "key":
            return keys
        values = field_values(part.run, self._on, self.split(use))
        if not any(value is not None for value in values.values()):
            raise ConfigError(
                f"on={self._on!r} is not a field, with texts or whole numbers, of the corpus of the run {name} "
                f"({part.run.store}). Its fields are {', '.join(sorted(_fields(part.run))) or 'none'}"
            )
        return pa.chunked_array([pa.array([values[key] for key in keys.to_pylist()], pa.string())])


def join(values: Mapping[str, Any], outer: bool = False) -> JoinedSamples:
    """Join samples whose values are equal, as SQL does: samples that share a value are combined in all ways.

    Args:
        values: by name of the run a pyarrow ChunkedArray of strings, one for each sample; null: joined with nothing.
        outer: also return samples that some runs lack.

    Returns:
        The rows in the order of the first run's samples, then of the second's.
    """
    table = None
    for name, column in values.items():
        indices = pa.array(np.arange(len(column)))
        samples = pa.table({"value": column, name: indices}).drop_null()
        how = "full outer" if outer else "inner"
        table = samples if table is None else table.join(samples, "value", join_type=how, use_threads=False)
    assert table is not None
    table = table.sort_by([(name, "ascending") for name in values])
    rows = np.stack([table[name].fill_null(-1).to_numpy() for name in values], axis=1)
    return JoinedSamples(table["value"].combine_chunks(), rows)


def field_values(run: Run, field: str, split: str) -> dict[str, str | None]:
    """Return by key the value of a field of the corpus of each planned item of a split; None: it has no such value.

    Texts and whole numbers are values. They are read from the plan.
    """
    numbers = [shard.number for shard in run.plan.shards if shard.split == split]

    def read(number: int) -> list[tuple[str, str | None]]:
        batch = run.plan.read_batch(number)
        metas = (load(meta) for meta in batch["meta"].to_pylist())
        values = (meta.get(field) for meta in metas)
        texts = (str(value) if type(value) in (str, int) else None for value in values)
        return list(zip(batch["key"].to_pylist(), texts, strict=True))

    return dict(pair for pairs in read_each(run.plan.store, read, numbers) for pair in pairs)


def _fields(run: Run) -> set[str]:
    """Return the names of the corpus fields of the first items of a run."""
    return {name for meta in run.plan.read_batch(0)["meta"].to_pylist() for name in load(meta)}


def _report(values: Mapping[str, Any], split: str, on: str) -> None:
    """Log how many of the values each run lacks, if any."""
    by_name = {name: set(column.drop_null().to_pylist()) for name, column in values.items()}
    known = set().union(*by_name.values())
    if any(len(own) < len(known) for own in by_name.values()) or any(column.null_count for column in values.values()):
        counts = [
            f"{name} lacks {len(known) - len(by_name[name]):,}"
            + (f" and has {column.null_count:,} samples without {on}" if column.null_count else "")
            for name, column in values.items()
        ]
        rank_zero_info(f"split {split!r} joined on {on}: of {len(known):,} values {'; '.join(counts)}")
