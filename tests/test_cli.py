"""The command line."""

import contextlib
import inspect
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import Server
from ringtable._cli import output
from ringtable._cli.figures import grouped, humane
from support import DEADLINE_S, ServerProcess, figures_of, run_cli, wait_until

CONNECTING = {
    "get": ["get", "key"],
    "set": ["set", "key", "value"],
    "del": ["del", "key"],
    "keys": ["keys"],
    "clear": ["clear"],
    "dump": ["dump"],
    "load": ["load", os.devnull],
    "watch": ["watch"],
    "ping": ["ping"],
    "stats": ["stats"],
    "client": ["client", "1", "1"],
}
"""The commands that ask a server, by name, with what they need."""

COMMANDS = ["server", "list", *CONNECTING, "demo", "bench", "profile"]
JSON_KEYS = ["seed", "seconds", "user_s", "system_s", "operations", "operations_per_s"]


def failing(status: int, *arguments: str) -> str:
    """Run a command that has to fail with this exit status, and return its one line on standard error."""
    done = run_cli(*arguments)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert done.stderr.startswith("ringtable: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


# What the server or the system refuses, and what is wrong with the command line itself.
refused = partial(failing, 1)
not_understood = partial(failing, 2)


def in_shell(redirections: str, *arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    """Run `ringtable` with these arguments and with what the shell makes of its streams."""
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "ringtable", *arguments]
    return subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False)


def test_smoke() -> None:
    done = run_cli("--version")
    assert done.returncode == 0
    assert done.stdout.strip() == ringtable.__version__


def test_the_script_is_installed() -> None:
    script = Path(sys.executable).with_name("ringtable")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("command", [*COMMANDS, "serve"])
def test_every_command_explains_itself(command: str) -> None:
    done = run_cli(command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


@pytest.mark.parametrize(
    ("command", "words"), [("bench", "seven scenarios"), ("profile", "flame graphs"), ("demo", "rate limiter")]
)
def test_what_is_imported_late_explains_itself_too(command: str, words: str) -> None:
    """In the list of commands in a sentence, in its own help in full."""
    listed, _, _ = " ".join(run_cli("--help").stdout.replace("\u2502", " ").split()).partition("--version")
    explained = " ".join(run_cli(command, "--help").stdout.split())
    assert words in explained
    first, _, _ = explained.removeprefix(f"Usage: ringtable {command} ").removeprefix("[OPTIONS] ").partition(". ")
    assert f"{command} {first}" in listed


def test_a_command_imports_what_it_needs_alone(server: Server) -> None:
    """Neither what the others need, nor, if it only explains itself, what it runs with."""
    script = "import sys, ringtable._cli as cli\ntry: cli.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    for arguments, commands in (
        (["--help"], set()),
        (["ping"], {"ringtable._cli.commands.ping"}),
        (["server", "--print-config"], {"ringtable._cli.commands.server"}),
        (["demo", "--help"], {"ringtable._cli.commands.demo"}),
        (["bench", "--help"], {"ringtable._cli.commands.bench"}),
    ):
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
        imported = done.stderr.split()
        assert "ringtable._cli.app" in imported
        assert {name for name in imported if name.startswith("ringtable._cli.commands.")} == commands
        works = ("rich", "ringtable._bench", "ringtable._cli.bench", "ringtable._cli.demo")
        assert not {name for name in imported if name.startswith(works)}


@pytest.mark.parametrize("command", ["ping", "list", "bench"])
def test_ctrl_c_at_the_start_is_no_news(server: Server, command: str) -> None:
    """It was a traceback while modules were imported."""
    arguments = [sys.executable, "-X", "importtime", "-m", "ringtable", command]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "| " in line and line.split("| ")[-1].strip() == "argparse":
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in errors
    # It had begun, and ends by its own way, or was at its end.
    assert process.returncode in (-signal.SIGINT, 130, 0)


# server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", ["server", "serve"])
def test_a_server_says_that_it_is_ready_and_stops_cleanly(ringtable_dir: Path, command: str, number: int) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ringtable",
            command,
            "-s",
            "100",
            "-n",
            "2",
            "--name",
            "words",
            "--max-memory",
            "64MiB",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    ready = process.stdout.readline()
    socket = ringtable_dir / "words.sock"
    assert str(socket) in ready
    assert "64 MiB" in ready
    assert socket.stat().st_mode & 0o777 == 0o600
    with ringtable.connect("words") as table:
        table["key"] = b"value"
        process.send_signal(number)
        output, errors = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, output, errors) == (0, "", "")
        assert list(ringtable_dir.iterdir()) == []
        with pytest.raises(ringtable.ServerGone):
            table["key"] = b"value"


