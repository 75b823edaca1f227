"""The machine that a run happened on, and the build that was measured."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from ringtable._ringtable import __version__


def cores_usable() -> int:
    """The processors that this process may run on."""
    return len(os.sched_getaffinity(0))


BUSY_LOAD = 0.5
"""A load above this is somebody else's work, if nothing of ours has run yet."""


def load() -> str:
    """How many programs were running, on average of the last minute; to be asked before anything is measured."""
    programs = os.getloadavg()[0]
    warning = ": other programs were running, so that the figures are unsteady" if programs > BUSY_LOAD else ""
    return f"{programs:.1f}{warning}"


def describe() -> dict[str, str]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    kernel = re.match(r"[\d.]*\d", platform.release())
    cores = cores_usable()
    return {
        "CPU": f"{cpu[1] if cpu else platform.machine()}, {cores} {'core' if cores == 1 else 'cores'} usable",
        "kernel": f"Linux {kernel[0] if kernel else '?'}",
        "Python": platform.python_version(),
        "ringtable": __version__,
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def commit() -> str:
    """The commit of the working tree that this package is part of; `+` if something is changed."""
    package = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        top = Path(git("rev-parse", "--show-toplevel"))
        # An installed package may lie in the working tree of somebody else's project.
        if package != top / "python" / "ringtable" / package.name:
            return "unknown"
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
