"""What the soak counts, on tars made here; and that it notices what a command does."""

import io
import re
import signal
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from datamodules.corpus import Item

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks import one another as scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def write_tar(path: Path, *keys: str) -> None:
    with tarfile.open(path, "w") as tar:
        for key in keys:
            info = tarfile.TarInfo(f"{key}.json")
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))


def test_tars_that_hold_each_planned_key_once_are_exact(tmp_path: Path) -> None:
    from chaos import keys_in_tars
    from soaking import Tally

    write_tar(tmp_path / "train-000000.tar", "train/a", "train/b")
    write_tar(tmp_path / "train-000001.tar", "train/c")
    tally = Tally.of(["train/a", "train/b", "train/c", "train/d"], list(keys_in_tars(tmp_path)), ["train/d"])
    assert tally == Tally(planned=4, written=3, failed=1, lost=[], doubled=[], foreign=[])
    assert tally.is_exact


def test_keys_that_are_lost_doubled_or_foreign_are_named(tmp_path: Path) -> None:
    from chaos import keys_in_tars
    from soaking import Tally

    write_tar(tmp_path / "train-000000.tar", "train/a", "train/b", "train/x")
    write_tar(tmp_path / "train-000001.tar", "train/a", "train/c")
    tally = Tally.of([f"train/{name}" for name in "abcde"], list(keys_in_tars(tmp_path)), ["train/c", "train/d"])
    assert (tally.lost, tally.doubled, tally.foreign) == (["train/e"], ["train/a", "train/c"], ["train/x"])
    assert not tally.is_exact


def test_a_command_is_started_again_until_it_exits_with_0(tmp_path: Path) -> None:
    from soaking import soak

    count = tmp_path / "count"
    count.write_text("")
    script = f"import sys; n = len(open({str(count)!r}).read()); open({str(count)!r}, 'a').write('x'); sys.exit(3 - n)"
    result = soak([[sys.executable, "-c", script]], tmp_path / "log", [], max_seconds=60)
    assert (result.ended, dict(result.exits)) == (True, {"status 3": 1, "status 2": 1, "status 1": 1})


def test_a_signal_reaches_a_rank_and_a_command_that_does_not_end_is_told_of(tmp_path: Path) -> None:
    from soaking import Disturbance, soak

    sleeper = [sys.executable, "-c", "import time; time.sleep(1000)"]
    result = soak([sleeper], tmp_path / "log", [Disturbance(0.0, "rank", signal.SIGKILL, 0.5)], max_seconds=5)
    assert not result.ended
    assert dict(result.sent) == {"SIGKILL to a rank": 1}
    assert dict(result.exits) == {"SIGKILL": 1}


def test_a_corpus_lists_the_same_poison_each_time_and_each_kind_as_often() -> None:
    from poison import Poisoned

    kinds = ["segfault", "hang", "refused"]
    corpus = Poisoned("/nowhere", num_items=100, num_poisoned=6, kinds=kinds, seed=1)
    items = list(corpus.items())
    assert items == list(corpus.items())
    assert sorted(item.meta["poison"] for item in items if item.meta["poison"]) == sorted(kinds * 2)


@pytest.mark.slow  # 12 starts of ranks and 6 of Ray
@pytest.mark.timeout(960)  # it took more than 180 s beside other work
def test_the_smallest_benchmark_loses_nothing_in_a_folder_and_in_a_bucket(tmp_path: Path) -> None:
    sizes = ["--items=24", "--poisoned=0.05", "--kinds=damaged", "--kills=1", "--every-seconds=4"]
    contenders = ["--contenders", "framemill", *(["ray-data"] if find_spec("ray") and find_spec("pandas") else [])]
    command = [sys.executable, str(BENCHMARKS / "chaos.py"), "--store=s3", *contenders, *sizes]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900).stdout
    assert "target every item once, written or failed; measured the table above: yes" in output
    assert re.search(r"target the same tars, poisoned and disturbed, in all stores; measured \d+ tars: yes", output)
    for store in ("folder", "s3"):
        for name in ("undisturbed", "poisoned", "disturbed"):
            assert re.search(rf"^{store}-{name} +24 ", output, re.MULTILINE)


def test_a_frame_of_a_written_item_that_was_computed_again_is_lost_work(tmp_path: Path) -> None:
    from chaos import repeated_share
    from poison import Poisoned

    corpus = Poisoned("/nowhere", num_items=4, num_poisoned=0, kinds=[])
    keys = [item.key for item in corpus.items()]
    num_frames = sum(len(item.frames) for item in corpus.items())
    tally = tmp_path / "frames"
    tally.write_bytes(b"." * num_frames * 2)
    assert repeated_share(corpus, keys, tally) == 1.0
    tally.write_bytes(b"." * num_frames)
    assert repeated_share(corpus, keys, tally) == 0.0


def test_a_mean_that_is_returned_adds_a_byte_to_the_tally(tmp_path: Path) -> None:
    from poison import MeanTransform

    mean = MeanTransform(False, 0.0, str(tmp_path / "frames"))
    mean.start(Item("train/0", "train", ".", ("a",), cost=1, meta={"poison": "damaged"}))
    assert [mean(torch.full((1, 2, 2), value)) for value in (1, 3)] == [1.0, 3.0]
    assert (tmp_path / "frames").read_bytes() == b".."


def test_items_without_poison_have_none_and_not_nan_for_ray_data(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from chaos_ray import write_items
    from poison import Poisoned

    corpus = Poisoned("/nowhere", num_items=3, num_poisoned=0, kinds=[])
    write_items(corpus, tmp_path / "items.parquet")
    table = pq.read_table(tmp_path / "items.parquet")
    assert table["__key__"].to_pylist() == [item.key for item in corpus.items()]
    assert table["poison"].to_numpy().tolist() == [None] * 3
