"""All doors have one opinion: a table, a pipeline and a batch take the same arguments, over every transport."""

import datetime
import gc
import math
import sys
import threading
import weakref
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ringtable
from ringtable import Server, Table, Watch
from support import CONNECTIONS, ServerProcess, Way, connect_in

# Doors: how a call is made of a table


def by_table(table: Table, method: str, *arguments: Any, **options: Any) -> Any:
    if method == "exists":
        return arguments[0] in table
    return getattr(table, method)(*arguments, **options)


def by_pipeline(table: Table, method: str, *arguments: Any, **options: Any) -> Any:
    pipeline = table.pipeline()
    try:
        getattr(pipeline, method)(*arguments, **options)
    except Exception:
        assert len(pipeline) == 0, "what is refused is not recorded"
        raise
    return pipeline.execute()[0]


# A key or value that no datagram has room for, or a lease.
over_connections = pytest.mark.parametrize("way", CONNECTIONS, indirect=True)

DOORS: dict[str, Callable[..., Any]] = {"table": by_table, "pipeline": by_pipeline}


# Calls with one argument that is odd


KEYS: dict[str, Any] = {
    "none": None,
    "int": 5,
    "float": 1.5,
    "bool": True,
    "bytearray": bytearray(b"key"),
    "memoryview": memoryview(b"key"),
    "tuple": ("key",),
    "half a character": "\ud800",
    "too long": b"k" * (ringtable.KEY_SIZE_MAX + 1),
    "too long as text": "é" * (ringtable.KEY_SIZE_MAX // 2 + 1),
    "the longest": b"k" * ringtable.KEY_SIZE_MAX,
    "empty": b"",
    "text": "key",
    "accents": "é",
}
VALUES: dict[str, Any] = {
    "none": None,
    "text": "text",
    "int": 5,
    "float": 1.5,
    "bool": True,
    "list": [1],
    "not contiguous": memoryview(b"abcdef")[::2],
    "too large": bytes(ringtable.VALUE_SIZE_MAX + 1),
    "empty": b"",
    "bytearray": bytearray(b"value"),
    "memoryview": memoryview(b"value"),
}
TIMES: dict[str, Any] = {
    "none": None,
    "zero": 0,
    "minus zero": -0.0,
    "negative": -1,
    "short": 0.0004,
    "very short": 1e-9,
    "rounded": 1.0006,
    "long": 4e9,
    "too long": 4_000_000_001,
    "much too long": 5e9,
    "endless": math.inf,
    "minus endless": -math.inf,
    "no number": math.nan,
    "huge": 1e300,
    "beyond floats": 10**400,
    "int": 100,
    "bool": True,
    "text": "5",
    "list": [5],
    "decimal": Decimal("100.5"),
    "fraction": Fraction(201, 2),
    "timedelta": datetime.timedelta(minutes=2),
    "short timedelta": datetime.timedelta(microseconds=1),
    "no timedelta": datetime.timedelta(0),
    "negative timedelta": -datetime.timedelta(seconds=1),
    "longest timedelta": datetime.timedelta.max,
    "time of day": datetime.time(1),
}
INTEGERS: dict[str, Any] = {
    "none": None,
    "zero": 0,
    "negative": -1,
    "largest": (1 << 63) - 1,
    "too large": 1 << 63,
    "unsigned": (1 << 64) - 1,
    "beyond": 1 << 64,
    "least": -(1 << 63),
    "too small": -(1 << 63) - 1,
    "huge": 1 << 200,
    "minus huge": -(1 << 200),
    "endless": 10**5_000,
    "float": 1.0,
    "text": "1",
    "bytes": b"1",
    "bool": True,
}

Call = Callable[[Callable[..., Any], Table, Any], Any]


def on_key(method: str, *more: Any) -> Call:
    return lambda door, table, key: door(table, method, key, *more)


def found_in_bucket(pairs: list[tuple[bytes, bytes]], key: str | bytes) -> list[tuple[bytes, bytes]]:
    """The pair of a key in its bucket, in which others may lie by chance."""
    return [pair for pair in pairs if pair[0] == (key.encode() if isinstance(key, str) else key)]


# What both have, with the place of the odd argument; `key` holds 5 before each.
CALLS: dict[str, tuple[dict[str, Any], Call]] = {
    **{
        f"{method} of a key": (KEYS, on_key(method, *more))
        for method, more in {
            "get": (),
            "get_with_version": (),
            "set": (b"value",),
            "delete": (),
            "exists": (),
            "incr": (),
            "expire": (100,),
        }.items()
    },
    "read_bucket of a key": (KEYS, lambda door, table, odd: found_in_bucket(door(table, "read_bucket", odd), odd)),
    "delete of a second key": (KEYS, lambda door, table, odd: door(table, "delete", "key", odd)),
    "set of a value": (VALUES, lambda door, table, odd: door(table, "set", "key", odd)),
    "set with ttl": (TIMES, lambda door, table, odd: door(table, "set", "key", b"value", ttl=odd)),
    "set by version": (INTEGERS, lambda door, table, odd: door(table, "set", "key", b"value", if_version=odd)),
    "set if absent": (INTEGERS, lambda door, table, odd: door(table, "set", "key", b"value", nx=odd)),
    "set if present": (INTEGERS, lambda door, table, odd: door(table, "set", "key", b"value", xx=odd)),
    "set of an odd key and an odd value": (
        KEYS,
        lambda door, table, odd: door(table, "set", odd, "text", ttl=-1, nx=True, xx=True, if_version=-1),
    ),
    "set with odd options": (
        TIMES,
        lambda door, table, odd: door(table, "set", "key", b"", ttl=odd, nx=True, xx=True, if_version=-1),
    ),
    "set with nx and xx": ({"": True}, lambda door, table, odd: door(table, "set", "key", b"", nx=odd, xx=odd)),
    "set by version with nx": (INTEGERS, lambda door, table, odd: door(table, "set", "key", b"", if_version=odd, nx=1)),
    "incr by": (INTEGERS, lambda door, table, odd: door(table, "incr", "key", odd)),
    "incr with a minimum": (INTEGERS, lambda door, table, odd: door(table, "incr", "key", 1, minimum=odd)),
    "incr with a maximum": (INTEGERS, lambda door, table, odd: door(table, "incr", "key", 1, maximum=odd)),
    "incr with both": (INTEGERS, lambda door, table, odd: door(table, "incr", "key", 1, minimum=1, maximum=odd)),
    "incr with ttl_if_new": (TIMES, lambda door, table, odd: door(table, "incr", "new", 1, ttl_if_new=odd)),
    "expire": (TIMES, lambda door, table, odd: door(table, "expire", "key", odd)),
    "delete of nothing": ({"": ()}, lambda door, table, odd: door(table, "delete", *odd)),
    "call of a word": (KEYS | VALUES, lambda door, table, odd: door(table, "call", "PING", odd)),
    "call of a name": (KEYS, lambda door, table, odd: door(table, "call", odd)),
    "call of nothing": ({"": ()}, lambda door, table, odd: door(table, "call", *odd)),
}


def state_of(table: Table, key: str) -> str:
    """What is there of a key, as far as it does not depend on the moment."""
    try:
        left = table.ttl(key)
    except KeyError:
        return "gone, or soon"
    if left is not None and left < 1.5:
        return "gone, or soon"
    return f"{table.get(key)!r} for {None if left is None else round(left, -1)} s"


def outcome(table: Table, call: Callable[[], Any]) -> tuple[str, ...]:
    """What a call comes to: what it raises, word by word; or what it returns, and what the table holds then."""
    table.delete("new")
    table["key"] = b"5"
    try:
        result = call()
    except Exception as error:
        # It has changed nothing.
        assert table["key"] == b"5"
        assert table.ttl("key") is None
        assert "new" not in table
        return type(error).__name__, str(error)
    if isinstance(result, tuple):
        # A version.
        result = result[0]
    return repr(result), state_of(table, "key"), state_of(table, "new")


def outcomes(table: Table, door: Callable[..., Any]) -> dict[tuple[str, str], tuple[str, ...]]:
    """What comes of all calls with all odd arguments."""
    return {
        (name, what): outcome(table, partial(call, door, table, odd))
        for name, (odds, call) in CALLS.items()
        for what, odd in odds.items()
        # Half a gigabyte, which takes its time on the way.
        if not (name.startswith("call") and what == "too large")
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[str, ...]]:
    """What comes of each call of a table over a lane."""
    path = tmp_path_factory.mktemp("doors") / "socket"
    with ringtable.Server(path, max_memory="64MiB"), ringtable.connect(path) as table:
        return outcomes(table, by_table)


def test_smoke(table: Table) -> None:
    for door in DOORS.values():
        assert door(table, "set", "key", b"1", ttl=datetime.timedelta(seconds=100)) is True
        assert door(table, "get", "key") == b"1"
        with pytest.raises(ringtable.InvalidOption, match=r"ttl is -1; allowed are seconds above 0"):
            door(table, "expire", "key", -1)
        assert "key" in table


@pytest.mark.parametrize("door", DOORS)
@over_connections
def test_all_doors_have_one_opinion(table: Table, door: str, expected: dict[tuple[str, str], tuple[str, ...]]) -> None:
    """A pipeline deleted a key where a table raised, and took keys and values that a table refuses."""
    found = outcomes(table, DOORS[door])
    assert len(found) > 300
    assert found.keys() == expected.keys()
    different = {place: (expected[place], found[place]) for place in found if found[place] != expected[place]}
    assert not different


@pytest.mark.parametrize(
    ("call", "what", "name", "words"),
    [
        ("expire", "negative", "InvalidOption", "ttl is -1; allowed are seconds above 0 and up to 4000000000"),
        ("expire", "no number", "InvalidOption", "ttl is nan"),
        ("set with ttl", "huge", "InvalidOption", "ttl is 1e300"),
        ("set with ttl", "text", "TypeError", "ttl is seconds or a timedelta, not str"),
        ("set with ttl", "beyond floats", "InvalidOption", "ttl is above 1e308; allowed are seconds above 0 and up to"),
        ("set with ttl", "endless", "InvalidOption", "ttl is inf; allowed are"),
        ("incr with ttl_if_new", "text", "TypeError", "ttl_if_new is seconds or a timedelta, not str"),
        ("set if absent", "zero", "TypeError", "nx is True or False, not int"),
        ("set if present", "text", "TypeError", "xx is True or False, not str"),
        ("incr by", "none", "TypeError", "by is a whole number, not NoneType"),
        ("incr with a maximum", "float", "TypeError", "maximum is a whole number, not float"),
        ("set by version", "unsigned", "InvalidOption", "if_version is 18446744073709551615; allowed are whole"),
        ("set by version", "float", "TypeError", "if_version is a whole number, not float"),
        ("set with nx and xx", "", "InvalidOption", "exclude each other"),
        ("incr by", "too large", "InvalidOption", "by is 9223372036854775808; allowed are whole numbers from -92233"),
        ("incr by", "endless", "InvalidOption", "by is above 2^127"),
        ("incr with both", "zero", "InvalidOption", "minimum is 1 and maximum is 0"),
        ("get of a key", "bytearray", "TypeError", "keys are str or bytes, not bytearray"),
        ("get of a key", "too long", "KeyTooLong", "65536"),
        ("set of a value", "text", "TypeError", "values are bytes-like, not str"),
        ("set of a value", "too large", "ValueTooLarge", "536870913"),
    ],
)
def test_what_is_odd_is_named(
    expected: dict[tuple[str, str], tuple[str, ...]], call: str, what: str, name: str, words: str
) -> None:
    raised, message, *_ = expected[call, what]
    assert raised == name
    assert words in message


@pytest.mark.parametrize(
    ("call", "what", "result"),
    [
        ("expire", "short", ("True", "gone, or soon")),
        ("expire", "very short", ("True", "gone, or soon")),
        ("expire", "timedelta", ("True", "b'5' for 120.0 s")),
        ("expire", "decimal", ("True", "b'5' for 100.0 s")),
        ("expire", "long", ("True", "b'5' for 4000000000.0 s")),
        ("delete of nothing", "", ("0", "b'5' for None s")),
        ("set by version", "zero", ("False", "b'5' for None s")),
        ("set by version", "largest", ("False", "b'5' for None s")),
    ],
)
def test_what_is_unusual_is_done(
    expected: dict[tuple[str, str], tuple[str, ...]], call: str, what: str, result: tuple[str, ...]
) -> None:
    assert expected[call, what][:2] == result


# Other ways to do the same with one key: a batch of one, an item, a function


SAME_KEY: dict[str, Callable[[Table, Any], Any]] = {
    "an item": lambda table, key: table[key],
    "an item to write": lambda table, key: table.__setitem__(key, b"value"),
    "an item to delete": lambda table, key: table.__delitem__(key),
    "get_many": lambda table, key: table.get_many([key]),
    "set_many of pairs": lambda table, key: table.set_many([(key, b"value")]),
    "delete_many": lambda table, key: table.delete_many([key]),
    "get_many of a second key": lambda table, key: table.get_many(["key", key]),
    "set_many of a second key": lambda table, key: table.set_many([("key", b"new"), (key, b"value")]),
    "delete_many of a second key": lambda table, key: table.delete_many(["key", key]),
    "update": lambda table, key: table.update([("key", b"new"), (key, b"value")]),
    "update by a function": lambda table, key: table.update(key, lambda _: b"value"),
    "add": lambda table, key: table.add(key, b"value"),
    "setdefault": lambda table, key: table.setdefault(key, b"value"),
    "pop": lambda table, key: table.pop(key),
    "get_or_set": lambda table, key: table.get_or_set(key, lambda: b"value"),
    "get_into": lambda table, key: table.get_into(key, bytearray(10)),
    "view": lambda table, key: table.view(key),
    "ttl": lambda table, key: table.ttl(key),
    "delete_if_version": lambda table, key: table.delete_if_version(key, 1),
    "a posted write": lambda table, key: table.set(key, b"value", writes="posted"),
    "a posted deletion": lambda table, key: table.delete("key", key, writes="posted"),
}
SAME_VALUE: dict[str, Callable[[Table, Any], Any]] = {
    "an item": lambda table, value: table.__setitem__("key", value),
    "set_many": lambda table, value: table.set_many({"key": value}),
    "set_many of a second value": lambda table, value: table.set_many([("key", b"new"), ("new", value)]),
    "update": lambda table, value: table.update({"key": b"new"}, new=value),
    "update by a function": lambda table, value: table.update("key", lambda _: value),
    "add": lambda table, value: table.add("key", value),
    "a posted write": lambda table, value: table.set("key", value, writes="posted"),
}
SAME_TIME: dict[str, Callable[[Table, Any], Any]] = {
    "set_many": lambda table, ttl: table.set_many({"new": b"new"}, ttl=ttl),
    "add": lambda table, ttl: table.add("new", b"new", ttl=ttl),
    "update by a function": lambda table, ttl: table.update("new", lambda _: b"new", ttl=ttl),
    "get_or_set": lambda table, ttl: table.get_or_set("new", lambda: b"new", ttl),
    "a posted write": lambda table, ttl: table.set("new", b"new", ttl=ttl, writes="posted"),
}


@pytest.mark.parametrize(
    ("calls", "odds", "standard"),
    [
        (SAME_KEY, KEYS, "get of a key"),
        (SAME_VALUE, VALUES, "set of a value"),
        (SAME_TIME, TIMES, "set with ttl"),
    ],
    ids=["keys", "values", "times"],
)
@over_connections
def test_other_ways_refuse_the_same(
    table: Table,
    calls: dict[str, Callable[[Table, Any], Any]],
    odds: dict[str, Any],
    standard: str,
    expected: dict[tuple[str, str], tuple[str, ...]],
) -> None:
    different = {}
    for name, call in calls.items():
        for what, odd in odds.items():
            found = outcome(table, partial(call, table, odd))
            wanted = expected[standard, what]
            refused = len(wanted) == 2
            deletes = (calls, name, what) == (SAME_VALUE, "update by a function", "none")
            # What is missing may be told as an error.
            agrees = wanted == found if refused else len(found) > 2 or found[0] == "KeyError"
            if not agrees and not deletes:
                different[name, what] = (wanted, found)
    assert not different


def test_versions_are_refused_by_the_name_of_their_argument(table: Table) -> None:
    table["key"] = b"5"
    for version in (-1, 1 << 63, (1 << 64) - 1, 1 << 200):
        with pytest.raises(ringtable.InvalidOption, match=r"^version is .* from 0 to 9223372036854775807$"):
            table.delete_if_version("key", version)
    assert table["key"] == b"5"


TIMEOUTS: dict[str, Callable[[Table, Any], Any]] = {
    "connect": lambda table, timeout: ringtable.connect(table.address, timeout=timeout).close(),
    "Table": lambda table, timeout: Table(table.address, timeout=timeout).close(),
    "get_or_set": lambda table, timeout: table.get_or_set("key", lambda: b"value", timeout=timeout),
    "watch": lambda table, timeout: ringtable.Watch("default", timeout=timeout).close(),
    "connect_timeout": lambda table, timeout: ringtable.Watch("default", connect_timeout=timeout).close(),
    "wait": lambda table, timeout: _stopped_server().wait(timeout),
}


def _stopped_server() -> Server:
    with Server("stopped", max_memory="4MiB") as server:
        return server


@pytest.mark.parametrize("call", TIMEOUTS)
@over_connections
def test_time_outs_are_taken_wherever_times_are(way: Way, call: str) -> None:
    """They had to be floats, and no limit was named that there was."""
    name = "connect_timeout" if call == "connect_timeout" else "timeout"
    with way.connect() as table:
        for timeout in (
            None,
            0.5,
            5,
            Fraction(1, 2),
            datetime.timedelta(seconds=5),
            sys.maxsize,
            threading.TIMEOUT_MAX,
        ):
            TIMEOUTS[call](table, timeout)
        for timeout, shown in (
            (-1, "-1"),
            (math.inf, "inf"),
            (math.nan, "nan"),
            (1e300, "1e300"),
            (10**400, "above 1e308"),
            (-datetime.timedelta(seconds=1), "-1"),
        ):
            with pytest.raises(ringtable.InvalidOption) as refused:
                TIMEOUTS[call](table, timeout)
            assert str(refused.value) == f"{name} is {shown}; allowed are seconds from 0 to 1e19, or None"
        for other in ("5", [5]):
            with pytest.raises(TypeError, match=f"^{name} is seconds or a timedelta, not {type(other).__name__}$"):
                TIMEOUTS[call](table, other)
        assert ringtable.connect(table.address, timeout=datetime.timedelta(milliseconds=1_500)).timeout == 1.5


# As untyped programs have them.
_connect: Any = ringtable.connect
_serve: Any = Server
_table: Any = Table

# Calls with an argument of a wrong type, or beyond its limit, and what is said of it.
ODD_ARGUMENTS: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda table: table.scan(-1), ringtable.InvalidOption, "cursor is -1; allowed are whole numbers from 0 to"),
    (lambda table: table.scan("0"), TypeError, "cursor is a whole number, not str"),
    (lambda table: table.set("key", b"", evictable=1), TypeError, "evictable is True or False, not int"),
    (lambda table: table.incr("key", evictable=0), TypeError, "evictable is True or False, not int"),
    (lambda table: table.set("key", b"", writes=1), TypeError, "writes is text, not int"),
    (lambda table: table.set("key", b"", writes="now"), ringtable.InvalidOption, "writes is 'now'; allowed are"),
    (lambda table: table.view("key", copy_ok=1), TypeError, "copy_ok is True or False, not int"),
    (lambda table: table.delete_if_version("key", 1.0), TypeError, "version is a whole number, not float"),
    (
        lambda table: table.get_or_set("key", bytes, 5, stale=-1),
        ringtable.InvalidOption,
        "stale is -1; allowed are seconds from 0 to 4000000000",
    ),
    (
        lambda table: table.get_or_set("key", bytes, 5, stale_if_error="1"),
        TypeError,
        "stale_if_error is seconds or a timedelta, not str",
    ),
    (lambda table: _connect(reads=1), TypeError, "reads is text, not int"),
    (lambda table: _connect(reconnect="no"), TypeError, "reconnect is True or False, not str"),
    (
        lambda table: _serve(mode=660),
        ringtable.InvalidOption,
        "mode is 660, which is 0o1224: write it in octal",
    ),
    (lambda table: _serve(mode=-1), ringtable.InvalidOption, "mode is -1; allowed are numbers such as 0o660"),
    (lambda table: _serve(mode="0660"), TypeError, "mode is a number such as 0o660, not str"),
    (lambda table: _serve(spin_us="1"), TypeError, "spin_us is a number of microseconds, not str"),
    (lambda table: _serve(strict_seal=1), TypeError, "strict_seal is True or False, not int"),
    (lambda table: _serve(topology=1), TypeError, "topology is text, not int"),
    (
        lambda table: _serve(slow_consumer_timeout="1"),
        TypeError,
        "slow_consumer_timeout is seconds or a timedelta, not str",
    ),
    (
        lambda table: _serve(slow_consumer_timeout=1e300),
        ringtable.InvalidOption,
        "slow_consumer_timeout is 1e300; allowed are 0.01",
    ),
    # A keyword that a call does not take is told of by the name that the call has for its users.
    (lambda table: table.set("key", b"", px=5), TypeError, "Table.set() got an unexpected keyword argument 'px'"),
    (lambda table: table.incr("key", ttl=5), TypeError, "Table.incr() got an unexpected keyword argument 'ttl'"),
    (
        lambda table: table.pipeline().set("key", b"", px=5),
        TypeError,
        "Pipeline.set() got an unexpected keyword argument 'px'",
    ),
    (
        lambda table: table.update("key", lambda _: b"", px=5),
        TypeError,
        "Table.update() got an unexpected keyword argument 'px'",
    ),
    (lambda table: _table(name="x"), TypeError, "Table.__new__() got an unexpected keyword argument 'name'"),
]


