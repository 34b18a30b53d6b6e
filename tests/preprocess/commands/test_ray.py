"""`preprocess ray` on real Ray clusters of this machine: ranks, workers and nodes die, nodes join, users interrupt."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from datamodules.run.folder import Run
from preprocess.cli import main
from preprocess.integrity import verify
from support.fork_server import ForkServer
from support.ray_cluster import add_node, ranks_at_work, ray_cluster
from support.runs import tars, wait_for

pytestmark = pytest.mark.timeout(1200)

NUM_IMAGES = 24


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """A file: while it exists, ranks hold the shards that they have leased, and finish nothing."""
    return tmp_path / "hold"


@pytest.fixture
def options(hold: Path, tmp_path: Path) -> list[str]:
    """Options of a run over 24 images of 24 values, in 8 shards."""
    (tmp_path / "corpus").mkdir()
    for image in range(24):
        Image.fromarray(np.full((8, 8, 3), image, np.uint8)).save(tmp_path / "corpus" / f"image{image:02d}.png")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model: {{class_path: support.brightness.Held, init_args: {{hold: {hold}}}}}\n"
        "data: {num_workers: 0, corpus: {class_path: support.brightness.ImageFolders, "
        f"init_args: {{root: {tmp_path}/corpus}}}}}}\n"
        "output: {shards: {max_items: 3, min_shards: 1}, stale_seconds: 10}\n"
        "trainer: {accelerator: cpu}\n"
    )
    return ["run", "--config", str(config), "--output.dir", str(tmp_path / "run")]


@pytest.fixture
def undisturbed(fork_server: ForkServer, options: list[str], tmp_path: Path) -> dict[str, bytes]:
    """The tars of the same run by `preprocess run`."""
    folder = tmp_path / "undisturbed"
    assert fork_server.run([*options, "--output.dir", str(folder)], tmp_path / "undisturbed.log") == 0
    return tars(folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node with 2 CPUs."""
    with ray_cluster(num_cpus=2) as cluster:
        yield cluster


class Driver:
    """A process of `preprocess ray`, whose ranks have 1 CPU.

    Args:
        fork_server: starts the process.
        address: of the Ray cluster.
        folder: for its log; the folder of the run is `run` in it.
        arguments: more options of Ray, the command, its options.
    """

    def __init__(self, fork_server: ForkServer, address: str, folder: Path, *arguments: str) -> None:
        self.fork_server, self.log, self.run = fork_server, folder / "driver.log", folder / "run"
        command = ["ray", "--address", address, "--cpus-per-rank", "1", *arguments]
        self.pid = fork_server.start(command, self.log)

    def wait_for_ranks(self, number: int) -> set[psutil.Process]:
        """Return the processes of `number` ranks, as soon as so many hold a shard."""

        def are_at_work() -> bool:
            assert self.fork_server.poll(self.pid) is None, self.text()
            return len(ranks_at_work(self.run)) == number

        wait_for(are_at_work, 400)
        return set(ranks_at_work(self.run))

    def wait(self) -> int:
        """Wait for the end of the process. Returns its exit status."""
        return self.fork_server.wait(self.pid, 400)

    def text(self) -> str:
        """Return what the process has printed."""
        return self.log.read_text()


def test_a_run_on_ray_gives_the_same_tars_as_one_without(
    fork_server: ForkServer, cluster: Any, options: list[str], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    driver = Driver(fork_server, cluster.address, tmp_path, "--ranks", "1", *options)
    assert driver.wait() == 0, driver.text()
    assert tars(tmp_path / "run") == undisturbed
    assert "Ray has 1 node with 2 CPUs and 0 GPUs: room for 2 ranks with 1 CPU and 0 GPUs each" in driver.text()
    assert "24 planned = 24 committed + 0 failed + 0 missing" in driver.text()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "error: no Ray cluster listens at --address 127.0.0.1:1: "),
        ("127.0.0.1", "error: cannot connect to Ray with --address 127.0.0.1: Invalid address format"),
        ("ray://127.0.0.1:10001", "error: --address ray://127.0.0.1:10001 is of Ray Client. "),
    ],
)
def test_a_wrong_address_is_refused(
    fork_server: ForkServer, options: list[str], tmp_path: Path, address: str, message: str
) -> None:
    driver = Driver(fork_server, address, tmp_path, *options)
    assert driver.wait() == 2
    assert driver.text().startswith(message)
    assert driver.text().count("\n") == 1


def test_a_missing_ray_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["ray", "run", "--config", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "error: Ray is not installed. Install framemill[ray]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "0", "run"], "'0' is neither auto nor a number of ranks, 1 or more"),
        (["--gpus-per-rank", "2", "run"], "'2' is not from 0 to 1"),
        (["--gpus-per-rank", "nan", "run"], "'nan' is not from 0 to 1"),
        (["--cpus-per-rank", "1.5", "run"], "'1.5' is not a number of CPUs, 1 or more"),
        (["--rank", "2", "run"], "invalid choice: '2'"),
        ([], "required: command"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["ray", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([], ["--trainer.devices", "2"], "--trainer.devices 2: a rank in Ray has one device. Set --ranks instead"),
        (["--gpus-per-rank", "0"], ["--trainer.accelerator", "gpu"], "--trainer.accelerator gpu needs a GPU"),
        ([], ["--output.grace_seconds", "-1"], "grace_seconds = -1.0 must be 0 or more"),
    ],
)
def test_options_that_no_rank_could_use_are_refused_before_ray_is_asked(
    options: list[str], before: list[str], after: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ray", "--address", "127.0.0.1:1", *before, *options, *after]) == 2
    assert message in capsys.readouterr().err


def test_too_few_gpus_are_refused_or_waited_for(
    fork_server: ForkServer, cluster: Any, options: list[str], tmp_path: Path
) -> None:
    driver = Driver(fork_server, cluster.address, tmp_path, "--gpus-per-rank", "1", *options)
    assert driver.wait() == 2
    assert driver.text().startswith(
        "error: no node of the Ray cluster has the 1 CPU and 1 GPU that a rank needs: 1 node with 2 CPUs and 0 GPUs. "
    )
    driver = Driver(fork_server, cluster.address, tmp_path, "--gpus-per-rank", "1", "--ranks", "2", *options)
    wait_for(lambda: "room for 0 ranks with 1 CPU and 1 GPU each; 2 of 2 ranks wait for nodes" in driver.text(), 100)
    os.kill(driver.pid, signal.SIGINT)
    assert driver.wait() == 130
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_node_that_is_lost_and_one_that_joins_change_no_tar(
    fork_server: ForkServer, options: list[str], undisturbed: dict[str, bytes], hold: Path, tmp_path: Path
) -> None:
    hold.touch()
    with ray_cluster(num_cpus=1) as cluster:
        lost = add_node(cluster, num_cpus=1)
        driver = Driver(fork_server, cluster.address, tmp_path, *options)
        before = driver.wait_for_ranks(2)
        cluster.remove_node(lost, allow_graceful=False)
        wait_for(lambda: sum(rank.is_running() for rank in before) == 1)
        add_node(cluster, num_cpus=2)
        assert len(driver.wait_for_ranks(3) - before) == 2
        hold.unlink()
        assert driver.wait() == 0, driver.text()
    assert tars(tmp_path / "run") == undisturbed
    assert list(verify(Run(tmp_path / "run"))) == []
    assert "Ray has 1 node with 2 CPUs and 0 GPUs, 1 node with 1 CPU and 0 GPUs: room for 3 ranks" in driver.text()


@pytest.mark.slow
def test_a_killed_rank_and_a_killed_ray_worker_are_started_again(
    fork_server: ForkServer,
    cluster: Any,
    options: list[str],
    undisturbed: dict[str, bytes],
    hold: Path,
    tmp_path: Path,
) -> None:
    hold.touch()
    driver = Driver(fork_server, cluster.address, tmp_path, *options)
    rank, other = driver.wait_for_ranks(2)
    worker = other.parent()
    assert worker is not None
    assert worker.name().startswith("ray::rank")
    rank.kill()
    worker.kill()
    other.wait(10)
    assert driver.wait_for_ranks(2).isdisjoint({rank, other})
    hold.unlink()
    assert driver.wait() == 0, driver.text()
    assert "was ended by SIGKILL. It is started again" in driver.text()
    assert tars(tmp_path / "run") == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_driver_stops_its_ranks_and_the_same_command_resumes(
    fork_server: ForkServer,
    cluster: Any,
    options: list[str],
    undisturbed: dict[str, bytes],
    hold: Path,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    hold.touch()
    driver = Driver(fork_server, cluster.address, tmp_path, *options)
    ranks = driver.wait_for_ranks(2)
    os.kill(driver.pid, number)
    time.sleep(3)
    hold.unlink()  # so that the items in flight can be finished
    assert driver.wait() == 128 + number
    assert not any(rank.is_running() for rank in ranks)
    assert f"stopped by {number.name}. Finished work is safe. Rerun the same command to resume" in driver.text()
    assert "items of unfinished shards" in driver.text()  # a rank said so
    driver = Driver(fork_server, cluster.address, tmp_path, *options)
    assert driver.wait() == 0, driver.text()
    assert tars(tmp_path / "run") == undisturbed


@pytest.mark.slow
def test_ranks_see_the_gpus_that_ray_gave_them_and_end_with_a_killed_driver(
    fork_server: ForkServer, options: list[str], hold: Path, tmp_path: Path
) -> None:
    hold.touch()
    with ray_cluster(num_cpus=4, num_gpus=2) as cluster:
        driver = Driver(fork_server, cluster.address, tmp_path, "--gpus-per-rank", "1", *options)
        ranks = driver.wait_for_ranks(2)
        assert {rank.environ()["CUDA_VISIBLE_DEVICES"] for rank in ranks} == {"0", "1"}
        os.kill(driver.pid, signal.SIGKILL)
        assert psutil.wait_procs(ranks, 20) == (list(ranks), [])


@pytest.mark.slow
def test_a_rank_that_finds_other_settings_stops_all(
    fork_server: ForkServer, cluster: Any, options: list[str], tmp_path: Path
) -> None:
    assert fork_server.run(options, tmp_path / "log") == 0
    driver = Driver(fork_server, cluster.address, tmp_path, *options, "--output.shards.max_items", "4")
    assert driver.wait() == 2
    assert "holds a run with other settings" in driver.text().splitlines()[-1]
    assert driver.text().splitlines()[-1].startswith("error: rank 0 on ")


@pytest.mark.slow
def test_a_run_whose_ranks_all_fail_stops_and_resumes(
    fork_server: ForkServer, cluster: Any, options: list[str], undisturbed: dict[str, bytes], hold: Path, tmp_path: Path
) -> None:
    hold.touch()
    driver = Driver(fork_server, cluster.address, tmp_path, "--ranks", "1", *options)
    driver.wait_for_ranks(1)
    corpus, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    corpus.rename(elsewhere)
    corpus.mkdir()  # an unmounted folder exists and is empty
    hold.unlink()
    assert driver.wait() == 3
    assert driver.text().count("It is started again") >= 3
    assert "is gone, or empty. Finished work is safe" in driver.text().splitlines()[-1]
    corpus.rmdir()
    elsewhere.rename(corpus)
    assert Driver(fork_server, cluster.address, tmp_path, *options).wait() == 0
    assert tars(tmp_path / "run") == undisturbed


@pytest.mark.slow
def test_failed_items_are_retried_on_ray(
    fork_server: ForkServer, cluster: Any, options: list[str], hold: Path, tmp_path: Path
) -> None:
    image = tmp_path / "corpus" / "image07.png"
    good = image.read_bytes()
    image.write_bytes(b"no image")
    assert Driver(fork_server, cluster.address, tmp_path, *options).wait() == 0
    image.write_bytes(good)
    own = ["--model", "support.brightness.Held", "--data.corpus", "support.brightness.ImageFolders"]
    retry = ["retry", str(tmp_path / "run"), *own, "--model.hold", str(hold)]
    driver = Driver(fork_server, cluster.address, tmp_path, *retry)
    assert driver.wait() == 0, driver.text()
    assert "24 planned = 24 committed + 0 failed + 0 missing" in driver.text()
    assert Driver(fork_server, cluster.address, tmp_path, *retry).wait() == 0
    assert "nothing to retry" in driver.text().splitlines()[-1]
