"""`Extraction` around an extractor that fails in every way that does not end the process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.corpus import Item
from datamodules.errors import DecodeError, EnvironmentFailure, ExtractError
from datamodules.media.jpeg import decode_jpegs, read_jpeg
from datamodules.run.failure_limit import Tolerance
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from preprocess.job.assembly import ListAssembly, OpenItems, Outcome
from preprocess.job.extraction import Extraction
from support.image_files import image_bytes
from support.runs import lease, make_run


class Memory:
    """An extractor with memory for `capacity` frames that cannot process frames of the value 13."""

    device = torch.device("cpu")

    def __init__(self, capacity: int = 100, error: Any = None) -> None:
        self.capacity, self.error = capacity, error
        self.sizes: list[int] = []

    def extract(self, batch: Any) -> Any:
        self.sizes.append(len(batch["rows"]))
        if len(batch["frames"]) > self.capacity:
            raise self.error
        values = [int(frame[0, 0, 0]) for frame in batch["frames"]]
        if 13 in values:
            raise ExtractError("13 is unlucky")
        return [10 * value for value in values]


def batch_of(values: Any, rows: Any = None, **more: Any) -> Any:
    frames = torch.tensor(values, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    rows = list(range(len(values))) if rows is None else rows
    each = {"rows": rows, "frame_idx": [0] * len(rows), "pts_seconds": [None] * len(rows)}
    items = {row: Item(str(row), "train", "") for row in rows}
    new = {"items": items, "num_frames": dict.fromkeys(rows, 1)}
    return {"shard": 0, **each, **new, "summaries": [], "frames": frames, **more}


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[Rank]:
    run = make_run(tmp_path, 8, per_shard=8)
    with Rank(run) as rank:
        assert rank.lease() is not None
        yield rank


def extraction(extractor: Any, rank: Rank) -> Callable[[Any], list[Outcome]]:
    """Return an extraction that calls an object with an extractor's `extract` and `device`."""
    module = Extraction(extractor, rank, OpenItems(lambda item: ListAssembly(lambda results, summary: None)))
    return lambda batch: module.predict_step(batch, 0)


def failed_attempts(rank: Rank) -> dict[int, list[str]]:
    return {row: [s.reason for s in found] for row, found in rank.open[0].spool.failed_attempts.items()}


def test_a_batch_that_fits_is_extracted_as_planned(rank: Rank) -> None:
    extractor: Any = Memory()
    assert extraction(extractor, rank)(batch_of([1, 2, 3])) == [Outcome(10, None), Outcome(20, None), Outcome(30, None)]
    assert extractor.sizes == [3]


def test_an_empty_batch_calls_no_extractor(rank: Rank) -> None:
    extractor: Any = Memory()
    assert extraction(extractor, rank)(batch_of([])) == []
    assert extractor.sizes == []


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
)
def test_a_batch_that_exhausts_memory_is_halved_until_it_fits_and_the_rows_say_so(
    rank: Rank, error: torch.OutOfMemoryError | MemoryError | RuntimeError
) -> None:
    extractor = Memory(2, error)
    outcomes = extraction(extractor, rank)(batch_of([1, 2, 3, 4, 5]))
    assert [outcome.result for outcome in outcomes] == [10, 20, 30, 40, 50]
    assert [outcome.split_to for outcome in outcomes] == [2, 2, 1, 2, 2]
    assert extractor.sizes == [5, 3, 2, 1, 2]
    assert failed_attempts(rank) == {}


def test_frames_of_different_sizes_are_split_as_well(rank: Rank) -> None:
    frames = [torch.full((3, 2, 2 + k), k, dtype=torch.uint8) for k in range(4)]
    outcomes = extraction(Memory(1, MemoryError()), rank)(batch_of([0] * 4) | {"frames": frames})
    assert outcomes == [Outcome(10 * k, 1) for k in range(4)]


