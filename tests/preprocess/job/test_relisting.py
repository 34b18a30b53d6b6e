"""A resumed run reports a corpus that has changed or moved."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.corpora.videos import Videos
from datamodules.corpus import Item
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from preprocess.cli import main
from preprocess.integrity import coverage
from preprocess.job.relisting import Relisting
from support.brightness import Brightness


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A run over four images in the folder `here`."""
    (tmp_path / "here").mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"here/{number}.png")
    config = tmp_path / "brightness.yaml"
    config.write_text(
        "model: {class_path: support.brightness.Brightness}\n"
        "data: {num_workers: 0, corpus: {class_path: support.brightness.ImageFolders, init_args: {root: null}}}\n"
        f"output: {{dir: {tmp_path / 'run'}, shards: {{min_shards: 2}}}}\n"
        "trainer: {accelerator: cpu}\n"
    )
    return ["run", "--config", str(config), "--data.root"]


def test_a_changed_corpus_is_reported_in_one_line(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    for _ in range(2):
        assert main([*command, str(here)]) == 0
        assert "of the corpus" not in capfd.readouterr().err
    (here / "0.png").unlink()
    shutil.copyfile(here / "1.png", here / "5.png")
    assert main([*command, str(here)]) == 0
    error = capfd.readouterr().err
    assert error.count("1 item of the corpus is not in this run's plan of 2") == 1
    assert "; 1 planned item is gone. " in error
    assert coverage(Run(tmp_path / "run")).committed == 4
    shutil.rmtree(here)
    assert main([*command, str(here)]) == 0
    assert "the corpus cannot be listed again, so it was not compared with the run's plan: " in capfd.readouterr().err


def test_a_task_that_starts_after_the_run_is_complete_neither_loads_the_model_nor_lists_the_corpus(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command.append(str(tmp_path / "here"))
    for name, value in {"MIN": "0", "MAX": "1", "ID": "1"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert main(command) == 0
    shutil.copyfile(tmp_path / "here" / "1.png", tmp_path / "here" / "5.png")
    capfd.readouterr()
    num_loaded = Brightness.num_loaded
    assert main(command) == 0
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].partition(": ")[2] == "4 planned = 4 committed + 0 failed + 0 missing"
    assert all(line.startswith("  ") for line in lines[1:])  # the summary
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")  # the first task lists it, for whoever starts the job again
    assert main(command) == 0
    assert "1 item of the corpus is not in this run's plan of 2" in capfd.readouterr().err
    assert Brightness.num_loaded == num_loaded > 0


def test_a_corpus_that_moved_resumes_and_another_is_refused(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert main([*command, str(here), "--output.only", "0/2"]) == 0
    assert coverage(Run(tmp_path / "run")).committed == 2
    there.mkdir()
    for number in range(4):
        Image.new("RGB", (9, 9)).save(there / f"{number}.png")
    assert main([*command, str(there)]) == 2
    assert f"--data.root {there} is not the corpus that was planned, then in {here}: of 4" in capfd.readouterr().err
    shutil.rmtree(there)
    here.rename(there)
    assert main([*command, str(there)]) == 0
    assert "of the corpus" not in capfd.readouterr().err
    assert coverage(Run(tmp_path / "run")).committed == 4
    assert main(["visualize", str(tmp_path / "run"), "--dest", str(tmp_path / "drawn"), "--root", str(there)]) == 2
    assert "BrightnessSamples cannot be drawn" in capfd.readouterr().err


def test_a_cancelled_listing_ends_silently(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(600):
        (tmp_path / f"{number}.mp4").touch()
    corpus = Videos(str(tmp_path))
    plan = open_or_plan(tmp_path / "run", Videos(str(tmp_path), max_items=1), {}, ShardSize()).plan
    relisting = Relisting(plan, corpus)
    relisting.start()
    relisting.cancel()
    assert not relisting.is_alive()
    assert caplog.messages == []
    relisting = Relisting(plan, corpus)
    relisting.start()
    relisting.finish(lambda: False)
    assert caplog.messages[0].startswith("599 items of the corpus are not in this run's plan of ")


def test_a_signal_ends_the_wait_for_the_listing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mp4").touch()
    plan = open_or_plan(tmp_path / "run", Videos(str(tmp_path)), {}, ShardSize()).plan
    caplog.clear()
    go_on = threading.Event()
    looks: list[Any] = []

    class Hanging(Videos):
        def items(self) -> Iterator[Item]:
            yield from super().items()
            go_on.wait(60)

    def is_stopping() -> bool:
        looks.append(None)
        return len(looks) == 3

    monkeypatch.setattr("preprocess.job.relisting._QUIET_SECONDS", 0)
    relisting = Relisting(plan, Hanging(str(tmp_path)))
    relisting.start()
    relisting.finish(is_stopping)
    assert len(looks) == 3
    assert relisting.is_alive()  # it hangs in a call of the file system
    relisting.finish(lambda: False)  # also after an exception, when the writer is torn down as well
    assert [message for message in caplog.messages if "Ctrl-C skips this" in message] == caplog.messages
    assert len(caplog.messages) == 1
    go_on.set()
    relisting.join()
    assert len(caplog.messages) == 1
