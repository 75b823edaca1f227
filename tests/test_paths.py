"""What a server has on disk, a socket and a lock: it removes nothing else, and is found whatever others remove.

Most tests compare the whole folder with what was in it before: names, kinds, inodes, contents.
"""

import ctypes
import errno
import fcntl
import os
import pickle
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import PathTaken, Server, ServerExists
from ringtable._ringtable import socket_path
from support import Child, ServerProcess, bound, contents, lock_of, run_cli, run_script, wait_until

PRECIOUS = b"years of work\n"
SMALL: dict[str, Any] = {"workers": 1, "max_memory": "4MiB"}


def serves(address: str) -> bool:
    """Whether a server answers there."""
    try:
        with ringtable.connect(address) as table:
            table["served"] = b"yes"
            return table["served"] == b"yes"
    except ringtable.TableNotFound:
        return False


def remove_at_once(folder: Path) -> None:
    """Remove a folder in one step, as far as its server sees it, however slow we are."""
    gone = folder.with_name("gone")
    folder.rename(gone)
    for path in gone.iterdir():
        path.unlink(missing_ok=True)
    gone.rmdir()


def listening(path: Path) -> socket.socket:
    found = bound(path, socket.SOCK_STREAM)
    found.listen()
    return found


def leave_dead_socket(path: Path) -> None:
    bound(path, socket.SOCK_STREAM).close()


def make_regular(path: Path) -> None:
    path.write_bytes(PRECIOUS)


def make_empty(path: Path) -> None:
    path.touch(mode=0o644)


def make_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def make_link_to_file(path: Path) -> None:
    target = path.with_name("precious")
    target.write_bytes(PRECIOUS)
    target.chmod(0o600)
    path.symlink_to(target)


def make_hard_link(path: Path) -> None:
    target = path.with_name("precious")
    target.touch(mode=0o600)
    path.hardlink_to(target)


def make_private_file(path: Path) -> None:
    path.write_bytes(PRECIOUS)
    path.chmod(0o600)


def make_link_to_dead_socket(path: Path) -> None:
    target = path.with_name("target")
    leave_dead_socket(target)
    path.symlink_to(target)


def make_device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("devices are made by root alone")


def make_others_file(path: Path) -> None:
    path.touch(mode=0o600)
    try:
        os.chown(path, 65_534, 65_534)
    except PermissionError:
        pytest.skip("files are given away by root alone")


TAKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "file": (make_regular, "a regular file"),
    "empty file": (make_empty, "a regular file"),
    "folder": (Path.mkdir, "a folder"),
    "fifo": (os.mkfifo, "a fifo"),
    "dangling link": (make_dangling_link, "a symbolic link"),
    "link to a file": (make_link_to_file, "a symbolic link"),
    "link to a dead socket": (make_link_to_dead_socket, "a symbolic link"),
    "device": (make_device, "a device"),
}
LOCK_TAKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    **TAKEN,
    "file": (make_regular, "a file that no server has made"),
    "private file": (make_private_file, "a file that no server has made"),
    "empty file": (make_empty, "a file that no server has made"),
    "hard link": (make_hard_link, "a file that no server has made"),
    "dead socket": (leave_dead_socket, "a socket"),
    "file of another user": (make_others_file, "a file of user 65534"),
}


@pytest.fixture
def path(ringtable_dir: Path) -> Path:
    """A path for a socket."""
    return ringtable_dir / "app.socket"


def test_smoke(path: Path) -> None:
    with Server(str(path), **SMALL) as server:
        assert server.path == str(path)
        assert serves(server.path)
        assert set(contents(path.parent)) == {"app.socket", "app.socket.lock"}
        for made in (path, lock_of(path)):
            assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert contents(path.parent) == {}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_lies_at_the_path_stays(path: Path, kind: str) -> None:
    make, words = TAKEN[kind]
    make(path)
    before = contents(path.parent)
    with pytest.raises(PathTaken, match=f"{path} is {words}, not a socket, and is left alone"):
        Server(str(path), **SMALL)
    assert contents(path.parent) == before


@pytest.mark.parametrize("kind", LOCK_TAKEN)
def test_what_lies_in_place_of_the_lock_stays(path: Path, kind: str) -> None:
    make, words = LOCK_TAKEN[kind]
    make(lock_of(path))
    before = contents(path.parent)
    with pytest.raises(PathTaken, match=f"{lock_of(path)} is {words}.*, and is left alone"):
        Server(str(path), **SMALL)
    assert contents(path.parent) == before


@pytest.mark.parametrize("name", ["./report.csv", "./uv.sock"])
def test_files_with_similar_names_are_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(path.parent)
    for file in ("report.lock", "uv.lock", "report.csv.bak"):
        Path(file).write_bytes(PRECIOUS)
    before = contents(path.parent)
    with Server(name, **SMALL) as server:
        assert serves(server.path)
    assert contents(path.parent) == before


def test_names_with_a_common_stem_are_two_servers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with Server("./v1.2", **SMALL) as one, Server("./v1.3", **SMALL) as other:
        assert serves(one.path)
        assert serves(other.path)
    with Server("v1.2", **SMALL), Server("v1.3", **SMALL):
        assert serves("v1.2")
        assert serves("v1.3")


@pytest.mark.parametrize("is_listening", [True, False])
def test_a_living_socket_is_a_server(path: Path, is_listening: bool) -> None:
    with closing(listening(path) if is_listening else bound(path, socket.SOCK_STREAM)) as living:
        before = contents(path.parent)
        with pytest.raises(ServerExists):
            Server(str(path), **SMALL)
        assert contents(path.parent) == before
        if is_listening:
            # The look at it was no connection.
            living.setblocking(False)
            with pytest.raises(BlockingIOError):
                living.accept()


def test_a_living_socket_with_a_full_queue_is_a_server(path: Path) -> None:
    with ExitStack() as stack:
        living = stack.enter_context(bound(path, socket.SOCK_STREAM))
        living.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(str(path)) == errno.EAGAIN:
                break
        else:
            raise AssertionError("the queue is not full")
        with pytest.raises(ServerExists):
            Server(str(path), **SMALL)
        assert path.is_socket()


@pytest.mark.parametrize("is_connected", [False, True])
def test_a_living_datagram_socket_stays(path: Path, is_connected: bool) -> None:
    with closing(bound(path, socket.SOCK_DGRAM)) as living:
        if is_connected:
            # It takes nothing but what its peer sends.
            living.connect(str(path))
        before = contents(path.parent)
        with pytest.raises(PathTaken, match="is another program's socket, and is left alone"):
            Server(str(path), **SMALL)
        assert contents(path.parent) == before


def test_a_link_to_a_living_socket_stays(path: Path) -> None:
    with closing(listening(path.with_name("target"))):
        path.symlink_to("target")
        before = contents(path.parent)
        with pytest.raises(PathTaken, match="a symbolic link"):
            Server(str(path), **SMALL)
        assert contents(path.parent) == before


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_dead_socket_is_replaced(path: Path, kind: socket.SocketKind) -> None:
    bound(path, kind).close()
    with Server(str(path), **SMALL) as server:
        assert serves(server.path)
    assert contents(path.parent) == {}


def test_a_killed_server_leaves_what_the_next_one_clears_away(path: Path) -> None:
    with ServerProcess("--name", str(path), "--workers", "1") as process:
        process.kill()
        assert set(contents(path.parent)) == {path.name, lock_of(path).name}
        with Server(str(path), **SMALL) as server:
            assert serves(server.path)
        assert contents(path.parent) == {}


def test_a_lock_that_was_not_written_is_a_lock(path: Path) -> None:
    # Its maker was killed right after it had made it.
    os.close(os.open(lock_of(path), os.O_CREAT | os.O_WRONLY, 0o600))
    with Server(str(path), **SMALL) as server:
        assert serves(server.path)
    assert contents(path.parent) == {}