def test_a_frame_that_exhausts_memory_alone_fails_its_item_after_its_attempts(rank: Rank) -> None:
    extractor: Any = Memory()
    extractor.extract = _greedy_for(7)
    outcomes = extraction(extractor, rank)(batch_of([6, 7, 8]))
    assert [outcome.result for outcome in (outcomes[0], outcomes[2])] == [6, 8]
    assert failed_attempts(rank) == {1: ["out of memory"] * 3}
    failure = rank.open[0].spool.results[1]
    assert (failure.reason, failure.reason_class, failure.attempts) == ("out of memory", "memory", 3)
    assert list(rank.open[0].spool.results) == [1]


def test_a_frame_that_fits_into_memory_at_the_second_attempt_fails_no_item(rank: Rank) -> None:
    extractor: Any = Memory()
    calls: list[int] = []

    def extract(batch: Any) -> Any:
        calls.append(len(batch["rows"]))
        if len(calls) == 1:
            raise MemoryError
        return [1]

    extractor.extract = extract
    assert extraction(extractor, rank)(batch_of([5])) == [Outcome(1, None)]
    assert failed_attempts(rank) == {0: ["out of memory"]}
    assert rank.open[0].spool.results == {}


def _greedy_for(value: int) -> Callable[[Any], list[int]]:
    def extract(batch: Any) -> list[int]:
        values = [int(frame[0, 0, 0]) for frame in batch["frames"]]
        if value in values:
            raise MemoryError
        return values

    return extract


def test_a_frame_that_cannot_be_extracted_fails_its_item_only(rank: Rank) -> None:
    outcomes = extraction(Memory(), rank)(batch_of([1, 13, 3]))
    assert [outcomes[0], outcomes[2]] == [Outcome(10, 1), Outcome(30, 1)]
    assert str(outcomes[1].result) == "13 is unlucky"


def test_the_other_frames_of_a_failed_item_are_not_extracted_and_none_stays_in_memory(rank: Rank) -> None:
    extractor: Any = Memory()
    items = OpenItems(lambda item: ListAssembly(lambda results, summary: None))
    module = Extraction(extractor, rank, items)
    [failed] = module.predict_step(batch_of([13], rows=[0]), 0)
    items[0, 0].add(0, failed)
    assert failed.result.__traceback__ is None  # it would refer to the batch
    later = batch_of([2, 3], rows=[0, 0]) | {"frame_idx": [1, 2]}
    assert module.predict_step(later, 1) == [Outcome(None, None)] * 2
    assert extractor.sizes == [1]


def test_a_suspect_batch_is_extracted_item_by_item(rank: Rank) -> None:
    extractor: Any = Memory()
    outcomes = extraction(extractor, rank)(batch_of([1, 2, 3, 4], rows=[0, 0, 1, 2], alone=True))
    assert extractor.sizes == [2, 1, 1]
    assert outcomes == [Outcome(10, 2), Outcome(20, 2), Outcome(30, 1), Outcome(40, 1)]


def test_any_other_error_ends_the_process_and_is_attributed_to_its_active_items(tmp_path: Path) -> None:
    make_run(tmp_path, 4)
    extractor: Any = Memory()
    extractor.extract = lambda batch: batch["no such field"]
    with Rank(Run(tmp_path)) as rank:
        rank.lease()
        with pytest.raises(KeyError):
            extraction(extractor, rank)(batch_of([1]))
        assert failed_attempts(rank) == {}
    with Rank(Run(tmp_path)) as successor:
        successor.lease()
        assert failed_attempts(successor) == {0: ["crashed: KeyError: 'no such field'"]}


def test_an_environment_failure_ends_the_process_and_is_attributed_to_no_item(tmp_path: Path) -> None:
    run = make_run(tmp_path, 8, per_shard=8)
    with Rank(run) as rank:
        rank.lease()
        with pytest.raises(EnvironmentFailure, match="the server is gone"):
            extraction(Memory(0, EnvironmentFailure("the server is gone")), rank)(batch_of([1, 2]))
    with Rank(run) as successor:
        successor.lease()
        assert failed_attempts(successor) == {}


def test_a_number_of_results_that_is_not_the_number_of_frames_is_refused(rank: Rank) -> None:
    extractor: Any = Memory()
    extractor.extract = lambda batch: [1]
    with pytest.raises(ValueError, match="extract returned 1 results for 2 frames"):
        extraction(extractor, rank)(batch_of([1, 2]))


