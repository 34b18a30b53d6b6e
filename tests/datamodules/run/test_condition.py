from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datamodules.errors import ConfigError
from datamodules.run.condition import Condition
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.run.table import TABLE_SCHEMA
from support.keypoint_runs import MadeItems, make_run, retry_made

ROWS = [
    {"key": "a", "status": "ok", "num_frames": 4, "seconds": 1.5, "metrics": [("rate", 0.25)]},
    {"key": "b", "status": "ok", "num_frames": 8, "seconds": 0.5, "metrics": [("rate", 0.75), ("size", 3.0)]},
    {"key": "c", "status": "truncated", "num_frames": 16, "seconds": 2.0, "decoder": "pyav", "metrics": []},
    {"key": "d", "status": "ok", "num_frames": 32, "seconds": 0.0, "decoder": "torchcodec"},
]
METRICS = ["rate", "size"]


def selected(text: str) -> str:
    """The keys of the rows that meet a condition."""
    rows = pa.Table.from_pylist([{"attempts": 1, **row} for row in ROWS], TABLE_SCHEMA)
    condition = Condition(text, METRICS)
    return "".join(rows.filter(condition.evaluate(rows.select(condition.columns)))["key"].to_pylist())


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("status == 'ok' and num_frames >= 8", "bd"),
        ("status != 'ok' or seconds < 1", "bcd"),
        ("4 < num_frames <= 16", "bc"),
        ("num_frames in (4, 32)", "ad"),
        ("not key in ['a', 'b']", "cd"),
        ("key not in {'a', 'b'}", "cd"),
        ("rate > -1", "ab"),
        ("not rate > 0.5", "a"),  # c and d have no rate
        ("rate > 0.5 or status == 'truncated'", "bc"),
        ("size is not None", "b"),
        ("decoder is None and rate is not None", "ab"),
        ("decoder not in ['pyav']", "d"),
        ("num_frames > seconds", "abcd"),
        ("not (status == 'ok' and (num_frames == 4 or num_frames == 8))", "cd"),
    ],
)
def test_a_condition_selects_rows(text: str, keys: str) -> None:
    assert selected(text) == keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("status = 'ok'", r"is not a condition: invalid syntax\. A condition has names, texts"),
        ("", "is not a condition"),
        ("width > 3", r"names 'width', which is not recorded\. The columns are key, .*; the metrics .* are rate, size"),
        ("metrics is None", "names 'metrics'"),
        ("status > 3", r"cannot be computed: .*\(string, int64\)\. Compare texts with texts"),
        ("num_frames", "is not a condition on a column"),
        ("3 > 2", "is not a condition on a column"),
        ("num_frames > 10 ** 9", r"has '10 \*\* 9' where it cannot be"),
        ("__import__('os').system('true')", "names '__import__'"),
        ("key.upper() == 'A'", r"has 'key\.upper\(\)' where it cannot be"),
        ("status == None", "has 'None' where it cannot be"),
        ("'ok' in status", "has 'status' where it cannot be"),
        ("num_frames > 99999999999999999999", "cannot be computed"),
        ("not " * 10_000 + "rate > 0", "is not a condition|cannot be computed"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Condition(text, METRICS)


def test_committed_samples_are_selected_among_the_valid_rows_of_retries(tmp_path: Path) -> None:
    corpus = MadeItems({"train": 8})
    run = make_run(tmp_path, corpus, failed=("train/v2", "train/v3", "train/v5"))

    def keys(text: str) -> list[Any]:
        return [key for key, _ in CommittedSamples(Run(run.store), "train", where=Condition(text, ["face_rate"]))]

    assert keys("num_frames >= 2") == ["train/v1", "train/v6", "train/v7"]
    retry_made(tmp_path, failed=("train/v3",))
    assert keys("num_frames >= 2") == ["train/v1", "train/v2", "train/v5", "train/v6", "train/v7"]
    assert keys("face_rate >= 0 and supersedes is not None") == ["train/v2", "train/v5"]
