"""Headers of tars: the short way of reading them gives what `tarfile` does."""

import io
import random
import tarfile

import pytest

from datamodules.errors import CorpusError
from datamodules.tar_members import read_members


def read_header(header: bytes, size: int) -> tuple[str, int] | str:
    """Return (name, size) of a tar with this header and `size` zeros, or why it cannot be read."""
    try:
        members = list(read_members(io.BytesIO(header + bytes(-(-size // 512) * 512)), "x.tar", is_whole=False))
    except CorpusError as error:
        return str(error)
    return (members[0].name, members[0].num_bytes) if members else "folder"


@pytest.mark.parametrize("name", ["a", "train/x.json", "b" * 100, "dir/" + "0" * 96, "ü.txt", "0000644"])
@pytest.mark.parametrize("size", [0, 5, 513])
def test_names_and_sizes_are_those_that_were_written(name: str, size: int) -> None:
    header = tarfile.TarInfo(name)
    header.size = size
    assert read_header(header.tobuf(tarfile.USTAR_FORMAT), size) == (name, size)


def test_any_changed_header_reads_as_with_tarfile(monkeypatch: pytest.MonkeyPatch) -> None:
    header, rng = tarfile.TarInfo("train/" + "x" * 90), random.Random(0)
    header.size = 5
    original, changed = header.tobuf(tarfile.USTAR_FORMAT), []
    for _ in range(5000):
        block = bytearray(original)
        block[rng.choice((rng.randrange(512), rng.randrange(90, 160)))] = rng.choice((rng.randrange(256), 0, 32, 48))
        if rng.random() < 0.9:  # with a checksum that is right
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
        changed.append(bytes(block))
    fast = [read_header(block, 5) for block in changed]
    monkeypatch.setattr("datamodules.tar_members._plain_header", lambda block: None)
    assert fast == [read_header(block, 5) for block in changed]