@pytest.mark.parametrize(("call", "kind", "words"), ODD_ARGUMENTS, ids=[words for _, _, words in ODD_ARGUMENTS])
def test_an_odd_argument_is_told_of_by_its_name(
    server: Server, call: Callable[[Table], Any], kind: type[Exception], words: str
) -> None:
    with ringtable.connect() as table, pytest.raises(kind) as refused:
        call(table)
    assert str(refused.value).startswith(words)


READING: dict[str, Callable[[Table], Any]] = {
    "get": lambda table: table.get("key"),
    "contains": lambda table: "key" in table,
    "get_many": lambda table: table.get_many(["key"]),
    "get_with_version": lambda table: table.get_with_version("key"),
    "ttl": lambda table: table.ttl("key"),
    "len": len,
    "iteration": list,
    "read_bucket": lambda table: table.read_bucket("key"),
    "get_or_set": lambda table: table.get_or_set("absent", bytes),
    "stats": lambda table: table.stats(),
    "ping": lambda table: table.call("PING"),
    "a pipeline of reads": lambda table: table.pipeline().get("key").exists("key").execute(),
    "connect": lambda table: ringtable.connect(table.address, timeout=0.05),
    "watch": lambda table: table.watch(),
}
WRITING: dict[str, Callable[[Table], Any]] = {
    "set": lambda table: table.set("key", b"value"),
    "item": lambda table: table.__setitem__("key", b"value"),
    "delete": lambda table: table.delete("key"),
    "set_many": lambda table: table.set_many({"key": b"value"}),
    "incr": lambda table: table.incr("count"),
    "expire": lambda table: table.expire("key", 5),
    "clear": lambda table: table.clear(),
    "call": lambda table: table.call("set", "key", b"value"),
    "a pipeline with a write": lambda table: table.pipeline().get("key").set("key", b"value").execute(),
}


