"""Sample kinds: what one item becomes, how that is written to and read from a shard, and how it is batched."""

from collections.abc import Mapping, Sequence
from os import SEEK_END
from typing import Any, BinaryIO, Protocol, TypeVar

from datamodules.errors import RunError

Sample = TypeVar("Sample")
Content = bytes | BinaryIO  # of a file in a shard: an open file, where it is too large for the memory


class SampleKind(Protocol[Sample]):
    """One kind of sample. Encoding is deterministic: equal samples give equal bytes.

    One whose samples are not to stand in memory whole has a true `opens_files`: its `decode` is given open files, which
    can be read in parts, in place of their content.

    One that declares the `fields` of its json has samples with a `meta`, in which the corpus's fields have one type in
    all samples of a run (`fields.py`); and its runs get a dataset card (`card.py`).
    """

    def encode(self, sample: Sample) -> Mapping[str, Content]:
        """The files of `sample` in a shard, by ending (`json`, `keypoints.npy`)."""
        ...

    def decode(self, key: str, members: Mapping[str, bytes]) -> Sample:
        """The sample whose files, by ending, are `members`; extra files are ignored.

        Raises:
            RunError: a file is missing, or is not what this kind writes.
        """
        ...

    def collate(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """A training batch."""
        ...


def size_of(content: Content) -> int:
    """Bytes in it."""
    return len(content) if isinstance(content, bytes) else content.seek(0, SEEK_END)


def require_alike(forms: Sequence[tuple[str, str]]) -> None:
    """Nothing, if the samples that are to be one batch have one form; of each, its key and that, in words.

    Raises:
        RunError: two differ.
    """
    first, form = forms[0]
    for key, other in forms:
        if other != form:
            raise RunError(
                f"{first} has {form}, but {key} has {other}, as they were made with other options: they cannot be one "
                "batch; run the pipeline anew with the options of one"
            )
