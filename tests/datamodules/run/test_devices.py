"""Device models in tables and records, with several ranks and with retries."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from datamodules.corpus import Item
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.outcome import device_mix
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.record import StagedFile
from preprocess.cli import main
from preprocess.commands.merge import merge
from preprocess.integrity import verify
from support.retry_runs import do, make_failing_run, named, open_retry
from support.run_paths import record_path
from support.runs import FINGERPRINT, Listed, finish, make_run, some_items

LARGE, SMALL = "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3080"


def devices(run: Run) -> dict[str, str | None]:
    """Return by key the device of the valid row."""
    rows = [row for shard in run.plan.shards for row in run.rows(shard.name, ["key", "device"]).to_pylist()]
    return {row["key"]: row["device"] for row in rows}


def test_two_ranks_on_different_devices_share_a_run_and_even_a_shard(tmp_path: Path) -> None:
    items = [*some_items(7), Item("train/x-bad", "train", "x-bad", ("frame.png",))]
    run = make_run(tmp_path, items, per_shard=4)
    with Rank(run, device=LARGE) as rank:
        opened = rank.lease()
        assert opened is not None
        finish(rank, opened, rows=[0])
    with Rank(Run(tmp_path), device=SMALL) as rank:  # takes over what the first one spooled
        opened = rank.lease()
        assert opened is not None
        finish(rank, opened)
    with Rank(Run(tmp_path), device=LARGE) as rank:
        opened = rank.lease()
        assert opened is not None
        finish(rank, opened)

    assert list(devices(run).values()) == [LARGE, SMALL, SMALL, SMALL, LARGE, LARGE, LARGE, LARGE]
    assert [record.devices for record in run.records()] == [{LARGE: 1, SMALL: 3}, {LARGE: 3}]
    assert run.outcome().devices == {SMALL: 3, LARGE: 4}
    assert device_mix(run.outcome().devices) == f"{SMALL} (3 samples), {LARGE} (4 samples)"
    assert list(verify(run)) == []


def test_a_retry_on_another_device_changes_the_device_of_its_own_rows_only(tmp_path: Path) -> None:
    keys = ["train/a", "train/b-cut-once", "train/c-bad-once", "train/d", "train/e-cut-then-bad"]
    run = open_or_plan(tmp_path, Listed([named(key) for key in keys]), FINGERPRINT, ShardSize(3, min_shards=1), LARGE)
    do(run, device=LARGE)
    do(open_retry(tmp_path, "truncated"), device=SMALL)
    do(open_retry(tmp_path), device=SMALL)

    run = Run(tmp_path)
    assert devices(run) == dict(zip(keys, [LARGE, SMALL, SMALL, LARGE, LARGE], strict=True))
    assert run.outcome().devices == {LARGE: 3, SMALL: 2}
    assert list(verify(run)) == []


def test_runs_of_different_devices_are_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, device in (("one", LARGE), ("other", SMALL)):
        run = open_or_plan(
            tmp_path / folder,
            Listed([named(f"train/{folder}-{i}") for i in range(2)]),
            FINGERPRINT,
            ShardSize(),
            device,
        )
        do(run, device=device)
    merged = merge([tmp_path / "one", tmp_path / "other"], tmp_path / "merged")
    assert merged.outcome().devices == {LARGE: 2, SMALL: 2}

    assert main(["verify", str(tmp_path / "merged")]) == 0
    assert f"made on several device models: {SMALL} (2 samples), {LARGE} (2 samples)" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "one")]) == 0
    assert "device models" not in capsys.readouterr().out


def test_what_was_written_before_devices_were_recorded_is_read_retried_and_verified(tmp_path: Path) -> None:
    folder = make_failing_run(tmp_path / "run", ["train/a", "train/b-bad-once", "train/c-cut-once"])
    run = Run(folder)
    for record in list(run.records()):
        path = folder / record.table.name
        pq.write_table(pq.read_table(path).drop_columns("device"), path)
        content = path.read_bytes()
        written = StagedFile(record.table.name, hashlib.sha256(content).hexdigest(), len(content))
        assert "devices" in json.loads(record_path(run, record.shard).read_text())
        record_path(run, record.shard).write_text(replace(record, table=written, devices={}).to_json())
        assert "devices" not in json.loads(record_path(run, record.shard).read_text())

    assert list(verify(Run(folder))) == []
    assert set(devices(Run(folder)).values()) == {None}
    assert Run(folder).outcome().devices == {"unknown": 2}
    do(open_retry(folder, "truncated"), device=SMALL)
    do(open_retry(folder), device=LARGE)
    assert list(verify(Run(folder))) == []
    assert devices(Run(folder)) == {"train/a": None, "train/b-bad-once": LARGE, "train/c-cut-once": SMALL}
    assert Run(folder).outcome().devices == {LARGE: 1, SMALL: 1, "unknown": 1}
