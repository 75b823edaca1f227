"""Values in place: views and what keeps them as they are, and copies into buffers of one's own."""

import array
import ctypes
import gc
import mmap
import os
import random
import threading
import time
import zlib
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import Server, Table, View
from support import Child, Flag, RawConnection, ServerProcess, mappings, own_lane, own_mapping, wait_until

TABLE = "ringtable-table"
LANE = "ringtable-lane"
VIEWS_MAX = 64
# Of one size class, of a large one, and of pages of its own.
VALUE_SIZES = [0, 1, 100, 5_000, 100_000, 3 << 20]
sizes = pytest.mark.parametrize("size", VALUE_SIZES)

# Where there is no lane.
ELSEWHERE: dict[str, tuple[Any, dict[str, Any]]] = {
    "socket": ("lanes", {"transport": "socket"}),
    "rings": ("shared", {"transport": "rings"}),
    "rings, reads through the server": ("sharded", {"transport": "rings", "reads": "server"}),
}


def test_smoke(server: Server) -> None:
    with ringtable.connect() as table:
        table["key"] = b"value"
        with table.view("key") as view:
            table["key"] = b"other"
            assert (bytes(view), len(view), view.nbytes, view.is_copy) == (b"value", 5, 5, False)
            assert table["key"] == b"other"
        assert view.closed


# Buffers


def test_a_view_is_a_read_only_buffer_of_bytes(server: Server) -> None:
    with ringtable.connect() as table:
        table["key"] = b"value"
        with table.view("key") as view, memoryview(view) as buffer:
            assert (buffer.readonly, buffer.format, buffer.itemsize, buffer.ndim) == (True, "B", 1, 1)
            assert (buffer.c_contiguous, buffer.nbytes, buffer.tobytes()) == (True, 5, b"value")
            with pytest.raises(TypeError):
                buffer[0] = 1
            with pytest.raises(TypeError, match="not writable"):
                (ctypes.c_char * 5).from_buffer(view)
        with table.view("key") as view, memoryview(view)[1:3] as part:
            assert part.tobytes() == b"al"


def address_of(buffer: object) -> int:
    """The address of the bytes of a buffer."""

    class Description(ctypes.Structure):
        # As in C's `Py_buffer`; of what comes behind the first members only the size matters.
        _fields_ = [("start", ctypes.c_void_p), ("owner", ctypes.py_object), ("rest", ctypes.c_char * 64)]

    description = Description()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(description), 0)
    address = description.start
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(description))
    return int(address)


@sizes
@pytest.mark.parametrize("reads", ["direct", "server"])
def test_the_bytes_are_the_tables_own(server_process: ServerProcess, size: int, reads: Any) -> None:
    with ringtable.connect(reads=reads) as table:
        table["key"] = os.urandom(size)
        with table.view("key") as view:
            start, length = own_mapping(TABLE)
            address = address_of(view)
            assert start <= address <= address + size <= start + length
            # The same place each time: nothing is copied.
            with table.view("key") as again:
                assert address_of(again) == address
            assert ctypes.string_at(address, size) == table["key"]


def test_numpy_reads_it_in_place(server_process: ServerProcess) -> None:
    numpy = pytest.importorskip("numpy")
    with ringtable.connect() as table:
        table["key"] = numpy.arange(10_000, dtype="float64")
        with table.view("key") as view:
            numbers = numpy.frombuffer(view, dtype="float64")
            assert numbers.sum() == 49_995_000
            start, length = own_mapping(TABLE)
            assert start <= numbers.ctypes.data < start + length
            assert not numbers.flags.writeable
            with pytest.raises(BufferError, match="1 buffer of this view was not released: `del`"):
                view.close()
            table["key"] = numbers * 2
            assert numbers[-1] == 9_999
            del numbers


def test_a_view_with_buffers_stays_open(server: Server) -> None:
    with ringtable.connect() as table:
        table["key"] = b"value"
        view = table.view("key")
        buffers = [memoryview(view), memoryview(view)]
        with pytest.raises(BufferError, match="2 buffers of this view were not"):
            view.close()
        for buffer in buffers:
            buffer.release()
        view.close()
        view.close()
        assert view.closed
        assert "closed" in repr(view)
        for use in (memoryview, bytes):
            with pytest.raises(ringtable.Closed, match="view was closed"):
                use(view)
        # What went wrong in the block is what is told, and not that its buffers are there still.
        view = table.view("key")
        buffer = memoryview(view)
        with pytest.raises(ZeroDivisionError), view:
            _ = 1 / 0
        assert not view.closed
        buffer.release()
        # Nobody has to close a view that nobody knows any more.
        del view
        gc.collect()
        for _ in range(2 * VIEWS_MAX):
            table.view("key")


