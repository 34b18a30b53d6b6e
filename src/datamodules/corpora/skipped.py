"""What a listing leaves out, counted by kind, for the one line that says so when a run is planned."""

import os
from collections import Counter

OTHER_EXTENSION = ("file with another extension", "files with other extensions")
HIDDEN_FILE = ("hidden file", "hidden files")
HIDDEN_FOLDER = ("hidden folder", "hidden folders")
RUN = ("folder that is a run", "folders that are runs")
LOOP = ("link to a folder that contains it", "links to folders that contain them")

_KINDS = (OTHER_EXTENSION, HIDDEN_FILE, HIDDEN_FOLDER, RUN, LOOP)
_MAX_NAMED = 5


class Skipped:
    """Counts of what a listing left out; as text, for example `7 files with other extensions (.wmv 7), 1 hidden file`.

    Memory does not grow with the number of hidden files and folders; runs and loops are few, and kept by path.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counter[str]] = {kind: Counter() for kind in _KINDS}

    def add(self, kind: tuple[str, str], name: str = "") -> None:
        """Count one more of `kind`, which is one of this module's constants.

        Args:
            kind: in the singular and in the plural.
            name: of the file or folder; only needed where the text shows it: of runs and loops its path.
        """
        detail = os.path.splitext(name)[1].lower() or "none" if kind == OTHER_EXTENSION else name
        self._counts[kind][detail] += 1

    def clear(self) -> None:
        """Forget all counts, before another listing."""
        for counts in self._counts.values():
            counts.clear()

    def __bool__(self) -> bool:
        return any(self._counts.values())

    def __str__(self) -> str:
        return ", ".join(_in_words(kind, counts) for kind, counts in self._counts.items() if counts)


def _in_words(kind: tuple[str, str], counts: "Counter[str]") -> str:
    number = counts.total()
    most = sorted(counts.items(), key=lambda counted: (-counted[1], counted[0]))[:_MAX_NAMED]
    named = [f"{name} {count:,}" if kind == OTHER_EXTENSION else name for name, count in most]
    more = ["…"] if len(counts) > _MAX_NAMED else []
    details = ", ".join(filter(None, [*named, *more]))
    return f"{number:,} {kind[number != 1]}" + (f" ({details})" if details else "")
