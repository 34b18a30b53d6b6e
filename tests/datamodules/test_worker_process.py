import subprocess
import sys

PROGRAM = """
import os, signal
from multiprocessing import forkserver
from datamodules.worker_process import fork_server

context = fork_server(["torch"])
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    os.kill(forkserver._forkserver._forkserver_pid, number)
worker = context.Process(target=os.getpid)
worker.start()
worker.join()
print(worker.exitcode, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_signals_to_all_processes_do_not_end_the_fork_server_while_it_imports() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0 set()\n", "")