def test_there_is_no_view_of_nothing(server: Server) -> None:
    with ringtable.connect() as table:
        table.set("brief", b"value", ttl=0.02)
        wait_until(lambda: "brief" not in table, "its time has passed")
        for key in ("missing", "brief"):
            with pytest.raises(KeyError, match=key):
                table.view(key)
        with pytest.raises(ringtable.KeyTooLong):
            table.view(b"k" * 70_000)
        with pytest.raises(TypeError):
            table.view(5)  # type: ignore[arg-type]


def test_versions_tell_whether_it_is_still_the_same(server: Server) -> None:
    with ringtable.connect() as table:
        table["key"] = b"value"
        with table.view("key") as first, table.view("key") as second:
            assert first.version == second.version is not None
            table["key"] = b"value"
            with table.view("key") as third:
                assert third.version != first.version


def test_a_view_outlives_a_new_time_to_live(server: Server) -> None:
    with ringtable.connect() as table:
        value = bytes(range(256)) * 400
        table["key"] = value
        with table.view("key") as first:
            assert table.expire("key", 100)
            with table.view("key") as second:
                assert address_of(second) == address_of(first), "the value was written anew"
                assert second.version != first.version
                table.expire("key", 0.001)
                wait_until(lambda: "key" not in table, "its time has passed")
                table["key"] = b"other"
                assert bytes(first) == bytes(second) == value


def test_a_view_sees_ones_own_posted_write(server: Server) -> None:
    with ringtable.connect(writes="posted") as table:
        for index in range(500):
            table["key"] = b"%d" % index
            with table.view("key") as view:
                assert bytes(view) == b"%d" % index


@pytest.mark.parametrize("way", ELSEWHERE)
def test_elsewhere_a_view_is_a_copy(ringtable_dir: Path, way: str) -> None:
    topology, options = ELSEWHERE[way]
    with Server(workers=1, max_memory="64MiB", topology=topology), Table(**options) as table:
        table["key"] = b"value"
        with table.view("key") as view, memoryview(view) as buffer:
            table["key"] = b"other"
            assert (view.is_copy, buffer.tobytes(), buffer.readonly) == (True, b"value", True)
        with pytest.raises(KeyError):
            table.view("missing")
        views = [table.view("key") for _ in range(2 * VIEWS_MAX)]
        assert all(bytes(view) == b"other" for view in views)
        with pytest.raises(ringtable.CommandError, match=r"pins are words in a lane.*RING.LANE"):
            table.call("RING.PINS")
        assert table.stats()["hazard_records"] == 0


def test_only_a_lane_has_pins(server: Server) -> None:
    with RawConnection(server.path) as connection:
        assert "pins are words in a lane" in str(connection.command(b"RING.PINS"))
        assert connection.command(b"PING") == b"PONG"
    with ringtable.connect() as table:
        assert table.call_many([("RING.PINS",)] * 3) == [b"OK"] * 3
        assert table.stats()["hazard_records"] == 1


# What keeps the bytes as they are


@sizes
def test_the_bytes_stay_whatever_becomes_of_the_key(server_process: ServerProcess, size: int) -> None:
    with ringtable.connect() as table, ringtable.connect() as other:
        values = [os.urandom(size) for _ in range(4)]
        with ExitStack() as stack:
            for index, value in enumerate(values):
                table[f"key {index}"] = value
            views = [stack.enter_context(table.view(f"key {index}")) for index in range(4)]
            other["key 0"] = os.urandom(size)
            del other["key 1"]
            other.expire("key 2", 0.001)
            wait_until(lambda: "key 2" not in other, "its time has passed")
            other.clear()
            # All sizes alike, and more of it than there was: whatever is free is used again.
            for index in range(3 if size > 1 << 20 else 300):
                other[f"filling {index}"] = os.urandom(size)
            assert [bytes(view) for view in views] == values
            assert int(table.stats()["entries_retired"]) >= 4
        wait_until(
            lambda: table.stats()["entries_retired"] == table.stats()["memory_retired"] == 0, "all of it is free"
        )


