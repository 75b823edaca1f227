"""Child processes that end with this one, however it ends: no handler runs in a process that is killed."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing import connection, parent_process

_BINDING = """
import os, signal, sys
parent, number, *command = sys.argv[1:]
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0)  # PR_SET_PDEATHSIG, which stays over the exec
except (ImportError, OSError, AttributeError):
    pass
for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(ignored, signal.SIG_DFL)  # by this Python, at its start
if os.getppid() == int(parent):
    os.execvp(command[0], command)
"""


def bound(command: Sequence[str]) -> list[str]:
    """The command line of a program that gets SIGTERM when the thread that starts it ends, as with its process.

    A small Python asks the kernel for that, and becomes the program. (Code between fork and exec could do without, but
    not in a process with threads.)
    """
    return [sys.executable, "-I", "-S", "-c", _BINDING, str(os.getpid()), str(int(signal.SIGTERM)), *command]


def end_with_parent() -> None:
    """Have this process, which `multiprocessing` has started, end at once when its parent has ended."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_wait_for_end, args=(parent.sentinel,), daemon=True).start()


def _wait_for_end(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