@pytest.mark.parametrize("call", READING | WRITING)
def test_a_call_without_an_answer_says_who_is_silent_and_what_may_come_of_it(
    server_process: ServerProcess, call: str
) -> None:
    """Of reads, too, it was said that a write may still be done."""
    with connect_in(0.05, reads="server") as table:
        server_process.freeze()
        with pytest.raises(ringtable.Timeout) as refused:
            (READING | WRITING)[call](table)
        words = f"no answer within 0.05 s from the server at {table.address}: it is stopped, or overloaded"
        assert str(refused.value) == words + ("; a write may still be done" if call in WRITING else "")


def test_every_message_is_one_line(ringtable_dir: Path) -> None:
    """A name with a line end in it, or with what terminals obey, stood in messages as it was."""
    odd, shown = "a\nb\r\t\x1b[1m\x7f\x85\u2028\u2029é", r"a\nb\r\t\x1b[1m\x7f\x85\u2028\u2029é"
    for call in (ringtable.connect, Server, Watch):
        with pytest.raises(ringtable.InvalidOption) as refused:
            call(odd)
        assert str(refused.value).startswith(f"'{shown}' is no name for a table")
    with pytest.raises(ringtable.TableNotFound) as absent:
        ringtable.connect(ringtable_dir / odd)
    assert f"/{shown} (No such file" in str(absent.value)
    with pytest.raises(ringtable.InvalidOption, match=r"^reads is 'a\\nb"):
        ringtable.connect(reads=odd)  # type: ignore[call-overload]
    with pytest.raises(ringtable.InvalidOption, match=r"^trust_user is a\\nb"):
        ringtable.connect(trust_user=odd)
    (ringtable_dir / "odd\nfolder").mkdir()
    (ringtable_dir / "odd\nfolder" / "taken.sock").touch()
    with pytest.raises(ringtable.PathTaken) as taken:
        Server(ringtable_dir / "odd\nfolder" / "taken.sock")
    assert r"odd\nfolder/taken.sock is a regular file" in str(taken.value)