def test_a_view_keeps_its_memory_and_no_more(ringtable_dir: Path) -> None:
    with ServerProcess("--workers", "2", "--max-memory", "16MiB"), ringtable.connect() as table:
        large = os.urandom(6 << 20)
        table["key"] = large
        view = table.view("key")
        table["key"] = large  # twice: the old one is kept
        with pytest.raises(ringtable.OutOfMemory):
            table["key"] = large
        assert bytes(view) == large
        view.close()
        # What is missing is looked for at once, in the retire list, too.
        table["key"] = large
        with table.view("key") as view:
            assert bytes(view) == large


def test_at_most_so_many_views(server: Server) -> None:
    with ringtable.connect() as table, ringtable.connect() as other:
        table["key"] = b"value"
        views = [table.view("key") for _ in range(VIEWS_MAX)]
        with pytest.raises(ringtable.TooManyViews, match=r"64 views.*copy_ok"):
            table.view("key")
        with table.view("key", copy_ok=True) as copy:
            assert (copy.is_copy, bytes(copy)) == (True, b"value")
        assert not any(view.is_copy for view in views)
        # Each connection has its own.
        assert not other.view("key").is_copy
        views.pop().close()
        assert not table.view("key", copy_ok=True).is_copy


def test_threads_share_the_pins(server: Server) -> None:
    failures: list[BaseException] = []
    with ringtable.connect() as table:

        def work(number: int) -> None:
            generator = random.Random(number)
            held: deque[tuple[View, int]] = deque()
            try:
                for _ in range(3_000):
                    index = generator.randrange(20)
                    key = f"key {index}"
                    if generator.random() < 0.3:
                        table[key] = b"%d" % index * generator.randrange(1, 500)
                    with suppress(KeyError):
                        held.append((table.view(key), index))
                    if len(held) > 6:
                        view, index = held.popleft()
                        assert not bytes(view).replace(b"%d" % index, b"")
                        view.close()
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_memory_comes_back_though_nobody_writes(server_process: ServerProcess) -> None:
    with ringtable.connect() as table, ringtable.connect(reads="server") as observer:
        table["key"] = os.urandom(1 << 20)
        view = table.view("key")
        del table["key"]
        assert int(observer.stats()["memory_retired"]) >= 1 << 20
        before = observer.stats()["memory_free"]
        view.close()
        wait_until(lambda: observer.stats()["memory_retired"] == 0, "it is free")
        assert int(observer.stats()["memory_free"]) >= int(before) + (1 << 20)


def test_only_what_waits_in_the_retire_list_wakes_an_idle_server(server_process: ServerProcess) -> None:
    def wakeups() -> int:
        before = int(table.stats()["wakeups"])
        # Not to wait for anything: this is the window that is measured.
        time.sleep(0.5)
        return int(table.stats()["wakeups"]) - before

    # A request takes one or two of them; looking every 50 ms would take ten.
    few = 5
    with ringtable.connect() as table:
        table["key"] = b"value"
        with table.view("key"):
            assert wakeups() <= few
            table["key"] = b"other"
            assert table.stats()["entries_retired"] == 1
            assert wakeups() <= 40
        wait_until(lambda: table.stats()["entries_retired"] == 0, "it is free")
        assert wakeups() <= few


def test_nonsense_in_the_pins_harms_nobody(server_process: ServerProcess) -> None:
    with ringtable.connect() as hostile, ringtable.connect() as table:
        hostile.call("RING.PINS")
        with own_lane() as lane:
            pins = lane[1_024 : 1_024 + 8 * VIEWS_MAX]
            for index in range(3_000):
                if index % 100 == 0:
                    pins[:] = os.urandom(8 * VIEWS_MAX) if index % 200 else b"\xff" * (8 * VIEWS_MAX)
                table[f"key {index % 50}"] = b"%d" % index * 50
            assert table["key 49"] == b"2999" * 50
            wait_until(lambda: table.stats()["entries_retired"] == 0, "nothing that was there is pinned")
            pins.release()


# Ends


