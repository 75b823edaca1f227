"""`python -m proof.soak`: all loads at once against one server, and whether each promise was held."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support import DEADLINE_S, HtmlBalance, wait_until

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from proof.curves import LoadReport, Report, render  # noqa: E402
from proof.verdict import BOUNDS, Promise, does_not_rise, is_as_before, slope  # noqa: E402
from proof.vitals import Sample  # noqa: E402

LOADS = ["--load", "honest", "--load", "churn"]
SOAK_S_MAX = 110.0


def soak(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "proof.soak", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A group of its own, so that Ctrl-C can be sent to all its processes, as a terminal does.
        start_new_session=True,
    )


def sample(at_s: float, **figures: Any) -> Sample:
    usual = Sample(at_s, at_s / 10, 60 << 20, 20 << 20, 40 << 20, 30, 5, {"clients": 1, "max_memory": 256 << 20})
    return replace(usual, **figures)


def test_smoke(tmp_path: Path) -> None:
    """A whole soak of a few seconds: everything holds, and the page says so."""
    page, data = tmp_path / "soak.html", tmp_path / "soak.json"
    with soak(*LOADS, "--seconds", "3", "--html", str(page), "--json", str(data)) as process:
        output, _ = process.communicate(timeout=SOAK_S_MAX)
    assert process.returncode == 0, output
    assert "everything held" in output
    assert "forbidden" not in output
    report = json.loads(data.read_text())
    assert len(report["samples"]) >= 3
    assert {load["name"] for load in report["loads"]} == {"honest", "churn", "probe"}
    assert all(promise["held"] for promise in report["promises"])
    assert report["after"]["stats"]["clients_accepted"] > 10
    assert report["latencies"]
    check_page(page.read_text())


def test_interrupted_it_leaves_nothing_behind(tmp_path: Path) -> None:
    """And judges what it has seen."""
    page = tmp_path / "soak.html"
    with soak(*LOADS, "--seconds", "600", "--every", "0.5", "--html", str(page)) as process:
        # What it starts has another folder for its sockets: its own children tell.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: len(children.read_text().split()) == 4, "server and loads are running")
        grandchildren = [Path(f"/proc/{pid}/task/{pid}/children") for pid in children.read_text().split()]
        wait_until(lambda: sum(len(of.read_text().split()) for of in grandchildren) > 12, "the loads are at work")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=SOAK_S_MAX)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "forbidden" not in output
    check_page(page.read_text())


def test_a_load_that_does_not_exist() -> None:
    with soak("--load", "nothing") as process:
        output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert "there is no load nothing" in output


def test_a_program_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "from proof import loads, soak\n"
        "loads.LOADS['absent'] = loads.Load('absent', '', 'proof.absent')\n"
        "raise SystemExit(soak.app(['--load', 'absent'], result_action='return_value'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 2
    assert "there is no module proof.absent" in done.stderr


# The verdict


def test_a_slope() -> None:
    assert slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == 2.0
    assert slope([(0.0, 1.0)]) == slope([]) == slope([(1.0, 1.0), (1.0, 2.0)]) == 0.0


@pytest.mark.parametrize("bound", BOUNDS, ids=[bound.name for bound in BOUNDS])
def test_what_rises_is_a_leak(bound: Any) -> None:
    field = {"MiB": "private", "descriptors": "descriptors", "threads": "threads"}[bound.unit]

    def rising(per_hour: float, warm_up: float = 0.0) -> list[Sample]:
        # Six hours, up and down by a bit, and at first by a lot.
        return [
            sample(at_s, **{field: bound.size * (30 + at_s / 3_600 * per_hour + index % 2 + warm_up * (index < 60))})
            for index, at_s in enumerate(range(0, 6 * 3_600, 60))
        ]

    assert does_not_rise(bound, rising(0.0)).held
    assert does_not_rise(bound, rising(0.0, warm_up=-20.0)).held
    assert does_not_rise(bound, rising(bound.per_hour_max / 2)).held
    assert not does_not_rise(bound, rising(2 * bound.per_hour_max + bound.noise)).held
    # A few seconds tell nothing.
    assert does_not_rise(bound, rising(1_000.0)[:1]).held
    assert does_not_rise(bound, []).held


def test_what_clients_leave_is_found() -> None:
    before = sample(0.0)
    assert all(promise.held for promise in is_as_before(before, sample(10.0)))
    for stats in ({"lanes": 1}, {"leases": 1}, {"entries_retired": 1}, {"clients": 2}):
        after = sample(10.0, stats={"clients": 1, "max_memory": 256 << 20, **stats})
        broken = [promise for promise in is_as_before(before, after) if not promise.held]
        assert [promise.name for promise in broken] == ["Nothing is left of clients that have left"]
        assert next(iter(stats)) in broken[0].words
    broken = [promise for promise in is_as_before(before, sample(10.0, descriptors=31)) if not promise.held]
    assert [promise.name for promise in broken] == ["Descriptors are given back"]
    broken = [promise for promise in is_as_before(before, sample(10.0, segment=1 << 30)) if not promise.held]
    assert [promise.name for promise in broken] == ["The table's memory keeps its limit"]


# The page


def check_page(text: str) -> None:
    """One file, well formed, with drawings that are, too."""
    parser = HtmlBalance()
    parser.feed(text)
    assert parser.open == []
    assert not parser.seen & {"script", "link", "img", "iframe"}
    assert set(re.findall(r"https?://[^\"]+", text)) <= {"http://www.w3.org/2000/svg"}
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(drawing)
        numbers = re.findall(r' (?:width|x|y|x1|x2|y1|y2|r)="([^"]*)"', drawing)
        assert all(-100 < float(number) < 1_000 for number in numbers)


def test_the_page_says_what_was_broken() -> None:
    promises = [Promise("This <one>", True, "as it has to be"), Promise("That & that", False, "3 of `4`")]
    samples = [sample(float(at_s), stats={"clients": at_s % 7, "evicted_keys": 10**7 * at_s}) for at_s in range(1_000)]
    latencies = [(float(at_s), {"get": [300.0, 400.0, 5e9]}) for at_s in range(0, 1_000, 10)]
    loads = [LoadReport("honest", "checks & checks", 3, "held")]
    text = render(Report(1_000.0, {"CPU": "<made up>"}, promises, loads, samples, latencies))
    check_page(text)
    assert "1 of 2 promises broken" in text
    assert text.index("BROKEN: That &amp; that") < text.index("held: This &lt;one&gt;")
    assert "minutes" in text
    # Also when nothing was seen.
    check_page(render(Report(0.0, {}, promises[:1], [], [], [])))