def test_a_server_under_nohup_outlives_its_terminal(ringtable_dir: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = [sys.executable, "-m", "ringtable", "server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=ignore) as process:
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        assert run_cli("ping").stdout == "PONG\n"
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("redirections", ["| true", ">&-", ">/dev/full", ">&- 2>&-"])
def test_a_server_whose_ready_line_nobody_reads(ringtable_dir: Path, redirections: str) -> None:
    """The line is for whoever wants it: the server runs all the same, and ends without a word."""
    script = f'"$@" {redirections}'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "ringtable", "server"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, process_group=0) as process:
        wait_until(lambda: run_cli("ping").stdout == "PONG\n", "it answers")
        with ringtable.connect() as table:
            os.kill(int(table.stats()["process_id"]), signal.SIGTERM)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert errors == b""
    assert list(ringtable_dir.iterdir()) == []


def test_a_servers_ready_line_tells_its_port() -> None:
    with ServerProcess("--tcp", "localhost:0") as server:
        line, _, address = server.ready_line.strip().rpartition(", tcp: ")
        assert line.endswith("1 GiB, topology: lanes")
        assert address.startswith("tcp://127.0.0.1:")
        assert run_cli("set", "key", "value", "--name", address).returncode == 0
        assert run_cli("get", "key").stdout == "value\n"
        assert "tcp://" in refused("server", "--name", "other", "--tcp", address.removeprefix("tcp://"))


def test_a_second_server_is_refused(server_process: ServerProcess) -> None:
    assert "default" in refused("server")


def test_the_socket_of_a_dead_server_is_replaced(ringtable_dir: Path) -> None:
    with ServerProcess() as first:
        first.kill()
        assert (ringtable_dir / "default.sock").exists()
        with ServerProcess(), ringtable.connect() as table:
            assert table.call("PING") == b"PONG"


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--workers", "0", ["0", "1", "threads"]),
        ("--workers", "1000000", ["1000000", "64", "threads"]),
        ("--buckets", "0", ["0", "1", "buckets"]),
        ("--max-memory", "1KiB", ["1024", "bytes"]),
        ("--max-memory", "1GB", ["1GB", "GiB"]),
        ("--max-clients", "0", ["0", "1", "clients"]),
        ("--spin-us", "-1", ["-1"]),
        ("--tcp", "0.0.0.0:6379", ["0.0.0.0:6379", "127.0.0.0/8"]),
        ("--tcp", "6379", ["6379", "HOST:PORT"]),
    ],
)
def test_options_out_of_range(option: str, value: str, parts: list[str]) -> None:
    message = not_understood("server", f"{option}={value}")
    assert message.startswith(f"ringtable: {option} is {value}") or option in ("--tcp", "--max-memory")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], 'Unknown command "nothing"'),
        (["get"], "required: KEY"),
        (["get", "key", "[bold]more", "and"], "'[bold]more', 'and'"),
        (["get", "key", "--nam", "x"], "Unknown option: --nam. Did you mean --name?"),
        (["get", "key", "--nam=-x"], "What begins with a hyphen and is no option goes behind a --.\n"),
        (["get", "key", "--name", "a", "--name", "b"], "--name is given several times"),
        (["get", "key", "--name"], "--name: expected one argument"),
        (["get", "key", "--name", "nobody/"], "no path of a socket"),
        (["get", "key", "--name", "a\nb\x1b[1m\u2028"], r"'a\nb\x1b[1m\u2028' is no name for a table"),
        (["get", "key", "--timeout=-1"], "--timeout is -1; allowed are seconds from 0 to 1e19\n"),
        (["ping", "--timeout", "nan"], "--timeout is nan; allowed are seconds from 0 to 1e19\n"),
        (["get", "key", "--trust-user", "nobody at all"], "--trust-user is nobody at all: there is no such user"),
        (["set", "key", "value", "--ttl=-1"], "--ttl is -1; allowed are"),
        (["set", "key", "value", "--nx", "--xx"], "--nx and --xx exclude each other"),
        (["set", "key", "value", "--nx=no"], "--nx takes no value, and is given 'no'"),
        (["stats", "--json", "--plain"], "--json and --plain exclude each other"),
        (["watch", "--count", "0"], "--count is 0 events"),
        (["client"], "OUTER and INNER"),
        (["client", "1"], "INNER is missing"),
        (["client", "1", "0"], "INNER is 0 keys"),
        (["client", "1", "1", "--reads", "fast"], "--reads: invalid choice: 'fast' (choose from "),
        (["server", "--max-memory", "1KiB"], "--max-memory is 1024; allowed are 4194304 to"),
        (["server", "--buckets", "1000000000"], "the 1073741824 bytes of --max-memory leave room for"),
        (
            ["server", "--topology", "shared", "--ring-slots", "65536", "--slot-size", "65536"],
            "--ring-slots times --slot-size is",
        ),
        (["server", "--spin-us=-1"], "--spin-us is -1; allowed are 0 to 1000 microseconds"),
        (["server", "--workers", "many"], "--workers: 'many' is no whole number"),
        (["server", "--group", "nobody at all"], "--group is 'nobody at all': there is no such group"),
        (["server", "--mode", "rw"], "--mode is 'rw'"),
        (["profile", "--seconds", "0"], "--seconds is 0 seconds"),
        (["bench", "--runs", "0"], "--runs is 0 runs"),
    ],
    ids=lambda part: " ".join(part)[:40] if isinstance(part, list) else "",
)
def test_a_command_line_that_is_not_understood(ringtable_dir: Path, arguments: list[str], words: str) -> None:
    """Some of it was an exit status of 1, some was told of in a box, some in the words of Python's arguments."""
    assert words in not_understood(*arguments)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("client", "[OUTER INNER]"),
        ("keys", "[WHICH]"),
        ("watch", "[PREFIX]"),
        ("dump", "[FILE]"),
        ("del", "KEY [KEY...]"),
    ],
)
def test_usage_lines_name_what_may_be_left_out(command: str, names: str) -> None:
    assert f"Usage: ringtable {command} [OPTIONS] {names}\n" in run_cli(command, "--help").stdout