@pytest.mark.parametrize("close", [True, False], ids=["closed", "forgotten"])
def test_a_view_outlives_its_table(server_process: ServerProcess, close: bool) -> None:
    with ringtable.connect() as observer:
        clients = int(observer.stats()["clients"])
        table = ringtable.connect()
        table["key"] = b"value" * 1_000
        view = table.view("key")
        if close:
            table.close()
            for call in (lambda: table["key"], lambda: table.view("key"), lambda: table.set("key", b"")):
                with pytest.raises(ringtable.Closed):
                    call()
        else:
            del table
            gc.collect()
        observer["key"] = b"other" * 1_000
        for index in range(100):
            observer[f"key {index}"] = b"third" * 1_000
        assert bytes(view) == b"value" * 1_000
        assert (observer.stats()["clients"], observer.stats()["hazard_records"]) == (clients + 1, 1)
        view.close()
        wait_until(lambda: observer.stats()["clients"] == clients, "with the last view the connection ends")
        assert (observer.stats()["hazard_records"], observer.stats()["entries_retired"]) == (0, 0)
        assert len(mappings(os.getpid(), TABLE)) == 1


def test_a_view_outlives_its_server(server_process: ServerProcess) -> None:
    with ringtable.connect() as table:
        table["key"] = b"value" * 1_000
        with table.view("key") as view:
            server_process.kill()
            with pytest.raises(ringtable.ServerGone):
                table["key"] = b"other"
            with pytest.raises(ringtable.ServerGone):
                wait_until(lambda: table.view("key").close(), "the server's death is noticed")
            assert bytes(view) == b"value" * 1_000


def test_a_view_outlives_the_end_of_its_connection(server_process: ServerProcess) -> None:
    with ringtable.connect() as observer, ringtable.connect() as table:
        table["key"] = b"value" * 1_000
        with table.view("key") as view:
            table.call("QUIT")
            wait_until(lambda: observer.stats()["clients_quit"] == 1, "the server has ended the connection")
            for index in range(100):
                observer["key"] = b"%d" % index * 5_000
            assert bytes(view) == b"value" * 1_000
            assert observer.stats()["hazard_records"] == 1
        table.close()
        wait_until(lambda: observer.stats()["hazard_records"] == 0, "with the last view the connection ends")
        wait_until(lambda: observer.stats()["clients"] == 1, "we are alone")


def test_a_killed_holder_frees_memory(server_process: ServerProcess) -> None:
    def hold(holding: Flag) -> None:
        with ringtable.connect() as table:
            views = [table.view(f"key {index}") for index in range(10)]
            holding.set()
            with Flag() as never:
                never.wait()
            assert views

    with ringtable.connect() as table, Flag() as holding:
        for index in range(10):
            table[f"key {index}"] = os.urandom(100_000)
        with Child(hold, holding) as holder:
            holding.wait()
            table.clear()
            wait_until(lambda: table.stats()["entries_retired"] == 10, "they are gone, and kept")
            assert int(table.stats()["memory_retired"]) >= 1_000_000
            holder.kill()
            wait_until(lambda: table.stats()["memory_retired"] == 0, "nobody keeps them any more")
            assert (table.stats()["entries_retired"], table.stats()["hazard_records"]) == (0, 0)


def test_a_child_reads_what_it_has_inherited(server_process: ServerProcess) -> None:
    with ringtable.connect() as table:
        table["key"] = b"value" * 1_000
        view = table.view("key")
        buffer = memoryview(view)

        def use() -> list[object]:
            seen: list[object] = [buffer.tobytes() == b"value" * 1_000]
            with pytest.raises(ringtable.Closed, match="forked from"):
                memoryview(view)
            with pytest.raises(ringtable.Closed, match="forked from"):
                bytes(view)
            buffer.release()
            view.close()
            # Of its own it has nothing yet: neither the parent's lane nor its socket.
            seen.append(mappings(os.getpid(), LANE))
            with table.view("key") as own:
                seen.append(bytes(own) == b"value" * 1_000)
            table.close()
            return seen

        assert Child(use).result() == [True, [], True]
        # What the child has closed was not the parent's.
        for index in range(100):
            table["key"] = b"%d" % index * 5_000
        assert buffer.tobytes() == b"value" * 1_000
        buffer.release()
        view.close()


def test_a_table_that_was_never_viewed_is_not_inherited(server_process: ServerProcess) -> None:
    with ringtable.connect() as table:
        table["key"] = b"value"
        assert table["key"] == b"value"
        assert Child(lambda: mappings(os.getpid(), "ringtable")).result() == []


