"""What docs/guide/deployment.md shows works: its programs are run as they stand.

gunicorn is there for the tests; uvicorn and Celery are tested where they are installed.
"""

import importlib.util
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import ringtable
from support import DEADLINE_S, ServerProcess, run_cli, wait_until

PAGE = (Path(__file__).parent.parent / "docs" / "guide" / "deployment.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

COUNTER = """
import os
import ringtable
table = ringtable.connect("app", timeout=5, wait=10, lazy=True)


def application(environ, start_response):
    start_response("200 OK", [])
    return [b"%d %d" % (table.incr("requests"), os.getpid())]
"""


def block(language: str, begin: str) -> str:
    """The one program of the page that begins so."""
    found: list[str] = [text for name, text in BLOCKS if name == language and text.startswith(begin)]
    assert len(found) == 1, begin
    return found[0]


@contextmanager
def running(folder: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def test_smoke() -> None:
    assert {name for name, _ in BLOCKS} == {"python", "ini", "toml", "yaml"}


def test_a_table_that_is_opened_at_the_import_waits_for_its_server() -> None:
    source = block("python", "import ringtable\n\ntable = ")
    names: dict[str, ringtable.Table] = {}
    exec(source, names)
    with ringtable.Server("app", max_memory="16MiB"):
        names["table"]["key"] = b"value"
        names["table"].close()


def answer(path: Path) -> bytes:
    """What a web server at this unix socket answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(str(path))
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(4_096), b""))


@pytest.mark.parametrize("options", [[], ["--preload"]])
def test_gunicorn(options: list[str], ringtable_dir: Path) -> None:
    (ringtable_dir / "gunicorn.conf.py").write_text(block("python", "# gunicorn.conf.py"))
    (ringtable_dir / "counter.py").write_text(COUNTER)
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", "unix:web.socket", *options]
    with (
        running(ringtable_dir, *command, "counter:application") as gunicorn,
        ringtable.connect("app", wait=DEADLINE_S) as table,
    ):
        assert table.stats()["process_id"] == gunicorn.pid
        workers: set[bytes] = set()

        def has_seen_both() -> bool:
            # Until it listens, nobody answers.
            with suppress(OSError):
                workers.add(answer(ringtable_dir / "web.socket").split()[-1])
            return len(workers) == 2

        wait_until(has_seen_both, "both workers have answered")
        assert int(table["requests"]) >= 2
    assert gunicorn.returncode == 0
    assert not list(ringtable_dir.glob("*.sock*"))


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


@needs("uvicorn")
def test_uvicorn(ringtable_dir: Path) -> None:
    (ringtable_dir / "main.py").write_text(block("python", "# main.py"))
    (ringtable_dir / "app.py").write_text("""
import ringtable
table = ringtable.connect("app", timeout=5, wait=10, lazy=True)


async def application(scope, receive, send):
    table.incr(scope["type"])
""")
    with (
        running(ringtable_dir, sys.executable, "main.py") as uvicorn,
        ringtable.connect("app", wait=DEADLINE_S) as table,
    ):
        assert table.stats()["process_id"] == uvicorn.pid
        wait_until(lambda: table.get("lifespan") == b"4", "its workers have counted")


@needs("celery")
def test_celery(ringtable_dir: Path) -> None:
    source = block("python", "# tasks.py")
    folders = {"data_folder_in": ".", "data_folder_out": "."}
    broker = f"celery.conf.update(broker_url='filesystem://', broker_transport_options={folders})"
    (ringtable_dir / "tasks.py").write_text(f"{source}\n{broker}\n")
    command = [sys.executable, "-m", "celery", "--app", "tasks", "worker", "--concurrency", "2"]
    with running(ringtable_dir, *command) as celery, ringtable.connect("app", wait=DEADLINE_S) as table:
        assert table.stats()["process_id"] == celery.pid
        subprocess.run(
            [sys.executable, "-c", "import tasks; [tasks.count.delay() for _ in range(10)]"],
            cwd=ringtable_dir, check=True, timeout=DEADLINE_S,
        )  # fmt: skip
        wait_until(lambda: table.get("tasks") == b"10", "the tasks are done")


def test_a_service(ringtable_dir: Path) -> None:
    unit, options = block("ini", "# /etc/systemd"), block("toml", "")
    assert re.search(r"^ExecStart=\S+/ringtable server --config /etc/ringtable.toml$", unit, re.MULTILINE)
    file = ringtable_dir / "ringtable.toml"
    file.write_text(options)
    with (
        ServerProcess("--config", str(file)) as server,
        ringtable.open("app", cache=True, max_memory="512MiB") as table,
    ):
        assert tomllib.loads(options)["name"] == "app"
        assert table.stats()["process_id"] == server.pid


def test_containers_run_commands_that_there_are() -> None:
    blocks = [text for name, text in BLOCKS if name == "yaml"]
    servers = [line for text in blocks for line in re.findall(r"ringtable,? (server.*)", text)]
    assert len(servers) == 2
    for server in servers:
        printed = run_cli(*re.findall(r"[^\[\], ]+", server), "--print-config")
        assert tomllib.loads(printed.stdout)["max_memory"] == "512MiB"