# client


@pytest.mark.parametrize("reads", ["direct", "server"])
@pytest.mark.parametrize("python", [[], ["--python"]])
def test_the_classic_client(server: Server, python: list[str], reads: str) -> None:
    done = run_cli("client", "20", "10", "--seed", "7", "--reads", reads, "--json", *python)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    figures = json.loads(done.stdout)
    assert list(figures) == JSON_KEYS
    assert figures["seed"] == 7
    assert figures["operations"] == 3 * 20 * 10
    assert figures["seconds"] > 0
    assert figures["operations_per_s"] == pytest.approx(figures["operations"] / figures["seconds"])
    with ringtable.connect() as table:
        assert len(table) == 0


@pytest.mark.parametrize("transport", ["auto", "lane", "socket", "tcp"])
@pytest.mark.parametrize("python", [[], ["--python"]])
def test_the_classic_client_over_any_transport(server: Server, python: list[str], transport: str) -> None:
    way = ["--name", server.tcp or ""] if transport == "tcp" else ["--transport", transport]
    done = run_cli("client", "5", "10", "--json", *way, *python)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["operations"] == 3 * 5 * 10


@pytest.mark.parametrize("python", [[], ["--python"]])
def test_the_classic_client_has_no_lane_over_tcp(server: Server, python: list[str]) -> None:
    assert "unix socket" in not_understood(
        "client", "1", "1", "--name", server.tcp or "", "--transport", "lane", *python
    )


def test_the_classic_client_for_people(server: Server) -> None:
    done = run_cli("client", "2", "10", "--name", server.path)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("seed", "60 operations", "user", "system", "operations/s"):
        assert word in done.stdout


@pytest.mark.parametrize("python", [[], ["--python"]])
def test_the_classic_client_until_interrupted(server: Server, python: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ringtable", "client", "0", "10", "--json", *python], stdout=subprocess.PIPE, text=True
    )
    with ringtable.connect() as table:
        wait_until(lambda: int(table.stats()["requests"]) > 1_000, "the client is at work")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    figures = json.loads(output)
    assert list(figures) == JSON_KEYS
    assert figures["operations"] > 0


@pytest.mark.parametrize("python", [[], ["--python"]])
@pytest.mark.parametrize("reads", ["direct", "server"])
def test_a_mismatch_is_an_error(server: Server, python: list[str], reads: str) -> None:
    command = [sys.executable, "-m", "ringtable", "client", "0", "1000", "--seed", "1", "--reads", reads, *python]
    client = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with ringtable.connect() as table:

        def ends() -> bool:
            # To the client it looks as if the table lost its entries.
            table.clear()
            return client.poll() is not None

        try:
            wait_until(ends, "the client has seen a mismatch")
        finally:
            client.kill()
            _, errors = client.communicate(timeout=DEADLINE_S)
    assert client.returncode == 1
    assert "mismatch" in errors
    assert "Traceback" not in errors


