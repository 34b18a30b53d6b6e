"""What a run shows and writes while it goes on: progress by frames, the log of items, and figures for loggers."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from datamodules import FramesDataModule
from datamodules.corpora.videos import Videos
from datamodules.corpus import Item
from datamodules.run.activity import PHASES
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.samples.metrics import Metric
from preprocess.cli import main
from preprocess.job.figures import FigureLog
from preprocess.job.item_log import ItemLog
from preprocess.job.output import Output
from preprocess.job.progress import quiet
from preprocess.job.session import Job, Session
from preprocess.report.status import Status, StatusReader, headline
from support.brightness import Brightness, BrightnessSamples, ImageFolders
from support.environment import process_environment
from support.frame_corpora import write_video
from support.runs import finish, lease, make_run

NUM_FRAMES = {"a": 20, "b": 4}


class Watched(Brightness):
    """Reads the status of the run before each batch."""

    look: Callable[[], Status]

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Status] = []

    def extract(self, batch: Any) -> list[Any]:
        self.seen.append(self.look())
        return super().extract(batch)


class MeasuredSamples(BrightnessSamples):
    metrics = (Metric("mean", "of all frames", lambda sample: float(sample.brightness.mean())),)


class Measured(Brightness):
    """Has a metric."""

    samples = MeasuredSamples()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two sequences of gray frames; the second has one frame of the value 7."""
    for name, num_frames in NUM_FRAMES.items():
        (tmp_path / "corpus" / name).mkdir(parents=True)
        for frame in range(num_frames):
            value = 7 if (name, frame) == ("b", 2) else 100
            Image.new("L", (8, 8), value).save(tmp_path / "corpus" / name / f"{frame:02d}.png")
    return tmp_path / "corpus"


def job_of(corpus: Path, extractor: Brightness, **output: Any) -> Job:
    quiet()  # what Lightning warns of
    folder = str(corpus.parent / "run")
    data, where = FramesDataModule(num_workers=0), Output(folder, **output)
    return Job(extractor, ImageFolders(str(corpus)), data, where, {"accelerator": "cpu"})


def predict(job: Job) -> Run:
    with Session(job) as session:
        session.predict()
    return session.run


def watch(job: Job) -> list[Status]:
    """Run a job whose extractor is `Watched`, and return the status before each batch."""
    extractor = job.extractor
    assert isinstance(extractor, Watched)
    with Session(job) as session:

        def look() -> Status:
            session.rank.publish()
            return StatusReader(session.run).read()

        extractor.look = look
        session.predict()
    return extractor.seen


def test_progress_counts_the_frames_of_a_video_in_progress(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "long.mp4", 40)
    quiet()
    data, output = FramesDataModule(num_workers=0), Output(str(tmp_path / "run"))
    seen = watch(Job(Watched(), Videos(str(tmp_path / "videos")), data, output, {"accelerator": "cpu"}))
    assert [(status.items, status.open_frames) for status in seen] == [(0, 8 * batch) for batch in range(5)]
    assert [status.progress for status in seen] == pytest.approx([batch / 5 for batch in range(5)], abs=0.01)
    assert seen[0].eta_seconds is None
    assert all(status.eta_seconds and status.frames_per_second > 0 for status in seen[1:])
    assert headline(seen[2]).startswith("0 of 1 items (40.0 %) · 0 of 1 shards · 16 frames · 0 failed · 0.0 items/s, ")


def test_progress_is_the_share_of_the_bytes_of_input(corpus: Path) -> None:
    seen = watch(job_of(corpus, Watched()))
    sizes = {name: sum(path.stat().st_size for path in (corpus / name).iterdir()) + 1 for name in NUM_FRAMES}
    total = sum(sizes.values())
    expected = [0, 8 / 20 * sizes["a"], 16 / 20 * sizes["a"], sizes["a"]]
    assert [status.progress for status in seen] == pytest.approx([done / total for done in expected], abs=2 / total)


def lines_of(text: str) -> list[str]:
    return [line.partition(" ")[2] for line in text.splitlines() if " cpu " in line]


def test_the_log_has_a_line_for_each_item_with_the_metrics_of_its_kind(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(job_of(corpus, Measured(poison=7), log="items"))
    good, bad = lines_of(capsys.readouterr().err)
    assert good.startswith("cpu a: 20 frames in ")
    assert good.endswith(" frames/s), mean 100")
    assert bad == "cpu b: failed (extract): a frame is all 7"


def test_the_log_of_machines_has_an_object_for_each_item_on_standard_output(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = predict(job_of(corpus, Measured(poison=7), log="jsonl"))
    good, bad = map(json.loads, capsys.readouterr().out.splitlines())
    row = run.table("train-000000").to_pylist()[0]
    assert {name: good[name] for name in ("device", "shard", "key", "file", "status", "frames", "attempts")} == {
        "device": "cpu",
        "shard": "train-000000",
        "key": "train/a",
        "file": "a",
        "status": "ok",
        "frames": 20,
        "attempts": 1,
    }
    assert good["seconds"] == row["seconds"] > 0
    assert good["frames_per_second"] == pytest.approx(20 / row["seconds"], abs=0.001)
    assert (good["metrics"], good["reason"]) == ({"mean": 100.0}, None)
    assert (bad["status"], bad["frames"], bad["frames_per_second"], bad["metrics"]) == ("failed", 0, None, {})
    assert (bad["reason_class"], bad["reason"]) == ("extract", "a frame is all 7")
    assert good.keys() == bad.keys()


def test_an_item_that_was_given_up_after_crashes_is_logged(tmp_path: Path) -> None:
    logged = []
    with Rank(make_run(tmp_path, 2)) as rank:
        rank.on_result = lambda *result: logged.append(result)
        opened = lease(rank)
        while rank.add_failed_attempt(opened.shard.number, 1, "its worker died", "crash"):
            pass
    [(shard, item, result)] = logged
    assert (shard, item.key, result.reason, result.attempts) == ("train-000000", "train/item001", "its worker died", 3)


def test_the_seconds_of_an_item_contain_its_share_of_the_extraction(corpus: Path) -> None:
    run = predict(job_of(corpus, Brightness(seconds_per_frame=0.01)))
    rows = [row for shard in run.plan.shards for row in run.table(shard.name).to_pylist()]
    seconds = {row["key"]: row["seconds"] for row in rows}
    assert 0.2 <= seconds["train/a"] < 2
    assert 0.04 <= seconds["train/b"] < 0.2


def arguments_of(corpus: Path, *more: str) -> list[str]:
    config = corpus.parent / "config.yaml"
    config.write_text(
        "model: {class_path: support.brightness.Brightness}\n"
        "data: {num_workers: 0, corpus: {class_path: support.brightness.ImageFolders, "
        f"init_args: {{root: {corpus}}}}}}}\n"
        f"output: {{dir: {corpus.parent / 'run'}}}\n"
        "trainer: {accelerator: cpu}\n"
    )
    return ["run", "--config", str(config), *more]


def test_a_log_whose_reader_ends_does_not_stop_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        log = ItemLog("jsonl", "rank", "cpu")
        for _ in range(2):
            log.add("train-000000", Item("a", "train", "a.mp4"), Result(0, num_frames=1))
        closed.flush()  # as Python does at its end
    told = capsys.readouterr().err
    assert told == "standard output cannot be written to (Broken pipe). Items are not logged any more\n"


@pytest.mark.slow
def test_a_run_whose_log_goes_to_a_closed_pipe_is_completed(corpus: Path) -> None:
    command = [sys.executable, "-m", "preprocess", *arguments_of(corpus, "--output.log", "jsonl")]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, env=process_environment(), stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert "2 planned = 2 committed + 0 failed + 0 missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def metrics_in(folder: Path) -> list[dict[str, str]]:
    texts = (path.read_text() for path in sorted(folder.rglob("metrics.csv")))
    return [row for text in texts for row in csv.DictReader(text.splitlines())]


def test_a_logger_of_lightning_gets_the_figures_of_the_run(corpus: Path, tmp_path: Path) -> None:
    logger = [
        "--trainer.logger",
        "lightning.pytorch.loggers.CSVLogger",
        "--trainer.logger.save_dir",
        str(tmp_path / "logs"),
    ]
    assert main(arguments_of(corpus, *logger)) == 0
    *_, last = metrics_in(tmp_path / "logs")
    figures = {name: float(value) for name, value in last.items() if value}
    assert {name: figures[name] for name in ("progress", "items", "failed", "frames", "ranks")} == {
        "progress": 1.0,
        "items": 2,
        "failed": 0,
        "frames": 24,
        "ranks": 1,
    }
    assert figures["frames_per_second"] > 0
    assert {f"seconds/{phase}" for phase in PHASES} < figures.keys()
    assert 0 <= figures["cpu_percent"] <= 100
    assert len(list((tmp_path / "logs").rglob("metrics.csv"))) == 1


def test_one_rank_writes_figures_and_when_it_ends_the_next(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 8)
    with Rank(run) as second:
        with Rank(run) as first:
            first.activity.started, second.activity.started = 100.0, 200.0
            logs = [FigureLog([CSVLogger(str(tmp_path / "logs"))], rank) for rank in (first, second)]
            finish(first, lease(first))
            for rank in (first, second):
                rank.publish()
            for log in logs:
                log.add(StatusReader(run).read())
            logs[0].close()
        finish(second, lease(second))
        logs[1].add(StatusReader(run).read())
        logs[1].close()
    assert [row["items"] for row in metrics_in(tmp_path / "logs")] == ["4.0", "8.0"]
    assert {path.parent.name for path in (tmp_path / "logs").rglob("metrics.csv")} == {"version_0", "version_1"}


def test_a_full_disk_of_the_logger_does_not_stop_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").touch()  # no folder can be made here
    run = make_run(tmp_path / "run", 4)
    with Rank(run) as rank:
        log = FigureLog([CSVLogger(str(tmp_path / "logs"))], rank)
        rank.publish()
        log.add(StatusReader(run).read())
        log.close()
    assert "Figures are not logged any more" in capsys.readouterr().err
