"""Objects that keep the memory of the table that they were read from: arrays, in place, whatever becomes of the table.

How large values are, how many of them, and what a fork does to them.
"""

import gc
import importlib
import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import ringtable
from ringtable import PickleCodec, Server, ServerGone, Table
from support import Child, Flag, ServerProcess, figures_of, mappings, own_mapping, wait_until

# Not as its stubs have it: they know of no buffers before Python 3.12.
numpy: Any = importlib.import_module("numpy")

LARGE = 64 << 10
"""Values of so many bytes are held in place."""
HELD_MAX = 48
"""Most of them that a table holds."""


@pytest.fixture
def table(server: Server) -> Iterator[Table[Any]]:
    with ringtable.connect(codec="pickle", timeout=60) as table:
        yield table


def is_in_place(array: Any) -> bool:
    """Whether the elements lie in the table's memory."""
    address = array.__array_interface__["data"][0]
    ranges = (line.split()[0].split("-") for line in mappings(os.getpid(), "ringtable-table"))
    return any(int(start, 16) <= address < int(end, 16) for start, end in ranges)


def ones(value: int, size: int = LARGE) -> Any:
    return numpy.full(size, value, dtype="u1")


def test_smoke(table: Table[Any]) -> None:
    table["key"] = {"x": ones(1), "y": numpy.arange(5.0)}
    found = table["key"]
    assert is_in_place(found["x"])
    assert is_in_place(found["y"])
    assert (found["x"] == 1).all()
    assert found["y"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("codec", ["pickle", "array"])
def test_nobody_closes_the_memory_of_an_array(server: Server, codec: Any) -> None:
    """An array of `numpy.ndarray` keeps no buffer of what it lies in: it would have gone on in memory of others."""
    with ringtable.connect(codec=codec, timeout=60) as table:
        table["key"] = ones(1)
        found = table["key"]
        base = found
        while not isinstance(base, ringtable.View):
            base = base.obj if isinstance(base, memoryview) else base.base
        with pytest.raises(BufferError, match="objects that were loaded lie in this view"):
            base.close()
        assert not base.closed
        assert (found == 1).all()


@pytest.mark.parametrize("codec", ["pickle", "pickle, signed", "array"])
def test_what_is_large_is_in_place_and_aligned(server: Server, codec: Any) -> None:
    given = PickleCodec(key=bytes(16)) if "signed" in codec else codec
    with ringtable.connect(codec=given, timeout=60) as table:
        for size, expected in ((LARGE // 8, True), (1_000, False)):
            for key in ("key", "a longer key", "k" * 77):
                table[key] = numpy.arange(float(size))
                for found in map(table.__getitem__, [key, key]):
                    assert is_in_place(found) == expected
                    assert not found.flags.writeable
                    assert found.flags.aligned
                    assert (found == numpy.arange(float(size))).all()
                    if expected:
                        assert found.__array_interface__["data"][0] % 64 == 0
            # A fresh name, since what is held keeps its pin.
            del found
        # What is large and has no buffers is read in place, and is a copy.
        if codec != "array":
            table["text"] = "x" * LARGE
            assert table["text"] == "x" * LARGE


def test_what_numpy_pickles_without_a_buffer_is_a_copy_of_ones_own(table: Table[Any]) -> None:
    numbers = ones(1)
    for array in (numbers[::2], numbers[::-1], numpy.broadcast_to(numbers, (2, LARGE)), numbers.astype("M8[s]")):
        table["key"] = array
        found = table["key"]
        assert found.flags.writeable
        assert not is_in_place(found)
        found[...] = 0
        assert (table["key"] == array).all()
    with ringtable.connect(codec="array") as arrays:
        arrays["key"] = numbers[::2]
        assert not arrays["key"].flags.writeable


def test_it_stays_whatever_becomes_of_the_key_and_the_table(server: Server) -> None:
    with ringtable.connect(codec="pickle", timeout=60) as table:
        table["key"] = ones(1)
        held = table["key"]
        part = held[10:20]
        del held
        for value in range(2, 50):
            table["key"] = ones(value)
        del table["key"]
        table.clear()
        # Of what nobody holds a worker may keep a few for a moment.
        assert 1 <= figures_of(table)["entries_retired"] <= 32
        table.update((f"other {number}", ones(7)) for number in range(100))
    assert is_in_place(part)
    assert (part == 1).all()
    # The table was closed: the last array lets go of its memory, which the fixture sees at the end.
    del part


def test_what_is_let_go_of_is_free_again(table: Table[Any]) -> None:
    table["key"] = ones(1)
    for value in range(2, 200):
        held = table["key"]
        assert is_in_place(held)
        table["key"] = ones(value)
        del held
    assert figures_of(table)["entries_retired"] <= 32
    # Nor does an error keep anything.
    with ringtable.connect() as raw:
        raw["bad"] = raw["key"][:-1] + b"more"
        raw["worse"] = b"x" * LARGE
        for _ in range(2 * HELD_MAX):
            with pytest.raises(ringtable.DecodeError):
                table["worse"]
        assert is_in_place(table["key"])


def test_any_number_of_arrays_can_be_held(table: Table[Any]) -> None:
    """The small ones are copies, and so are large ones beyond what a table may hold; views have their own."""
    table["large"] = ones(1)
    table["small"] = numpy.arange(10)
    small = [table["small"] for _ in range(10_000)]
    assert not any(is_in_place(array) for array in small[:10])
    large = [table["large"] for _ in range(200)]
    assert [is_in_place(array) for array in large] == [True] * HELD_MAX + [False] * (200 - HELD_MAX)
    assert all((array == 1).all() for array in large)
    views = [table.view("large") for _ in range(64 - HELD_MAX)]
    with pytest.raises(ringtable.TooManyViews):
        table.view("large")
    del large[::2]
    again = [table["large"] for _ in range(HELD_MAX)]
    assert sum(map(is_in_place, again)) == HELD_MAX // 2
    for view in views:
        view.close()


def test_no_more_bytes_are_held_than_may_be(server_process: ServerProcess) -> None:
    """The limit is 1 GiB: here of one value that is held again and again."""
    size = 100 << 20
    with ringtable.connect(codec="array", timeout=60) as table:
        table["key"] = ones(1, size)
        held = [table["key"] for _ in range(10)]
        assert all(map(is_in_place, held))
        more = table["key"]
        assert not is_in_place(more)
        assert more[-1] == 1
        del more, held[0]
        assert is_in_place(table["key"])


def test_where_there_is_no_shared_memory_it_is_a_copy(server: Server) -> None:
    for address in (server.path, server.tcp):
        with ringtable._object_table.ObjectTable(address, codec="pickle", transport="socket") as table:
            table["key"] = {"x": ones(1)}
            found = table["key"]["x"]
            assert not is_in_place(found)
            assert (found == 1).all()
            assert not found.flags.writeable


# Forks


def test_a_child_keeps_what_its_parent_has_let_go_of(server_process: ServerProcess) -> None:
    """It was overwritten when the parent's array went."""
    with ringtable.connect(codec="pickle", timeout=60) as table, Flag() as reused:
        table["key"] = ones(1)
        held = table["key"]

        def child(array: Any) -> bool:
            reused.wait()
            return bool((array == 1).all())

        with Child(child, held) as process:
            del held
            gc.collect()
            for value in range(2, 200):
                table["key"] = ones(value)
            retired = figures_of(table)["entries_retired"]
            reused.set()
            assert process.result()
        assert retired >= 1
        # What was held before the fork stays pinned until the table is closed; what is held after it does not.
        for value in range(2, 200):
            array = table["key"]
            table["key"] = ones(value)
            del array
    with ringtable.connect(codec="pickle", timeout=60) as table:
        wait_until(lambda: table.set("key", ones(1)) and not figures_of(table)["entries_retired"], "all pins are gone")


def test_a_child_reads_on_its_own(server_process: ServerProcess) -> None:
    with ringtable.connect(codec="pickle", timeout=60) as table:
        table["key"] = {"x": ones(1)}
        held = table["key"]

        def child() -> tuple[bool, bool]:
            # The first read connects anew, asks the server, and is a copy.
            assert (table["key"]["x"] == 1).all()
            own = table["key"]["x"]
            return is_in_place(own), bool((own == held["x"]).all())

        with Child(child) as process:
            assert process.result() == (True, True)
        assert (held["x"] == 1).all()
        assert pickle.loads(pickle.dumps(held))["x"].sum() == LARGE


def test_it_outlives_the_server(server_process: ServerProcess) -> None:
    with ringtable.connect(codec="pickle", timeout=60) as table:
        table["key"] = ones(1)
        held = table["key"]
        server_process.kill()
        with pytest.raises(ServerGone):
            table["key"] = ones(2)
        assert own_mapping("ringtable-table")[1] > 0
        assert (held == 1).all()