def test_printing_the_table(server: Server) -> None:
    with ringtable.connect() as table:
        table.update({f"key {index}": b"%d" % index for index in range(5_000)}, large=b"v" * 1_000)
    done = run_cli("client", "--debug-print")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert "  b'key 17': b'17'" in lines
    assert "  b'large': 1000 bytes" in lines
    assert sum(line.startswith("  ") for line in lines) == 5_001
    buckets = [int(line.split()[1].rstrip(":")) for line in lines if line.startswith("bucket ")]
    assert len(buckets) == len(set(buckets))


# get, set, del, stats


def test_a_quick_look(server: Server) -> None:
    assert run_cli("set", "key", "größe").returncode == 0
    assert run_cli("get", "key").stdout == "größe\n"
    assert "present" in refused("set", "key", "other", "--nx")
    assert "absent" in refused("set", "other", "value", "--xx")
    assert run_cli("set", "other", "value", "--ttl", "100").returncode == 0
    assert run_cli("del", "key", "--timeout", "60", "other", "missing").stdout == "2\n"
    assert "key" in refused("get", "key")


def test_a_value_from_standard_input(server: Server) -> None:
    value = b"\x00\xff-\r\n" * 100_000
    with ringtable.connect() as table:
        for number, options in enumerate(([], ["--ttl", "100"])):
            key = f"key {number}"
            command = [sys.executable, "-m", "ringtable", "set", key, "-", *options]
            subprocess.run(command, input=value, check=True, timeout=DEADLINE_S)
            assert table[key] == value
        assert run_cli("set", "key", "--", "-").returncode == 0
        assert table["key"] == b"-"
        assert run_cli("set", "--", "-k", "--").returncode == 0
        assert table["-k"] == b"--"
        assert run_cli("get", "--", "-k").stdout == "--\n"
        assert run_cli("set", "key", "-5").returncode == 0
        assert table["key"] == b"-5"
        for option in ("--nxx", "-x"):
            assert f"Unknown option: {option}" in not_understood("set", "key", option)
        closed = in_shell("<&-", "set", "key", "-")
        assert (closed.returncode, closed.stderr) == (1, b"ringtable: reading the value: standard input is closed\n")
        unreadable = in_shell("0>/dev/null", "set", "key", "-")
        assert (unreadable.returncode, unreadable.stderr) == (1, b"ringtable: reading the value: Bad file descriptor\n")
        assert table["key"] == b"-5"


def test_a_hyphen_is_a_word(server: Server) -> None:
    """That for the standard streams, where there is a file; else as any other."""
    with ringtable.connect() as table:
        table["-"] = b"value"
        dumped = in_shell("", "dump", "-", "--prefix", "-")
        assert b"value" in dumped.stdout
        table.clear()
        command = [sys.executable, "-m", "ringtable", "load", "-"]
        subprocess.run(command, input=dumped.stdout, check=True, capture_output=True, timeout=DEADLINE_S)
        assert run_cli("get", "-").stdout == "value\n"
        assert run_cli("keys", "-").stdout == "-\n"
        assert run_cli("del", "-").stdout == "1\n"


ODD = b"\xff\xfe"


def test_keys_and_values_are_bytes(server: Server) -> None:
    assert in_shell("", "set", ODD, b"1\xff2").returncode == 0
    with ringtable.connect() as table:
        assert table[ODD] == b"1\xff2"
    assert in_shell("", "get", ODD).stdout == b"1\xff2\n"
    assert in_shell("", "keys", ODD[:1]).stdout == ODD + b"\n"
    assert in_shell("", "del", ODD).stdout == b"1\n"
    missing = in_shell("", "get", ODD)
    assert (missing.returncode, missing.stderr) == (1, b"ringtable: there is no key b'\\xff\\xfe'\n")


@pytest.mark.parametrize("arguments", [[ODD], ["get", "key", "--name", ODD], ["server", "--workers", ODD]])
def test_what_is_no_text_is_refused_in_words(server: Server, arguments: list[str | bytes]) -> None:
    done = in_shell("", *arguments)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("redirections", "words"),
    [
        (">/dev/full", b"ringtable: writing the output: No space left on device\n"),
        (">&-", b"ringtable: writing the output: Bad file descriptor\n"),
        (">&- 2>&-", b""),
        (">/dev/full 2>/dev/full", b""),
    ],
)
@pytest.mark.parametrize("command", ["get", "del", "keys", "stats", "ping", "client", "list", "--help", "--version"])
def test_output_that_cannot_be_written(server: Server, redirections: str, words: bytes, command: str) -> None:
    with ringtable.connect() as table:
        table["key"] = b"value"
    done = in_shell(redirections, *CONNECTING.get(command, [command]))
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", words)


