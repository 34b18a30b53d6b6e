"""The state of a run as people and programs see it: rates, tokens and GPUs."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from datamodules import FramesDataModule
from datamodules.corpus import Item
from datamodules.run.activity import mean_and_peak
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from preprocess.job.output import Output
from preprocess.job.progress import quiet
from preprocess.job.session import Job, Session
from preprocess.report.status import StatusReader, headline, render
from preprocess.terminal import Terminal
from support.brightness import Brightness, ImageFolders
from support.run_paths import record_path
from support.runs import finish, lease, make_run

GPU = {
    "name": "H100",
    "utilization_percent": 93,
    "memory_percent": 41.2,
    "temperature_celsius": 61,
    "power_watts": 310,
}


def drawn(status: Any) -> str:
    console = Terminal(width=200)
    with console.capture() as capture:
        console.print(render(status))
    return capture.get()


def measured_run(folder: Path, *gpus: dict[str, Any]) -> Run:
    """A run of a shard of one item for each of `gpus`, committed one after another while the rank measures it."""
    run = make_run(folder, len(gpus), per_shard=1)
    gpu: dict[str, Any] = {}
    with Rank(run, measure=lambda: {"cpu_percent": 50.0, "gpu": dict(gpu)}) as rank:
        for number, figures in enumerate(gpus):
            gpu = figures
            opened = lease(rank)
            opened.measured.clear()  # what the heartbeat may have added
            opened.since -= 10 * (number + 1)  # seconds since the lease
            rank.publish()
            finish(rank, opened)
    return run


@pytest.mark.parametrize(
    ("measured", "summary"),
    [
        ([], {}),
        ([{}], {}),
        ([{"cpu": 10.0}, {"cpu": 20}, {}], {"cpu": {"mean": 15.0, "peak": 20}}),
        (
            [{"gpu": {"name": "A", "busy": 0}}, {"gpu": {"name": "A", "busy": 99}}, {"gpu": {}}],
            {"gpu": {"name": "A", "busy": {"mean": 49.5, "peak": 99}}},
        ),
    ],
)
def test_figures_are_summed_up_by_mean_and_peak(measured: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    assert mean_and_peak(measured) == summary


def test_a_record_says_how_busy_the_gpu_was_and_the_status_how_busy_all_were(tmp_path: Path) -> None:
    run = measured_run(tmp_path, GPU, {**GPU, "utilization_percent": 33})
    first, second = run.records()
    assert first.machine["gpu"]["name"] == "H100"
    assert first.machine["gpu"]["power_watts"] == {"mean": 310, "peak": 310}
    assert first.machine["cpu_percent"] == {"mean": 50.0, "peak": 50.0}
    assert second.machine["gpu"]["utilization_percent"] == {"mean": 33, "peak": 33}
    status = StatusReader(Run(tmp_path)).read()
    assert status.gpu_percent == pytest.approx((93 * 10 + 33 * 20) / 30, abs=3)  # unweighted: 63
    assert f"GPUs busy: {status.gpu_percent:.0f} %" in headline(status)
    assert json.loads(status.to_json())["gpu_percent"] == status.gpu_percent


def test_a_run_without_gpus_says_nothing_of_them(tmp_path: Path) -> None:
    status = StatusReader(measured_run(tmp_path, {}, {})).read()
    assert status.gpu_percent is None
    assert "GPU" not in headline(status)


@pytest.mark.parametrize(
    "figures",
    [{"gpu": "utilization_percent"}, {"gpu": {"utilization_percent": 5}}, {"gpu": {"utilization_percent": {}}}],
)
def test_figures_of_a_machine_that_no_rank_measures_are_left_out(tmp_path: Path, figures: dict[str, Any]) -> None:
    run = measured_run(tmp_path, {}, {})
    record = next(run.records())
    record_path(run, record.shard).write_text(replace(record, machine=figures).to_json())
    assert StatusReader(run).read().gpu_percent is None


def test_a_shard_is_charged_with_what_was_measured_since_its_lease_only(tmp_path: Path) -> None:
    load = iter([90.0, 10.0, 30.0])
    run = make_run(tmp_path, 2, per_shard=1)
    with Rank(run, measure=lambda: {"load": next(load, 0.0)}) as rank:
        while not rank.activity.machine:  # the first beat
            time.sleep(0.01)
        opened = lease(rank)
        rank.publish()
        rank.publish()
        finish(rank, opened)
        assert run.record(opened.shard.name).machine == {"load": {"mean": 20.0, "peak": 30.0}}
        short = lease(rank)
        finish(rank, short)
        assert run.record(short.shard.name).machine == {"load": {"mean": 30.0, "peak": 30.0}}


def test_each_rank_shows_its_own_gpu_and_its_tokens(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    with Rank(run, measure=lambda: {"gpu": GPU}) as writes, Rank(run, measure=lambda: {"gpu": {}}) as idles:
        writes.activity.tokens, writes.activity.started = 500, time.time() - 10
        writes.publish()
        idles.publish()
        status = StatusReader(run).read()
        table = {line.split()[0]: line for line in drawn(status).splitlines() if line.strip()}
        assert status.tokens_per_second == pytest.approx(50, rel=0.05)
        assert table["rank"].split()[2:4] == ["frames/s", "tokens/s"]
        assert table[writes.name].rstrip().endswith("93 %, memory 41 %, 61 °C, 310 W")
        assert table[idles.name].rstrip().endswith("–")


def test_without_tokens_there_is_no_column_of_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    with Rank(run) as rank:
        rank.publish()
        assert "tokens/s" not in drawn(StatusReader(run).read())


class Spoken(NamedTuple):
    brightness: float
    num_tokens: int


class Speaking(Brightness):
    """Results that say of how many tokens they are: of a bright frame more than of a dark one."""

    def extract(self, batch: Any) -> Any:
        return [Spoken(value, round(value)) for value in super().extract(batch)]

    def assemble(self, item: Item, results: Any, end: Any) -> Any:
        return super().assemble(item, [result.brightness for result in results], end)


def test_the_writer_counts_the_tokens_of_results_that_tell_them(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (10 * number,) * 3).save(corpus / f"{number}.png")
    quiet()  # what Lightning warns of
    data = FramesDataModule(num_workers=0)
    output = Output(str(tmp_path / "run"))
    with Session(Job(Speaking(), ImageFolders(str(corpus)), data, output, {"accelerator": "cpu"})) as session:
        session.predict()
    assert session.rank.activity.tokens == 0 + 10 + 20


PROGRESS = {"rows": 1, "num_rows": 1, "frames": 3, "cost": 4, "seconds": 5.0}
OF_A_RANK = {"rank": "r", "host": "h", "started": 0.0, "items": 3}


@pytest.mark.parametrize(
    "fields",
    [
        {"updated": "now"},
        {"updated": float("nan")},
        {"started": -1e308},
        {"items": 10**400},
        {"items": -1},
        {"seconds": {"read": 1e308}},
        {"seconds": [1]},
        {"shards": [["train-000000", 1]]},
        {"shards": {"train-000000": {"rows": 1}}},
        {"shards": {"train-000000": {**PROGRESS, "rows": "1"}}},
        {"shards": {"train-000000": {**PROGRESS, "seconds": 1e300}}},
        {"machine": "fast"},
        {"machine": {"cpu_percent": "50"}},
        {"machine": {"gpu": {"power_watts": None}}},
        {"machine": {"gpu": "[" * 20}},
        {"nothing": "known"},
    ],
)
def test_status_ignores_rank_files_that_no_rank_writes(tmp_path: Path, fields: dict[str, Any]) -> None:
    run = make_run(tmp_path, 1)
    of_a_rank = {"updated": time.time(), **OF_A_RANK}
    (run.work / "ranks").mkdir(parents=True, exist_ok=True)
    (run.work / "ranks" / "bad").write_text(json.dumps({"activity": of_a_rank | fields}))
    (run.work / "ranks" / "deep").write_text("[" * 5000)
    good = of_a_rank | {"shards": {"train-000000": {**PROGRESS, "rows": 70, "cost": 1 << 60}}}
    (run.work / "ranks" / "good").write_text(json.dumps({"activity": good}))
    status = StatusReader(run).read()
    assert [rank.rank for rank in status.ranks] == ["r"]
    assert (status.spooled, status.progress) == (1, 1.0)  # of the one that is planned
    assert "r " in drawn(status)
    assert json.loads(status.to_json())["spooled"] == 1
