"""A SLURM cluster of one node with 2 CPUs on this machine: its daemons, with a configuration and state of their own."""

import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
_CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# a requeued task starts after cred_expire seconds, by default 120
AuthInfo=socket={folder}/munge.socket,cred_expire=3
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1
MailProg=/bin/true
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 CPUs=2
PartitionName=usual Nodes=n1 PriorityTier=1 Default=YES
PartitionName=urgent Nodes=n1 PriorityTier=2
"""


class SlurmCluster:
    """A running cluster, with the partitions `usual` and `urgent`; jobs of the second preempt those of the first.

    Attributes:
        environment: variables with which SLURM's commands find it.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment

    def call(self, *command: str) -> str:
        """Run a command of SLURM and return what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def tasks(self, job: str) -> dict[str, dict[str, str]]:
        """Return the fields that SLURM shows of each task of a job array, by index of the task."""
        lines = self.call("scontrol", "show", "job", "--oneliner", job).splitlines()
        shown = [dict(re.findall(r"(\w+)=(.*?)(?= [\w/:]+=|\s*$)", line)) for line in lines]
        return {fields["ArrayTaskId"]: fields for fields in shown}

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until there is no job, neither running nor pending."""
        deadline = time.monotonic() + seconds
        while queue := self.call("squeue", "--noheader"):
            assert time.monotonic() < deadline, queue
            time.sleep(0.5)


@contextmanager
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Start a cluster, and end its jobs and daemons afterwards. Raises AssertionError if SLURM is not installed."""
    missing = [command for command in _COMMANDS if shutil.which(command) is None]
    assert not missing, f"{', '.join(missing)}: not installed. On Debian: apt-get install slurm-wlm munge"
    with TemporaryDirectory(prefix="slurm-") as name, ExitStack() as stack:
        folder = Path(name)
        for part in ("state", "spool"):
            (folder / part).mkdir()
        controller_port, node_port = _free_ports()
        user = pwd.getpwuid(os.getuid()).pw_name
        values = {"folder": folder, "user": user, "controller_port": controller_port, "node_port": node_port}
        (folder / "slurm.conf").write_text(_CONFIGURATION.format(**values))
        (folder / "munge.key").write_bytes(os.urandom(64))
        (folder / "munge.key").chmod(0o600)
        environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        munge = [f"--{part}-file={folder}/munge.{part}" for part in ("key", "pid", "log", "seed")]
        socket_option = f"--socket={folder}/munge.socket"
        for command in (
            ["munged", "--foreground", "--force", *munge, socket_option],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D", "-N", "n1"],
        ):
            stack.enter_context(_daemon(command, environment, folder / f"{command[0]}.out"))
            time.sleep(0.5)  # each needs the one before
        cluster = SlurmCluster(environment)
        deadline = time.monotonic() + 60
        while "idle" not in (states := cluster.call("sinfo", "--noheader", "--format=%t")):
            assert time.monotonic() < deadline, (states, *(path.read_text() for path in folder.glob("*.log")))
            time.sleep(0.2)
        try:
            yield cluster
        finally:
            cluster.call("scancel", f"--user={user}")
            cluster.wait_until_idle(60)


@contextmanager
def _daemon(command: Sequence[str], environment: Mapping[str, str], output: Path) -> Iterator[None]:
    with output.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _free_ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports
