"""`ringtable profile`: whole, interrupted and with a dead server; and what it makes of the stacks that it gets.

That it leaves nothing behind is checked after every test.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import ringtable
from ringtable import _ringtable
from ringtable._profiler.flame import flame_graph
from ringtable._profiler.stacks import Kind, Stack, folded, kind_of, readable, shares
from support import DEADLINE_S, processes_of, run_cli, wait_until

ENGINE = "/somewhere/ringtable/crates/ringtable/src"
LIBRARY = "/rustc/0123456789abcdef/library"
REGISTRY = "/home/somebody/.cargo/registry/src/index"

if not hasattr(_ringtable, "Profiler"):
    pytest.skip("a build without the profiler; `make install` has it", allow_module_level=True)
needs_names = pytest.mark.skipif(
    not _ringtable.Profiler.can_name(), reason="a build without line tables; `make install` has them"
)


def start(output: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ringtable", "profile", "--seconds", "600", "--clients", "2", "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # What a killed one leaves among the temporary files goes with the folder of the test.
        env=os.environ | {"TMPDIR": os.environ["RINGTABLE_DIR"]},
        start_new_session=True,
    )


def profiled(folder: Path) -> dict[str, list[int]]:
    """The processes that `ringtable profile` has started, by their role."""
    found: dict[str, list[int]] = {"server": [], "client": []}
    for process in processes_of(str(folder)):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"ringtable._profiler.target" in words:
            found[json.loads(words[words.index(b"ringtable._profiler.target") + 1])["role"]].append(process)
    return found


@needs_names
@pytest.mark.parametrize(
    "options",
    [(), pytest.param(("--reads", "server", "--transport", "socket", "--workers", "1"), marks=pytest.mark.slow)],
)
def test_smoke(tmp_path: Path, options: tuple[str, ...]) -> None:
    output = tmp_path / "deep" / "down"
    # Some seconds, so that the server is caught at work though others have the processors most of the time.
    done = run_cli("profile", "--seconds", "3", "--clients", "2", "--output", str(output), *options)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in output.iterdir()) == [
        "client.folded",
        "client.svg",
        "server.folded",
        "server.svg",
    ]
    rows = re.findall(r"│ (receive|table|send|wait|other) +│ +([\d.]+) % │ +([\d.]+) % │", done.stdout)
    assert [row[0] for row in rows] == [kind.value for kind in Kind]
    for column in (1, 2):
        assert round(sum(float(row[column]) for row in rows), 9) == 100.0
    for process in ("server", "client"):
        graph = ElementTree.parse(output / f"{process}.svg").getroot()
        assert graph.tag == "{http://www.w3.org/2000/svg}svg"
        names = (output / f"{process}.folded").read_text()
        assert f"ringtable::{process}::" in names
        assert all(re.fullmatch(r"\S.* [1-9]\d*", line) for line in names.splitlines())


@needs_names
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(tmp_path: Path, ringtable_dir: Path, number: signal.Signals) -> None:
    running = start(tmp_path)
    wait_until(lambda: len(profiled(ringtable_dir)["client"]) == 2, "the clients are running")
    if number == signal.SIGINT:
        os.killpg(running.pid, number)
    else:
        running.send_signal(number)
    output, _ = running.communicate(timeout=DEADLINE_S)
    assert running.returncode != 0
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


@needs_names
def test_what_it_started_ends_with_it(tmp_path: Path, ringtable_dir: Path) -> None:
    running = start(tmp_path)
    wait_until(lambda: len(profiled(ringtable_dir)["client"]) == 2, "the clients are running")
    running.kill()
    running.communicate(timeout=DEADLINE_S)
    wait_until(lambda: not any(profiled(ringtable_dir).values()), "what it started has ended")


@needs_names
@pytest.mark.parametrize("role", ["server", "client"])
def test_a_death_is_an_error_with_its_words(tmp_path: Path, ringtable_dir: Path, role: str) -> None:
    running = start(tmp_path)
    wait_until(lambda: len(profiled(ringtable_dir)["client"]) == 2, "the clients are running")
    os.kill(profiled(ringtable_dir)[role][0], signal.SIGKILL)
    output, _ = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 1
    assert f"the {role} was killed by signal 9" in output
    assert "Traceback" not in output


@needs_names
def test_what_the_server_refuses_is_an_error(tmp_path: Path) -> None:
    done = run_cli("profile", "--workers", str(ringtable._ringtable.WORKERS_MAX + 1), "--output", str(tmp_path))
    assert done.returncode == 2
    assert f"from 1 to {ringtable._ringtable.WORKERS_MAX} threads" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "limits"),
    [
        ("--seconds", "0", "from 0.1 to 600 seconds"),
        ("--seconds", "601", "from 0.1 to 600 seconds"),
        ("--seconds", "nan", "from 0.1 to 600 seconds"),
        ("--clients", "0", "from 1 to 256 clients"),
        ("--workers", "0", "threads"),
        ("--hz", "0", "from 1 to 10000 samples a second"),
        ("--hz", "10001", "from 1 to 10000 samples a second"),
    ],
)
def test_bad_options_are_refused_with_their_limits(option: str, value: str, limits: str, tmp_path: Path) -> None:
    done = run_cli("profile", "--output", str(tmp_path), option, value)
    assert done.returncode == 2
    assert option in done.stderr
    assert limits in done.stderr


@needs_names
def test_an_output_folder_that_cannot_be_made_is_refused() -> None:
    done = run_cli("profile", "--output", "/dev/null/folder")
    assert done.returncode == 1
    assert done.stderr.startswith("ringtable: --output: Not a directory: '/dev/null/folder'")


def test_a_process_can_be_profiled_again_but_once_at_a_time() -> None:
    for _ in range(2):
        profiler = _ringtable.Profiler(1_000)
        with pytest.raises(ringtable.Error, match="already"):
            _ringtable.Profiler(1_000)
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        stacks, lost = profiler.stop()
        assert sum(count for _, count in stacks) > 0
        assert all(frames for frames, _ in stacks)
        assert lost == 0
        assert profiler.stop() == ([], 0)
    with pytest.raises(ringtable.InvalidOption, match="1 to 10000 samples a second"):
        _ringtable.Profiler(0)


def test_a_forgotten_profiler_stops() -> None:
    _ringtable.Profiler(1_000)
    _ringtable.Profiler(1_000).stop()


@pytest.mark.parametrize(
    ("kind", "stack"),
    [
        (Kind.RECEIVE, "server::lane_client::turn server::lane_client::take_request ring::spsc::available"),
        (Kind.RECEIVE, "server::lane_client::execute command::record::request::decode_request"),
        (Kind.RECEIVE, "server::socket_client::turn command::resp::request::parse"),
        (Kind.RECEIVE, "client::blocking::receive client::lane::try_receive command::record::reply::decode_reply"),
        (Kind.RECEIVE, "client::handle::pipeline client::replies::bucket"),
        (Kind.RECEIVE, "ring::mpmc::take"),
        (Kind.RECEIVE, "ring::broadcast::next"),
        (Kind.TABLE, "command::execute::execute command::set::set table::put::put table::bucket::lock"),
        (Kind.TABLE, "command::execute::execute command::inspection::ring_bucket"),
        (Kind.TABLE, "client::reads::read_bucket table::reader::read_bucket"),
        (Kind.SEND, "server::lane_client::turn server::lane_client::send_replies ring::spsc::write sync::copy_in"),
        (Kind.SEND, "command::execute::execute command::keyspace::get command::record::reply::bulk"),
        (Kind.SEND, "command::execute::execute command::keyspace::get command::resp::write::bulk"),
        (Kind.SEND, "server::worker::ring_served server::lane_client::ring_if_asleep shm::doorbell::ring"),
        (Kind.SEND, "server::worker::sleep server::worker::ring_served"),
        (Kind.SEND, "client::link::push client::lane::try_push command::record::request::new"),
        (Kind.SEND, "client::blocking::receive client::blocking::wait client::lane::publish"),
        (Kind.SEND, "ring::mpmc::try_claim"),
        (Kind.SEND, "ring::broadcast::publish"),
        (Kind.WAIT, "server::worker::run server::worker::spin server::lane_client::has_news"),
        (Kind.WAIT, "server::worker::run server::worker::sleep server::worker::poll"),
        (Kind.WAIT, "server::worker::yield_until_news ring::wait::until sync::yield_now"),
        (Kind.WAIT, "client::blocking::receive client::waiting::sleep client::alarm::listen shm::doorbell::wait"),
        (Kind.WAIT, "client::waiting::wait_for_socket client::readiness::await_readiness"),
        (Kind.OTHER, "client::classic::run_once"),
        (Kind.OTHER, "server::worker::run shm::clock::monotonic_ns"),
        (Kind.OTHER, "server::worker::serve_hot server::worker::turn"),
    ],
)
def test_the_innermost_frame_that_decides_is_the_kind(kind: Kind, stack: str) -> None:
    names = tuple(f"ringtable::{name}" for name in stack.split())
    assert kind_of(names) == kind
    assert kind_of((*names, "libc_malloc")) == kind


def test_what_we_did_not_write_is_other() -> None:
    assert kind_of(()) == Kind.OTHER
    assert kind_of(("python", "sleep")) == Kind.OTHER
    assert kind_of(("other::table::put::put",)) == Kind.OTHER


def test_shares_add_up_to_100() -> None:
    stacks: list[Stack] = [("ringtable::table::put::put",), ("ringtable::shm::doorbell::ring",), ("python",)]
    assert shares({}) == dict.fromkeys(Kind, 0.0)
    for counts in ((1, 1, 1), (1, 1, 4), (997, 2, 1), (7, 0, 6)):
        found = shares(dict(zip(stacks, counts, strict=True)))
        assert list(found) == list(Kind)
        assert round(sum(found.values()), 9) == 100.0
        assert abs(found[Kind.TABLE] - 100 * counts[0] / sum(counts)) <= 0.1


def test_a_stack_becomes_readable() -> None:
    assert readable(
        [
            ("clone3", "./sysdeps/unix/sysv/linux/x86_64/clone3.S"),
            ("<alloc::boxed::Box<dyn FnOnce<()>> as FnOnce<()>>::call_once", f"{LIBRARY}/alloc/src/boxed.rs"),
            ("<ringtable::server::worker::Worker>::run", f"{ENGINE}/server/worker.rs"),
            ("{closure#0}<fn(usize) -> bool>", f"{ENGINE}/server/worker.rs"),
            ("map<core::option::Option<usize>>", f"{LIBRARY}/core/src/option.rs"),
            ("execute", f"{ENGINE}/command/execute.rs"),
            ("format_inner", f"{LIBRARY}/alloc/src/fmt.rs"),
            ("__GI___libc_malloc", "./malloc/malloc.c"),
            ("_int_malloc", "./malloc/malloc.c"),
        ]
    ) == ("ringtable::server::worker::run", "ringtable::command::execute::execute", "libc_malloc")


def test_what_is_called_at_last_is_named_by_its_module_or_file() -> None:
    ours = ("hash", f"{ENGINE}/table/layout.rs")
    name = "ringtable::table::layout::hash"
    assert readable([ours, ("mix", f"{REGISTRY}/rapidhash-4.5.1/src/util/mix.rs")]) == (name, "rapidhash::util")
    assert readable([ours, ("wrapping_mul", f"{LIBRARY}/core/src/num/uint_macros.rs")]) == (name,)
    assert readable([ours, ("", "linux-vdso.so.1")]) == (name, "[linux-vdso.so.1]")
    assert readable([ours, ("{closure#1}", f"{ENGINE}/lib.rs")]) == (name, "ringtable::{closure}")


def test_the_interpreter_is_one_frame() -> None:
    interpreter = [("_start", ""), ("Py_BytesMain", "Modules/main.c"), ("PyObject_Vectorcall", "Objects/call.c")]
    assert readable([*interpreter, ("run", f"{ENGINE}/client/classic.rs")]) == (
        "python",
        "ringtable::client::classic::run",
    )
    assert readable(interpreter) == ("python", "PyObject_Vectorcall")
    assert readable([("", "/usr/bin/python3.11")]) == ("python", "[python3.11]")
    assert readable([("", "")]) == ("[unknown]",)
    assert readable([]) == ("unknown",)


def test_a_flame_graph_holds_every_function_with_its_figures() -> None:
    profile: dict[Stack, int] = {
        ("ringtable::server::worker::run", "ringtable::table::put::put"): 3,
        ("ringtable::server::worker::run", "operator<&>"): 1,
    }
    graph = ElementTree.fromstring(flame_graph(profile, "a <title>", "4 samples & more"))
    text = {element.text for element in graph.iter() if element.text}
    assert {"a <title>", "4 samples & more", "table::put::put", "table 75.0 %"} <= text
    assert "ringtable::table::put::put: 75.0 % of the CPU time, 3 samples, table" in text
    assert "operator<&>: 25.0 % of the CPU time, 1 sample, other" in text
    assert "all: 100.0 % of the CPU time, 4 samples, other" in text


def test_an_empty_profile_is_a_flame_graph_too() -> None:
    assert ElementTree.fromstring(flame_graph({}, "nothing", "")).tag.endswith("svg")


def test_folded_stacks_are_lines_with_counts() -> None:
    assert folded({("b",): 2, ("a", "c"): 1}) == "a;c 1\nb 2\n"
