"""What a suite is: where it comes from, what it needs, how it is run, and what became of its tests.

# Design

Everything lies in a folder of the suite's own: the source distribution, unpacked, and the packages that the tests need,
both made once for each version. The tests run in a process of their own, which sees these packages, the suite, this
repository and nothing else that is installed, and writes down what became of each test (`recording.py`). The servers
that they start lie in a folder of that run, and end with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import ringtable

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".suites"
PINS = Path(__file__).parent / "pins"

# For a whole suite.
_RUN_S_MAX = 1_800.0

# For a server that was told to end.
_END_S_MAX = 10.0

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


@dataclass
class Results:
    """What became of tests, by name."""

    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def show(self, title: str) -> None:
        """Print each test that failed, and why others were skipped."""
        for name, words in self.failed.items():
            print(f"\nfailed: {name}\n{words}")
        if self.skipped:
            print(f"\n{title}, skipped:")
        for reason, count in Counter(self.skipped.values()).most_common():
            named = [name for name, why in self.skipped.items() if why == reason]
            names = sorted({re.split(r"::|\.", name.partition("[")[0])[-1] for name in named})
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            print(f"  {count:3} {reason}: {shown}")


@dataclass(frozen=True)
class Suite:
    """Tests of one project, in one version."""

    package: str
    """The project, as the package index has it; the file of its pins is called the same."""

    version: str

    sha256: str
    """The checksum of the source distribution."""

    command: Callable[[Path, bool], Sequence[str]]
    """What is run, given where the suite lies and whether a part of it has to do; without the interpreter."""

    path: Callable[[Path], Sequence[Path]] = lambda source: ()
    """Where Python looks for modules, besides, given where the suite lies."""

    folder: Callable[[Path], Path] = lambda source: source
    """Where it is run."""

    environment: Mapping[str, str] = field(default_factory=dict)

    unfit: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The tests that cannot apply: a reason, and the ends of their names."""

    @property
    def title(self) -> str:
        """The project and its version."""
        return f"{self.package} {self.version}"

    def run(self, quick: bool) -> Results:
        """Fetch what is not there yet, and run the tests, or a part of them."""
        source, packages = self.fetched()
        with tempfile.TemporaryDirectory(prefix="ringtable-") as name:
            folder = Path(name)
            report = folder / "results.json"
            places = [packages, *self.path(source), ROOT, ROOT / "python"]
            environment = {
                **os.environ,
                **self.environment,
                "PYTHONPATH": os.pathsep.join(map(str, places)),
                "PYTHONDONTWRITEBYTECODE": "1",
                "RINGTABLE_DIR": name,
                "SUITES_REPORT": str(report),
                "SUITES_UNFIT": json.dumps({end: reason for reason, ends in self.unfit.items() for end in ends}),
                "TMPDIR": name,
            }
            command = [sys.executable, *self.command(source, quick)]
            with (folder / "output").open("w+") as output:
                status = subprocess.run(
                    command,
                    cwd=self.folder(source),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=_RUN_S_MAX,
                    check=False,
                ).returncode
                _end_servers(folder)
                if report.exists():
                    results = Results(**json.loads(report.read_text()))
                    if status == 0 or results.failed:
                        return results
                output.seek(0)
                raise SystemExit(f"{self.title}: {' '.join(command)} ends with {status}:\n{output.read()}")

    def fetched(self) -> tuple[Path, Path]:
        """Return where the suite lies, and where the packages that it needs do, which are fetched if need be."""
        pins = PINS / f"{self.package}.txt"
        home = CACHE / f"{self.package}-{self.version}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:8]}"
        source, packages = home / "source", home / "packages"
        if not home.exists():
            # Moved to its place when it is whole.
            CACHE.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=CACHE) as name:
                made = Path(name) / "made"
                self._unpack(Path(name), made / source.name)
                subprocess.run(
                    [*_PIP, "install", "--no-deps", "--target", str(made / packages.name), "--requirement", str(pins)],
                    check=True,
                )
                shutil.move(made, home)
        return source, packages

    def _unpack(self, folder: Path, target: Path) -> None:
        command = ["download", "--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
        subprocess.run([*_PIP, *command, f"{self.package}=={self.version}"], check=True)
        [archive] = folder.glob("*.tar.gz")
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != self.sha256:
            raise SystemExit(f"{archive.name} has the checksum {found}, and was to have {self.sha256}")
        with tarfile.open(archive) as files:
            files.extractall(folder / "unpacked", filter="data")
        [unpacked] = (folder / "unpacked").iterdir()
        target.parent.mkdir()
        unpacked.rename(target)


def _end_servers(folder: Path) -> None:
    """End the servers that tests have started in the background, and left."""
    for socket in folder.glob("*.sock"):
        with suppress(ringtable.TableNotFound, ringtable.ServerGone, ProcessLookupError):
            with ringtable.connect(socket, timeout=10) as table:
                pid = table.stats()["process_id"]
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _END_S_MAX
            while socket.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
