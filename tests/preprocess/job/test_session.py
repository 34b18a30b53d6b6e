"""Sessions from Python, as in a script that starts a run without the command line."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from datamodules import FramesDataModule
from datamodules.errors import ConfigError, CorpusError, RunError
from datamodules.media.decoding import Decoding
from datamodules.run.folder import Run
from preprocess.job.output import Output
from preprocess.job.progress import quiet
from preprocess.job.relisting import Relisting
from preprocess.job.session import Job, Session
from support.brightness import Brightness, ImageFolders


@pytest.fixture
def job(tmp_path: Path) -> Job:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (10 * number,) * 3).save(corpus / f"{number}.png")
    quiet()  # what Lightning warns of
    data = FramesDataModule(num_workers=0)
    return Job(Brightness(), ImageFolders(str(corpus)), data, Output(str(tmp_path / "run")), {"accelerator": "cpu"})


def test_a_session_runs_a_job_to_its_end_and_leaves_no_rank(job: Job) -> None:
    with Session(job) as session:
        assert session.run.plan.num_items == 3
        session.predict()
    run = Run(job.output.dir)
    assert (run.is_complete(), run.outcome().committed) == (True, 3)
    assert list((run.work / "ranks").iterdir()) == []


def test_a_run_on_the_cpu_of_a_machine_with_a_gpu_warns_of_nothing(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", lambda: True)
    with Session(job) as session:
        assert session.device.type == "cpu"


def test_a_run_of_other_settings_is_refused_before_anything_is_done(job: Job) -> None:
    with Session(job):
        pass
    with (
        pytest.raises(RunError, match="poison: None there, 7 here"),
        Session(replace(job, extractor=Brightness(poison=7))),
    ):
        pytest.fail("the session was opened")
    assert list((Run(job.output.dir).work / "ranks").iterdir()) == []


@pytest.mark.parametrize(
    ("data", "trainer", "message"),
    [
        (FramesDataModule(batch_size=3), {"accelerator": "cpu"}, "batch_size"),
        (
            FramesDataModule(decoding=Decoding(backend="torchcodec", device="cuda")),
            {"accelerator": "cpu"},
            "needs a GPU",
        ),
        (FramesDataModule(), {"accelerator": "tpu"}, "is not one of auto, cpu, gpu, cuda, mps"),
        (FramesDataModule(), {"accelerator": "cpu", "precision": "17"}, "17"),
        (FramesDataModule(), {"accelerator": "cpu", "devices": 0}, "devices"),
        (FramesDataModule(), {"accelerator": "cpu", "devices": "0,1"}, "lists GPUs, but the accelerator is cpu"),
        (FramesDataModule(), {"accelerator": "cpu", "strategy": "ddp"}, "ranks form no process group"),
    ],
)
def test_wrong_options_are_refused_before_the_corpus_is_listed(
    job: Job, data: FramesDataModule, trainer: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message), Session(replace(job, data=data, trainer=trainer)):
        pytest.fail("the session was opened")
    assert not Path(job.output.dir).exists()


def test_a_corpus_that_cannot_be_listed_starts_no_run(job: Job, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = ImageFolders(str(tmp_path / "empty"))
    with pytest.raises(CorpusError), Session(replace(job, corpus=empty)):
        pytest.fail("the session was opened")


def test_a_session_that_cannot_be_entered_leaves_no_rank(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session(job) as session:
        run = session.run

    def fail(relisting: Relisting) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Relisting, "start", fail)
    with pytest.raises(RuntimeError), Session(job):
        pytest.fail("the session was opened")
    assert list((run.work / "ranks").iterdir()) == []