def test_the_child_of_a_child_and_a_closed_table(server_process: ServerProcess) -> None:
    table = ringtable.connect()
    table["key"] = b"value" * 1_000
    view = table.view("key")
    buffer = memoryview(view)

    def use() -> bool:
        table.close()
        return bool(Child(lambda: buffer.tobytes()).result() == buffer.tobytes())

    assert Child(use).result()
    # Neither has shut down the parent's connection.
    assert table.call("PING") == b"PONG"
    table.close()
    assert Child(lambda: buffer.tobytes()).result() == b"value" * 1_000
    buffer.release()
    view.close()


# Into buffers of one's own


@sizes
def test_get_into_copies_into_a_buffer(server: Server, size: int) -> None:
    with ringtable.connect() as table, Table(transport="socket") as over_socket:
        value = os.urandom(size)
        table["key"] = value
        for source in (table, over_socket):
            exact = bytearray(size)
            assert source.get_into("key", exact) == size
            assert exact == value
            longer = bytearray(b"-" * (size + 3))
            assert source.get_into("key", longer) == size
            assert longer == value + b"---"
            if size > 0:
                with pytest.raises(ringtable.BufferTooSmall, match=f"{size} bytes, the buffer {size - 1}"):
                    source.get_into("key", bytearray(size - 1))
            with pytest.raises(KeyError, match="missing"):
                source.get_into("missing", exact)


def test_get_into_takes_any_writable_buffer(server: Server) -> None:
    with ringtable.connect() as table:
        table["key"] = array.array("d", [1.5, 2.5])
        numbers = array.array("d", [0.0, 0.0, 3.5])
        assert table.get_into("key", numbers) == 16
        assert numbers.tolist() == [1.5, 2.5, 3.5]
        with mmap.mmap(-1, 4_096) as shared:
            assert table.get_into("key", shared) == 16
        with pytest.raises(BufferError, match=r"bytes is none.*not writable"):
            table.get_into("key", b"0123456789abcdef")
        with pytest.raises(BufferError, match="C-contiguous"):
            table.get_into("key", memoryview(bytearray(100))[::2])
        with pytest.raises(TypeError, match="not int"):
            table.get_into("key", 5)  # type: ignore[arg-type]


def test_set_takes_any_contiguous_buffer(server: Server) -> None:
    with ringtable.connect() as table:
        table["key"] = array.array("i", [1, -1])
        assert table["key"] == array.array("i", [1, -1]).tobytes()
        table["key"] = memoryview(b"012345678").cast("B", (3, 3))
        assert table["key"] == b"012345678"
        for strided in (memoryview(b"abcdef")[::2], memoryview(b"abc")[::-1]):
            with pytest.raises(BufferError, match=r"C-contiguous.*contiguous copy"):
                table["key"] = strided
            with pytest.raises(BufferError, match="C-contiguous"):
                table.set_many([("key", strided)])
        assert table["key"] == b"012345678"


def test_set_takes_numpy_arrays_of_any_type(server: Server) -> None:
    numpy = pytest.importorskip("numpy")
    with ringtable.connect() as table:
        for dtype in ("bool", "int8", "float16", "float64", "complex128", "S5", "U3", "i4,f8"):
            values = numpy.zeros((3, 4), dtype=dtype)
            table["key"] = values
            assert table["key"] == values.tobytes()
        matrix = numpy.arange(12).reshape(3, 4)
        table["key"] = matrix[1:]
        assert table["key"] == matrix[1:].tobytes()
        for strided in (matrix.T, matrix[:, 1:], matrix[::2]):
            with pytest.raises(BufferError, match="ascontiguousarray"):
                table["key"] = strided
        into = numpy.zeros(8, dtype=matrix.dtype)
        assert table.get_into("key", into) == into.nbytes
        assert (into == matrix[1:].ravel()).all()


# Storm


STORM_KEYS = {"noeviction": 100, "allkeys-sieve": 600}
"""How many keys there are. As a cache the table has room for some of them."""

STORM_MEMORY = {"noeviction": "256MiB", "allkeys-sieve": "8MiB"}
STORM_HOLDERS = 8
STORM_WRITERS = 4


