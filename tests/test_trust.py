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
from support import Child, Flag, run_cli, wait_until

NOBODY, DAEMON = 65_534, 1
SMALL: dict[str, Any] = {"workers": 1, "max_memory": "4MiB"}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")


def become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


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
    with suppress(KeyboardInterrupt), Server(path, **SMALL) as server:
        os.chmod(server.path, 0o666)
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
    with ringtable.connect(theirs.path, trust_user="nobody", reconnect=True) as table:
        table["key"] = b"value"
        assert pickle.loads(pickle.dumps(table))["key"] == b"value"
        with Child(table.get, "key") as child:
            assert child.result() == b"value"
        with table.watch() as watch:
            table["key"] = b"again"
            assert next(watch).key == b"key"
        theirs.stop()
        theirs.start()
        with pytest.raises(ringtable.ServerGone):
            table["key"] = b"lost"
        table["key"] = b"value"


@as_root
def test_a_table_that_reconnects_looks_again_who_serves(folder: Path) -> None:
    """Its server has gone, and another user has the path."""
    folder.mkdir()
    folder.chmod(0o777)
    path = f"{folder}/default.sock"
    with ExitStack() as stack:
        with Server(path, **SMALL):
            table = stack.enter_context(Table(path, reconnect=True))
            table["key"] = b"value"
        server = ServerOf(NOBODY, folder)
        stack.callback(server.stop)
        with pytest.raises(ringtable.ServerGone):
            table["key"] = b"lost"
        for _ in range(2):
            with pytest.raises(Untrusted):
                table["key"] = b"secret"
        with Child(lambda: refusal(path)) as child:
            assert "is run by user" in child.result()


@as_root
def test_everybody_trusts_root(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.setenv("RINGTABLE_DIR", str(folder))
    with Server(**SMALL) as server:
        os.chmod(server.path, 0o666)
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
            assert f"(mode {mode:04o})" in refusal(address)
        with pytest.raises(Untrusted, match="`chmod go-w` it"):
            Server("another", **SMALL)
        # In /tmp nobody can replace what is another's.
        folder.chmod(mode | 0o1000)
        assert value("default") == b"value"
        folder.chmod(0o755)
        assert value("default") == b"value"


def test_a_link_to_a_folder_is_not_trusted(ringtable_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ringtable_dir / "folder").mkdir()
    (ringtable_dir / "link").symlink_to("folder")
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(f"{ringtable_dir}/folder/default.sock")
        listener.listen()
        for link in (f"{ringtable_dir}/link", f"{ringtable_dir}/link/", f"{ringtable_dir}/folder/default.sock"):
            monkeypatch.setenv("RINGTABLE_DIR", link)
            assert "is a symbolic link, or no folder at all" in refusal("default")
            with pytest.raises(Untrusted, match="is a symbolic link"):
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
