"""Results: whether a planned item became a sample or a failure, and how."""

from dataclasses import dataclass, field

OK = "ok"  # status of a sample without anything to report
EMPTY = "empty"  # status of a sample in which the model detected nothing


@dataclass(frozen=True)
class Result:
    """The result of one planned item: a sample or a failure.

    Attributes:
        row: row of the item in its shard, from 0.
        num_frames: frames in the sample; 0 for a failure.
        seconds: spent on the item: reading and transforming it in its worker, and its share, by frames, of the time
            that extracting its batches took. Timings are never part of a tar.
        reason: why the item failed; None for a sample.
        reason_class: class of the failure, see `datamodules.errors`; None for a sample.
        attempts: number of attempts at the item, this one included.
        split_to: frames in the smallest batch that its frames were in; None: batches were as planned.
        decoder: the backends that decoded its video, in order, separated by commas; None for other items.
        status: of a sample, as `Extractor.status` returned it.
        device: model of the device of the rank that made the result; None: not recorded.
        metrics: numbers of the sample by name; see `datamodules.samples.metrics`.
    """

    row: int
    num_frames: int = 0
    seconds: float = 0.0
    reason: str | None = None
    reason_class: str | None = None
    attempts: int = 1
    split_to: int | None = None
    decoder: str | None = None
    status: str = OK
    device: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
