"""Results that a device still computes: they are read when it has the next batch, and samples stay the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules import FramesDataModule
from datamodules.errors import EnvironmentFailure
from datamodules.loading.batch import Batch
from datamodules.run.folder import Run
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.reader import CommittedSamples
from preprocess.job.assembly import ListAssembly, OpenItems, Outcome
from preprocess.job.extraction import Extraction
from preprocess.job.late import LateResult, LateResults
from preprocess.job.output import Output
from preprocess.job.progress import quiet
from preprocess.job.session import Job, Session
from support.brightness import Brightness, BrightnessSamples, ImageFolders
from support.runs import make_run

CPU = {"accelerator": "cpu"}


class Late(Brightness):
    """`Brightness` whose results are late. Lists when batches are computed and read, each by its shard and number."""

    def __init__(self) -> None:
        super().__init__(batch_size=4)
        self.events: list[tuple[str, int, int]] = []

    def extract(self, batch: Batch) -> LateResults:  # type: ignore[override]
        results, shard = Brightness.extract(self, batch), batch["shard"]
        number = sum(what == "start" for what, *_ in self.events)
        self.events.append(("start", shard, number))

        def read() -> list[Any]:
            self.events.append(("read", shard, number))
            return results

        return LateResults(len(results), read)


def samples(extractor: Brightness, corpus: Path, folder: Path) -> dict[str, list[float]]:
    quiet()  # what Lightning warns of
    output = Output(str(folder), shards=ShardSize(5))
    with Session(Job(extractor, ImageFolders(str(corpus)), FramesDataModule(num_workers=0), output, CPU)) as session:
        session.predict()
    assert Run(folder).is_complete()
    decoded = (BrightnessSamples().decode(*files) for files in CommittedSamples(Run(folder)))
    return {sample.key: sample.brightness.tolist() for sample in decoded}


def test_late_results_are_read_when_the_next_batch_is_computed(tmp_path: Path) -> None:
    for number in range(24):  # some images, and some sequences of 10 frames, which end within batches
        folder = tmp_path / "corpus" / (f"{number:02d}" if number % 3 else "")
        folder.mkdir(parents=True, exist_ok=True)
        for frame in range(10 if number % 3 else 1):
            Image.new("RGB", (4, 4), (10 * number + frame,) * 3).save(folder / f"{number:02d}-{frame}.png")
    late = Late()
    assert samples(late, tmp_path / "corpus", tmp_path / "late") == samples(
        Brightness(batch_size=4), tmp_path / "corpus", tmp_path / "list"
    )
    numbers = [number for what, _, number in late.events if what == "start"]
    assert [number for what, _, number in late.events if what == "read"] == numbers
    shards = {number: shard for _, shard, number in late.events}
    for number in numbers[1:]:
        started, read = late.events.index(("start", shards[number], number)), ("read", shards[number - 1], number - 1)
        assert (late.events.index(read) > started) == (shards[number] == shards[number - 1])


def batch_of(rows: list[int], frame_idx: int = 0, **more: Any) -> Any:
    frames = torch.zeros(len(rows), 3, 2, 2, dtype=torch.uint8)
    each = {"rows": rows, "frame_idx": [frame_idx] * len(rows), "pts_seconds": [None] * len(rows)}
    new = {"items": dict.fromkeys(rows), "num_frames": dict.fromkeys(rows, 1)}
    return {"shard": 0, **each, **new, "summaries": [], "frames": frames, **more}


def extraction(rank: Rank, extractor: Brightness) -> Extraction:
    return Extraction(extractor, rank, OpenItems(lambda item: ListAssembly(lambda results, summary: None)))


@pytest.mark.parametrize(
    ("following", "overlaps"),
    [
        (batch_of([2, 3]), True),
        (batch_of([1, 2], frame_idx=4), True),
        (batch_of([1, 2]), False),  # starts anew an item whose frames are late
        (batch_of([2, 3], alone=True), False),
        (batch_of([2, 3], shard=1), False),
        (batch_of([], shard=-1), False),  # of a rank that has nothing to do
    ],
)
def test_only_batches_whose_items_cannot_be_mixed_up_overlap(tmp_path: Path, following: Any, overlaps: bool) -> None:
    with Rank(make_run(tmp_path, 8, per_shard=8)) as rank:
        rank.lease()
        module = extraction(rank, late := Late())
        [first, _] = module.predict_step(batch_of([0, 1]), 0)
        assert isinstance(first.result, LateResult)
        assert module.may_overlap(following) == overlaps
        assert [what for what, *_ in late.events] == ["start"]
        module.wait()
        assert [what for what, *_ in late.events] == ["start", "read"]
        assert first.ready().result == 0.0
        assert not module.may_overlap(following)


def test_an_item_alone_is_waited_for(tmp_path: Path) -> None:
    with Rank(make_run(tmp_path, 8, per_shard=8)) as rank:
        rank.lease()
        late = Late()
        outcomes = extraction(rank, late).predict_step(batch_of([0, 1], alone=True), 0)
        assert [what for what, *_ in late.events] == ["start", "read"] * 2
        assert [outcome.result for outcome in outcomes] == [0.0, 0.0]


def test_parts_of_a_batch_that_exhausts_memory_are_waited_for(tmp_path: Path) -> None:
    class Small(Late):
        def extract(self, batch: Batch) -> LateResults:  # type: ignore[override]
            if len(batch["rows"]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().extract(batch)

    with Rank(make_run(tmp_path, 8, per_shard=8)) as rank:
        rank.lease()
        module = extraction(rank, late := Small())
        module.predict_step(batch_of([0, 1]), 0)
        outcomes = module.predict_step(batch_of([2, 3, 4, 5]), 1)
        expected = [("start", 0), ("start", 1), ("read", 1), ("start", 2), ("read", 2), ("read", 0)]
        assert [(what, number) for what, _, number in late.events] == expected
        assert outcomes == [Outcome(0.0, 2)] * 4


@pytest.mark.parametrize(("is_lost", "raised"), [(True, EnvironmentFailure), (False, torch.AcceleratorError)])
def test_an_error_of_the_device_is_attributed_to_both_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lost: bool, raised: type[Exception]
) -> None:
    monkeypatch.setattr("preprocess.job.extraction.is_device_lost", lambda device: is_lost)

    class Faulty(Brightness):
        def extract(self, batch: Batch) -> LateResults:  # type: ignore[override]
            return LateResults(len(batch["rows"]), self.fail)

        def fail(self) -> list[Any]:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    run = make_run(tmp_path, 8, per_shard=8)
    with Rank(run) as rank:
        rank.lease()
        module = extraction(rank, Faulty())
        module.predict_step(batch_of([0, 1]), 0)
        with pytest.raises(raised, match="illegal memory access"):
            module.predict_step(batch_of([3]), 1)
    with Rank(run) as successor:
        successor.lease()
        assert sorted(successor.open[0].spool.failed_attempts) == [0, 1, 3]
