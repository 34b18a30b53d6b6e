"""Sample kinds: what one item becomes, how that is written to and read from a shard, batched, listed and drawn."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from datamodules.errors import ConfigError
from datamodules.samples.columns import Column, overview_of, row_of
from datamodules.samples.content import Content
from datamodules.samples.drawing import Drawing, SourceFrames
from datamodules.samples.fields import Field
from datamodules.samples.metrics import Metric, metrics_of

Sample = TypeVar("Sample")


class SampleKind(ABC, Generic[Sample]):
    """One kind of sample. A new kind defines `encode`, `decode` and `collate`; all else has a default.

    Samples have a `key`, that of their item. If their kind declares `fields`, they also have a `meta`, a dictionary.
    Arguments of a constructor are for training batches, and have defaults: commands that read a run create its kind
    without any.

    Attributes:
        fields: the declared fields of a sample's `json`. If there are any, each field of the corpus has one type in all
            samples of a run (`fields.py`), and the run gets a dataset card (`card.py`).
        columns: further values of a sample, for exported tables and `preprocess view`.
        metrics: numbers of a sample, for the tables of the shards and `preprocess report`.
        opens_files: whether `decode` is given open files, which it can read in parts, instead of bytes. For samples
            that are too large for memory.
    """

    fields: tuple[Field, ...] = ()
    columns: tuple[Column, ...] = ()
    metrics: tuple[Metric, ...] = ()
    opens_files: bool = False

    @abstractmethod
    def encode(self, sample: Sample) -> Mapping[str, Content]:
        """Return the files of `sample` in a shard, by ending (`json`, `keypoints.npy`).

        Equal samples must give equal bytes.
        """

    @abstractmethod
    def decode(self, key: str, members: Mapping[str, Any]) -> Sample:
        """Return the sample of an item.

        Args:
            key: the item's key.
            members: its files by ending: bytes, or open files if `opens_files`. Files of other endings are ignored.

        Raises:
            RunError: a file is missing, or is not what `encode` writes.
        """

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return a training batch of `samples`: tensors, or arrays that become tensors, and lists of other values."""

    def for_evaluation(self) -> "SampleKind[Sample]":
        """Return the kind that makes the batches of validation and test: without random changes."""
        return self

    def row(self, sample: Sample) -> dict[str, Any]:
        """Return the values of `sample` for the `columns` that are in tables, by name."""
        return row_of(sample, self.columns)

    def metrics_of(self, sample: Sample) -> dict[str, float]:
        """Return the `metrics` of `sample` by name, without those that are unknown."""
        return metrics_of(sample, self.metrics)

    def overview(self, samples: Iterable[Sample]) -> dict[str, str]:
        """Return what `preprocess view` says of `samples`, by name of the column; see `Column.summary`."""
        return overview_of(samples, self.columns)

    def draw(self, sample: Sample, source: SourceFrames) -> Drawing:
        """Return what `preprocess visualize` shows of `sample`.

        Args:
            sample: as `decode` returned it.
            source: the frames that it was made of.

        Raises:
            ConfigError: this kind draws no samples.
            RunError: this sample cannot be drawn.
        """
        raise ConfigError(f"{type(self).__name__} cannot be drawn: the class defines no method `draw`")