@pytest.fixture
def is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocess.job.extraction.is_device_lost", lambda device: True)


def test_an_error_of_a_device_that_still_works_is_raised_as_it_is(rank: Rank) -> None:
    wrong = torch.AcceleratorError("CUDA error: invalid configuration argument")
    with pytest.raises(torch.AcceleratorError, match="invalid configuration argument"):
        extraction(Memory(0, wrong), rank)(batch_of([1, 2]))


@pytest.mark.usefixtures("is_lost")
def test_a_lost_device_ends_the_process_and_is_attributed_to_the_active_items(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    lost = torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with ...")
    with Rank(run) as rank:
        rank.lease()
        with pytest.raises(
            EnvironmentFailure, match="became unusable while processing train/item001, train/item002: CUDA error: dev"
        ):
            extraction(Memory(0, lost), rank)(batch_of([1, 2], rows=[1, 2]))
    with Rank(Run(tmp_path)) as successor:
        successor.lease()
        assert successor.is_suspect(0, [1])
        assert not successor.is_suspect(0, [0, 3])
        [attempt] = successor.open[0].spool.failed_attempts[2]
        assert attempt.reason.startswith("crashed: AcceleratorError: CUDA error: device-side assert triggered")
        assert (attempt.reason_class, attempt.alone) == ("crash", False)


@pytest.mark.usefixtures("is_lost")
def test_an_item_that_loses_the_device_each_time_fails_alone(tmp_path: Path) -> None:
    make_run(tmp_path, 4)
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    for rows in ([0, 1, 2], [1], [1]):
        with Rank(Run(tmp_path), tolerance=Tolerance(max_attempts=3)) as rank:
            rank.lease()
            with pytest.raises(EnvironmentFailure, match="illegal memory access"):
                extraction(Memory(0, lost), rank)(batch_of(rows, rows=rows))
    with Rank(Run(tmp_path)) as rank:
        opened = lease(rank)
        assert list(opened.failed) == [1]
        assert opened.spool.results[1].attempts == 3
        assert opened.missing == [0, 2, 3]


def test_frames_decoded_on_the_device_fail_their_own_items_only(rank: Rank, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_black(jpegs: Any, device: Any) -> Any:
        if any(jpeg.name == "0" for jpeg in jpegs):
            raise DecodeError("0 is refused by nvJPEG")
        return decode_jpegs(jpegs, device)

    monkeypatch.setattr("preprocess.job.extraction.decode_jpegs", refuse_black)
    encoded = [read_jpeg(image_bytes(value, "jpg"), str(value)) for value in (20, 0, 40)]
    batch = batch_of([0, 0, 0], encoded=encoded)
    del batch["frames"]
    extractor: Any = Memory()
    bright, refused, brighter = extraction(extractor, rank)(batch)
    assert [(each.result / 10, each.split_to) for each in (bright, brighter)] == [(20, 1), (40, 1)]
    assert isinstance(refused.result, DecodeError)
    assert extractor.sizes == [1, 1]
    assert batch["encoded"] == encoded  # kept for a retry


def test_nothing_but_frames_goes_to_the_device(rank: Rank) -> None:
    extractor: Any = Memory()
    content = b"x" * (1 << 24)  # moving it to a device would visit every byte, for minutes
    extraction(extractor, rank)(batch_of([1], summaries=[{"content": content}]))
    assert extractor.sizes == [1]


class Copy:
    def __init__(self, frames: Any) -> None:
        self.frames, self.taken = frames, 0

    def take(self) -> Any:
        self.taken += 1
        return self.frames


def test_prefetched_frames_are_used_once_and_their_parts_copied_again(rank: Rank) -> None:
    copy = Copy(torch.full((2, 3, 2, 2), 5, dtype=torch.uint8))
    assert extraction(Memory(), rank)(batch_of([1, 2], device_copy=copy)) == [Outcome(50, None)] * 2
    too_much = Memory(capacity=1, error=torch.OutOfMemoryError("CUDA out of memory"))
    batch = batch_of([1, 2], device_copy=copy)
    assert extraction(too_much, rank)(batch) == [Outcome(10, 1), Outcome(20, 1)]
    assert copy.taken == 2
    assert "device_copy" not in batch
