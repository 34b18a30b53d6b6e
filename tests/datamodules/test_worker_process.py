import signal
import subprocess
import sys
from multiprocessing.connection import Connection

from datamodules.worker_process import begin_worker, fork_server

PROGRAM = """
import os, signal
from multiprocessing import forkserver, resource_tracker
from datamodules.worker_process import fork_server

context = fork_server(["torch"])
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    os.kill(forkserver._forkserver._forkserver_pid, number)
    os.kill(resource_tracker._resource_tracker._pid, number)
worker = context.Process(target=os.getpid)
worker.start()
worker.join()
print(worker.exitcode, resource_tracker._resource_tracker._check_alive(), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_signals_to_all_processes_end_neither_the_fork_server_while_it_imports_nor_the_resource_tracker() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0 True set()\n", "")


def test_garbage_is_collected_in_a_worker_but_not_among_what_the_server_imported() -> None:
    program = (
        "import gc; from concurrent.futures import ProcessPoolExecutor; "
        "from datamodules.worker_process import begin_worker, fork_server; "
        "pool = ProcessPoolExecutor(1, fork_server(['datamodules.worker_process']), begin_worker, (0,)); "
        "print(pool.submit(gc.get_freeze_count).result() > 1000, pool.submit(gc.isenabled).result()); pool.shutdown()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True True\n", "")


def work(started: Connection) -> None:
    """Begin a worker, and wait until a signal ends it."""
    begin_worker(0)
    started.send(None)
    signal.pause()


def test_only_its_rank_ends_a_worker_by_sigterm() -> None:
    context = fork_server(["datamodules.worker_process"])
    ours, theirs = context.Pipe()
    worker = context.Process(target=work, args=(theirs,), daemon=True)
    worker.start()
    ours.recv()
    subprocess.run(["kill", str(worker.pid)], check=True)
    worker.join(0.2)
    assert worker.is_alive()
    worker.terminate()
    worker.join(60)
    assert worker.exitcode == 1