def storm_value(generator: random.Random) -> bytes:
    """A value that tells whether it is whole and itself."""
    size = generator.choice([20, 200, 3_000, 30_000] if generator.random() < 0.98 else [400_000])
    payload = generator.randbytes(16) * (size // 16)
    return zlib.crc32(payload).to_bytes(4, "little") + payload


def is_whole(view: View) -> bool:
    with memoryview(view) as buffer:
        return zlib.crc32(buffer[4:]) == int.from_bytes(buffer[:4], "little")


def storm_holder(number: int, keys: int, views: int, finish: Flag, holding: Flag) -> tuple[int, int]:
    """Make so many views (without end, if 0), keep each for a while; return how many, and how many were overwritten."""
    generator = random.Random(number)
    held: deque[tuple[bytes, View]] = deque()
    made = outlived = 0
    with Table(writes="posted" if number % 2 else "acknowledged") as table:
        while (made < views or views == 0) and not (made % 100 == 0 and finish.is_set()):
            key = b"key %d" % generator.randrange(keys)
            try:
                view = table.view(key)
            except KeyError:
                continue
            assert is_whole(view)
            held.append((key, view))
            made += 1
            if made == 20:
                holding.set()
            if made % 10 == 0:
                # Not to wait for anything: views are made so fast that writers would hardly get a turn.
                time.sleep(0.001)
            if len(held) > generator.randrange(VIEWS_MAX // 2):
                key, view = held.popleft()
                assert is_whole(view)
                with suppress(KeyError), table.view(key) as now:
                    outlived += now.version != view.version
                view.close()
        for _, view in held:
            assert is_whole(view)
            view.close()
    return made, outlived


def storm_writer(number: int, keys: int, finish: Flag) -> int:
    """Overwrite and delete; return how often."""
    generator = random.Random(1_000 + number)
    values = [storm_value(generator) for _ in range(50)]
    count = 0
    with Table() as table:
        while not finish.is_set():
            for _ in range(20):
                key = b"key %d" % generator.randrange(keys)
                if generator.random() < 0.1:
                    table.delete(key)
                else:
                    # What is pinned may be so much that there is no room for a moment.
                    with suppress(ringtable.OutOfMemory):
                        table[key] = generator.choice(values)
                count += 1
            if generator.random() < 0.002:
                table.clear()
    return count


@pytest.mark.parametrize(
    ("views", "kills"), [(1_500, 3), pytest.param(125_000, 40, marks=pytest.mark.slow)], ids=["short", "long"]
)
@pytest.mark.parametrize("eviction", ["noeviction", "allkeys-sieve"])
@pytest.mark.timeout(1_200)
def test_a_storm(ringtable_dir: Path, seed: int, views: int, kills: int, eviction: str) -> None:
    generator = random.Random(seed)
    keys, memory = STORM_KEYS[eviction], STORM_MEMORY[eviction]
    with (
        ServerProcess("--workers", "2", "--max-memory", memory, "--eviction", eviction),
        ringtable.connect(reads="server") as table,
        ExitStack() as stack,
    ):
        finish, never = stack.enter_context(Flag()), stack.enter_context(Flag())
        writers = [stack.enter_context(Child(storm_writer, number, keys, finish)) for number in range(STORM_WRITERS)]
        wait_until(lambda: len(table) > 50, "there is something to view")
        ignored = stack.enter_context(Flag())
        holders = [
            stack.enter_context(Child(storm_holder, generator.randrange(1 << 30), keys, views, never, ignored))
            for _ in range(STORM_HOLDERS)
        ]
        for _ in range(kills):
            with Flag() as holding:
                victim = stack.enter_context(Child(storm_holder, generator.randrange(1 << 30), keys, 0, never, holding))
                holding.wait()
                victim.kill()
        done = [holder.result(1_000) for holder in holders]
        finish.set()
        writes = sum(writer.result() for writer in writers)
        made, outlived = (sum(counts) for counts in zip(*done, strict=True))
        evicted = int(table.stats()["evicted_keys"])
        print(
            f"{made} views, {outlived} of them outlived their keys' values, {writes} writes, {evicted} keys evicted,"
            f" {kills} holders killed"
        )
        assert (evicted > 0) == (eviction != "noeviction")
        assert made == views * STORM_HOLDERS
        assert outlived > 0
        wait_until(lambda: table.stats()["hazard_records"] == 0, "all holders are gone")
        wait_until(lambda: table.stats()["entries_retired"] == table.stats()["memory_retired"] == 0, "and keep nothing")
