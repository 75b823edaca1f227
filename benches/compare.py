"""Measures ringtable beside its rivals: `python -m benches.compare --help`.

Every server is started here and ended by its pid, also after Ctrl-C; all files live in one folder on tmpfs,
which is removed. The exit status is 1 if a scenario failed; a goal that is not met is reported, no failure.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from ringtable._bench.loops import SEED
from ringtable._bench.processes import CONTEXT

from benches import scenarios
from benches.figures import Figures
from benches.report import Report
from benches.rivals import RIVALS

TMPFS = "/dev/shm"
REPORT_WIDTH = 110
"""Characters a line where the output is no terminal."""


def main() -> int:
    options = parse_arguments()
    console = Console(width=None if sys.stdout.isatty() else REPORT_WIDTH)
    versions, missing = find_rivals(options.rivals)
    settings = scenarios.QUICK if options.quick else scenarios.FULL
    figures, failures = Figures(), list[str]()
    console.print(f"seed {SEED}, rivals: {', '.join(versions)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    CONTEXT.set_forkserver_preload(["benches.report"])
    try:
        with (
            tempfile.TemporaryDirectory(prefix="ringtable-bench-", dir=TMPFS) as folder,
            console.status("") as status,
        ):
            bench = scenarios.Bench(settings, list(versions), Path(folder), figures, failures, status.update)
            scenarios.measure(bench, options.only)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    report = Report(settings, options.only, versions, [*missing, *failures], figures)
    report.print(console)
    if options.json:
        options.json.write_text(report.json())
    if options.markdown:
        options.markdown.write_text(report.markdown())
    return 1 if failures else 0


def find_rivals(names: list[str]) -> tuple[dict[str, str], list[str]]:
    """The versions of those that are installed, and what is missing."""
    versions, missing = {}, []
    for name in names:
        try:
            versions[name] = RIVALS[name].version()
        except ImportError as error:
            missing.append(f"{name} is left out: {error}")
    return versions, missing


def parse_arguments() -> argparse.Namespace:
    every_scenario, every_rival = list(scenarios.SCENARIOS), list(RIVALS)
    parser = argparse.ArgumentParser(prog="benches.compare", description="Measure ringtable and its rivals.")
    parser.add_argument("--quick", action="store_true", help="less than two minutes, unsteadier medians")
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join(every_scenario)}")
    parser.add_argument("--rivals", metavar="NAME,...", help=f"of {', '.join(every_rival)}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="every value of every round")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="the tables, to be pasted into a page")
    options = parser.parse_args()
    for option, known in (("only", every_scenario), ("rivals", every_rival)):
        wanted = known if getattr(options, option) is None else getattr(options, option).split(",")
        if unknown := set(wanted).difference(known):
            parser.error(f"--{option}: no such name: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        setattr(options, option, [name for name in known if name in wanted])
    return options


if __name__ == "__main__":
    raise SystemExit(main())
