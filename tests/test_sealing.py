"""What a client cannot do to the table, however hard it tries.

Each attempt is made in a client's own process, with the descriptor and the mapping that the client really has.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import ringtable
from ringtable import Table
from support import Child, ServerProcess, descriptor_of, mapping_of

TABLE = "ringtable-table"
LANE = "ringtable-lane"
NOBODY = 65_534
PR_SET_DUMPABLE = 4
FALLOC_PUNCH_HOLE_KEEP_SIZE = 0x03

libc = ctypes.CDLL(None, use_errno=True)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def in_a_client(attempt: Callable[[], None]) -> None:
    """Run the attempt in a process that is a client, and check that the table is none the worse for it."""

    def client() -> None:
        with Table(transport="lane") as table:
            # A value that was read in place shows that the mapping is there.
            assert table["key"] == b"value"
            attempt()

    with ringtable.connect() as table:
        table["key"] = b"value"
        size = os.stat(f"/proc/self/fd/{descriptor_of(TABLE)}").st_size
        Child(client).result()
        assert table["key"] == b"value"
        assert os.stat(f"/proc/self/fd/{descriptor_of(TABLE)}").st_size == size
        table["other"] = b"value"


def test_smoke(server_process: ServerProcess) -> None:
    in_a_client(lambda: None)


def test_the_descriptor_cannot_be_mapped_for_writing(server_process: ServerProcess) -> None:
    def attempt() -> None:
        with pytest.raises(PermissionError):
            mmap.mmap(descriptor_of(TABLE), mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    in_a_client(attempt)


def test_the_mapping_cannot_be_made_writable(server_process: ServerProcess) -> None:
    def attempt() -> None:
        address, size = mapping_of(TABLE)
        for protection in (mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_WRITE):
            assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection) == -1
            assert ctypes.get_errno() == errno.EACCES

    in_a_client(attempt)


def test_the_descriptor_cannot_be_written(server_process: ServerProcess) -> None:
    def attempt() -> None:
        assert errno_of(lambda: os.pwrite(descriptor_of(TABLE), b"x", 0)) in (errno.EBADF, errno.EPERM)

    in_a_client(attempt)


@pytest.mark.parametrize("name", [TABLE, LANE])
def test_neither_segment_can_be_resized(server_process: ServerProcess, name: str) -> None:
    def attempt() -> None:
        descriptor = descriptor_of(name)
        size = os.fstat(descriptor).st_size
        for wanted in (0, 1, size - mmap.PAGESIZE, size + mmap.PAGESIZE):
            number = errno_of(partial(os.ftruncate, descriptor, wanted))
            assert number in (errno.EBADF, errno.EINVAL, errno.EPERM)

    in_a_client(attempt)


def test_no_hole_can_be_punched(server_process: ServerProcess) -> None:
    def attempt() -> None:
        offset, length = ctypes.c_long(0), ctypes.c_long(mmap.PAGESIZE)
        assert libc.fallocate(descriptor_of(TABLE), FALLOC_PUNCH_HOLE_KEEP_SIZE, offset, length) == -1
        assert ctypes.get_errno() in (errno.EBADF, errno.EPERM)

    in_a_client(attempt)


@as_root
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_TRUNC])
def test_another_user_cannot_open_it_again_for_writing(server_process: ServerProcess, flags: int) -> None:
    def attempt() -> None:
        _become_nobody()
        # Shows that it is the table's mode that forbids it, and not that /proc is closed to this process.
        own = os.memfd_create("own")
        os.close(os.open(f"/proc/self/fd/{own}", os.O_RDWR))
        os.close(own)
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{descriptor_of(TABLE)}", flags)

    in_a_client(attempt)


@pytest.fixture
def strict_server(ringtable_dir: object) -> Iterator[ServerProcess]:
    with ServerProcess("--strict-seal", "--max-memory", "64MiB") as server:
        yield server


def test_with_a_strict_seal_nobody_can_write(strict_server: ServerProcess) -> None:
    """Whoever may open the memory again, as root and the server's own user may, still cannot write to it."""

    def attempt() -> None:
        path = f"/proc/self/fd/{descriptor_of(TABLE)}"
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
