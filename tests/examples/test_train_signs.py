"""The example that trains, as a user starts it: two ranks under DDP, on shards of the demo corpus' kind."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datamodules.corpora.phoenix import Phoenix2014T
from datamodules.errors import RunError
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from preprocess.commands.sample import make_sample_corpus
from support.run_paths import folder_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_signs.py"
MOVES = {"WEST": (-1, 0), "OST": (1, 0), "NORD": (0, -1), "SUED": (0, 1)}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo corpus' sentences, with keypoints that move as their glosses say."""
    corpus = Phoenix2014T(str(make_sample_corpus(tmp_path_factory.mktemp("corpus") / "corpus", num_frames=16)))
    run = open_or_plan(tmp_path_factory.mktemp("shards") / "run", corpus, {}, ShardSize())
    kind, rng = KeypointSamples(), np.random.default_rng(0)
    with Rank(run) as rank:
        while opened := rank.lease():
            for row, item in enumerate(opened.items):
                moves = np.repeat([MOVES[gloss] for gloss in item.meta["glosses"].split()], 8, axis=0)
                places = rng.uniform(60, 150, (1, 143, 2)) + 6.0 * np.cumsum(moves, axis=0)[:, None]
                keypoints = np.pad(places, ((0, 0), (0, 0), (0, 1))).astype(np.float32)
                meta = {**item.meta, "width": 210, "height": 260}
                sample = KeypointSample(
                    item.key, keypoints, np.ones((16, 4), np.uint8), np.ones((16, 33), np.float32), meta
                )
                rank.add(opened.shard.number, Result(row, 16), kind.encode(sample))
    return folder_of(run)


@pytest.mark.slow
def test_two_ranks_learn_the_glosses_of_the_demo_corpus(shards: Path) -> None:
    command = [sys.executable, str(EXAMPLE), "--shards", str(shards), "--devices", "2", "--epochs", "120"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=170,
        env={**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"accuracy\D*([01]\.\d+)", done.stdout)
    assert accuracy is not None, done.stdout
    assert float(accuracy[1]) >= 0.8


def test_a_folder_that_is_no_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--shards", str(tmp_path)])
    with pytest.raises(RunError, match=r"is no run: it has no plan\.arrow"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
