"""Objects of all kinds as keys, values and buffers: what is refused is refused by an ordinary exception.

Values whose elements hold pointers; objects that run code of their own in the middle of a call.
"""

import ctypes
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import ringtable
from ringtable import Server, Table

from proof.objects import Bytes, Text

# Not as its stubs have it: they know of no buffers before Python 3.12.
numpy: Any = importlib.import_module("numpy")


@pytest.fixture(params=["lane", "socket"])
def table(request: pytest.FixtureRequest, server: Server) -> Iterator[Table]:
    with Table(transport=request.param, timeout=30) as table:
        yield table


def test_smoke(table: Table) -> None:
    table["key"] = numpy.arange(3)
    assert numpy.frombuffer(table["key"], dtype=int).tolist() == [0, 1, 2]


# What holds pointers


class Pair(ctypes.Structure):
    _fields_ = (("count", ctypes.c_int), ("name", ctypes.c_char_p))


NESTED = numpy.dtype([("count", "i4"), ("inner", [("part", "f8"), ("what", "O")])])

POINTERS: dict[str, Any] = {
    "objects": numpy.array([b"one", None, {}], dtype=object),
    "objects without a dimension": numpy.array(None, dtype=object),
    "texts, as pandas keeps them": numpy.array(["one", "two"], dtype=object),
    "texts of any length": numpy.array(["one" * 100, "two"], dtype=numpy.dtypes.StringDType()),
    "records with an object": numpy.array([(1, {})], dtype=[("count", "i4"), ("what", "O")]),
    "records of records with an object": numpy.zeros(2, dtype=NESTED),
    "a record with an array of objects": numpy.zeros(2, dtype=[("O", "i4"), ("what", "O", (2, 2))]),
    "a record with an object and a date": numpy.zeros(2, dtype=[("when", "M8[s]"), ("what", "O")]),
    "a memoryview of objects": memoryview(numpy.array([b"one"], dtype=object)),
    "objects of ctypes": (ctypes.py_object * 2)(),
    "an address": ctypes.c_void_p(8),
    "addresses": (ctypes.c_void_p * 2)(),
    "typed pointers": (ctypes.POINTER(ctypes.c_int) * 2)(),
    "texts of C": (ctypes.c_char_p * 2)(b"one", b"two"),
    "wide texts of C": (ctypes.c_wchar_p * 2)("one", "two"),
    "a function": ctypes.CFUNCTYPE(ctypes.c_int)(int),
    "a structure": Pair(1, b"name"),
    "structures": (Pair * 2)(),
}

WRITES: dict[str, Callable[[Table, Any], object]] = {
    "an item": lambda table, value: table.__setitem__("key", value),
    "set": lambda table, value: table.set("key", value, ttl=60),
    "set if absent": lambda table, value: table.set("key", value, nx=True),
    "set by version": lambda table, value: table.set("key", value, if_version=0),
    "add": lambda table, value: table.add("key", value),
    "a posted write": lambda table, value: table.set("key", value, writes="posted"),
    "set_many of a mapping": lambda table, value: table.set_many({"key": value}),
    "set_many of pairs": lambda table, value: table.set_many([("key", value)]),
    "update with entries": lambda table, value: table.update(key=value),
    "update by a function": lambda table, value: table.update("key", lambda _: value),
    "get_or_set": lambda table, value: table.get_or_set("key", lambda: value),
    "setdefault": lambda table, value: table.setdefault("key", value),
    "a pipeline": lambda table, value: table.pipeline().set("key", value).execute(),
    "call": lambda table, value: table.call("SET", "key", value),
}


@pytest.mark.parametrize("write", WRITES)
def test_pointers_are_no_values(table: Table, write: str) -> None:
    """They were stored: addresses of this process, which others would have followed."""
    for name, value in POINTERS.items():
        with pytest.raises((TypeError, BufferError), match=r"pointers|buffer") as refused:
            WRITES[write](table, value)
        assert "pointers" in str(refused.value) or name in {
            "texts of any length",
            "a record with an object and a date",
        }
        assert "key" not in table, name


@pytest.mark.parametrize("name", POINTERS)
def test_nothing_is_copied_over_pointers(table: Table, name: str) -> None:
    """The interpreter crashed when it followed them."""
    table["key"] = bytes(range(8))
    with pytest.raises((TypeError, BufferError)):
        table.get_into("key", POINTERS[name])
    assert str(POINTERS[name])