def test_the_current_folder_does_not_matter(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (path.parent / name).mkdir()
    (path.parent / "two" / "app.sock").write_bytes(PRECIOUS)
    before = contents(path.parent)
    monkeypatch.chdir(path.parent / "one")
    server = Server("./app.sock", **SMALL)
    assert server.path == str(path.parent / "one" / "app.sock")
    monkeypatch.chdir("../two")
    assert serves(server.path)
    assert server.stats()["name_lost"] == 0
    server.stop()
    assert contents(path.parent) == before


def test_the_name_of_the_folder_does_not_matter(path: Path) -> None:
    one, two = path.parent / "one", path.parent / "two"
    one.mkdir()
    server = Server(f"{one}/app.sock", **SMALL)
    one.rename(two)
    # Somebody has a server in its place by now.
    one.mkdir()
    with Server(f"{one}/app.sock", **SMALL):
        server.stop()
        assert contents(two) == {}
        assert serves(f"{one}/app.sock")


@pytest.mark.parametrize("removed", ["socket", "lock", "both"])
def test_a_running_server_makes_anew_what_was_removed(removed: str) -> None:
    with Server("t", **SMALL) as server:
        with ringtable.connect("t") as table:
            table["key"] = b"value"
        path = Path(server.path)
        names = {"socket": [path], "lock": [lock_of(path)], "both": [path, lock_of(path)]}[removed]
        for round_ in range(1, 4):
            for name in names:
                name.unlink()
            wait_until(lambda: path.exists() and lock_of(path).exists(), "what was removed is there again")
            with ringtable.connect("t") as table:
                assert table["key"] == b"value"
                wait_until(lambda: table.stats()["name_lost"] == 0, "the server knows that it is found")
                assert table.stats()["name_restored"] == (0 if removed == "lock" else round_)
        with pytest.raises(ServerExists):
            Server("t", **SMALL)
    assert contents(path.parent) == {}


def test_what_was_moved_away_is_made_anew() -> None:
    with Server("t", **SMALL) as server:
        path = Path(server.path)
        path.rename(path.with_name("moved"))
        wait_until(lambda: path.exists() and serves("t"), "the server is found again")
    # The other name is somebody's wish, and nobody's socket.
    assert [*contents(path.parent)] == ["moved"]


def test_a_second_server_is_refused_though_the_lock_was_removed() -> None:
    """A server that stands still cannot make its lock anew; its socket lives all the same."""
    with ServerProcess("--name", "t", "--workers", "1") as process, ringtable.connect("t") as table:
        path = Path(socket_path("t"))
        table["key"] = b"value"
        process.freeze()
        lock_of(path).unlink()
        with pytest.raises(ServerExists):
            Server("t", **SMALL)
        assert not lock_of(path).exists()
        process.signal(signal.SIGCONT)
        wait_until(lock_of(path).exists, "the lock is there again")
        assert table["key"] == b"value"
        assert serves("t")


def test_two_servers_that_have_had_the_same_path_do_not_harm_each_other(capfd: pytest.CaptureFixture[str]) -> None:
    with ServerProcess("--name", "t", "--workers", "1") as process, ringtable.connect("t") as table:
        path = Path(socket_path("t"))
        table["key"] = b"the first one's"
        process.freeze()
        path.unlink()
        lock_of(path).unlink()
        with Server("t", **SMALL):
            process.signal(signal.SIGCONT)
            wait_until(lambda: table.stats()["name_lost"] == 1, "the first one knows that it is not found")
            assert table["key"] == b"the first one's"
            wait_until(
                lambda: capfd.readouterr().err.count(f"ringtable: {path} was removed from under this server") == 1,
                "the first one has said so",
            )
            process.stop()
            with ringtable.connect("t") as second:
                assert "key" not in second
    assert capfd.readouterr().err == ""
    assert contents(path.parent) == {}


@pytest.mark.parametrize("made", [make_regular, make_dangling_link, listening])
def test_what_others_put_in_place_of_the_socket_stays(path: Path, made: Callable[[Path], socket.socket | None]) -> None:
    server = Server(str(path), **SMALL)
    with ExitStack() as stack, ringtable.connect(str(path)) as table:
        # In one step: the server has no time to make it anew.
        other = path.with_name("other")
        if found := made(other):
            stack.enter_context(found)
        other.rename(path)
        wait_until(lambda: table.stats()["name_lost"] == 1, "the server knows that it is not found")
        before = contents(path.parent)
        table["key"] = b"value"
        server.stop()
    assert {name: found for name, found in before.items() if name != lock_of(path).name} == contents(path.parent)


def test_who_is_not_found_any_more_keeps_nobody_from_the_path(path: Path) -> None:
    """What was put in place of the socket is gone again: the name is free, though the first server lives and serves."""
    with Server(str(path), **SMALL), ringtable.connect(str(path)) as table:
        other = path.with_name("other")
        make_regular(other)
        other.rename(path)
        wait_until(lambda: table.stats()["name_lost"] == 1, "the server knows that it is not found")
        path.unlink()
        # It may be about to.
        wait_until(lambda: not lock_of(path).exists(), "the lock is given up")
        with Server(str(path), **SMALL):
            assert serves(str(path))
            table["key"] = b"value"
            with ringtable.connect(str(path)) as second:
                assert "key" not in second
    assert contents(path.parent) == {}


def test_a_name_whose_folder_was_removed_is_made_anew(ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ringtable_dir / "names"
    monkeypatch.setenv("RINGTABLE_DIR", str(folder))
    with Server("t", **SMALL), ringtable.connect("t") as table:
        table["key"] = b"value"
        remove_at_once(folder)
        wait_until(lambda: (folder / "t.sock.lock").exists() and serves("t"), "the server is found again")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with ringtable.connect("t") as again:
            assert again["key"] == b"value"
    assert contents(folder) == {}


def test_a_path_whose_folder_was_removed_is_made_anew_once_there_is_one(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = path.parent / "own"
    folder.mkdir()
    with Server(f"{folder}/app.sock", **SMALL) as server, ringtable.connect(server.path) as table:
        remove_at_once(folder)
        wait_until(lambda: table.stats()["name_lost"] == 1, "the server knows that it is not found")
        wait_until(lambda: "tries to make it anew" in capfd.readouterr().err, "the server has said so")
        folder.mkdir()
        wait_until(lambda: serves(server.path), "the server is found again")
        wait_until(lambda: table.stats()["name_lost"] == 0, "the server knows that it is found")
    assert contents(folder) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_is_named(ringtable_dir: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    target = os.fsencode(ringtable_dir)
    # Its own folder takes one inode.
    if libc.mount(b"none", target, b"tmpfs", 0, b"nr_inodes=1,mode=700"):
        pytest.skip(f"no file system can be mounted: {os.strerror(ctypes.get_errno())}")
    try:
        with pytest.raises(ringtable.OutOfResources, match="lock: no space left on the device"):
            Server("t", **SMALL)
    finally:
        assert libc.umount2(target, 2) == 0


CLONE_NEWUSER = 0x10000000


def without_watches(function: Callable[[], None]) -> None:
    """Call a function where there are no watches, in a child: those of this user are also those of other tests."""
    user = os.geteuid()

    def call() -> bool:
        if ctypes.CDLL(None).unshare(CLONE_NEWUSER) != 0:
            return False
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/sys/user/max_inotify_instances").write_text("0")
        function()
        return True

    with Child(call) as child:
        if not child.result():
            pytest.skip("no user namespace can be made")


def has_looked(address: str) -> bool:
    """Whether its server looks at its files no more unless told: it does once, before it takes a second client."""
    return serves(address) and serves(address)


def test_without_watches_nothing_is_noticed_and_nobody_harmed() -> None:
    """The kernel has no more of them for this user, or the process no descriptor for it."""
    path = Path(socket_path("t"))

    def serve() -> None:
        with Server("t", **SMALL), ringtable.connect("t") as table:
            assert has_looked("t")
            path.unlink()
            lock_of(path).unlink()
            table["key"] = b"value"
            with Server("t", **SMALL) as other:
                assert serves("t")
                assert table["key"] == b"value"
                assert other.running

    without_watches(serve)
    assert contents(path.parent) == {}


def test_the_first_of_two_servers_ends_first() -> None:
    """As above, but the first one ends while the second one has the path."""
    path = Path(socket_path("t"))

    def serve() -> None:
        first = Server("t", **SMALL)
        assert has_looked("t")
        path.unlink()
        lock_of(path).unlink()
        with Server("t", **SMALL):
            before = contents(path.parent)
            first.stop()
            assert contents(path.parent) == before
            assert serves("t")
            with pytest.raises(ServerExists):
                Server("t", **SMALL)

    without_watches(serve)
    assert contents(path.parent) == {}


@pytest.fixture
def new_folder(ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of names that is not there yet, two levels deep."""
    folder = ringtable_dir / "new" / "names"
    monkeypatch.setenv("RINGTABLE_DIR", str(folder))
    return folder


def test_a_start_that_fails_leaves_nothing_behind(new_folder: Path) -> None:
    outside = new_folder.parent.parent
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as taken,
        pytest.raises(ringtable.Error, match="listening at tcp://"),
    ):
        Server("t", tcp=f"127.0.0.1:{taken.getsockname()[1]}", **SMALL)
    assert contents(outside) == {}
    with pytest.raises(ringtable.InvalidOption):
        Server("t", buckets=1 << 30, **SMALL)
    assert contents(outside) == {}
    with pytest.raises(ringtable.InvalidOption):
        Server("t", tcp="192.0.2.1:80", **SMALL)
    assert contents(outside) == {}
    with Server("t", **SMALL):
        assert serves("t")
    assert [*contents(outside)] == ["new", "new/names"]


def test_a_start_that_fails_leaves_a_folder_with_files_of_others(new_folder: Path) -> None:
    new_folder.parent.mkdir()
    new_folder.mkdir(mode=0o700)
    (new_folder / "notes").write_bytes(PRECIOUS)
    before = contents(new_folder)
    with pytest.raises(ringtable.InvalidOption):
        Server("t", buckets=1 << 30, **SMALL)
    assert contents(new_folder) == before


def test_a_start_without_descriptors_leaves_nothing_behind(new_folder: Path) -> None:
    def start(descriptors: int) -> bool:
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + descriptors, used + descriptors))
        try:
            Server("t", **SMALL).stop()
        except ringtable.Error:
            return False
        return True

    for descriptors in range(60):
        with Child(start, descriptors) as child:
            started = child.result()
        found = set(contents(new_folder.parent.parent))
        assert not found - {"new", "new/names"}
        assert started or not found
        if started:
            assert descriptors > 5
            return
    raise AssertionError("no server has started")


def test_of_many_starts_one_succeeds(new_folder: Path) -> None:
    """Starts that race for a name whose folder is not there yet, and of which the losers clear away what they made."""
    for _ in range(10):
        servers: list[Server] = []
        others: list[str] = []
        barrier = threading.Barrier(8)

        def start(barrier: threading.Barrier, servers: list[Server], others: list[str], bad: bool) -> None:
            barrier.wait()
            try:
                servers.append(Server("t", **({**SMALL, "buckets": 1 << 30} if bad else SMALL)))
            except (ServerExists, ringtable.InvalidOption) as error:
                others.append(type(error).__name__)

        threads = [
            threading.Thread(target=start, args=(barrier, servers, others, number % 2 == 0)) for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(servers) + len(others) == 8
        assert len(servers) <= 1
        # It may be that each of the others met one that was about to fail.
        for server in servers:
            assert serves("t")
            server.stop()
        assert not {"names/t.sock", "names/t.sock.lock"} & set(contents(new_folder.parent))


@pytest.mark.slow
def test_servers_that_race_for_a_name_are_never_two(ringtable_dir: Path, seed: int) -> None:
    """Processes that start and stop servers of one name, some of which are killed."""
    script = """
        import fcntl, os, random, sys, ringtable
        chance = random.Random(int(sys.argv[1]))
        guard = os.open(os.environ["RINGTABLE_DIR"] + "/guard", os.O_RDWR | os.O_CREAT, 0o600)
        for number in range(60):
            try:
                server = ringtable.Server("t", workers=1, max_memory="4MiB")
            except ringtable.ServerExists:
                continue
            # Whoever has a server is alone.
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with ringtable.connect("t") as table:
                table["owner"] = str(os.getpid()).encode()
                assert table["owner"] == str(os.getpid()).encode()
            if chance.random() < 0.1:
                os.kill(os.getpid(), 9)
            fcntl.flock(guard, fcntl.LOCK_UN)
            server.stop()
    """
    run = [sys.executable, "-c", textwrap.dedent(script)]
    processes = [subprocess.Popen([*run, str(seed + number)], stderr=subprocess.PIPE) for number in range(6)]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode in (0, -9), said.decode()
    with Server("t", **SMALL):
        assert serves("t")
    assert set(contents(ringtable_dir)) == {"guard"}


def test_a_child_leaves_its_parents_files_alone(path: Path) -> None:
    with Server(str(path), **SMALL) as server:

        def end() -> None:
            server.stop()
            del server.__dict__["_core"]

        before = contents(path.parent)
        with Child(end) as child:
            child.result()
        assert contents(path.parent) == before
        assert serves(server.path)


def test_a_server_that_nobody_has_stopped_stops_at_the_end(path: Path) -> None:
    """Also one that a daemon thread keeps, and not that of a parent when a child ends."""
    run_script(
        f"""
        import os, sys, threading
        import ringtable

        server = ringtable.Server({str(path)!r}, workers=1, max_memory="4MiB")
        if os.fork() == 0:
            sys.exit()
        assert os.wait()[1] == 0
        with ringtable.connect(server.path) as table:
            table["key"] = b"value"

        def keep():
            server.running
            threading.Event().wait()

        threading.Thread(target=keep, daemon=True).start()
        """
    )
    assert contents(path.parent) == {}


def test_the_lock_is_free_when_its_process_has_ended(path: Path) -> None:
    """Not before: a frozen server has its path."""
    with ServerProcess("--name", str(path), "--workers", "1") as process:
        process.freeze()
        with pytest.raises(ServerExists):
            Server(str(path), **SMALL)
        with lock_of(path).open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_long_path(ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket address has room for 107 bytes; longer paths are reached through a descriptor of their folder."""
    folder = ringtable_dir / ("x" * 200)
    folder.mkdir(mode=0o700)
    before = contents(ringtable_dir)
    with Server(f"{folder}/app.sock", **SMALL) as server:
        assert serves(f"{folder}/app.sock")
        assert serves(f"unix://{folder}/app.sock")
        assert server.stats()["name_lost"] == 0
        with pytest.raises(ServerExists):
            Server(f"{folder}/app.sock", **SMALL)
        monkeypatch.chdir(folder)
        assert serves("./app.sock")
    assert contents(ringtable_dir) == before
    with Server("./app.sock", **SMALL) as server:
        assert server.path == f"{folder}/app.sock"
        assert serves("./app.sock")
    monkeypatch.setenv("RINGTABLE_DIR", str(folder))
    with Server("t", **SMALL), ringtable.connect("t") as table, table.watch() as watch:
        table["key"] = b"value"
        assert next(watch).key == b"key"
    with pytest.raises(ringtable.InvalidOption, match=r"has \d+ bytes, and its file name 83: at most 107 are allowed"):
        Server("./" + "y" * 83, **SMALL)
    assert contents(ringtable_dir) == before


def test_a_folder_that_is_gone_is_no_place(path: Path) -> None:
    with pytest.raises(ringtable.Error, match="opening the folder"):
        Server(f"{path.parent}/none/app.sock", **SMALL)
    for address in (f"{path.parent}/", f"{path.parent}/.."):
        with pytest.raises(ringtable.InvalidOption, match="has to end with the name of a file"):
            Server(address, **SMALL)
    _, said = run_script(
        """
        import os, ringtable, tempfile
        folder = tempfile.mkdtemp()
        os.chdir(folder)
        os.rmdir(folder)
        for call in (ringtable.Server, ringtable.connect):
            try:
                call("./app.sock")
            except ringtable.InvalidOption as error:
                assert "cannot be told" in str(error), error
            else:
                raise AssertionError(call)
        """
    )
    assert said == ""


@pytest.fixture
def folders(ringtable_dir: Path) -> tuple[Path, Path]:
    """Two folders, in each of which servers of the same names can be."""
    one, two = ringtable_dir / "one", ringtable_dir / "two"
    for folder in (one, two):
        folder.mkdir(mode=0o700)
    return one, two


def owner(table: ringtable.Table) -> bytes:
    """Which of the two servers a table is of."""
    return table["owner"]


@contextmanager
def two_servers(name: str, folders: tuple[Path, Path], enter: Callable[[Path], object]) -> Iterator[None]:
    """Servers of the same name in both folders, which one is in by turns; in the end it is the first one."""
    with ExitStack() as stack:
        for folder in reversed(folders):
            enter(folder)
            stack.enter_context(Server(name, **SMALL))
            with ringtable.connect(name) as table:
                table["owner"] = folder.name.encode()
        yield


@pytest.mark.parametrize("way", ["current folder", "RINGTABLE_DIR", "relative RINGTABLE_DIR", "XDG_RUNTIME_DIR"])
def test_a_table_stays_with_its_server(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Whatever folder is the current one by then, and whatever the environment: also in children, watches, copies."""
    name = "./app.sock" if way == "current folder" else "app"
    monkeypatch.chdir(folders[0].parent)

    def enter(folder: Path) -> None:
        match way:
            case "current folder":
                monkeypatch.chdir(folder)
            case "RINGTABLE_DIR":
                monkeypatch.setenv("RINGTABLE_DIR", str(folder))
            case "relative RINGTABLE_DIR":
                monkeypatch.setenv("RINGTABLE_DIR", folder.name)
            case _:
                monkeypatch.delenv("RINGTABLE_DIR", raising=False)
                monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))

    with two_servers(name, folders, enter), ringtable.connect(name) as table:
        assert owner(table) == b"one"
        enter(folders[1])
        if way == "relative RINGTABLE_DIR":
            monkeypatch.chdir(folders[1])
            monkeypatch.setenv("RINGTABLE_DIR", ".")
        with ringtable.connect(name) as other:
            assert owner(other) == b"two"
        assert owner(table) == b"one"
        assert table.address == f"{folders[0]}{'/ringtable' if 'XDG' in way else ''}/app.sock"
        with pickle.loads(pickle.dumps(table)) as copy, copy.watch() as watch:
            assert owner(copy) == b"one"
            table["key"] = b"value"
            assert next(watch).key == b"key"
        with table.watch() as watch, ringtable.connect(name) as other:
            other["not watched"] = b"value"
            table["watched"] = b"value"
            assert next(watch).key == b"watched"
            assert table.address in repr(watch)
        with Child(owner, table) as child:
            assert child.result() == b"one"
        assert table.address in repr(table)


def test_a_reconnecting_table_stays_with_its_server(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders[0])
    with ExitStack() as stack:
        first = Server("./app.sock", **SMALL)
        table = stack.enter_context(ringtable.connect("./app.sock"))
        monkeypatch.chdir(folders[1])
        stack.enter_context(Server("./app.sock", **SMALL))
        first.stop()
        for _ in range(2):
            with pytest.raises(ringtable.ServerGone):
                table["owner"] = b"one"
        stack.enter_context(Server(f"{folders[0]}/app.sock", **SMALL))
        table["owner"] = b"one"
        with ringtable.connect("./app.sock") as other:
            assert "owner" not in other


def test_paths_of_pathlib(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are paths, also those that look like names: `Path("./app.sock")` is written "app.sock"."""
    monkeypatch.chdir(path.parent)
    with Server(Path("./app.sock"), **SMALL) as server, Server("app.sock", **SMALL) as named:
        assert server.path == str(path.parent / "app.sock")
        assert named.path == str(path.parent / "app.sock.sock")
        assert server.name == "app.sock"
        for given in (Path("app.sock"), path.parent / "app.sock"):
            with ringtable.connect(given) as table, table.watch() as watch:
                assert table.address == server.path
                table["key"] = b"value"
                assert next(watch).key == b"key"
        with ringtable.Table("app.sock") as table:
            assert table.address == named.path
        assert socket_path(Path("app.sock")) == server.path
    for nonsense in (b"app.sock", 5):
        with pytest.raises(TypeError, match=f"a str or a path.*not {type(nonsense).__name__}"):
            Server(nonsense, **SMALL)  # type: ignore[arg-type]


def test_a_folder_whose_name_is_no_text(ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.fsdecode(os.fsencode(ringtable_dir) + b"/\xff"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    with Server("./app.sock", **SMALL) as server:
        assert server.path == f"{folder}/app.sock"
        assert server.stats()["name_lost"] == 0
        with ringtable.connect(server.path) as table, pickle.loads(pickle.dumps(table)) as copy:
            table["key"] = b"value"
            assert copy["key"] == b"value"
            with table.watch() as watch:
                table["key"] = b"other"
                assert next(watch).key == b"key"
        for given in (folder / "app.sock", f"unix://{folder}/app.sock"):
            with ringtable.connect(given) as table:
                assert table.address == server.path
        with pytest.raises(ringtable.ServerExists, match=re.escape(str(ringtable_dir))):
            Server(folder / "app.sock", **SMALL)
    # Names are looked up in such a folder, too, also by the command line.
    monkeypatch.setenv("RINGTABLE_DIR", str(folder))
    with Server("app", **SMALL):
        assert run_cli("set", "key", "value", "--name", "app").returncode == 0
        with ringtable.connect("app") as table:
            assert table["key"] == b"value"
    with pytest.raises(ringtable.TableNotFound, match=r"app\.sock"):
        ringtable.connect("app")
    folder.rmdir()


def test_the_command_line_says_where_the_server_is(ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ringtable_dir)
    with ServerProcess("--name", "./app.sock", "--workers", "1") as process:
        assert f" at {ringtable_dir}/app.sock," in process.ready_line
        assert run_cli("set", "key", "value", "--name", "./app.sock").returncode == 0
        assert run_cli("get", "key", "--name", f"unix://{ringtable_dir}/app.sock").stdout == "value\n"
