"""Execute a command that Linux kills when its parent dies::

    python -m preprocess.cluster.dies_with_parent PARENT COMMAND …

`subprocess.Popen(preexec_fn=…)` could request the same between fork and exec. But Python code there can deadlock if the
parent has threads, and a Ray worker has dozens.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>; the kernel keeps the setting when the process executes another program


def main(argv: Sequence[str]) -> None:
    """Execute a command in this process.

    Args:
        argv: process id of the parent, path of the program, arguments of the program.
    """
    parent, *command = argv
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == int(parent):  # else it died before the request
        os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
