"""`preprocess run` as users start it: real processes, one folder, and always the same bytes."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.run.folder import Run
from preprocess.cli import main
from preprocess.integrity import coverage, verify
from support.environment import process_environment
from support.fork_server import ForkServer

TESTS = Path(__file__).parents[2]
NUM_VIDEOS, NUM_IMAGES, BROKEN = 10, 13, "train/v03"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frame sequences and single images of two sizes; one sequence has a 0-byte frame."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for video in range(NUM_VIDEOS):
        (root / f"v{video:02d}").mkdir()
        for frame in range(int(rng.integers(1, 30))):
            _picture(rng, 48).save(root / f"v{video:02d}" / f"{frame:04d}.png")
    for image in range(NUM_IMAGES):
        _picture(rng, 48 if image < 9 else 50).save(root / f"image{image:02d}.png")
    (root / "v03" / "0000.png").write_bytes(b"")
    return root


def _picture(rng: np.random.Generator, width: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 255, (40, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def arguments(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Return the arguments of `preprocess run` for an output folder, with `more` arguments."""
    config = tmp_path_factory.mktemp("config") / "brightness.yaml"
    config.write_text(
        "model: {class_path: support.brightness.Brightness}\n"
        "data: {num_workers: 0, corpus: {class_path: support.brightness.ImageFolders, "
        f"init_args: {{root: {corpus}}}}}}}\n"
        "output: {dir: nowhere, shards: {min_shards: 6}}\n"
        "trainer: {accelerator: cpu}\n"
    )
    return lambda folder, *more: ["run", "--config", str(config), "--output.dir", str(folder), *more]


