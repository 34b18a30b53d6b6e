"""Outcomes: numbers of samples, failures and frames of a run, counted from records."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

from datamodules.run.record import Record


@dataclass(frozen=True)
class Outcome:
    """Numbers of planned items by what became of them, retries included.

    Attributes:
        committed: items that became samples.
        num_frames: frames of these samples.
        statuses: number of samples by status.
        devices: number of samples by the model of the device that computed them; `unknown` if their row has none.
        failure_classes: number of items that failed, and in every retry too, by class.
    """

    committed: int
    num_frames: int
    statuses: dict[str, int]
    devices: dict[str, int]
    failure_classes: dict[str, int]

    @property
    def failed(self) -> int:
        """Number of items that failed, of all classes."""
        return sum(self.failure_classes.values())

    @classmethod
    def of(cls, records: Iterable[Record], retries: Iterable[Record] = ()) -> "Outcome":
        """Add up records.

        Args:
            records: of the run's own plan.
            retries: of its retries. What they supersede is subtracted.
        """
        statuses: Counter[str] = Counter()
        classes: Counter[str] = Counter()
        devices: Counter[str] = Counter()
        num_frames = 0
        retries = list(retries)
        for record in chain(records, retries):
            statuses.update(record.statuses)
            classes.update(record.failure_classes)
            devices.update(record.devices)
            num_frames += record.num_frames
        for record in retries:
            statuses.subtract(record.superseded_statuses)
            classes.subtract(record.superseded_classes)
            devices.subtract(record.superseded_devices)
            num_frames -= record.superseded_frames
        devices["unknown"] += statuses.total() - devices.total()
        return cls(
            committed=statuses.total(),
            num_frames=num_frames,
            statuses=dict(sorted((+statuses).items())),
            devices=dict(sorted((+devices).items())),
            failure_classes=dict(sorted((+classes).items())),
        )


def device_mix(devices: Mapping[str, int]) -> str:
    """Return `Outcome.devices` as text: `NVIDIA A100-SXM4-80GB (1,204 samples), NVIDIA H200 (796 samples)`."""
    return ", ".join(f"{device} ({count:,} samples)" for device, count in devices.items())
