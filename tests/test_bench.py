"""`ringtable bench`: what it measures, reports and concludes. No test asserts a speed."""

import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import ringtable
from ringtable._bench import charts, page, peers, table, wording
from ringtable._bench.analysis import ALONE_ST, MANY_MT, MANY_ST, SCENARIOS
from ringtable._bench.charts import LABEL_DISTANCE, spread
from ringtable._bench.errors import BenchError
from ringtable._bench.headline import headline
from ringtable._bench.processes import ServerProcess
from ringtable._bench.results import PayloadFigures, Results, ScalingFigures, ScenarioFigures
from ringtable._bench.samples import compare, samples
from ringtable._bench.verdict import Contest, ratios, verdict
from ringtable._bench.ways import WAYS
from ringtable._ringtable import Histogram
from support import DEADLINE_S, HtmlBalance, processes_of, run_cli, wait_until, words_of

BENCH_S_MAX = 110.0
Times = dict[str, dict[str, list[float]]]
"""Scenario, way, milliseconds."""


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for reports, and one below for the benchmark's temporary files, which is empty again afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        temporary = Path(folder, "tmp")
        temporary.mkdir()
        monkeypatch.setenv("TMPDIR", str(temporary))
        yield Path(folder)
        assert list(temporary.iterdir()) == []


def made_up(scenario_ms: Times | None = None) -> Results:
    """Results in which direct reads win everything, or those of these scenarios: scenario, way, times."""
    seconds = {name: [1.00, 1.01, 1.02] for name in WAYS} | {"lanes+direct": [0.10, 0.11, 0.12]}
    if scenario_ms is None:
        scenario_ms = {name: {way: [1e3 * second for second in seconds[way]] for way in WAYS} for name in SCENARIOS}
    scenarios = []
    for name, ways in scenario_ms.items():
        for way, times in ways.items():
            values = [ms / 1e3 for ms in times]
            scenarios.append(ScenarioFigures(name, way, values, values, values, values))
    latency_ns = {"50": 1e3, "90": 2e3, "99": 3e3, "99.9": 4e3, "100": 5e3}
    return Results(
        machine={"CPU": "a <made-up> processor, 2 cores usable", "kernel": "Linux 6.1"},
        cores=2,
        ways={name: way.about for name, way in WAYS.items()},
        scenarios=scenarios,
        scaling=[
            ScalingFigures(way, count, [1 / second for second in seconds[way]], [1e3] * 3, [5e2] * 3, latency_ns, 1_000)
            for way in WAYS
            for count in (1, 2, 4, 8, 16)
        ],
        payloads=[
            PayloadFigures(way, operation, size, count, why_none=WAYS["udp"].too_large)
            if way == "udp"
            else PayloadFigures(way, operation, size, count, [1.0, 1.1, 1.2])
            for way in ("memcpy", *WAYS)
            for operation in ("get", "set")
            for size in (64 << 10, 1 << 20)
            for count in (1, 2, 4)
        ],
        seconds=1.0,
    )


def sentences(results: Results, title: str) -> str:
    """What the verdict says of one part, in one text."""
    [found] = [paragraph for paragraph in verdict(results) if paragraph.title == title]
    return " ".join(found.sentences)


def test_smoke(files: Path) -> None:
    arguments = ["--only", "scenarios", "--runs", "1", "--way", "lanes", "--way", "shared"]
    for kind in ("json", "csv", "html"):
        arguments += [f"--{kind}", str(files / f"report.{kind}")]
    done = run_cli("bench", *arguments, timeout=BENCH_S_MAX)
    assert done.returncode == 0, done.stderr
    results = Results.from_json((files / "report.json").read_text())
    assert list(results.ways) == ["shared", "lanes"]
    measured = {(figures.scenario, figures.way): figures for figures in results.scenarios}
    assert set(measured) == {(scenario, way) for scenario in SCENARIOS for way in ("shared", "lanes")}
    for figures in measured.values():
        [seconds], [server_s] = figures.seconds, figures.server_s
        assert seconds > 0
        assert server_s > 0
    assert not results.scaling
    assert not results.payloads
    for scenario in SCENARIOS:
        assert scenario in done.stdout
    for words in (" ± ", "min … max", "16 visitors at 16 threads is", "183.7 ms", "Verdict", "written: "):
        assert words in done.stdout
    assert "within noise" in done.stdout, "one run shows no spread, so nothing is certain"
    rows = list(csv.DictReader(io.StringIO((files / "report.csv").read_text())))
    assert len(rows) == len(SCENARIOS) * 2 * 4
    assert (files / "report.html").read_text() == page.render(results)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["scaling", "payloads"])
