"""Everything that searches for broken promises, one after the other, each bounded: `make prove`.

    python -m proof                  all steps
    python -m proof fuzz kills       those
    python -m proof --list           what there is

Each step is a command of its own, whose output goes to `target/proof/STEP.log`; a line a step says how long it took and
what it says at its end. The exit status is 0 only if none has found anything. All of them take less than 15 minutes on
two processors; the long forms are those of the programs themselves (`python -m proof.NAME --help`), and `make soak`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ringtable._cli.signals import interrupt_on_termination

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "target" / "proof"
TIMEOUT_S = 900.0
"""A step that takes longer hangs."""


@dataclass(frozen=True)
class Step:
    """One search."""

    name: str
    about: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)


PYTHON = sys.executable
STEPS = {
    step.name: step
    for step in (
        Step("loom", "models of rings, doorbell and table: all interleavings", ["scripts/loom.sh"]),
        Step("shuttle", "models of heap and table: random interleavings", ["scripts/shuttle.sh"]),
        Step(
            "rust",
            "the engine's own tests, with a model of the table, and all inputs of the fuzzers' corpora",
            ["cargo", "test", "--quiet", "--package", "ringtable", "--lib"],
        ),
        Step("fuzz", "inputs that the engine does not survive", ["scripts/fuzz.sh"], {"FUZZ_SECONDS": "12"}),
        Step(
            "failpoints",
            "processes that die or stop at each step of the protocols",
            ["scripts/failpoints.sh", "-q", "--no-header", "-m", "not slow"],
        ),
        Step(
            "model",
            "random calls on tables over every transport, compared with a dict",
            [PYTHON, "-m", "pytest", "-q", "--no-header", "tests/test_model.py"],
        ),
        Step(
            "histories", "an order has to explain what processes do to the same keys", [PYTHON, "-m", "proof.histories"]
        ),
        Step("kills", "clients and servers killed and stopped at random instants", [PYTHON, "-m", "proof.kills"]),
        Step(
            "locks",
            "locks, semaphores and limiters of processes that are killed and stopped",
            [PYTHON, "-m", "proof.locks"],
        ),
        Step(
            "restarts",
            "servers with a keeper, killed under clients that go on",
            [PYTHON, "-m", "proof.restarts", "--seconds", "20"],
        ),
        Step(
            "steps",
            "servers with a keeper, killed behind single instructions",
            [PYTHON, "-m", "proof.steps", "--seconds", "60", "--sample", "8", "--again", "1"],
        ),
        Step(
            "disks",
            "servers that log their changes, and machines, killed; and what is there then",
            [PYTHON, "-m", "proof.disks", "--seconds", "40"],
        ),
        Step(
            "images",
            "machines that die at each step of what a server writes, and disks that fail",
            ["scripts/failpoints.sh", "--run", PYTHON, "-m", "proof.images", "--seconds", "40"],
        ),
        Step(
            "calls",
            "calls whose trouble is of the caller's own making",
            [PYTHON, "-m", "proof.calls", "--seconds", "0.5"],
        ),
        Step(
            "hostile",
            "a client that breaks every rule, beside honest ones",
            [PYTHON, "-m", "proof.hostile", "--minutes", "0.1"],
        ),
        Step(
            "surroundings",
            "files, folders, users, forks, standard streams and limits, as others treat them",
            [PYTHON, "-m", "proof.surroundings"],
        ),
        Step(
            "soak",
            "all of it at once",
            [PYTHON, "-m", "proof.soak", "--minutes", "0.5", "--html", "target/proof/soak.html"],
        ),
    )
}


def run(step: Step) -> tuple[bool, str]:
    """Run a step to its end. Returns whether it has found nothing, and its last words."""
    log = LOGS / f"{step.name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=os.environ | step.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return False, f"it takes longer than {TIMEOUT_S:.0f} s: see {log}"
        finally:
            if process.poll() is None:
                end(process)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if status:
        wrong = [line for line in lines if "forbidden" in line or line.startswith("FAILED")]
        return False, f"{(wrong or lines or ['it said nothing'])[0 if wrong else -1].strip()}: see {log}"
    return True, lines[-1].strip() if lines else ""


def end(process: subprocess.Popen[bytes]) -> None:
    """End a step and all that it has started: with a chance to clean up, then without."""
    for number in (signal.SIGINT, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            process.wait(20)
            return
        except subprocess.TimeoutExpired:
            pass


def main(names: Sequence[str]) -> int:
    if names and names[0] == "--list":
        for step in STEPS.values():
            print(f"{step.name:13} {step.about}")
        return 0
    if unknown := [name for name in names if name not in STEPS]:
        print(f"there is no step {unknown[0]!r}; there are {', '.join(STEPS)}", file=sys.stderr)
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    failed = 0
    for step in [STEPS[name] for name in names] or STEPS.values():
        print(f"{step.name:13}", end="", flush=True)
        start = time.monotonic()
        held, words = run(step)
        failed += not held
        print(f"{time.monotonic() - start:6.0f} s  {'held  ' if held else 'FAILED'}  {words}", flush=True)
    print(f"{'all':13}{time.monotonic() - begun:6.0f} s  {'held' if not failed else f'{failed} FAILED'}")
    return 1 if failed else 0


if __name__ == "__main__":
    interrupt_on_termination()
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