def test_update_writes_nothing_that_it_refuses(table: Table) -> None:
    """The mapping was written before the keywords were looked at."""
    for option in ("ttl", "retries"):
        with pytest.raises(TypeError, match=rf"{option}=5.* key '{option}'.*set_many"):
            table.update({"key": b"value"}, **{option: 5})  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="values are bytes-like, not int"):
        table.update({"key": b"value"}, other=5)  # type: ignore[call-overload]
    for nonsense in (b"value", None):
        with pytest.raises(TypeError, match="needs a function"):
            table.update("key", nonsense)  # type: ignore[call-overload]
    calls: list[bytes | None] = []
    with pytest.raises(ringtable.InvalidOption, match="ttl is 0"):
        table.update("key", calls.append, ttl=0)
    assert (len(table), calls) == (0, [])
    table.update({"key": b"1"}, ttl=b"2", retries=b"3")
    assert dict(table) == {b"key": b"1", b"ttl": b"2", b"retries": b"3"}


# What is recorded


def test_what_is_recorded_does_not_change_any_more(table: Table) -> None:
    """A pipeline kept the caller's buffer: all that was recorded from one had its last content."""
    buffer, word = bytearray(4), bytearray(b"word")
    array = memoryview(bytearray(8)).cast("i")
    pipeline = table.pipeline()
    for number in range(3):
        buffer[:] = b"%04d" % number
        array[0] = number
        pipeline.set(f"buffer {number}", buffer).set(f"array {number}", array).call("SET", f"word {number}", word)
        word[:] = b"%04d" % number
    commands: list[list[Any]] = [["SET", "list", bytearray(b"1")], ["GET", "list"]]
    pipeline.call(*commands[0])
    commands[0][2][:] = b"2"
    buffer[:], array[0] = b"last", -1
    pipeline.execute()
    assert table.get_many(f"buffer {number}" for number in range(3)) == [b"0000", b"0001", b"0002"]
    assert [int.from_bytes(table[f"array {number}"][:4], "little") for number in range(3)] == [0, 1, 2]
    assert table.get_many(f"word {number}" for number in range(3)) == [b"word", b"0000", b"0001"]
    assert table["list"] == b"1"