def test_the_other_parts_over_every_way(files: Path, part: str) -> None:
    file = files / "report.json"
    done = run_cli("bench", "--quick", "--only", part, "--runs", "1", "--json", str(file), timeout=BENCH_S_MAX)
    assert done.returncode == 0, done.stderr
    results = Results.from_json(file.read_text())
    assert list(results.ways) == list(WAYS)
    if part == "scaling":
        assert {(of.way, of.clients) for of in results.scaling} == {(way, n) for way in WAYS for n in (1, 2, 4, 8, 16)}
        assert all(of.throughput.low > 0 and of.cpu_ns.low > 0 and of.latency_count > 0 for of in results.scaling)
    else:
        assert {of.way for of in results.payloads} == {"memcpy", *WAYS}
        assert len(results.payloads) == 8 * 2 * 2 * 3
        assert all(of.why_none if of.way == "udp" else of.rate.low > 0 for of in results.payloads)


def test_what_fits_no_datagram_is_said_in_words(files: Path) -> None:
    """Over UDP, whose row stands beside those of TCP and the unix socket in all tables."""
    arguments = ["bench", "--quick", "--only", "payloads", "--runs", "1", "--way", "udp"]
    for kind in ("json", "html"):
        arguments += [f"--{kind}", str(files / f"report.{kind}")]
    done = run_cli(*arguments, timeout=BENCH_S_MAX)
    assert done.returncode == 0, done.stderr
    results = Results.from_json((files / "report.json").read_text())
    of_udp = [of for of in results.payloads if of.way == "udp"]
    assert len(of_udp) == 2 * 2 * 3
    assert all((of.gb_per_s, of.why_none) == ([], "does not fit a datagram") for of in of_udp)
    rows = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["udp"]]
    # However many columns have room beside each other: of two operations, two sizes, three numbers of clients.
    assert Counter(word for row in rows for word in row[1:]) == dict.fromkeys(("does", "not", "fit"), 2 * 2 * 3)
    assert "udp takes no part with values of 64 KiB and 1 MiB: one does not fit a datagram." in " ".join(
        done.stdout.split()
    )
    assert (files / "report.html").read_text().count("<td>does not fit\na datagram</td>") == 2 * 6


# What is refused


def refused(*arguments: str, status: int = 2) -> str:
    done = run_cli("bench", *arguments)
    assert done.returncode == status
    assert done.stderr.startswith("ringtable: ")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_an_unknown_way_is_refused_with_the_list() -> None:
    message = refused("--way", "carrier-pigeon")
    assert "carrier-pigeon" in message
    for way in WAYS:
        assert way in message


def test_an_unknown_peer_is_refused_with_the_list() -> None:
    message = refused("--peer", "etcd")
    for name in ("etcd", "manager", "valkey", "lmdb"):
        assert name in message


def test_runs_have_a_limit() -> None:
    for part in ("0", "1", "1000", "runs"):
        assert part in refused("--runs", "0")


def test_a_file_that_cannot_be_written_is_refused_before_measuring() -> None:
    assert "/nowhere" in refused("--html", "/nowhere/report.html", status=1)


def test_a_file_that_is_no_report_is_refused(files: Path) -> None:
    (files / "other.json").write_text("{}")
    assert "other.json" in refused("--from-json", str(files / "other.json"), status=1)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PACKAGES, "lmdb", ("no_such_package",))
    with pytest.raises(BenchError, match="pip install no_such_package"):
        peers.check_installed("lmdb")


