"""What an export reads: the committed samples of a run."""

import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Generic

from datamodules.run.condition import Condition
from datamodules.run.folder import Run
from datamodules.run.keys import KeyList, planned_keys
from datamodules.run.kind import kind_of
from datamodules.run.reader import CommittedSamples
from datamodules.samples import Sample, SampleKind
from preprocess.export.statistics import counts


class Source(Generic[Sample]):
    """The committed samples of a run, as they are when the export begins, but for those that are left out.

    Args:
        folder: of the run.
        kind: the class of its samples; None: the class that the run's plan names.
        exclude: file with the keys of samples to leave out, or the keys; see `datamodules.run.keys`.
        where: only samples that meet this condition on the tables, see `datamodules.run.condition`; None: all.

    Attributes:
        run: the run and its retries. It does not see shards that are committed later.
        splits: those of the plan, in its order; some may have no samples.

    Raises:
        ConfigError: the list of keys cannot be read, or has keys that are not planned.
        RunError: `folder` is not a run.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        kind: type[SampleKind[Sample]] | None = None,
        exclude: KeyList = (),
        where: str | None = None,
    ) -> None:
        self.run: Run = _Snapshot(folder)
        self._excluded = planned_keys(exclude, self.run)
        self.splits = list(dict.fromkeys(shard.split for shard in self.run.plan.shards))
        self._class, self._where = kind, where
        self._selected: dict[str, CommittedSamples] = {}  # by split

    @cached_property
    def kind(self) -> SampleKind[Sample]:
        """The kind of the samples.

        Raises:
            ConfigError, RunError: see `datamodules.run.kind.kind_of`.
        """
        return self._class() if self._class else kind_of(self.run)

    def committed(self, split: str) -> CommittedSamples | None:
        """Return the samples of `split` for random access, not decoded; None if it has no samples, or none is left."""
        return self._selection(split) or None

    @property
    def num_undecided(self) -> int:
        """Number of samples that are left out because they lack a value which `where` compares."""
        selections = [self._selection(split) for split in self.splits]
        return sum(selection.num_undecided for selection in selections if selection is not None)

    def samples(self, split: str) -> Iterator[Sample]:
        """Yield the samples of `split` in planned order, one at a time.

        Raises:
            RunError: a shard is damaged.
        """
        if committed := self.committed(split):
            for index in range(len(committed)):
                yield committed.decode(index, self.kind)

    def statistics(self, split: str) -> dict[str, Any]:
        """Return what became of the planned items of `split`; see `statistics.py`."""
        return counts(self.run, split, self._excluded, self._condition)

    @cached_property
    def _condition(self) -> Condition | None:
        """The condition `where`.

        Raises:
            ConfigError: `where` is no condition on the tables.
        """
        if self._where is None:
            return None
        return Condition(self._where, [metric.name for metric in self.kind.metrics])

    def _selection(self, split: str) -> CommittedSamples | None:
        """Return the samples of `split`; None if it has no samples. If none is left, it is empty."""
        if split not in self._selected and self.run.outcome(split).committed:
            self._selected[split] = CommittedSamples(self.run, split, self._excluded, self._condition)
        return self._selected.get(split)


class _Snapshot(Run):
    """A run as it is when it is first read: counts and samples are of the same shards while ranks commit more."""

    @cached_property
    def _now(self) -> set[str]:
        return super().committed()

    def committed(self) -> set[str]:
        """Return the names of the shards that were committed when this was first called."""
        return self._now
