"""Who serves: a client connects to servers of its own user and of root, unless told whom else to trust.

Tests of other users become them, in children, and need root for that.
"""

import os
import pickle
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import Server, Table, Untrusted, Watch
from support import Child, Flag, ServerProcess, become, run_cli, wait_until

NOBODY, DAEMON = 65_534, 1
SMALL: dict[str, Any] = {"workers": 1, "max_memory": "4MiB"}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")


def as_user(user: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a child that is another user."""

    def call() -> Any:
        become(user)
        return function(*arguments)

    with Child(call) as child:
        return child.result()


def serve(user: int, path: str, ready: Flag) -> None:
    """Run a server of that user until SIGTERM, open to everybody."""
    become(user)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), Server(path, mode=0o666, **SMALL) as server:
        ready.set()
        server.wait()


class ServerOf:
    """A server of another user, open to everybody, in a folder of theirs."""

    def __init__(self, user: int, folder: Path) -> None:
        self._user = user
        folder.mkdir(exist_ok=True)
        os.chown(folder, user, user)
        self.path = f"{folder}/default.sock"
        self.start()

    def start(self) -> None:
        with Flag() as ready:
            self._child = Child(serve, self._user, self.path, ready)
            wait_until(lambda: ready.is_set() or self._child.has_ended(), "the server is ready")
            if not ready.is_set():
                self._child.result()

    def stop(self) -> None:
        os.kill(self._child.pid, signal.SIGTERM)
        self._child.result()


@pytest.fixture
def folder(ringtable_dir: Path) -> Path:
    """A folder that everybody can look into."""
    ringtable_dir.chmod(0o755)
    return ringtable_dir / "theirs"


@pytest.fixture
def theirs(folder: Path) -> Iterator[ServerOf]:
    """A server of another user."""
    server = ServerOf(NOBODY, folder)
    yield server
    server.stop()


def refusal(address: str, **options: Any) -> str:
    """How a client refuses to connect."""
    try:
        Table(address, **options).close()
    except Untrusted as error:
        return str(error)
    raise AssertionError("it has connected")


def value(address: str, **options: Any) -> bytes:
    with Table(address, **options) as table:
        table["key"] = b"value"
        return table["key"]


def test_smoke(ringtable_dir: Path) -> None:
    with Server(**SMALL) as server, ringtable.connect() as table:
        assert table.trust_user == ()
        assert value(server.path) == b"value"
    assert issubclass(Untrusted, PermissionError)


@as_root
@pytest.mark.parametrize("options", [{}, {"transport": "socket"}, {"reads": "server"}, {"trust_user": DAEMON}])
def test_a_server_of_another_user_is_not_trusted(theirs: ServerOf, options: dict[str, Any]) -> None:
    words = refusal(theirs.path, **options)
    assert f"the server at {theirs.path} is run by user {NOBODY}, and this process by user 0" in words
    assert f"trust_user={NOBODY} (--trust-user {NOBODY})" in words


@as_root
def test_nothing_is_sent_to_a_server_of_another_user(folder: Path) -> None:
    """In the folder that would be root's, another user listens and writes down what comes."""

    def listen(ready: Flag) -> bytes:
        become(NOBODY)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{folder}/default.sock")
            listener.listen()
            ready.set()
            connection, _ = listener.accept()
            with connection:
                return connection.recv(100)

    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    with Flag() as ready, Child(listen, ready) as listener:
        ready.wait()
        refusal(f"{folder}/default.sock")
        assert listener.result() == b""


@as_root
def test_a_folder_of_another_user_is_not_trusted(
    theirs: ServerOf, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGTABLE_DIR", str(folder))
    for address in ("default", theirs.path, "none"):
        assert f"the folder of names {folder} belongs to user {NOBODY}" in refusal(address)
    with pytest.raises(Untrusted, match=f"the folder of names {folder} belongs to user {NOBODY}"):
        Server("mine", **SMALL)
    with pytest.raises(Untrusted):
        Watch("default")
    # Nobody has even connected.
    with Table("default", trust_user=NOBODY) as table:
        assert table.stats()["clients_accepted"] == 1


@as_root
@pytest.mark.parametrize("trusted", [NOBODY, "nobody", str(NOBODY), [DAEMON, NOBODY], ("daemon", "nobody")])
def test_who_is_told_trusts(theirs: ServerOf, folder: Path, monkeypatch: pytest.MonkeyPatch, trusted: Any) -> None:
    monkeypatch.setenv("RINGTABLE_DIR", str(folder))
    for address in ("default", theirs.path):
        with ringtable.connect(address, trust_user=trusted) as table:
            table["key"] = b"value"
            assert NOBODY in table.trust_user


@as_root
def test_whom_a_table_trusts_goes_with_it(theirs: ServerOf) -> None:
    with ringtable.connect(theirs.path, trust_user="nobody") as table:
        table["key"] = b"value"
        assert pickle.loads(pickle.dumps(table))["key"] == b"value"
        with Child(table.get, "key") as child:
            assert child.result() == b"value"
        with table.watch() as watch:
            table["key"] = b"again"
            assert next(watch).key == b"key"
        theirs.stop()
        theirs.start()
        table["key"] = b"value"


@as_root
def test_a_table_that_reconnects_looks_again_who_serves(folder: Path) -> None:
    """Its server has gone, and another user has the path."""
    folder.mkdir()
    folder.chmod(0o777)
    path = f"{folder}/default.sock"
    with ExitStack() as stack:
        with Server(path, **SMALL):
            table = stack.enter_context(Table(path))
            table["key"] = b"value"
        server = ServerOf(NOBODY, folder)
        stack.callback(server.stop)
        for _ in range(2):
            with pytest.raises(Untrusted):
                table["key"] = b"secret"
        with Child(lambda: refusal(path)) as child:
            assert "is run by user" in child.result()


@as_root
def test_everybody_trusts_root(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.setenv("RINGTABLE_DIR", str(folder))
    with Server(mode=0o666, **SMALL) as server:
        for address in ("default", server.path):
            assert as_user(NOBODY, value, address) == b"value"


@as_root
def test_ordinary_users_do_not_trust_each_other(theirs: ServerOf, folder: Path) -> None:
    assert f"by user {DAEMON}:" in as_user(DAEMON, refusal, theirs.path)
    assert as_user(NOBODY, value, theirs.path) == b"value"

    def trust() -> bytes:
        return value(theirs.path, trust_user=NOBODY)

    assert as_user(DAEMON, trust) == b"value"


@as_root
def test_the_command_line_is_told_whom_to_trust(theirs: ServerOf) -> None:
    at = ["--name", theirs.path]
    refused = run_cli("get", "key", *at)
    assert refused.returncode == 1
    assert f"--trust-user {NOBODY}" in refused.stderr
    trusting = [*at, "--trust-user", "daemon", "--trust-user", "nobody"]
    assert run_cli("set", "key", "value", *trusting).returncode == 0
    assert run_cli("get", "key", *trusting).stdout == "value\n"
    assert run_cli("del", "key", *trusting).stdout == "1\n"
    assert '"name_lost": 0' in run_cli("stats", "--json", *trusting).stdout
    for more in ([], ["--python"]):
        assert run_cli("client", "1", "1", *more, *trusting).returncode == 0


@as_root
def test_a_server_knows_itself() -> None:
    """Also if its process has become another user since it started."""

    def change() -> bool:
        os.seteuid(NOBODY)
        os.environ["RINGTABLE_DIR"] = "/tmp"
        with Server(f"own-{os.getpid()}", **SMALL) as server:
            os.seteuid(0)
            found = server.stats()["clients"] == 1
            os.seteuid(NOBODY)
        return found

    with Child(change) as child:
        assert child.result()


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_may_write_to_is_not_trusted(
    ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    folder = ringtable_dir / "open"
    folder.mkdir()
    monkeypatch.setenv("RINGTABLE_DIR", str(folder))
    with Server(**SMALL) as server:
        folder.chmod(mode)
        for address in ("default", server.path):
            assert f"(mode {mode:04o}, of user {os.geteuid()})" in refusal(address)
        with pytest.raises(Untrusted, match="`chmod go-w` it"):
            Server("another", **SMALL)
        # In /tmp nobody can replace what is another's.
        folder.chmod(mode | 0o1000)
        assert value("default") == b"value"
        folder.chmod(0o755)
        assert value("default") == b"value"


@as_root
@pytest.mark.parametrize("mode", [0o777, 0o2777])
def test_a_folder_of_roots_that_is_open_to_all(folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """As Kubernetes makes them (emptyDir). A name there could be anybody's; the message says what can be done."""
    folder.mkdir()
    folder.chmod(mode)
    monkeypatch.setenv("RINGTABLE_DIR", str(folder))
    own = folder / f"ringtable-{DAEMON}"

    def start() -> tuple[str, str]:
        with pytest.raises(Untrusted) as refused:
            Server("t", **SMALL)
        # What it says can be done is possible.
        os.environ["RINGTABLE_DIR"] = str(own)
        with Server("t", **SMALL):
            assert value("t") == b"value"
        # So is a path, for which nobody means a name.
        with Server(f"{folder}/t.sock", **SMALL) as server:
            assert value(server.path) == b"value"
        return str(refused.value), str(own.stat().st_mode & 0o777)

    words, made = as_user(DAEMON, start)
    assert f"(mode {mode:04o}, of user 0)" in words
    assert f"set $RINGTABLE_DIR to a folder of user {DAEMON}, such as {own}" in words
    # Only its owner could.
    assert "chmod" not in words
    assert made == str(0o700)


# Tables that are opened to others


def in_group(group: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a child of user DAEMON that is a member of this group alone."""

    def call() -> Any:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(DAEMON, DAEMON, DAEMON)
        return function(*arguments)

    with Child(call) as child:
        return child.result()


def denied(address: str, **options: Any) -> str:
    """How the system lets a client not connect."""
    try:
        Table(address, **options).close()
    except ringtable.AccessDenied as error:
        return str(error)
    raise AssertionError("it has connected")


WEB = 33_333


@as_root
@pytest.mark.parametrize("by_command_line", [False, True])
def test_a_table_for_a_group(ringtable_dir: Path, by_command_line: bool) -> None:
    """A group of which nobody here is a member but those who are made so."""
    ringtable_dir.chmod(0o755)
    with ExitStack() as stack:
        if by_command_line:
            stack.enter_context(ServerProcess("--mode", "0660", "--group", str(WEB), "--workers", "1"))
        else:
            stack.enter_context(Server(group=WEB, **SMALL))
        path = ringtable_dir / "default.sock"
        found = path.stat()
        assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o660, 0, WEB)
        assert (ringtable_dir / "default.sock.lock").stat().st_mode & 0o7777 == 0o600
        for address in ("default", str(path)):
            assert in_group(WEB, value, address) == b"value"
            words = as_user(DAEMON, denied, address)
            assert f"{path} (mode 0660, of user 0, group {WEB}) is not writable for user {DAEMON}" in words
            assert "ringtable server --mode 0660 --group NAME" in words
        # The process that looks after the server is its own user, and root.
        assert in_group(WEB, watched, str(path)) == b"seen"


def watched(address: str) -> bytes:
    with Table(address) as table, table.watch() as watch:
        table["seen"] = b"1"
        return next(watch).key


@as_root
def test_a_table_of_an_ordinary_user_for_a_group(folder: Path) -> None:
    """Its own user gives it to the group, and those of the group say that they trust that user."""
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    path = f"{folder}/default.sock"

    def serve_group(ready: Flag, done: Flag) -> None:
        os.setgroups([WEB])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with pytest.raises(ringtable.AccessDenied, match=f"group {WEB + 1}.*has to be a member"):
            Server(path, group=WEB + 1, **SMALL)
        assert list(folder.iterdir()) == []
        with Server(path, mode=0o660, group=WEB, **SMALL):
            ready.set()
            done.wait()

    with Flag() as ready, Flag() as done, Child(serve_group, ready, done) as child:
        wait_until(lambda: ready.is_set() or child.has_ended(), "the server is ready")
        child.check()
        assert f"trust_user={NOBODY}" in in_group(WEB, refusal, path)

        def trusting() -> bytes:
            return value(path, trust_user=NOBODY)

        assert in_group(WEB, trusting) == b"value"
        assert "is not writable for user" in as_user(DAEMON, denied, path)
        done.set()
        child.result()


@as_root
@pytest.mark.parametrize(("mode", "passing"), [(0o600, 0o700), (0o660, 0o710), (0o666, 0o711)], ids=oct)
def test_folders_that_are_made_let_the_same_users_pass(
    ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch, mode: int, passing: int
) -> None:
    ringtable_dir.chmod(0o755)
    names = ringtable_dir / "new" / "names"
    monkeypatch.setenv("RINGTABLE_DIR", str(names))
    group = None if mode == 0o600 else WEB
    with Server(mode=mode, group=group, **SMALL) as server:
        made = [names.stat(), names.parent.stat()]
        assert [found.st_mode & 0o7777 for found in made] == [passing, passing]
        if group is not None:
            assert [found.st_gid for found in made] == [WEB, WEB]
            assert in_group(WEB, value, server.path) == b"value"
        if mode == 0o666:
            assert as_user(NOBODY, value, server.path) == b"value"
        else:
            assert f"the folder {names.parent} (mode {passing:04o}, of user 0" in as_user(NOBODY, denied, server.path)


@as_root
def test_a_socket_that_is_made_anew_is_as_open_as_before(folder: Path) -> None:
    folder.mkdir()
    with Server(f"{folder}/t.sock", mode=0o666, group=WEB, **SMALL) as server, Table(server.path) as table:
        os.unlink(server.path)
        wait_until(lambda: table.stats()["name_restored"] == 1, "it is made anew")
        found = os.stat(server.path)
        assert (found.st_mode & 0o7777, found.st_gid) == (0o666, WEB)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": 660}, "mode is 660, which is 0o1224: .*0o660"),
        ({"mode": 0o640}, "0640"),
        ({"mode": 0o4660}, "4660"),
        ({"mode": 0o600, "group": 0}, "0600"),
        ({"group": "no such group"}, "no such group"),
        ({"group": -1}, "-1"),
        ({"group": (1 << 32) - 1}, "4294967295"),
    ],
)
def test_modes_and_groups_that_are_none(ringtable_dir: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ringtable.InvalidOption, match=words):
        Server(**options, **SMALL)
    assert list(ringtable_dir.iterdir()) == []


def test_modes_are_octal_on_the_command_line(ringtable_dir: Path) -> None:
    for text in ("0660", "660", "0o660"):
        with ServerProcess("--mode", text):
            assert (ringtable_dir / "default.sock").stat().st_mode & 0o7777 == 0o660
    for text in ("rw-rw----", "888", "-1", "0x1b0"):
        assert "--mode" in run_cli("server", f"--mode={text}").stderr


@as_root
def test_permission_denied_says_who_denies_it(ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To clients: a folder on the way, or the socket. To a server that starts: a folder that it may make no file in."""
    ringtable_dir.chmod(0o755)
    locked = ringtable_dir / "locked"
    locked.mkdir(mode=0o700)
    with Server(**SMALL) as server, Server(f"{locked}/t.sock", **SMALL) as hidden:
        assert f"{server.path} (mode 0600, of user 0, group 0)" in as_user(NOBODY, denied, server.path)
        passing = f"the folder {locked} (mode 0700, of user 0, group 0) does not let user {NOBODY} pass"
        assert passing in as_user(NOBODY, denied, hidden.path)
        # Nothing of this is "there is no table, start one".
        assert "ringtable server`" not in as_user(NOBODY, denied, server.path)

    def start(address: str) -> str:
        with pytest.raises(ringtable.AccessDenied) as refused:
            Server(address, **SMALL)
        return str(refused.value)

    words = as_user(NOBODY, start, f"{ringtable_dir}/t.sock")
    assert f"{ringtable_dir} (mode 0755, of user 0, group 0) is not writable for user {NOBODY}" in words
    assert passing in as_user(NOBODY, start, f"{locked}/deep/t.sock")
    for names in (locked / "names", ringtable_dir / "names"):
        monkeypatch.setenv("RINGTABLE_DIR", str(names))
        words = as_user(NOBODY, start, "t")
        assert f"set $RINGTABLE_DIR to a folder of user {NOBODY}" in words
        assert str(names.parent) in words


def test_a_link_to_a_folder_is_not_trusted(ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ringtable_dir / "folder").mkdir()
    (ringtable_dir / "link").symlink_to("folder")
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(f"{ringtable_dir}/folder/default.sock")
        listener.listen()
        a_link = "a symbolic link (to folder): set $RINGTABLE_DIR to the folder itself"
        for link, what in [
            (f"{ringtable_dir}/link", a_link),
            (f"{ringtable_dir}/link/", a_link),
            (f"{ringtable_dir}/folder/default.sock", "a socket: set"),
        ]:
            monkeypatch.setenv("RINGTABLE_DIR", link)
            assert f"the folder of names {link.rstrip('/')} is {what}" in refusal("default")
            with pytest.raises(Untrusted, match="the folder of names"):
                Server("another", **SMALL)
    Path(ringtable_dir, "folder", "default.sock").unlink()


def test_users_that_are_none(server: Server) -> None:
    strangers: list[int | str | list[int | str]] = [-1, 1 << 32, "no such user", "", [NOBODY, "no such user"]]
    for wrong in strangers:
        with pytest.raises(ringtable.InvalidOption, match="there is no such user"):
            ringtable.connect(trust_user=wrong)
    wrong_types: list[Any] = [True, 1.5, b"root", [None]]
    for wrong_type in wrong_types:
        with pytest.raises(TypeError):
            ringtable.connect(trust_user=wrong_type)
    assert server.tcp is not None
    with ringtable.connect(server.tcp, trust_user=[]) as table:
        table["key"] = b"value"


@as_root
@pytest.mark.parametrize("mask", [0o177, 0o277, 0o777], ids=oct)
def test_the_umask_does_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch, mask: int) -> None:
    """What a server makes has the modes that it needs: of folders, of a lock that is left, and of the socket."""
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    names = folder / "new" / "names"
    monkeypatch.setenv("RINGTABLE_DIR", str(names))

    def serve_with_mask() -> list[int]:
        os.umask(mask)
        with Server("t", **SMALL) as server, ringtable.connect("t") as table:
            table["key"] = b"value"
            made = names.parent, names, Path(server.path), Path(f"{server.path}.lock")
            return [path.stat().st_mode & 0o7777 for path in made]

    assert as_user(NOBODY, serve_with_mask) == [0o700, 0o700, 0o600, 0o600]
