"""Counts of what a listing left out, by kind, for one line when a run is planned."""

import os
from collections import Counter

_Kind = tuple[str, str]  # singular and plural

OTHER_EXTENSION: _Kind = ("file with another extension", "files with other extensions")
HIDDEN_FILE: _Kind = ("hidden file", "hidden files")
HIDDEN_FOLDER: _Kind = ("hidden folder", "hidden folders")
RUN: _Kind = ("folder that is a run", "folders that are runs")
LOOP: _Kind = ("link to a folder that contains it", "links to folders that contain them")

_KINDS = (OTHER_EXTENSION, HIDDEN_FILE, HIDDEN_FOLDER, RUN, LOOP)
_MAX_NAMED = 5  # extensions or paths of a kind that the text shows


class Skipped:
    """Counts of what a listing left out; as text, such as `7 files with other extensions (.wmv 7), 1 hidden file`.

    Memory does not grow with the number of hidden files and folders; runs and loops are few, and kept by path.
    """

    def __init__(self) -> None:
        self._counts: dict[_Kind, Counter[str]] = {kind: Counter() for kind in _KINDS}

    def add(self, kind: _Kind, name: str = "") -> None:
        """Count one more.

        Args:
            kind: one of this module's constants.
            name: of a file with another extension; or the path of a run or loop. Not needed for hidden ones.
        """
        detail = os.path.splitext(name)[1].lower() or "none" if kind == OTHER_EXTENSION else name
        self._counts[kind][detail] += 1

    def update(self, other: "Skipped") -> None:
        """Add the counts of another listing."""
        for kind, counts in other._counts.items():
            self._counts[kind].update(counts)

    def clear(self) -> None:
        """Set all counts to 0, before another listing."""
        for counts in self._counts.values():
            counts.clear()

    def __bool__(self) -> bool:
        return any(self._counts.values())

    def __str__(self) -> str:
        return ", ".join(_describe(kind, counts) for kind, counts in self._counts.items() if counts)


def _describe(kind: _Kind, counts: "Counter[str]") -> str:
    total = counts.total()
    most = sorted(counts.items(), key=lambda counted: (-counted[1], counted[0]))[:_MAX_NAMED]
    named = [f"{name} {count:,}" if kind == OTHER_EXTENSION else name for name, count in most]
    more = ["…"] if len(counts) > _MAX_NAMED else []
    details = ", ".join(filter(None, [*named, *more]))
    return f"{total:,} {kind[total != 1]}" + (f" ({details})" if details else "")
