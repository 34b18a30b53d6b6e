"""The log of finished items, `--output.log`: lines for people on standard error, or JSON on standard output.

| field of an object                | meaning                                                                     |
|-----------------------------------|-----------------------------------------------------------------------------|
| time                              | when the item was finished, ISO 8601, UTC                                   |
| rank                              | name of the rank: host, process id, random digits                           |
| device                            | of the rank, such as `cuda:0`                                               |
| shard, key, file                  | where its row is; its key; the path that its frames were read from          |
| status                            | `ok`, another status of the sample, or `failed`                             |
| frames                            | number of frames of the sample; 0 if it failed                              |
| seconds                           | spent on the item, see `datamodules.run.result.Result`                      |
| frames_per_second                 | frames / seconds; null without frames                                       |
| metrics                           | numbers of the sample by name, see `datamodules.samples.metrics`            |
| reason, reason_class              | why it failed, and the class of the failure; else null                      |
| attempts                          | number of attempts at the item                                              |

Each rank logs the items that it finishes. An item that two ranks work on at the end of a run is logged by both.
"""

import os
import sys
import threading
import time
from datetime import datetime, timezone
from typing import Literal

from datamodules.corpus import Item
from datamodules.printable import json_line
from datamodules.run.result import OK, Result
from preprocess.terminal import note, note_all

Form = Literal["items", "jsonl"]
_DELAY_SECONDS = 0.25  # within which lines are printed at once: on a terminal each time takes some milliseconds


class ItemLog:
    """Logs each item that a rank finishes.

    Args:
        form: `items`: lines of text; `jsonl`: JSON objects.
        rank: name of the rank.
        device: of the rank, such as `cuda:0`.
    """

    def __init__(self, form: Form, rank: str, device: str) -> None:
        self._form, self._rank, self._device = form, rank, device
        self._is_open = True
        self._lines: list[str] = []  # to print
        self._lock = threading.Lock()

    def add(self, shard: str, item: Item, result: Result) -> None:
        """Log an item of the shard named `shard`. If standard output cannot be written to, the run goes on."""
        if self._form == "items":
            line = f"{time.strftime('%H:%M:%S')} {self._line(item, result)}"
            with self._lock:
                self._lines.append(line)
                if len(self._lines) == 1:
                    threading.Timer(_DELAY_SECONDS, self.flush).start()
        elif self._is_open:
            try:
                # in one system call, so that lines of several ranks are not mixed
                sys.stdout.write(self._object(shard, item, result) + "\n")
                sys.stdout.flush()
            except OSError as error:  # its reader has ended, or the disk is full
                self._is_open = False
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it again at its end
                note(
                    f"standard output cannot be written to ({error.strerror}). Items are not logged any more", "yellow"
                )

    def flush(self) -> None:
        """Print the lines that wait to be printed."""
        with self._lock:
            lines, self._lines = self._lines, []
        note_all(lines)

    def _line(self, item: Item, result: Result) -> str:
        start = f"{self._device} {item.source}"
        if result.reason is not None:
            attempts = f" after {result.attempts} attempts" if result.attempts > 1 else ""
            return f"{start}: failed{attempts} ({result.reason_class}): {result.reason}"
        frames = f"{result.num_frames:,} frame" + ("s" if result.num_frames > 1 else "")
        rate = f" ({result.num_frames / result.seconds:,.1f} frames/s)" if result.seconds else ""
        metrics = (f"{name} {round(value, 3):,.10g}" for name, value in result.metrics.items())
        status = [result.status] if result.status != OK else []
        return ", ".join([f"{start}: {frames} in {result.seconds:,.1f} s{rate}", *status, *metrics])

    def _object(self, shard: str, item: Item, result: Result) -> str:
        has_rate = result.num_frames and result.seconds
        return json_line(
            {
                "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "rank": self._rank,
                "device": self._device,
                "shard": shard,
                "key": item.key,
                "file": item.source,
                "status": "failed" if result.reason is not None else result.status,
                "frames": result.num_frames,
                "seconds": result.seconds,
                "frames_per_second": round(result.num_frames / result.seconds, 3) if has_rate else None,
                "metrics": result.metrics,
                "reason": result.reason,
                "reason_class": result.reason_class,
                "attempts": result.attempts,
            }
        )
