import subprocess
import sys

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