DATA: dict[str, Any] = {
    "numbers": numpy.arange(6).reshape(2, 3),
    "big-endian numbers": numpy.arange(6, dtype=">i4"),
    "complex numbers": numpy.array([1j, 2], dtype="c16"),
    "short complex numbers": numpy.array([1j, 2], dtype="c8"),
    "long complex numbers": numpy.array([1j, 2], dtype="c32"),
    "no dimension": numpy.array(1.5),
    "no elements": numpy.zeros((0, 3)),
    "truths": numpy.array([True, False]),
    "dates": numpy.array(["2001-01-01"], dtype="M8[s]"),
    "texts of one length": numpy.array(["one", "two"]),
    "bytes of one length": numpy.array([b"one", b"two"]),
    "records": numpy.zeros(2, dtype=[("O", "i4"), ("P&X", "f8"), ("Zz", "S3", (2,))]),
    "records with a date": numpy.zeros(2, dtype=[("when", "M8[s]"), ("count", "i4")]),
    "read-only": memoryview(b"value"),
    "numbers of ctypes": (ctypes.c_double * 2)(1, 2),
    "characters of C": (ctypes.c_wchar * 2)("a", "b"),
}


@pytest.mark.parametrize("name", DATA)
def test_all_other_elements_are_bytes(table: Table, name: str) -> None:
    table["key"] = DATA[name]
    value = DATA[name]
    assert table["key"] == (bytes(value) if isinstance(value, ctypes.Array) else numpy.asarray(value).tobytes())
    if isinstance(value, numpy.ndarray):
        copy = numpy.zeros_like(value)
        assert table.get_into("key", copy) == copy.nbytes
        assert copy.tobytes() == table["key"]


@pytest.mark.parametrize("write", [name for name in WRITES if name != "call"])
def test_texts_and_numbers_are_no_values(table: Table, write: str) -> None:
    """In a pipeline they were stored as words, which `call` takes."""
    for value in ("text", 7, 1.5, True):
        with pytest.raises(TypeError):
            WRITES[write](table, value)
        assert "key" not in table
    WRITES[write](table, numpy.float64(1.5))
    assert table["key"] == numpy.float64(1.5).tobytes()


def test_what_is_read_only_is_left_alone(table: Table) -> None:
    table["key"] = b"other"
    for value in (b"value", memoryview(b"value"), memoryview(b""), numpy.frombuffer(b"value", dtype="u1")):
        with pytest.raises(BufferError, match="writable"):
            table.get_into("key", value)


# What runs code of its own in the middle of a call


class Number(int):
    """A number whose text is made by a function."""

    def __new__(cls, value: int, code: Callable[[], object]) -> "Number":
        number = super().__new__(cls, value)
        number.code = code
        return number

    code: Callable[[], object]

    def __str__(self) -> str:
        self.code()
        return "1"


class Value:
    """A value that runs a function when it is asked for its bytes, which only newer versions of Python let one do."""

    def __init__(self, code: Callable[[], object]) -> None:
        self._code = code

    def __buffer__(self, flags: int) -> memoryview:
        self._code()
        return memoryview(b"value")


def raising() -> None:
    raise LookupError("of the caller's")


def forking() -> None:
    with_child = os.fork()
    if with_child == 0:
        os._exit(0)
    os.waitpid(with_child, 0)


CODES: dict[str, Callable[[Table], Callable[[], object]]] = {
    "writes": lambda table: lambda: table.incr("count"),
    "reads": lambda table: lambda: table.get("key"),
    "goes over the table": lambda table: lambda: list(table.items()),
    "closes": lambda table: table.close,
    "forks": lambda table: forking,
    "raises": lambda table: raising,
}


def callbacks(table: Table, code: Callable[[], object]) -> dict[str, Callable[[], object]]:
    """Calls that run the code in the middle."""

    def pairs() -> Iterator[tuple[str, bytes]]:
        yield "one", b"1"
        code()
        yield "two", b"2"

    def keys() -> Iterator[str]:
        yield "one"
        code()
        yield "two"

    def value() -> bytes:
        code()
        return b"value"

    calls: dict[str, Callable[[], object]] = {
        "set_many": lambda: table.set_many(pairs()),
        "get_many": lambda: table.get_many(keys()),
        "delete_many": lambda: table.delete_many(keys()),
        "call": lambda: table.call("INCRBY", "count", Number(7, code)),
        "call_many": lambda: table.call_many([("INCRBY", "count", Number(7, code))]),
        "update": lambda: table.update("key", lambda _: value()),
        "get_or_set": lambda: table.get_or_set("computed", value),
    }
    if sys.version_info >= (3, 12):
        calls |= {
            "a value": lambda: table.set("key", Value(code)),
            "a posted value": lambda: table.set("key", Value(code), writes="posted"),
            "values of a mapping": lambda: table.set_many({"one": Value(code), "two": b"2"}),
            "values of pairs": lambda: table.set_many([("one", Value(code)), ("two", b"2")]),
            "a value that was computed": lambda: table.get_or_set("computed", lambda: Value(code)),
            "a value of a function": lambda: table.update("key", lambda _: Value(code)),
            "a word": lambda: table.call("SET", "key", Value(code)),
            "a pipeline": lambda: table.pipeline().set("key", Value(code)).execute(),
            "a default": lambda: table.setdefault("absent", Value(code)),
        }
    return calls


