"""Counts the page faults of allocating a block of memory, in this process and in workers."""

import resource
from typing import Any

from datamodules.corpus import Item

PAGES = (64 << 20) // resource.getpagesize()  # of the block: glibc gives any of more than 32 MiB back when it is free


def faults_of_a_block() -> int:
    """Page faults of using a block of memory, when one as large was used before."""
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(b"\1") * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


class Faults:
    """Counts the page faults of a block in the process that transforms frames."""

    def start(self, item: Item) -> None:
        pass

    def __call__(self, frame: Any) -> int:
        return faults_of_a_block()
