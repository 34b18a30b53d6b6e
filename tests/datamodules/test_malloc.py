import platform
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.corpus import Item
from datamodules.loading.loader import FrameLoader
from datamodules.loading.request import FrameRequest
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from support.frame_corpora import write_image
from support.page_faults import PAGES, Faults, faults_of_a_block
from support.runs import make_run

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@pytest.mark.parametrize("kept", [False, True])
def test_a_block_that_was_freed_is_used_again(kept: bool) -> None:
    program = "from support import page_faults\nfrom datamodules.malloc import keep_freed_memory\n"
    program += "keep_freed_memory()\n" * kept + "print(page_faults.faults_of_a_block())"
    tests = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=tests, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 0.01 * PAGES if kept else int(done.stdout) >= PAGES


@pytest.mark.parametrize("num_workers", [0, 1])
def test_ranks_and_their_workers_keep_what_they_free(tmp_path: Path, num_workers: int) -> None:
    write_image(tmp_path / "a.png", 1)
    run = make_run(tmp_path / "run", [Item("a", "train", "", ("a.png",), cost=1)])
    faults_by_process = []
    with Rank(run) as rank:
        for batch in FrameLoader(rank, str(tmp_path), FrameRequest(1, Faults), num_workers):
            faults_by_process += [*batch["results"], faults_of_a_block()]
            for row in batch["rows"]:
                rank.add(batch["shard"], Result(row), {})
    assert [faults < 0.01 * PAGES for faults in faults_by_process[:2]] == [True, True]