@pytest.mark.parametrize("command", ["set", "clear"])
def test_what_says_nothing_needs_no_output(server: Server, command: str) -> None:
    done = in_shell(">&-", *CONNECTING[command])
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["get", "keys", "stats", "watch", "--help"])
def test_nobody_reads_the_output(server: Server, command: str) -> None:
    with ringtable.connect() as table:
        table["key"] = b"value"
        reader, writer = os.pipe()
        os.close(reader)
        arguments = [sys.executable, "-m", "ringtable", *CONNECTING.get(command, [command])]
        process = subprocess.Popen(arguments, stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        if command == "watch":
            wait_until(lambda: table.stats()["watchers"] == 1, "it watches")
            table["key"] = b"value"
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (1, b"")


def test_keys(server: Server) -> None:
    names = [b"user:1", b"user:2:name", b"user:30:name", b"page*", b"page 1"]
    with ringtable.connect() as table:
        table.update(dict.fromkeys(names, b"value"))

    def found(*which: str) -> set[bytes]:
        return set(in_shell("", "keys", *which).stdout.splitlines())

    assert found() == set(names)
    assert found("user:") == {b"user:1", b"user:2:name", b"user:30:name"}
    assert found("user:?:*") == {b"user:2:name"}
    assert found("page[*]") == found(r"page\*") == {b"page*"}
    assert found("page[^*]*") == {b"page 1"}
    assert "255" in refused("keys", "?" * 300)
    assert found("nothing") == set()


def test_clear_and_ping(server: Server) -> None:
    with ringtable.connect() as table:
        table.update({f"key {index}": b"value" for index in range(1_000)})
        assert run_cli("ping").stdout == "PONG\n"
        assert len(table) == 1_000
        assert run_cli("clear").stdout == ""
        assert len(table) == 0
    for way in (server.path, server.tcp or ""):
        assert run_cli("ping", "--name", way).stdout == "PONG\n"


def test_watching(server: Server) -> None:
    def watching(*options: str) -> list[str]:
        """What it prints of the same five changes."""
        command = [sys.executable, "-m", "ringtable", "watch", "user", *options]
        with ringtable.connect() as table, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            wait_until(lambda: table.stats()["watchers"] == 1, "it watches")
            table["user:1"] = b"Ada"
            table["other"] = b"nobody asks"
            table[b"user\xff"] = b"12345"
            del table["user:1"]
            table.clear()
            output, _ = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0
            wait_until(lambda: table.stats()["watchers"] == 0, "it is gone")
        return output.splitlines()

    assert watching("--count", "4") == [
        "set 'user:1', 3 bytes",
        "set b'user\\xff', 5 bytes",
        "delete 'user:1'",
        "flush",
    ]
    events = [json.loads(line) for line in watching("--count", "4", "--json")]
    assert [event["kind"] for event in events] == ["set", "set", "delete", "flush"]
    assert (events[0]["key"], events[0]["size"]) == ("user:1", 3)
    assert events[1]["key"].encode(errors="surrogateescape") == b"user\xff"
    assert events[2]["version"] > events[0]["version"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_watching_until_interrupted(server: Server, number: int) -> None:
    command = [sys.executable, "-m", "ringtable", "watch"]
    with ringtable.connect() as table, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: table.stats()["watchers"] == 1, "it watches")
        table["key"] = b"value"
        assert process.stdout is not None
        assert process.stdout.readline() == "set 'key', 5 bytes\n"
        process.send_signal(number)
        assert process.communicate(timeout=DEADLINE_S)[0] == ""
        assert process.returncode == 0


def test_a_watch_ends_with_its_server() -> None:
    with ServerProcess() as server, ringtable.connect() as table:
        command = [sys.executable, "-m", "ringtable", "watch"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            wait_until(lambda: table.stats()["watchers"] == 1, "it watches")
            server.kill()
            _, errors = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 1
            assert errors.startswith("ringtable: the server is gone")
            assert errors.count("\n") == 1


def test_the_list_of_servers(ringtable_dir: Path) -> None:
    assert run_cli("list").stdout.split() == ["NAME", "PID", "MEMORY", "CLIENTS"]
    assert json.loads(run_cli("list", "--json").stdout) == []
    with ServerProcess("--name", "first") as first, ServerProcess("--name", "second") as second:
        with ringtable.connect("second"):
            listed = json.loads(run_cli("list", "--json").stdout)
            lines = [line.split(maxsplit=2) for line in run_cli("list").stdout.splitlines()]
        assert [(row["name"], row["process_id"]) for row in listed] == [("first", first.pid), ("second", second.pid)]
        # Beside the one that asks.
        assert [row["clients"] - 1 for row in listed] == [0, 1]
        assert all(0 < row["memory_resident"] < 1 << 30 for row in listed)
        assert [line[:2] for line in lines[1:]] == [["first", str(first.pid)], ["second", str(second.pid)]]
        second.freeze()
        # What is left of a server that was killed is none.
        with ServerProcess("--name", "third") as third:
            third.kill()
            (ringtable_dir / "not a name.sock").touch()
            # Long enough for the others to answer, on a machine that is busy.
            done = run_cli("list", "--json", "--timeout", "2")
            (ringtable_dir / "not a name.sock").unlink()
        assert done.returncode == 1
        assert [row["name"] for row in json.loads(done.stdout)] == ["first"]
        silent = f"no answer within 2 s from the server at {ringtable_dir}/second.sock: it is stopped, or overloaded"
        assert done.stderr == f"ringtable: second: {silent}\n"


def test_the_list_says_why_it_cannot_look(ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was empty then, which is what it is where no folder is."""
    folder = ringtable_dir / "names"
    monkeypatch.setenv("RINGTABLE_DIR", str(folder))
    assert json.loads(run_cli("list", "--json").stdout) == []
    folder.touch()
    assert f"the folder of names {folder} is a regular file" in refused("list")
    assert refused("list") == refused("ping")
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    assert f"others may write to the folder of names {folder}" in refused("list")
    assert refused("list") == refused("ping")
    folder.chmod(0o700)
    assert json.loads(run_cli("list", "--json").stdout) == []
    # As everywhere, with no server to ask either.
    assert "--timeout is -1" in not_understood("list", "--timeout=-1")
    assert "--trust-user is nobody at all" in not_understood("list", "--trust-user", "nobody at all")
    folder.rmdir()
    folder.symlink_to("/tmp")
    assert refused("list") == refused("ping")
    folder.unlink()


def test_a_full_server_still_tells_how_it_does(ringtable_dir: Path) -> None:
    with ServerProcess("--max-clients", "2"), ringtable.connect() as table, ringtable.connect():
        for _ in range(3):
            figures = json.loads(run_cli("stats", "--json").stdout)
            # A process that looks has a place of its own, and is no client.
            assert (figures["clients"], figures["clients_max"]) == (2, 2)
            assert run_cli("ping").stdout == "PONG\n"
            assert json.loads(run_cli("list", "--json").stdout)[0]["clients"] == 2
            for command in ("get", "set", "del", "keys", "clear", "watch", "client"):
                assert "2 of 2" in refused(*CONNECTING[command])
        refusals = int(table.stats()["clients_refused"])
        assert refusals == 3 * 7


CLIENTS = [["client", "1", "1", "--python"], ["client", "1", "1", "--transport", "socket"], ["client", "--debug-print"]]


@pytest.mark.parametrize("command", [*CONNECTING.values(), *CLIENTS], ids=" ".join)
def test_a_stopped_server_hangs_nobody(server_process: ServerProcess, command: list[str]) -> None:
    server_process.freeze()
    message = refused(*command, "--timeout", "0.2")
    assert "no answer within 0.2 s from the server at" in message
    # Which all have to connect first.
    assert "write" not in message


@pytest.mark.parametrize("command", ["list", *CONNECTING])
def test_nobody_waits_for_ever_unless_told_to(command: str) -> None:
    assert "may take, 5 unless given" in " ".join(run_cli(command, "--help").stdout.split())


def test_stats(server: Server) -> None:
    with ringtable.connect() as table:
        table["key"] = b"value"
    assert json.loads(run_cli("stats", "--json").stdout)["entries"] == 1
    lines = run_cli("stats").stdout.splitlines()
    assert ["entries", "1"] in [line.split() for line in lines]
    assert all(re.fullmatch(r"[a-z_0-9]+ +[0-9]+", line) for line in lines if not line.startswith("eviction_policy "))


def test_the_policy_has_its_name_wherever_it_is_printed(ringtable_dir: Path) -> None:
    for given, name in (
        ({}, "noeviction"),
        ({"cache": True}, "allkeys-sieve"),
        ({"eviction": "volatile-ttl"}, "volatile-ttl"),
    ):
        options: dict[str, Any] = given
        with Server(max_memory="8MiB", **options):
            assert json.loads(run_cli("stats", "--json").stdout)["eviction_policy"] == name
            assert ["eviction_policy", name] in [line.split() for line in run_cli("stats").stdout.splitlines()]


def test_stats_in_a_terminal(server: Server) -> None:
    with ringtable.connect() as table:
        table.update({f"key {index}": b"value" for index in range(1_234)})
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:
        environment = {**os.environ, "TERM": "dumb", "COLUMNS": "80"}
        process = subprocess.Popen([sys.executable, "-m", "ringtable", "stats"], stdout=theirs, env=environment)
        os.close(theirs)
        shown = b""
        # A terminal whose other end is closed is an error to read from, not an end of file.
        with contextlib.suppress(OSError):
            while chunk := screen.read(4_096):
                shown += chunk
        assert process.wait(DEADLINE_S) == 0
    lines = [line.split(maxsplit=1) for line in shown.decode().splitlines()]
    assert ["entries", "1,234"] in lines
    assert ["max_memory", "256.0 MiB"] in lines
    assert ["Table"] in lines
    assert ["Memory"] in lines
    with ringtable.connect() as table:
        assert {line[0] for line in lines if line} >= table.stats().keys()


def test_figures_are_grouped_and_none_is_lost(server: Server) -> None:
    with ringtable.connect() as table:
        figures = figures_of(table)
    assert "Others" not in grouped(figures)
    # Those that a later server may have.
    figures |= {"entries_expiring": 5, "evicted_keys": 0, "memory_wasted": 1, "bytes_retired": 0, "unheard_of": 7}
    groups = grouped(figures)
    assert groups["Others"] == ["unheard_of"]
    assert {"entries_expiring", "evicted_keys"} <= set(groups["Table"])
    assert {"memory_wasted", "bytes_retired"} <= set(groups["Memory"])
    assert sorted(name for names in groups.values() for name in names) == sorted(figures)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("requests", 1_234_567, "1,234,567"),
        ("memory_free", 0, "0 bytes"),
        ("memory_free", 1_023, "1023 bytes"),
        ("memory_free", 1_536, "1.5 KiB"),
        ("memory_free", (1 << 20) - 1, "1.0 MiB"),
        ("max_memory", 1 << 30, "1.0 GiB"),
        ("bytes_retired", 5 << 40, "5.0 TiB"),
        ("memory_wasted", -(3 << 20), "-3.0 MiB"),
        ("spin_ns", 999, "999 ns"),
        ("insert_ns_p99", 12_345, "12.3 µs"),
        ("insert_ns_max", 2_500_000_000, "2.5 s"),
        ("ring_slots", 2_048, "2,048"),
        ("eviction_policy", 1, "allkeys-sieve"),
        ("eviction_policy", 9, "9"),
    ],
)
def test_figures_for_people(name: str, value: int, text: str) -> None:
    assert humane(name, value) == text


@pytest.mark.parametrize("command", CONNECTING)
def test_without_a_server(command: str) -> None:
    assert "nobody" in refused(*CONNECTING[command], "--name", "nobody")


def test_a_reader_that_goes_away(server: Server) -> None:
    with ringtable.connect() as table:
        table.update({f"key {index}": b"value" for index in range(10_000)})
    process = subprocess.Popen(
        [sys.executable, "-m", "ringtable", "client", "--debug-print"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(DEADLINE_S) == 1


# Where the server is, and what it is told


def test_the_environment_says_which_server_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGTABLE_URL", "words")
    with ringtable.Server(max_memory="16MiB", workers=1) as server, ringtable.connect() as table:
        assert server.path.endswith("/words.sock")
        assert server.name == "words"
        assert ringtable.log_path().endswith("/words.log")
        table["key"] = b"value"
        with ringtable.open() as opened, ringtable.Table() as made:
            assert opened["key"] == made["key"] == b"value"
        assert run_cli("get", "key").stdout == "value\n"
        assert run_cli("client", "2", "2").returncode == 0
        assert "no table at" in run_cli("get", "key", "--name", "default").stderr
        monkeypatch.setenv("RINGTABLE_URL", f"unix://{server.path}")
        assert run_cli("get", "key").stdout == "value\n"
        # As if it were not there.
        monkeypatch.setenv("RINGTABLE_URL", "")
        assert run_cli("get", "key").returncode == 1
    monkeypatch.setenv("RINGTABLE_URL", "tcp://localhost:1")
    assert "there is no table at tcp://127.0.0.1:1" in run_cli("ping").stderr
    assert "is no unix socket, which a server has in any case" in run_cli("server").stderr


def test_a_server_takes_its_options_from_a_file(ringtable_dir: Path) -> None:
    file = ringtable_dir / "server.toml"
    file.write_text("""
        name = "words"
        max-memory = "32MiB"
        max_clients = 7
        cache = true
        mode = "0666"
        buckets = 100  # the command line says more
        slow-consumer-timeout = 1.5
    """)
    with ServerProcess("--config", str(file), "--buckets", "50", "--workers", "1") as server:
        assert "'words' at" in server.ready_line
        assert "workers: 1, buckets: 50, memory: at most 32 MiB" in server.ready_line
        with ringtable.open(
            "words", max_memory="32MiB", max_clients=7, cache=True, mode=0o666, buckets=50, slow_consumer_timeout=1.5
        ):
            pass


def test_the_options_that_are_printed_can_be_read(ringtable_dir: Path) -> None:
    given = ["--cache", "--max-memory", "32MiB", "--tcp", "localhost:0", "--mode", "0660", "--linger", "2.5", "-n", "3"]
    printed = run_cli("server", *given, "--name", 'w"\\ü', "--print-config")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert "mode = 0o660\n" in printed.stdout
    assert "# group is left open\n" in printed.stdout
    file = ringtable_dir / "server.toml"
    file.write_text(printed.stdout)
    assert run_cli("server", "--config", str(file), "--print-config").stdout == printed.stdout
    options = tomllib.loads(printed.stdout)
    assert (options["workers"], options["linger"], options["buckets"], options["cache"]) == (3, 2.5, 10_000, True)
    assert (options["keeper"], options["max_deaths"]) == (False, 3)
    # By the name that it had once, too.
    renamed = run_cli("server", "--laggard-timeout", "7", "--print-config").stdout
    assert tomllib.loads(renamed)["slow_consumer_timeout"] == 7
    # Nothing is left out.
    options_of_server = [name for name in inspect.signature(ringtable.Server).parameters if name[0] != "_"]
    assert all(name in printed.stdout for name in options_of_server)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_memry = 1", "'max_memry' is no option of a server: is 'max_memory' meant?"),
        ("zzz = 1", "'zzz' is no option of a server"),
        ("max_memory = 1\nmax-memory = 2", "'max-memory' is there twice"),
        ("buckets = ", "is no TOML: "),
        ("max_memory = '1GB'", "is '1GB', which is no size"),
        ("cache = 'yes'", "cache is 'yes', but has to be true or false"),
        ("buckets = 'many'", "buckets is 'many', but has to be a number"),
        ("workers = true", "workers is True, but has to be a number"),
        ("name = 5", "name is 5, but has to be text"),
        ("mode = []", "mode is [], but has to be a number or text"),
        ("mode = 660", "write it in octal digits"),
        ("workers = 0", "--workers is 0; allowed are 1 to"),
        ("keeper = 1", "keeper is 1, but has to be true or false"),
        ("max-deaths = 2.5", "--max-deaths is 2.5, but has to be a whole number"),
        ("keeper = true\nmax_deaths = 0", "--max-deaths is 0 deaths, but has to be from 1 to 10000 deaths"),
        ("[server]\nbuckets = 1", "'server' is no option of a server"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(text: str, words: str, ringtable_dir: Path) -> None:
    file = ringtable_dir / "server.toml"
    file.write_text(text)
    done = run_cli("server", "--config", str(file))
    assert done.returncode == 2, done
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_cannot_be_read_is_named(ringtable_dir: Path) -> None:
    done = run_cli("server", "--config", str(ringtable_dir / "none.toml"))
    assert done.returncode == 1
    assert "none.toml: No such file or directory" in done.stderr


def test_an_order_to_end_leaves_nothing_of_a_line_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """It came as the line was found to be refused, and the end of the process failed for what was left of it."""
    silence, silenced = output.silence, list[Any]()

    def silence_once(stream: Any) -> None:
        silenced.append(stream)
        if len(silenced) == 1:
            raise KeyboardInterrupt
        silence(stream)

    refusing = open(os.open(os.devnull, os.O_RDONLY), "w")  # noqa: SIM115 as that of a process without one
    with refusing, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", refusing)
        patched.setattr(output, "silence", silence_once)
        with pytest.raises(KeyboardInterrupt):
            output.announce("ready")
        refusing.flush()
