"""What a client cannot do to the table, however hard it tries.

Each attempt is made in a process of its own, with what the server gives to a client: a descriptor of the table, one of
the lane, and two of doorbells. What it could do to its lane but through its mapping, it has to give up first.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import select
import socket
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import ringtable
from ringtable import Table
from ringtable._ringtable import socket_path, watch_request
from support import DEADLINE_S, Child, RawLane, ServerProcess, memfds, own_mapping, resp, seal_strictly, wait_until

TABLE = "ringtable-table"
NOBODY = 65_534
PR_SET_DUMPABLE = 4
FALLOC_PUNCH_HOLE_KEEP_SIZE = 0x03
MADV_REMOVE = 9
MAGIC_SIZE = 8

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def in_a_client(attempt: Callable[[RawLane], None]) -> None:
    """Run the attempt in a process that is a client, and check that the table is none the worse for it."""
    with ringtable.connect() as table, RawLane() as observer:
        table["key"] = b"value"
        size = os.fstat(observer.table).st_size
        magic = os.pread(observer.table, MAGIC_SIZE, 0)
        # It is the table that the descriptor leads to, and nothing beside it.
        assert f"memfd:{TABLE}" in os.readlink(f"/proc/self/fd/{observer.table}")

        def client() -> None:
            with RawLane() as lane:
                attempt(lane)

        Child(client).result()
        assert os.fstat(observer.table).st_size == size
        assert os.pread(observer.table, MAGIC_SIZE, 0) == magic
        assert table["key"] == b"value"
        table["other"] = b"value"


def test_smoke(server_process: ServerProcess) -> None:
    in_a_client(lambda lane: None)


def test_a_client_keeps_no_descriptors_of_its_segments(server_process: ServerProcess) -> None:
    with Table(transport="lane") as table:
        table["key"] = b"value"
        assert memfds(os.getpid(), "ringtable") == []


def test_the_descriptor_cannot_be_mapped_for_writing(server_process: ServerProcess) -> None:
    def attempt(lane: RawLane) -> None:
        for protection in (mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_WRITE):
            with pytest.raises(PermissionError):
                mmap.mmap(lane.table, mmap.PAGESIZE, mmap.MAP_SHARED, protection)

    in_a_client(attempt)


def test_a_mapping_cannot_be_made_writable(server_process: ServerProcess) -> None:
    def attempt(lane: RawLane) -> None:
        size = os.fstat(lane.table).st_size
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, lane.table, 0)
        assert ctypes.string_at(address, MAGIC_SIZE) == os.pread(lane.table, MAGIC_SIZE, 0)
        refuses_writing(address, size)

    in_a_client(attempt)


def test_a_clients_own_mapping_cannot_be_made_writable(server_process: ServerProcess) -> None:
    def attempt(lane: RawLane) -> None:
        with Table(transport="lane") as table:
            # A value that was read in place shows that the mapping is there.
            assert table["key"] == b"value"
            refuses_writing(*own_mapping(TABLE))

    in_a_client(attempt)


def refuses_writing(address: int, size: int) -> None:
    """Check that a mapping of the table cannot be made writable, and that nothing can be cut out of it."""
    for protection in (mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_WRITE):
        assert libc.mprotect(address, size, protection) == -1
        assert ctypes.get_errno() == errno.EACCES
    assert libc.madvise(address, mmap.PAGESIZE, MADV_REMOVE) == -1
    assert ctypes.get_errno() == errno.EACCES


def test_the_descriptor_cannot_be_written(server_process: ServerProcess) -> None:
    def attempt(lane: RawLane) -> None:
        assert errno_of(lambda: os.pwrite(lane.table, b"x", 0)) == errno.EBADF
        assert errno_of(lambda: os.write(lane.table, b"x")) == errno.EBADF
        # What can be asked of the kernel in another way is refused all the same.
        source = os.memfd_create("source")
        os.write(source, b"x")
        assert errno_of(lambda: os.sendfile(lane.table, source, 0, 1)) == errno.EBADF
        assert errno_of(lambda: os.copy_file_range(source, lane.table, 1, 0, 0)) == errno.EBADF
        os.close(source)

    in_a_client(attempt)


@pytest.mark.parametrize("name", ["table", "segment"])
def test_neither_segment_can_be_resized(server_process: ServerProcess, name: str) -> None:
    def attempt(lane: RawLane) -> None:
        descriptor: int = getattr(lane, name)
        size = os.fstat(descriptor).st_size
        for wanted in (0, 1, size - mmap.PAGESIZE, size + mmap.PAGESIZE):
            number = errno_of(partial(os.ftruncate, descriptor, wanted))
            # A descriptor for reading is no valid argument; a sealed size may not be changed.
            assert number == (errno.EINVAL if name == "table" else errno.EPERM)

    in_a_client(attempt)


@pytest.mark.parametrize("name", ["table", "segment"])
def test_neither_segment_can_be_sealed_further(server_process: ServerProcess, name: str) -> None:
    """A seal against writing would stop the server itself."""

    def attempt(lane: RawLane) -> None:
        seal = partial(fcntl.fcntl, getattr(lane, name), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        assert errno_of(seal) == errno.EPERM

    in_a_client(attempt)


def test_no_hole_can_be_punched(server_process: ServerProcess) -> None:
    def attempt(lane: RawLane) -> None:
        assert libc.fallocate(lane.table, FALLOC_PUNCH_HOLE_KEEP_SIZE, 0, mmap.PAGESIZE) == -1
        assert ctypes.get_errno() == errno.EBADF

    in_a_client(attempt)


def cannot_be_changed(segment: int) -> None:
    """Check that nothing can be done to a segment of a client's own but through the mapping that it has."""
    assert libc.fallocate(segment, FALLOC_PUNCH_HOLE_KEEP_SIZE, 0, mmap.PAGESIZE) == -1
    assert ctypes.get_errno() == errno.EPERM
    assert errno_of(lambda: os.pwrite(segment, b"x", 0)) == errno.EPERM
    assert errno_of(lambda: mmap.mmap(segment, mmap.PAGESIZE).close()) == errno.EPERM
    assert errno_of(lambda: os.ftruncate(segment, 0)) == errno.EPERM