@over_connections
def test_a_buffer_is_free_again_when_a_call_returns(table: Table) -> None:
    """A `bytearray` cannot be made longer while somebody has its buffer."""
    buffer = bytearray(b"value")
    pipeline = table.pipeline()
    calls: dict[str, Callable[[], object]] = {
        "set": lambda: table.set("key", buffer),
        "a posted write": lambda: table.set("key", buffer, writes="posted"),
        "a large posted write": lambda: table.set("key", bytearray(1 << 20), writes="posted"),
        "set_many": lambda: table.set_many({"key": buffer}),
        "get_into": lambda: table.get_into("key", buffer),
        "call": lambda: table.call("SET", "key", buffer),
        "call_many": lambda: table.call_many([("SET", "key", buffer)]),
        "update": lambda: table.update("key", lambda _: buffer),
        "get_or_set": lambda: table.get_or_set("new", lambda: buffer),
        "setdefault": lambda: table.setdefault("default", buffer),
        "a pipeline": lambda: pipeline.set("key", buffer).call("SET", "key", buffer),
    }
    table["key"] = b"small"
    for name, call in calls.items():
        # What it returns is kept, too.
        result = call()
        buffer += b"."
        assert result is not buffer, name
    pipeline.execute()
    assert table["key"] == b"value" + b"." * (len(calls) - 1)


