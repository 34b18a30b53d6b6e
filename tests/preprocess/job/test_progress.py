"""What a run shows and writes while it goes on: progress by frames."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules import FramesDataModule
from datamodules.corpora.videos import Videos
from datamodules.run.folder import Run
from preprocess.job.output import Output
from preprocess.job.progress import quiet
from preprocess.job.session import Job, Session
from preprocess.report.status import Status, StatusReader, headline
from support.brightness import Brightness, ImageFolders
from support.frame_corpora import write_video

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


def test_the_seconds_of_an_item_contain_its_share_of_the_extraction(corpus: Path) -> None:
    run = predict(job_of(corpus, Brightness(seconds_per_frame=0.01)))
    rows = [row for shard in run.plan.shards for row in run.table(shard.name).to_pylist()]
    seconds = {row["key"]: row["seconds"] for row in rows}
    assert 0.2 <= seconds["train/a"] < 2
    assert 0.04 <= seconds["train/b"] < 0.2
