"""Results: what became of one planned item."""

from dataclasses import dataclass

OK = "ok"  # the status of a sample with which nothing is the matter
EMPTY = "empty"  # the status of a sample in which nothing was found that was looked for


@dataclass(frozen=True)
class Result:
    """What became of one planned item.

    Attributes:
        row: its place in the shard.
        num_frames: frames in the sample; 0 when failed.
        seconds: reading and computing took; never part of a tar.
        reason: why it failed; None: it is a sample.
        reason_class: see `datamodules.errors`; None: it is a sample.
        attempts: how often it was tried.
        split_to: frames in the smallest batch its frames were in; None: batches were as planned.
        decoder: the backends that decoded its video, in order, separated by commas; None: it is none.
        status: of a sample; `Extractor.status`.
        device: model of the device of the rank that gave the result; None: not recorded.
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