def test_no_hole_can_be_punched_into_a_lane(server_process: ServerProcess) -> None:
    """A worker that touches a page waits for whoever punches a hole there, be that one stopped in the middle of it."""

    def attempt(lane: RawLane) -> None:
        cannot_be_changed(lane.segment)
        with Table(transport="lane") as table:
            assert table["key"] == b"value"
            address, _ = own_mapping("ringtable-lane")
            assert libc.madvise(address, mmap.PAGESIZE, MADV_REMOVE) == -1
            assert ctypes.get_errno() == errno.EPERM

    in_a_client(attempt)


def test_a_lane_is_served_once_it_is_sealed(server_process: ServerProcess) -> None:
    ping = (8 | 15 << 32).to_bytes(8, "little")
    with Table(transport="socket") as observer:

        def lanes() -> int:
            return int(observer.stats()["lanes"])

        with RawLane(sealed=False) as lane:
            # Neither by what it says of itself nor by what it asks does it come to be served.
            lane.memory[RawLane.REQUEST_DATA : RawLane.REQUEST_DATA + 8] = ping
            lane.store(RawLane.REQUEST_TAIL, 8)
            lane.ring()
            assert b"not sealed" in lane.last_words()
            assert lane.load(RawLane.REQUEST_HEAD) == 0
        assert observer.stats()["clients_ended_unsealed"] == 1
        with RawLane(sealed=False):
            wait_until(lambda: lanes() == 1, "it is counted")
        wait_until(lambda: lanes() == 0, "a lane that nobody sealed goes with its socket")
        with RawLane(sealed=False) as lane:
            lane.memory[RawLane.REQUEST_DATA : RawLane.REQUEST_DATA + 8] = ping
            lane.store(RawLane.REQUEST_TAIL, 8)
            seal_strictly(lane.segment)
            lane.ring()
            wait_until(lambda: lane.load(RawLane.RESPONSE_TAIL) > 0, "the answer")


def test_a_watcher_that_is_not_sealed_is_rung_all_the_same(server_process: ServerProcess) -> None:
    with Table() as table, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(socket_path("default"))
        connection.sendall(resp(*(word.encode() for word in watch_request())))
        _, (table_again, segment, bell), _, _ = socket.recv_fds(connection, 256, 8)
        with select.epoll.fromfd(bell) as listener:
            table["key"] = b"value"
            assert listener.poll(DEADLINE_S)
            # That it is awake counts from now on.
            seal_strictly(segment)
            cannot_be_changed(segment)
            listener.poll(0)
            for _ in range(10):
                table["key"] = b"value"
            assert not listener.poll(0)
        os.close(segment)
        os.close(table_again)


@as_root
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_TRUNC])
def test_another_user_cannot_open_it_again_for_writing(server_process: ServerProcess, flags: int) -> None:
    def attempt(lane: RawLane) -> None:
        _become_nobody()
        # Shows that it is the table's mode that forbids it, and not that /proc is closed to this process.
        own = os.memfd_create("own")
        os.close(os.open(f"/proc/self/fd/{own}", os.O_RDWR))
        os.close(own)
        assert os.fstat(lane.table).st_mode & 0o777 == 0o400
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{lane.table}", flags)
        # Nor can it change that mode first.
        with pytest.raises(PermissionError):
            os.fchmod(lane.table, 0o666)

    in_a_client(attempt)


def test_nothing_of_it_is_in_a_core_dump(server_process: ServerProcess) -> None:
    """A dump of any client would hold everybody's values."""

    def left_out(pid: int) -> list[bool]:
        areas = Path(f"/proc/{pid}/smaps").read_text().split("VmFlags:")
        # The line of an area's name comes before its flags.
        pairs = pairwise(areas)
        return ["dd" in flags.splitlines()[0].split() for area, flags in pairs if "memfd:ringtable" in area]

    def client() -> None:
        with Table(transport="lane") as table, table.watch():
            for pid, segments in ((os.getpid(), 4), (server_process.pid, 3)):
                found = left_out(pid)
                assert len(found) >= segments
                assert all(found)

    Child(client).result()


@pytest.fixture
def strict_server(ringtable_dir: object) -> Iterator[ServerProcess]:
    with ServerProcess("--strict-seal", "--max-memory", "64MiB") as server:
        yield server


def test_with_a_strict_seal_nobody_can_write(strict_server: ServerProcess) -> None:
    """Whoever may open the memory again, as root and the server's own user may, still cannot write to it."""

    def attempt(lane: RawLane) -> None:
        path = f"/proc/self/fd/{lane.table}"
        if os.geteuid() != 0:
            # The owner may make it writable first.
            os.chmod(path, 0o600)
        descriptor = os.open(path, os.O_RDWR)
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            mmap.mmap(descriptor, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)

    in_a_client(attempt)


def test_a_strictly_sealed_table_works(strict_server: ServerProcess) -> None:
    with ringtable.connect() as table:
        for round_number in range(3):
            entries = {b"%d" % index: bytes([round_number]) * 1_000 for index in range(5_000)}
            table.set_many(entries)
            assert table.get_many(entries) == list(entries.values())
            table.clear()


def errno_of(call: Callable[[], object]) -> int | None:
    """The number of the error that a call raises, or `None` where it succeeds."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    # A process that changes its user loses its own /proc entries, unless it says that it may be looked at.
    assert libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0