def test_a_server_that_cannot_start_says_why() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('there is no such topology')"]
    with pytest.raises(BenchError, match="the server of shared ended with status 1: there is no such topology"):
        ServerProcess("shared", command, lambda server: bool(server.read_line()))


def test_a_client_that_dies_is_an_error() -> None:
    program = """
import os, signal
from ringtable._bench import crew
from ringtable._bench.errors import ClientError
with crew.Crew(3) as clients:
    clients.call(crew.pause)
    os.kill(clients.pids[1], signal.SIGKILL)
    try:
        clients.call(crew.pause)
    except ClientError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    assert done.stdout == "a client of the crew died with -9\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_leaves_nothing_behind(ringtable_dir: Path, files: Path, number: signal.Signals) -> None:
    arguments = ["--only", "scenarios", "--way", "lanes", "--way", "unix"]
    bench = subprocess.Popen(
        [sys.executable, "-m", "ringtable", "bench", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A group of its own, so that Ctrl-C can be sent to all its processes, as a terminal does.
        start_new_session=True,
    )
    # The benchmark, what multiprocessing needs, the crew and at least a server: it is well on its way.
    before = processes_of(None)
    wait_until(lambda: len(processes_of(str(ringtable_dir)) - before) > 20, "the crew and the servers are running")
    if number == signal.SIGINT:
        os.killpg(bench.pid, number)
    else:
        bench.send_signal(number)
    output, _ = bench.communicate(timeout=DEADLINE_S)
    assert bench.returncode == 130
    assert "Traceback" not in output
    assert "stopped" in output


@pytest.mark.parametrize("way", ["lanes", "udp"])
def test_killed_it_leaves_no_process_behind(ringtable_dir: Path, files: Path, way: str) -> None:
    before = processes_of(None)
    bench = subprocess.Popen(
        [sys.executable, "-m", "ringtable", "bench", "--only", "scaling", "--way", way, "--peer", "manager"],
        stdout=subprocess.DEVNULL,
        # What a killed one leaves among the temporary files goes with the folder of the test.
        env=os.environ | {"TMPDIR": str(ringtable_dir)},
    )

    def started() -> bool:
        running = [words_of(process) for process in processes_of(str(ringtable_dir)) - before]
        return len(running) > 20 and any(b"server" in words for words in running)

    wait_until(started, "the crew and the servers are running")
    bench.kill()
    bench.wait(DEADLINE_S)
    wait_until(lambda: processes_of(str(ringtable_dir)) <= before, "what it started has ended")
    for socket in ringtable_dir.rglob("*.sock"):
        socket.unlink()


# The reports


def test_json_there_and_back() -> None:
    results = made_up()
    assert Results.from_json(results.to_json()) == results
    assert json.loads(results.to_json())["machine"]["kernel"] == "Linux 6.1"


def test_csv_has_a_row_for_each_figure() -> None:
    results = made_up()
    rows = list(csv.DictReader(io.StringIO(table.render(results))))
    assert len(rows) == 7 * 7 * 4 * 3 + 7 * 5 * (3 * 3 + 5) + 7 * 2 * 2 * 3 * 3
    assert all(row["value"] and row["unit"] and row["way"] for row in rows)
    alone = [row for row in rows if (row["scenario"], row["way"]) == (ALONE_ST.name, "lanes") and row["unit"] == "s"]
    assert [float(row["value"]) for row in alone if row["metric"] == "wall"] == [1.0, 1.01, 1.02]


def test_the_page_is_one_well_formed_file() -> None:
    text = page.render(made_up())
    parser = HtmlBalance()
    parser.feed(text)
    assert parser.open == []
    assert not parser.seen & {"script", "link", "img", "iframe"}
    assert "a &lt;made-up&gt; processor" in text
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    # The first one is that which the page begins with.
    assert len(drawings) == 1 + len(SCENARIOS) + 2 + 2 + 4
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root[0].tag.endswith("title")
        for way in WAYS:
            assert way in drawing
        numbers = re.findall(r' (?:width|x|y|x1|x2|r)="([^"]*)"', drawing)
        assert all(float(number) > -100 for number in numbers)


def test_the_page_begins_with_three_numbers_and_a_picture() -> None:
    text = page.render(made_up())
    assert [number.figure for number in headline(made_up())] == ["9.18x", "9 /s", "100 %"]
    assert [number.what.split(",")[0] for number in headline(made_up())] == [
        "faster than the classic topology",
        "operations of 16 clients in tight loops",
        "of memcpy's rate",
    ]
    places = [text.index(mark) for mark in ('class="numbers"', "<svg", 'class="facts"', "Verdict", "The exact figures")]
    assert places == sorted(places)
    assert not headline(Results({}, 2, {"unix": ""}))
    slower: Times = {MANY_ST.name: {"shared": [10.0] * 3, "lanes": [20.0] * 3}}
    assert headline(made_up(slower))[0].what.startswith("slower than the classic")
    level: Times = {MANY_ST.name: {"shared": [10.0, 20.0, 30.0], "lanes": [20.0] * 3}}
    assert (headline(made_up(level))[0].figure, "within noise" in headline(made_up(level))[0].what) == ("level", True)


def test_bars_have_an_axis_and_their_medians_apart() -> None:
    drawing = charts.bars("title", {"lanes": samples([10, 20, 30, 90])}, 90.0, wording.ms)
    texts = {text.text: text for text in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")}
    assert [name for name, text in texts.items() if text.get("class") == "tick"] == ["0 ms", "50 ms"]
    median = texts["25.0 ms"]
    assert (median.get("x"), median.get("text-anchor")) == (f"{charts.WIDTH:g}", "end")
    for high, ticks in [(1.0, [0.0, 0.5, 1.0]), (183.7, [0.0, 50.0, 100.0, 150.0]), (0.03, [0.0, 0.01, 0.02, 0.03])]:
        assert charts.Linear(high, 0.0, 100.0).ticks() == pytest.approx(ticks)
    assert [wording.tick(text) for text in ("0.00 ms", "0.05 ms", "10.0 GB/s", "1.50 M/s")] == [
        "0 ms",
        "0.05 ms",
        "10 GB/s",
        "1.50 M/s",
    ]


@pytest.mark.parametrize("columns", [60, 120])
def test_every_row_has_its_name_whatever_the_width(files: Path, columns: int) -> None:
    """As many sizes as there may be; in a terminal of so many columns."""
    results = made_up()
    sizes = [64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20]
    many = [replace(of, size=size) for of in results.payloads for size in sizes]
    (files / "report.json").write_text(replace(results, payloads=many).to_json())
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": str(columns)}
        command = [sys.executable, "-m", "ringtable", "bench", "--from-json", str(files / "report.json")]
        process = subprocess.Popen(command, stdout=theirs, env=environment)
        os.close(theirs)
        shown = b""
        # A terminal whose other end is closed is an error to read from, not an end of file.
        with suppress(OSError):
            while chunk := screen.read(1 << 16):
                shown += chunk
        assert process.wait(DEADLINE_S) == 0
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).splitlines()
    assert max(map(len, lines)) <= columns
    tables, _, _ = "\n".join(lines).partition("\nRatios\n")
    rows = Counter(line.split()[0] for line in tables.splitlines() if len(line.split()) > 1)
    # Seven scenarios, throughput, cost, five latencies, two operations; some of them in several lots.
    assert min(rows[way] for way in WAYS) >= 7 + 2 + 5 + 2
    assert len({rows[way] for way in WAYS}) == 1
    assert rows["memcpy"] >= 2
    # No figure is cut off.
    assert "…" not in tables.replace(" … ", "")


def test_the_page_without_some_parts() -> None:
    for results in (Results({}, 2, {}), Results({}, 2, {"lanes": ""}, scaling=made_up().scaling)):
        parser = HtmlBalance()
        parser.feed(page.render(results))
        assert parser.open == []


def test_an_earlier_report_is_shown_again(files: Path) -> None:
    (files / "report.json").write_text(made_up().to_json())
    done = run_cli("bench", "--from-json", str(files / "report.json"), "--html", str(files / "again.html"))
    assert done.returncode == 0, done.stderr
    assert (files / "again.html").read_text() == page.render(made_up())


def test_labels_keep_their_distance() -> None:
    places = spread([50.0, 10.0, 52.0, 51.0, 99.0], 0.0, 100.0)
    ordered = sorted(places)
    assert all(after - before >= LABEL_DISTANCE for before, after in pairwise(ordered))
    assert ordered[-1] <= 100.0


# The verdict


def test_differences_and_noise() -> None:
    assert not compare(samples([10, 11, 12]), samples([1, 1.1, 1.2])).noise
    assert compare(samples([10, 11, 12]), samples([1, 1.1, 1.2])).ratio == pytest.approx(10)
    assert compare(samples([1, 2, 3]), samples([1, 2.4, 4])).noise, "the middles overlap"
    unsteady, other = samples([3.0, 4.2, 21.0, 2.6, 9.1]), samples([1.7, 22.8, 22.3, 28.3, 14.9])
    assert compare(unsteady, other).noise, "a ratio of five is chance where runs differ by ten"
    assert not compare(samples([2.0] * 14 + [40.0]), samples([4.0] * 15)).noise, "one run in fifteen may be odd"
    assert compare(samples([1.02] * 3), samples([1] * 3)).noise, "the medians are nearly the same"
    assert compare(samples([9]), samples([1])).noise, "one run shows no spread"


def test_a_contest_names_the_first_and_the_last() -> None:
    entries = {"a": samples([1, 1.1, 1.2]), "b": samples([10, 11, 12]), "c": samples([1, 1.1, 1.3])}
    sentence = Contest("alone", entries, str, more_is_better=False).sentence()
    assert sentence == "alone: a is fastest with 1.1, and c may be as fast (within noise); b is slowest with 11," + (
        " 10.0x slower."
    )
    sentence = Contest("alone", entries, str, more_is_better=True).sentence()
    assert sentence.startswith("alone: b is fastest with 11; ")


def test_the_verdict_when_lanes_win() -> None:
    times: Times = {
        ALONE_ST.name: {"shared": [20, 21, 22], "lanes": [2, 2.1, 2.2], "unix": [5, 5.1, 5.2]},
        MANY_ST.name: {"shared": [180, 182, 184], "lanes": [20, 21, 22], "unix": [60, 61, 62]},
        MANY_MT.name: {"shared": [160, 164, 168], "lanes": [19, 20, 23], "unix": [80, 81, 82]},
    }
    text = sentences(made_up(times), "The seven scenarios")
    assert (
        "16 visitors at 16 threads: lanes is fastest with 20.0 ms; shared is slowest with 164 ms, 8.20x slower." in text
    )
    assert "shared 8.67x, lanes 10.0x, unix 12.0x as long (the analysis: 9.72x)" in text
    assert "beside 1 thread, are faster over shared (1.11x) (the analysis: 1.14x)." in text
    assert "beside 1 thread, are slower over unix (1.33x)." in text
    # A sentence for each direction, and no ratio of what may be chance.
    assert "beside 1 thread, are no different, within noise, over lanes." in text
    assert "16 visitors at 16 threads, faster than shared: lanes 8.20x and unix 2.02x." in text
    assert "lanes is nowhere here slower than shared and unix beyond noise." in text
    assert "lanes+direct" not in text, "it was not measured"


def test_no_sentence_mixes_directions() -> None:
    times: Times = {
        MANY_ST.name: {
            "shared": [60, 61, 62],
            "sharded": [50, 65, 200],
            "lanes": [20, 21, 22],
            "unix": [30, 31, 32],
            "tcp": [190, 192, 194],
        }
    }
    text = sentences(made_up(times), "The seven scenarios")
    assert "16 visitors at 1 thread, faster than shared: lanes 2.90x and unix 1.97x." in text
    assert "16 visitors at 1 thread, slower than shared: tcp 3.15x." in text
    assert "16 visitors at 1 thread, within noise of shared: sharded." in text


def test_the_verdict_when_lanes_lose() -> None:
    times: Times = {
        ALONE_ST.name: {"shared": [1, 1.1, 1.2], "lanes": [2, 2.2, 2.4], "unix": [3, 3.1, 3.2]},
        MANY_ST.name: {"shared": [30, 31, 32], "lanes": [30, 31, 33], "unix": [10, 10.1, 10.2]},
    }
    text = sentences(made_up(times), "The seven scenarios")
    assert "alone at 1 thread: shared is fastest with 1.10 ms" in text
    assert "16 visitors at 1 thread, faster than shared: unix 3.07x." in text
    assert "16 visitors at 1 thread, within noise of shared: lanes." in text
    assert "lanes loses here: alone at 1 thread (2.20 ms, shared 1.10 ms, 2.00x); 16 visitors at 1 thread" in text
    assert "nowhere" not in text


def test_many_losses_are_told_in_short() -> None:
    times: Times = {name: {"lanes": [float(factor)] * 3, "unix": [1.0] * 3} for factor, name in enumerate(SCENARIOS, 1)}
    text = sentences(made_up(times), "The seven scenarios")
    assert "lanes loses to unix in 6 of 7 cases, the least in 2 visitors at 1 thread (2.00 ms, unix 1.00 ms," in text
    assert "the most in alone at 16 threads (7.00 ms, unix 1.00 ms, 7.00x)." in text


def test_the_ratios_are_worded_as_in_the_analysis() -> None:
    times: Times = {
        ALONE_ST.name: {"shared": [18.9] * 3, "lanes": [2] * 3},
        MANY_ST.name: {"shared": [183.7] * 3, "lanes": [19.99] * 3},
        MANY_MT.name: {"shared": [160.6] * 3, "lanes": [30] * 3},
    }
    results = made_up(times)
    assert "16 visitors at 16 threads is faster than 16 visitors at 1 thread: 1.14x" in ratios(results, "shared")
    assert "16 visitors at 16 threads is slower than 16 visitors at 1 thread: 1.50x" in ratios(results, "lanes")
    assert "lanes is 9.19x faster than shared with 16 visitors at 1 thread" in ratios(results, "lanes")


def test_the_verdict_of_the_other_parts() -> None:
    text = sentences(made_up(), "One client to sixteen")
    assert "16 clients: lanes+direct is fastest with 9 /s" in text
    assert "lanes+direct 1.50 µs (1.00x, within noise)" in text
    text = sentences(made_up(), "Large values")
    assert "lanes+direct 100 % (within noise of memcpy)" in text
    assert "udp takes no part with values of 64 KiB and 1 MiB: one does not fit a datagram." in text


# The histogram


def test_a_histogram_counts_and_travels() -> None:
    first, second = Histogram(), Histogram()
    assert (first.count, first.percentile(50)) == (0, 0)
    for ns in range(1, 1_001):
        first.record(ns)
    second.record(1_000_000)
    second.record(1 << 63)
    copy = Histogram.from_bytes(first.to_bytes())
    assert copy.count == 1_000
    assert copy.percentile(50) == pytest.approx(500, rel=1e-3)
    copy.add(second)
    copy.add(copy)
    assert copy.count == 2_004
    assert copy.percentile(99.85) == pytest.approx(1e6, rel=1e-3)
    assert copy.percentile(100) == pytest.approx(3_600e9, rel=1e-3)


def test_a_histogram_checks_what_it_is_given() -> None:
    with pytest.raises(ringtable.InvalidOption, match="17"):
        Histogram.from_bytes(b"x" * 17)
    with pytest.raises(ringtable.InvalidOption, match="101"):
        Histogram().percentile(101)
    with pytest.raises(OverflowError):
        Histogram().record(-1)
    assert Histogram.from_bytes(b"\xff" * 32).count > 0
