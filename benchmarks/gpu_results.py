"""The results of `gpu.py`: rows in a JSON file and a Markdown table, which are both written after every measurement."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

State = Literal["measured", "failed", "skipped", "left"]

COPY = "copy within the memory"  # its GB/s are the limit of what moves bytes
_MOST_NOTE = 300  # characters in the table; the JSON file has all
_PHOENIX_FRAMES = 947_756
TARGETS = {"fp32": 3000.0, "fp16": 6000.0}  # images/s of Holistic on an H200


class Figures(NamedTuple):
    """What one measurement found.

    Attributes:
        rate: units per second.
        unit: of the rate, such as `images`.
        traffic_mb: bytes that one unit moves through the device's memory, in MB; 0: not counted.
        memory_mb: peak of the device's memory for one unit, in MB; 0: not measured.
        note: all else.
    """

    rate: float
    unit: str
    traffic_mb: float = 0.0
    memory_mb: float = 0.0
    note: str = ""


class Row(NamedTuple):
    """One measurement of a part; `figures` of a row that was not measured have only a note, which says why."""

    part: str
    name: str
    state: State
    figures: Figures


class Results:
    """All rows, those of earlier calls included.

    Args:
        path: the JSON file; the table is beside it, with the suffix `.md`.
        facts: of the machine, such as the name of its GPU; empty until a part has told them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[tuple[str, str], Row] = {}
        self.facts: dict[str, str] = {}
        if path.exists():
            content = json.loads(path.read_text())
            self.facts = content["facts"]
            for part, name, state, figures in content["rows"]:
                if state == "measured":  # the rest is tried again
                    self._rows[part, name] = Row(part, name, state, Figures(*figures))

    def set_facts(self, facts: dict[str, str]) -> None:
        """Note what the machine is. Raises SystemExit if the rows of the file are of another one."""
        if self.facts and self.facts != facts:
            raise SystemExit(f"{self._path} has results of {self.facts}, and this is {facts}. Name another --out")
        self.facts = facts

    def put(self, row: Row) -> None:
        """Add or replace a row, and write both files."""
        self._rows[row.part, row.name] = row
        self.save()

    def plan(self, part: str, names: Iterable[str]) -> None:
        """Add rows of measurements that are still to be made."""
        for name in names:
            self._rows.setdefault((part, name), Row(part, name, "left", Figures(0.0, "", note="no time was left")))
        self.save()

    def tried(self, part: str) -> set[str]:
        """Return the names of a part's measurements that were made, or failed or were skipped in this call."""
        return {row.name for row in self._rows.values() if row.part == part and row.state != "left"}

    def has_left(self, part: str) -> bool:
        """Return whether a part has measurements that are still to be made, or was not begun."""
        states = {row.state for row in self._rows.values() if row.part == part}
        return not states or "left" in states

    def save(self) -> None:
        """Write both files, each whole or not at all."""
        rows = [[*row] for row in self._rows.values()]
        _replace(self._path, json.dumps({"facts": self.facts, "rows": rows}, indent=1))
        _replace(self._path.with_suffix(".md"), self.markdown())

    def markdown(self) -> str:
        """Return the table, and the verdicts on what was aimed at."""
        lines = [", ".join(f"{name} {value}" for name, value in self.facts.items()), ""]
        lines += ["| part | | per second | of the limit | memory MB | |", "|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(self._cells(row))} |" for row in self._rows.values()]
        return "\n".join([*lines, "", *self._verdicts(), ""])

    def _cells(self, row: Row) -> list[str]:
        rate, unit, traffic_mb, memory_mb, note = row.figures
        note = " ".join(note.split()).replace("|", "\\|")
        note = note if len(note) <= _MOST_NOTE else f"{note[:_MOST_NOTE]} …"
        if row.state != "measured":
            return [row.part, row.name, row.state if row.state != "left" else "–", "", "", note]
        copy = self._rows.get((row.part, COPY))
        share = f"{rate * traffic_mb / copy.figures.rate / 1000:.0%} of {traffic_mb:,.0f} MB" if copy else ""
        digits = 0 if rate >= 100 else 2
        memory = f"{memory_mb:,.1f}" if memory_mb else ""
        return [row.part, row.name, f"{rate:,.{digits}f} {unit}", share if traffic_mb else "", memory, note]

    def _verdicts(self) -> list[str]:
        verdicts = []
        for precision, least in TARGETS.items():
            rates = [
                row.figures.rate
                for row in self._rows.values()
                if row.part == "holistic" and row.state == "measured" and row.name.startswith(precision)
            ]
            if rates:
                best = max(rates)
                verdicts.append(
                    f"target ≥ {least:,.0f} images/s {precision} (H200); measured {best:,.0f}, PHOENIX-2014-T in "
                    f"{_PHOENIX_FRAMES / best / 3600:.2f} h: {'yes' if best >= least else 'NO'}  "
                )
        return verdicts


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