@pytest.mark.parametrize("code", CODES)
def test_code_in_the_middle_of_a_call(server: Server, code: str) -> None:
    with Table() as names:
        calls = list(callbacks(names, raising))
    for name in calls:
        with Table(timeout=30) as table:
            call = callbacks(table, CODES[code](table))[name]
            if code == "raises":
                with pytest.raises(LookupError):
                    call()
            elif code == "closes":
                with pytest.raises(ringtable.Closed):
                    call()
            else:
                call()
            if code != "closes":
                assert table.incr(f"after {name}") == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="only newer versions of Python have __buffer__")
def test_a_mapping_that_changes_under_set_many(table: Table) -> None:
    """It was a panic."""
    changes: list[Callable[[dict[str, Any]], object]] = [dict.clear, dict.popitem, lambda items: items.update(new=b"")]
    for change in changes:
        items: dict[str, Any] = {}
        items["one"] = Value(partial(change, items))
        items |= {"two": b"2", "three": b"3"}
        with pytest.raises(RuntimeError, match="changed size"):
            table.set_many(items)
        assert not len(table)


def test_a_list_that_shrinks_under_a_call(table: Table) -> None:
    words: list[Any] = ["INCRBY", "count", Number(7, lambda: words.clear())]
    commands: list[Any] = [words, Number(7, raising)]
    commands[1] = ["INCRBY", "count", Number(7, commands.clear)]
    assert table.call_many(commands) == [1, 2]
    assert (words, commands) == ([], [])


# What is out of any range


def test_subclasses_are_what_they_hold(table: Table) -> None:
    table[Text("key")] = Bytes(b"value")
    assert table.call("SET", Text("word"), Bytes(b"value")) == b"OK"
    assert sorted(table.items()) == [(b"key", b"value"), (b"word", b"value")]
    assert table.setdefault("default", Bytes(b"value")) == b"value"


HUGE = 2**70
NAN = float("nan")
ODD: dict[str, Callable[[Table], object]] = {
    "half a character as a key": lambda table: table["\ud800"],
    "half a character among keys": lambda table: table.get_many(["key", "\udfff"]),
    "half a character as a word": lambda table: table.call("GET", "\ud800"),
    "half a character as a command": lambda table: table.call_many([["\ud800"]]),
    "a key of nothing": lambda table: table[None],  # type: ignore[index]
    "a huge increment": lambda table: table.incr("count", HUGE),
    "a huge version": lambda table: table.set("key", b"", if_version=HUGE),
    "a negative version": lambda table: table.delete_if_version("key", -1),
    "a huge cursor": lambda table: table.scan(HUGE),
    "a huge time to live": lambda table: table.set("key", b"", ttl=1e300),
    "no number as a time to live": lambda table: table.expire("key", NAN),
    "no number as stale": lambda table: table.get_or_set("key", bytes, 1, stale=NAN),
    "no number in a pipeline": lambda table: table.pipeline().expire("key", NAN),
    "a huge time-out": lambda table: table.get_or_set("key", bytes, timeout=1e300),
    "a word of 5,000 digits": lambda table: table.call("INCRBY", "count", 10**5_000),
    "pairs of three": lambda table: table.set_many([("a", b"b", b"c")]),  # type: ignore[list-item]
    "no pairs": lambda table: table.set_many(5),  # type: ignore[call-overload]
    "a command without words": lambda table: table.call(),
    "a command that is none": lambda table: table.call_many([5]),  # type: ignore[list-item]
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_arguments(table: Table, odd: str) -> None:
    with pytest.raises((ringtable.Error, TypeError, ValueError, OverflowError)):
        ODD[odd](table)
    assert table.incr("after") == 1


def test_times_are_numbers_of_any_type(table: Table) -> None:
    """In a pipeline one that is short of bits became another one, in milliseconds."""
    for ttl in (100, 100.0, numpy.int16(100), numpy.float16(100), numpy.uint8(100)):
        table.set("key", b"value", ttl=ttl)
        assert 90 < (table.ttl("key") or 0) <= 100
        table.pipeline().set("key", b"value", ttl=ttl).set("other", b"value").expire("other", ttl).execute()
        assert 90 < (table.ttl("key") or 0) <= 100
        assert 90 < (table.ttl("other") or 0) <= 100


def test_any_number_is_a_cursor(table: Table) -> None:
    table.set_many((f"key {index}", b"value") for index in range(100))
    for cursor in (1, 2**31, 2**32, 2**32 + 1, 2**63, 2**64 - 1):
        table.scan(cursor)