def test_a_pipeline_is_freed_with_its_table(way: Way) -> None:
    """They refer to each other if one likes."""
    table: Any = way.connect()
    table.own_pipeline = table.pipeline().set("key", b"value")
    gone = weakref.ref(table)
    del table
    gc.collect()
    assert gone() is None


# More than a request holds


MANY = 70_000
MANY_DATAGRAMS = 7_000


def many_of(table: Table) -> int:
    """More keys than a request holds: over UDP a datagram, elsewhere 65,535 arguments."""
    return MANY_DATAGRAMS if table.transport == "udp" else MANY


def test_batches_of_any_size(table: Table) -> None:
    """65,536 keys were the end of the connection, with some of what came before them done."""
    many = many_of(table)
    keys = [b"%d" % number for number in range(many)]
    table.set_many((key, key) for key in keys)
    assert len(table) == many
    assert table.get_many(keys) == keys
    assert table.get_many([*keys, b"missing", *keys]) == [*keys, None, *keys]
    table.update({key: b"u" + key for key in keys})
    assert table.get_many(keys[::1_000]) == [b"u" + key for key in keys[::1_000]]
    assert table.delete_many(keys[: many // 2]) == many // 2
    assert table.delete(*keys) == many // 2
    assert len(table) == 0


def test_pipelines_of_any_length(table: Table) -> None:
    many = many_of(table)
    keys = [b"%d" % number for number in range(many)]
    table.set_many((key, b"") for key in keys)
    pipeline = table.pipeline().incr("count")
    # Beside each other: one command with many keys, and many commands with one.
    pipeline.delete(*keys[: many // 2], *keys[: many // 2], b"missing").incr("count")
    for key in keys:
        pipeline.exists(key)
    pipeline.delete(*keys).incr("count")
    assert len(pipeline) == 5 + many
    results = pipeline.execute()
    half = many // 2
    assert results == [1, half, 2, *[False] * half, *[True] * half, half, 3]
    assert table.delete_many(["count"]) == 1
    assert len(table) == 0


@over_connections
def test_long_keys_are_split_by_their_size(table: Table) -> None:
    keys = [b"%d" % number + b"k" * (ringtable.KEY_SIZE_MAX - 5) for number in range(100)]
    table.set_many((key, b"") for key in keys)
    assert table.pipeline().delete(*keys, *keys).get("missing").execute() == [100, None]


ARGUMENTS_MAX = 65_535


@over_connections
def test_a_single_command_with_too_many_arguments_is_refused(table: Table) -> None:
    """It was the end of the connection: `ProtocolError` over a lane, the server's goodbye over a socket."""
    table["0"] = b"value"
    keys = [b"%d" % number for number in range(ARGUMENTS_MAX)]
    assert table.call("EXISTS", *keys) == 1
    for call in (
        lambda: table.call("DEL", *keys, "one more"),
        lambda: table.call_many([("DEL", "0"), ("DEL", *keys, "one more")]),
        lambda: table.pipeline().call("DEL", *keys, "one more"),
        lambda: table.call("NONSENSE", *keys, "one more"),
    ):
        with pytest.raises(ringtable.CommandError, match=r"'(DEL|NONSENSE)' has 65536 arguments, at most 65535"):
            call()
        # Nothing was sent, and the connection is in order.
        assert "0" in table
        assert table.call("PING") == b"PONG"
    assert table.call("DEL", *keys) == 1


def test_a_single_command_that_is_too_large_is_refused(table: Table) -> None:
    # Zeroes that were never touched take no memory.
    half = bytes(ringtable.VALUE_SIZE_MAX // 2 + (64 << 10))
    with pytest.raises(ringtable.CommandError, match=r"'PING' has 5370\d{5} bytes in all, at most 536940543"):
        table.call("PING", half, half)
    assert table.call("PING") == b"PONG"


# What messages say


def test_what_is_no_integer_is_named_with_its_key(table: Table) -> None:
    largest = (1 << 63) - 1
    for value, shown in ((b"text", "'text'"), (b"", "''"), (b"1" * 21, "21 bytes"), (b"\x00'\xff", "'\\0\\'�'")):
        table["a key"] = value
        for call in (
            lambda: table.incr("a key"),
            lambda: table.incr("a key", maximum=5),
            lambda: table.pipeline().incr("a key").execute(),
        ):
            with pytest.raises(ringtable.NotAnInteger) as refused:
                call()
            assert (
                str(refused.value).lower() == f"value is not an integer or out of range: 'a key' holds {shown}".lower()
            )
    table["a key"] = b"%d" % largest
    with pytest.raises(ringtable.NotAnInteger, match=rf"overflow: 'a key' holds {largest}, and 2 was to be added"):
        table.incr("a key", 2)
    for words, shown in (("INCRBY key 1.5", "1.5"), ("EXPIRE key x", "x"), ("RING.DELV key -1", "-1")):
        with pytest.raises(ringtable.NotAnInteger, match=rf"^value is not an integer or out of range: '{shown}'$"):
            table.call(*words.split())
    table["k" * 1_000] = b"text"
    with pytest.raises(ringtable.NotAnInteger, match=r": 'k{64}…' holds 'text'"):
        table.incr("k" * 1_000)


@over_connections
def test_no_message_begins_with_a_code_word(way: Way) -> None:
    with way.connect() as table:
        commands: list[list[Any]] = [
            ["NONSENSE"],
            ["GET"],
            ["SET", "key", b"", "EX"],
            ["SET", "key", bytes(80 << 20)],
            ["SET", b"k" * 70_000, b""],
            ["INCRBY", "key", "text"],
        ]
        for command in commands:
            with pytest.raises(ringtable.Error) as refused:
                table.call(*command)
            assert not str(refused.value).split()[0].isupper(), refused.value


def test_a_full_server_says_so_without_a_code_word(ringtable_dir: Path) -> None:
    with ringtable.Server(max_clients=1, workers=1, max_memory="8MiB") as server, ringtable.connect() as table:
        for address in ("default", server.path):
            with pytest.raises(ringtable.TooManyClients, match=r"^max number of clients reached: 1 of 1: wait for"):
                ringtable.connect(address)
        server.stop()
        with pytest.raises(ringtable.ServerGone, match=r"^the server is gone: there is none at .* now \("):
            table.set("key", b"value")


def test_advice_names_what_there_is(server: ringtable.Server) -> None:
    """`connect` takes no `transport`."""
    assert server.tcp is not None
    with ringtable.connect(server.tcp) as table, pytest.raises(ringtable.InvalidOption, match=r"unix socket$"):
        table.watch()
    with pytest.raises(ringtable.InvalidOption, match=r"path of its socket$"):
        Table(server.tcp, transport="lane")


def test_a_single_key_is_not_taken_letter_by_letter(server: Server) -> None:
    with ringtable.connect() as table:
        table.set_many({"a": b"1", "b": b"2"})
        for single in ("ab", b"ab"):
            for call in (table.get_many, table.delete_many):
                with pytest.raises(TypeError, match="keys are given as several, as in a list, not one"):
                    call(single)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="a command is a row of words"):
                table.call_many([single])
        assert len(table) == 2
        assert table.delete_many(["a", "b"]) == 2