@pytest.fixture(scope="module")
def undisturbed(arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tars of a run by one rank without workers."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(arguments(folder)) == 0
    return tars(folder)


def tars(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = process_environment(PYTHONWARNINGS="")
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    return output


def preprocess(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "preprocess", *arguments]


def torchrun(ranks: int, arguments: list[str], *options: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), *options]
    return [*launcher, "-m", "preprocess", *arguments]


def assert_complete(folder: Path, undisturbed: dict[str, str]) -> None:
    run = Run(folder)
    assert list(verify(run)) == []
    covered = coverage(run)
    assert (covered.planned, covered.committed, covered.failed) == (NUM_VIDEOS + NUM_IMAGES, 22, 1)
    assert tars(folder) == undisturbed


@pytest.fixture
def no_process_left() -> Iterator[None]:
    """After the test, no process of this session's runs lives on, nor shared memory."""
    before = set(Path("/dev/shm").iterdir())
    yield
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (left := _forkservers()):
        time.sleep(0.2)
    assert left == []
    assert {path for path in Path("/dev/shm").iterdir() if path.name.startswith("torch_")} <= before


def _forkservers() -> list[str]:
    python_path = f"PYTHONPATH={process_environment()['PYTHONPATH']}\0".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(b"multiprocessing.forkserver" in word and b"datamodules" in word for word in words):
            environment = (path.parent / "environ").read_bytes()
            if python_path in environment:
                found.append(str(path))
    return found


def test_one_process_commits_all_but_the_broken_item(undisturbed: dict[str, str]) -> None:
    assert list(undisturbed) == [f"train-{index:06d}.tar" for index in range(len(undisturbed))]
    assert len(undisturbed) >= 6


def test_ranks_on_other_device_models_join_unless_the_run_is_to_have_one(
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, same = tmp_path / "run", ("--output.same_device", "true")

    def run_on(device: str, *more: str) -> int:
        monkeypatch.setattr("preprocess.job.session.device_name", lambda _: device)
        return main(arguments(folder, *more))

    assert run_on("GPU A", *same, "--output.only", "0/2") == 0
    assert run_on("GPU B", *same, "--output.only", "1/2") == 2
    refusal = f"{folder} was started on GPU A, but this rank has GPU B. Use the same device model, or set"
    assert refusal in capfd.readouterr().err
    assert run_on("GPU B", "--output.only", "1/2") == 0
    devices = Run(folder).outcome().devices
    assert set(devices) == {"GPU A", "GPU B"}
    assert devices["GPU A"] + devices["GPU B"] == NUM_VIDEOS + NUM_IMAGES - 1
    assert main(["view", str(folder)]) == 0
    assert f"devices  GPU A ({devices['GPU A']} samples), GPU B ({devices['GPU B']} samples)" in capfd.readouterr().out
    assert Run(folder).plan.fingerprint["device"] == "cpu"


@pytest.mark.slow
def test_two_ranks_of_torchrun_give_the_same_tars(
    arguments: Callable[..., list[str]], undisturbed: dict[str, str], tmp_path: Path, no_process_left: None
) -> None:
    finish(start(torchrun(2, arguments(tmp_path / "run", "--data.num_workers", "1"))))
    assert_complete(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_two_ranks_of_lightnings_launcher_with_two_workers_each_give_the_same_tars(
    arguments: Callable[..., list[str]], undisturbed: dict[str, str], tmp_path: Path, no_process_left: None
) -> None:
    output = finish(start(preprocess(arguments(tmp_path / "run", "--trainer.devices", "2", "--data.num_workers", "2"))))
    assert_complete(tmp_path / "run", undisturbed)
    assert "23 planned = 22 committed + 1 failed + 0 missing" in output


@pytest.mark.slow
def test_three_independent_processes_of_which_one_is_killed_give_the_same_tars(
    arguments: Callable[..., list[str]], undisturbed: dict[str, str], tmp_path: Path, no_process_left: None
) -> None:
    slow = arguments(tmp_path / "run", "--data.num_workers", "1", "--model.seconds_per_frame", "0.03")
    processes = [start(preprocess(slow)) for _ in range(3)]
    wait_for(lambda: len(list((tmp_path / "run").glob("*.tar"))) >= 2, processes[0])
    os.killpg(processes[0].pid, signal.SIGKILL)
    processes[0].communicate()
    for process in processes[1:]:
        finish(process)
    assert_complete(tmp_path / "run", undisturbed)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_a_killed_run_resumes_with_other_numbers_of_ranks_and_workers(
    arguments: Callable[..., list[str]],
    undisturbed: dict[str, str],
    tmp_path: Path,
    no_process_left: None,
    fork_server: ForkServer,
) -> None:
    slow = arguments(tmp_path / "run", "--data.num_workers", "1", "--model.seconds_per_frame", "0.03")
    ranks = [fork_server.start(slow, tmp_path / f"rank{number}.log") for number in range(2)]
    deadline = time.monotonic() + 90
    while len(tars(tmp_path / "run")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for rank in ranks:
        os.killpg(rank, signal.SIGKILL)
    assert [fork_server.wait(rank) for rank in ranks] == [-signal.SIGKILL] * 2
    assert 2 <= len(tars(tmp_path / "run")) < len(undisturbed)

    assert main(arguments(tmp_path / "run", "--data.num_workers", "4")) == 0
    assert_complete(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("max_restarts", [3, 0])
def test_a_killed_rank_of_torchrun_is_restarted_or_the_same_command_resumes(
    arguments: Callable[..., list[str]],
    undisturbed: dict[str, str],
    tmp_path: Path,
    no_process_left: None,
    max_restarts: int,
) -> None:
    slow = arguments(tmp_path / "run", "--model.seconds_per_frame", "0.05")
    process = start(torchrun(2, slow, "--max-restarts", str(max_restarts)))
    wait_for(lambda: bool(tars(tmp_path / "run")), process)
    os.kill(_ranks(process.pid)[1], signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert (process.returncode == 0) == (max_restarts > 0), output
    if not max_restarts:
        assert main(arguments(tmp_path / "run")) == 0
    assert_complete(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_an_item_of_which_ranks_die_fails_alone_under_torchrun_which_restarts_them(
    corpus: Path,
    arguments: Callable[..., list[str]],
    undisturbed: dict[str, str],
    tmp_path: Path,
    no_process_left: None,
) -> None:
    gray = corpus / "image99.png"
    Image.new("RGB", (48, 40), (7, 7, 7)).save(gray)
    deadly = [
        "--model.class_path",
        "support.crashing_extractors.Deadly",
        "--model.poison",
        "7",
        "--model.what",
        "segfault",
    ]
    try:
        finish(start(torchrun(2, arguments(tmp_path / "run", *deadly), "--max-restarts", "5")))
    finally:
        gray.unlink()
    run = Run(tmp_path / "run")
    assert list(verify(run)) == []
    rows = [row for shard in run.plan.shards for row in run.table(shard.name).to_pylist()]
    failed = {row["key"]: (row["reason"], row["attempts"]) for row in rows if row["reason"]}
    assert failed == {BROKEN: ("0000.png is empty (0 bytes)", 1), "train/image99": ("crashed: SIGSEGV", 3)}


@pytest.mark.slow
def test_a_node_that_joins_late_and_one_that_is_lost_leave_the_tars_the_same(
    arguments: Callable[..., list[str]], undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # or a late node does not get in (torch 2.15)
    elastic = ["--nnodes", "1:2", "--max-restarts", "5", "--rdzv-backend", "c10d", "--rdzv-id", "elastic"]
    elastic += ["--rdzv-endpoint", "127.0.0.1:29713"]
    elastic += ["--rdzv-conf", "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=3"]
    command = torchrun(1, arguments(tmp_path / "run", "--model.seconds_per_frame", "0.15"), *elastic)
    first = start(command)
    wait_for(lambda: bool(tars(tmp_path / "run")), first)
    late = start(command)
    ranks = tmp_path / "run" / "work" / "ranks"
    wait_for(lambda: len(list(ranks.glob("*.json"))) == 2 and bool(_ranks(late.pid)), first)
    for agent in (late, first):  # the first may wait minutes for the lost one at its end: success is read from files
        if agent is first:
            wait_for(lambda: coverage(Run(tmp_path / "run")).is_exact, first)
        for pid in _family(agent.pid):
            os.kill(pid, signal.SIGKILL)
        agent.communicate()
    assert_complete(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_two_agents_of_torchrun_on_loopback_give_the_same_tars(
    arguments: Callable[..., list[str]], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    rendezvous = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:29711", "--rdzv-id", "test")
    command = torchrun(1, arguments(tmp_path / "run"), *rendezvous)
    for agent in [start(command), start(command)]:
        finish(agent)
    assert_complete(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_fabric_run_with_a_script_path_gives_the_same_tars(
    arguments: Callable[..., list[str]], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    script = TESTS.parent / "src" / "preprocess" / "__main__.py"
    fabric = [str(Path(sys.executable).with_name("fabric")), "run", "--accelerator", "cpu", "--devices", "2"]
    finish(start([*fabric, str(script), *arguments(tmp_path / "run")]))
    assert_complete(tmp_path / "run", undisturbed)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _family(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [pid, *(member for child in children for member in _family(child))]


def _ranks(pid: int) -> list[int]:
    """Return the `preprocess` processes below `pid`, without their workers and launchers."""
    commands = {member: Path(f"/proc/{member}/cmdline").read_bytes().split(b"\0") for member in _family(pid)[1:]}
    return [member for member, words in commands.items() if b"preprocess" in words and b"run" in words]


@pytest.mark.parametrize(
    ("what", "reason", "reason_class"),
    [
        ("crash", "crashed: SIGSEGV", "crash"),
        pytest.param("hang", "timed out after 2 s", "timeout", marks=pytest.mark.slow),
    ],
)
def test_an_item_that_kills_or_hangs_its_worker_fails_alone(
    arguments: Callable[..., list[str]],
    undisturbed: dict[str, str],
    tmp_path: Path,
    fork_server: ForkServer,
    what: str,
    reason: str,
    reason_class: str,
) -> None:
    poisoned = [
        "--model.class_path",
        "support.crashing_extractors.Poisoned",
        "--model.poison_key",
        "v05",
        "--model.what",
        what,
    ]
    poisoned += ["--data.num_workers", "2", "--data.worker_timeout_seconds", "2"]
    assert fork_server.run(arguments(tmp_path / "run", *poisoned), tmp_path / "log") == 0, (
        tmp_path / "log"
    ).read_text()
    run = Run(tmp_path / "run")
    assert list(verify(run)) == []
    rows = [row for shard in run.plan.shards for row in run.table(shard.name).to_pylist()]
    failed = {row["key"]: (row["reason"], row["reason_class"], row["attempts"]) for row in rows if row["reason"]}
    assert failed == {BROKEN: ("0000.png is empty (0 bytes)", "decode", 1), "train/v05": (reason, reason_class, 3)}


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_run_in_order_and_the_same_command_resumes(
    arguments: Callable[..., list[str]],
    undisturbed: dict[str, str],
    tmp_path: Path,
    no_process_left: None,
    fork_server: ForkServer,
    number: signal.Signals,
    status: int,
) -> None:
    slow = arguments(tmp_path / "run", "--data.num_workers", "1", "--model.seconds_per_frame", "0.03")
    rank = fork_server.start(slow, tmp_path / "log")
    while not list((tmp_path / "run").glob("*.tar")):
        assert fork_server.poll(rank) is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    os.killpg(rank, number)
    ended = fork_server.wait(rank)
    output = (tmp_path / "log").read_text()
    assert ended == status, output
    assert "Traceback" not in output
    assert f"stopped by {number.name}. Finished work is safe" in output
    assert not list((tmp_path / "run" / "work" / "leases").iterdir())

    assert main(arguments(tmp_path / "run")) == 0
    assert_complete(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_rank_of_lightnings_launcher_that_is_killed_does_not_take_the_other_along(
    arguments: Callable[..., list[str]], undisturbed: dict[str, str], tmp_path: Path, no_process_left: None
) -> None:
    slow = arguments(tmp_path / "run", "--trainer.devices", "2", "--model.seconds_per_frame", "0.05")
    process = start(preprocess(slow))
    ranks = tmp_path / "run" / "work" / "ranks"
    wait_for(lambda: len(list(ranks.glob("*.json"))) == 2 and bool(tars(tmp_path / "run")), process)
    second = next(pid for pid in _family(process.pid)[1:] if b"preprocess" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(second, signal.SIGKILL)
    finish(process)
    assert_complete(tmp_path / "run", undisturbed)


def test_a_sequence_whose_frames_differ_in_size_fails_with_both_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "corpus" / "v").mkdir(parents=True)
    for frame, width in enumerate((48, 48, 50)):
        _picture(rng, width).save(tmp_path / "corpus" / "v" / f"{frame}.png")
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {class_path: support.brightness.Brightness}\n"
        "data:\n  num_workers: 0\n"
        f"  corpus: {{class_path: support.brightness.ImageFolders, init_args: {{root: {tmp_path}/corpus}}}}\n"
    )
    assert main(["run", "--config", str(config), "--output.dir", str(tmp_path / "run")]) == 4  # all of it has failed
    (row,) = Run(tmp_path / "run").table("train-000000").to_pylist()
    assert row["status"] == "failed"
    assert row["reason"] == "frame 2 is 50x40 px, but the first is 48x40: all frames of an item must have the same size"


def test_since_without_extend_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "keypoints", "--since", "2026-11-30"]) == 2
    assert "--since has no effect without --extend" in capsys.readouterr().err


@pytest.mark.parametrize("num_ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_grows_with_its_corpus_by_extend(
    arguments: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], num_ranks: int
) -> None:
    root, folder = tmp_path / "corpus", tmp_path / "run"
    rng = np.random.default_rng(1)
    root.mkdir()
    for image in range(4):
        _picture(rng, 48).save(root / f"image{image:02d}.png")
    mine = [*arguments(folder), "--data.root", str(root), "--output.shards.max_items", "2"]
    assert main(mine) == 0
    before = tars(folder)

    for image in range(4, 7):
        _picture(rng, 48).save(root / f"image{image:02d}.png")
    if num_ranks > 1:
        finish(start(preprocess([*mine, "--extend", "--trainer.devices", str(num_ranks)])))
    else:
        assert main([*mine, "--extend"]) == 0
    run = Run(folder)
    assert (run.plan.num_items, len(run.plan.parts), coverage(run).committed) == (7, 2, 7)
    assert {name: tar for name, tar in tars(folder).items() if name in before} == before
    assert list(verify(run)) == []

    capsys.readouterr()
    assert main([*mine, "--extend", "--since", "2020-01-01"]) == 0  # it was extended since: nothing is listed
    assert main([*mine, "--extend"]) == 0
    assert "7 planned = 7 committed + 0 failed + 0 missing" in capsys.readouterr().err
    assert len(Run(folder).plan.parts) == 2
