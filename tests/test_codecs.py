"""Tables of objects: each codec through every door, keys as `str`, integers in common, and values that are not its own.

What lies in place, and for how long, is in test_held.py.
"""

import copyreg
import enum
import hmac
import importlib
import os
import pickle
import pickletools
import struct
import sys
import unittest
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import pytest
import ringtable
from ringtable import Conflict, DecodeError, InvalidOption, NotAnInteger, PickleCodec, Server, Table
from ringtable._codecs.buffers import put_together, take_apart
from ringtable._codecs.formats import BUFFERS
from support import pythons_mapping_tests

# Not as its stubs have it: they know of no buffers before Python 3.12.
numpy: Any = importlib.import_module("numpy")


@dataclass
class User:
    name: str
    age: int
    tags: tuple[str, ...] = ()


class Latin:
    """A codec of one's own."""

    def encode(self, value: str, /) -> bytes:
        return value.encode("latin-1")

    def decode(self, data: bytes, /) -> str:
        return data.decode("latin-1")


SECRET = bytes(range(32))
CODECS: dict[str, Any] = {
    "text": "text",
    "json": "json",
    "pickle": "pickle",
    "pickle, signed": PickleCodec(key=SECRET),
    "msgpack": "msgpack",
    "array": "array",
    "Latin": Latin(),
}
PLAIN = [None, True, 1.5, "5", "", "häh", [1, [2]], {"a": None}]
VALUES: dict[str, list[Any]] = {
    "text": ["text", "", "5", "-7", "häh", "\x80"],
    "json": [*PLAIN, 2**70, "half \udc80"],
    "pickle": [*PLAIN, 2**70, User("Ada", 36, ("a",)), b"5", {1: {2}}, "half \udc80"],
    "msgpack": [*PLAIN, 2**63, b"5"],
    "array": [
        numpy.arange(6.0).reshape(2, 3),
        numpy.ones((3, 2), order="F"),
        numpy.array(1.5),
        numpy.zeros((0, 3)),
        numpy.arange(10)[::2],
        numpy.array(["2001-01-01"], dtype="M8[s]"),
        numpy.zeros(2, dtype=[("count", ">i4"), ("name", "U3", (2,))]),
        numpy.arange(5_000),
    ],
    "Latin": ["text", "5", "", "\xff"],
}
VALUES["pickle, signed"] = VALUES["pickle"]


@pytest.fixture(params=["lane", "socket"])
def transport(request: pytest.FixtureRequest, server: Server) -> str:
    return cast("str", request.param)


@pytest.fixture
def raw(server: Server) -> Iterator[Table]:
    with Table() as table:
        yield table


def connect(codec: Any, **options: Any) -> Table[Any]:
    found: Table[Any] = ringtable.connect(codec=codec, timeout=60, **options)
    return found


def same(found: Any, value: Any) -> bool:
    """Whether what was found is equal, and of the same type."""
    if isinstance(value, numpy.ndarray):
        return bool(
            (found.dtype, found.shape) == (value.dtype, value.shape)
            and (found == value).all()
            and (found.flags.f_contiguous or not value.flags.f_contiguous)
            and not found.flags.writeable
        )
    return type(found) is type(value) and found == value


def test_smoke(server: Server) -> None:
    with ringtable.connect(codec="pickle") as table:
        table["user"] = User("Ada", 36)
        assert table["user"] == User("Ada", 36)
        assert list(table) == ["user"]


READS: dict[str, Callable[[Table[Any]], Any]] = {
    "an item": lambda table: table["ké"],
    "get": lambda table: table.get("ké"),
    "get by bytes": lambda table: table.get("ké".encode()),
    "get_many": lambda table: table.get_many(["absent", "ké"])[1],
    "get_with_version": lambda table: (table.get_with_version("ké") or [None])[0],
    "items": lambda table: dict(table.items())["ké"],
    "values": lambda table: next(iter(table.values())),
    "a bucket": lambda table: dict(table.read_bucket("ké"))["ké"],
    "a pipeline": lambda table: table.pipeline().get("absent").get("ké").execute()[1],
    "a version in a pipeline": lambda table: table.pipeline().get_with_version("ké").execute()[0][0],
    "a bucket in a pipeline": lambda table: dict(table.pipeline().read_bucket("ké").execute()[0])["ké"],
    "setdefault": lambda table: table.setdefault("ké", None) if "ké" in table else None,
    "get_or_set": lambda table: table.get_or_set("ké", lambda: pytest.fail("it is there")),
    "get_and_expire": lambda table: table.get_and_expire("ké", 60),
    "get_and_expire in a pipeline": lambda table: table.pipeline().get_and_expire("ké", 60).execute()[0],
    "get_and_delete": lambda table: table.get_and_delete("ké"),
    "get_and_delete in a pipeline": lambda table: table.pipeline().get_and_delete("ké").execute()[0],
    "pop": lambda table: table.pop("ké"),
    "popitem": lambda table: dict([table.popitem()])["ké"],
}
WRITES: dict[str, Callable[[Table[Any], Any], Any]] = {
    "an item": lambda table, value: table.__setitem__("ké", value),
    "set": lambda table, value: table.set("ké", value, ttl=60, nx=True),
    "add": lambda table, value: table.add("ké", value),
    "a posted write": lambda table, value: table.set("ké", value, writes="posted"),
    "set_many": lambda table, value: table.set_many({"ké": value}, ttl=60),
    "update with pairs": lambda table, value: table.update([("ké", value)]),
    "update with names": lambda table, value: table.update(ké=value),
    "a pipeline": lambda table, value: table.pipeline().set("ké", value, ttl=60).execute(),
}
COMPUTED: dict[str, Callable[[Table[Any], Any], Any]] = {
    "setdefault": lambda table, value: table.setdefault("ké", value),
    "get_or_set": lambda table, value: table.get_or_set("ké", lambda: value, ttl=60),
    "update by a function": lambda table, value: table.update("ké", lambda old: value if old is None else old),
}


@pytest.mark.parametrize("codec", CODECS)
def test_every_door_takes_and_gives_objects(transport: str, codec: str) -> None:
    values = VALUES[codec]
    with ringtable._connect.table_of(CODECS[codec], None, None, transport=transport, timeout=60) as table:
        for write in WRITES.values():
            for value in values:
                table.clear()
                write(table, value)
                assert same(table["ké"], value), value
        for value in values:
            for name, compute in COMPUTED.items():
                table.clear()
                # Nothing is written for `None`, as in a table of bytes.
                if value is not None or name != "update by a function":
                    assert same(compute(table, value), value)
                    assert same(table["ké"], value)
        for value in values:
            for name, read in READS.items():
                table["ké"] = value
                # An array of no dimension and one of a string are no defaults that JSON could have.
                assert (name == "setdefault" and codec != "json") or same(read(table), value), (name, value)
            assert not len(table)


def test_none_is_a_value(server: Server) -> None:
    with connect("json") as table:
        table["key"] = None
        assert list(table.items()) == [("key", None)]
        assert (table.get("key", 5), table.get("absent", 5)) == (None, 5)
        assert table.setdefault("key", 5) is None
        assert table.pop("key", 5) is None
        assert table.pop("key", 5) == 5
        with pytest.raises(KeyError, match="key"):
            table.pop("key")
        assert table.setdefault("key") is None
        # A function that returns it deletes, as in a table of bytes.
        assert table.update("key", lambda value: value) is None
        assert "key" not in table


def test_what_is_computed_is_what_others_read(server: Server) -> None:
    """Whoever has computed a value gets what all others get, also where the codec does not keep all of it."""
    with connect("json") as table:
        assert table.setdefault("a", (1, 2)) == [1, 2]
        assert table.get_or_set("b", lambda: (1, 2)) == [1, 2]
        assert table.update("c", lambda _: {1: 2}) == {"1": 2}
        assert dict(table) == {"a": [1, 2], "b": [1, 2], "c": {"1": 2}}


def test_a_pipeline_of_objects_knows_all_commands(server: Server) -> None:
    """One that it had not would take keys and give values as bytes, and leave a namespace."""
    recording = {name for name in vars(ringtable._ringtable.Pipeline) if not name.startswith("_")} - {"call"}
    with connect("json") as table:
        assert recording <= vars(type(table.pipeline())).keys()


# Keys


def test_keys_come_back_as_they_were(server: Server, raw: Table) -> None:
    keys = ["plain", "ké", "half \udcff character", "\ud7ff\ue000"]
    with connect("json") as table, connect("json", keys="bytes") as other, table.watch("half") as watch:
        table.update(dict.fromkeys(keys, 1))
        assert sorted(table) == sorted(keys)
        assert set(other) == set(raw) == {key.encode("utf-8", "surrogateescape") for key in keys}
        for event in watch:
            assert (event.kind, event.key) == ("set", keys[2])
            break
        cursor, found = table.scan()
        while cursor:
            cursor, more = table.scan(cursor)
            found += more
        assert sorted(found) == sorted(keys)
        for key in keys:
            assert key in table
            assert table.get_many([key]) == other.get_many([key]) == [1]
            assert table.expire(key, 60)
            assert (table.ttl(key) or 0) > 50
            assert table.incr(key) == 2
            assert table.pipeline().incr(key).exists(key).expire(key, 60).get(key).execute() == [3, True, True, 3]
            with table.view(key) as view:
                assert bytes(view) == b"3"
            assert table.get_into(key, bytearray(5)) == 1
            assert table.delete(key) == 1
            assert table.pipeline().delete(key).execute() == [0]
            assert table.delete_many([key]) == 0
            missing: list[Callable[[Any], object]] = [
                table.__getitem__,
                table.__delitem__,
                table.ttl,
                table.view,
                table.pop,
                lambda key: table.get_into(key, bytearray(5)),
            ]
            for call in missing:
                with pytest.raises(KeyError) as absent:
                    call(key)
                assert absent.value.args == (key,)


def test_what_is_no_key(server: Server) -> None:
    with connect("json") as table:
        calls: list[Callable[[Any], object]] = [
            lambda key: table[key],
            lambda key: table.get(key),
            lambda key: key in table,
            lambda key: table.set(key, 1),
            lambda key: table.set_many([(key, 1)]),
            lambda key: table.get_many([key]),
            lambda key: table.pipeline().get(key),
        ]
        for call in calls:
            with pytest.raises(TypeError, match="keys are str or bytes, not int"):
                call(5)
            with pytest.raises(UnicodeEncodeError):
                call("\ud800")
        for several in (table.get_many, table.delete_many):
            with pytest.raises(TypeError, match="not one str"):
                several("key")
        assert not len(table)


def test_a_function_that_is_none_is_refused_in_the_words_of_a_table_of_bytes(server: Server) -> None:
    with connect("json") as table:
        with pytest.raises(TypeError, match="needs a function"):
            table.update("key", 5)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="needs a function"):
            table.get_or_set("key", 5)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="set_many"):
            table.update({"key": 5}, ttl=5)
        with pytest.raises(Conflict):
            table.update("key", lambda _: table.incr("key"), retries=0)
        with pytest.raises(ZeroDivisionError):
            table.get_or_set("other", lambda: 1 // 0)
        assert dict(table) == {"key": 1}


# Integers


class Level(enum.IntEnum):
    LOW = 1
    FIVE = 0x35


@pytest.mark.parametrize("codec", ["text", "json", "pickle", "pickle, signed", "msgpack", "array"])
def test_integers_are_digits_for_every_codec(server: Server, raw: Table, codec: str) -> None:
    """Text comes back as text in any case: else no text of digits would come back as what it was."""
    kind = str if codec == "text" else int
    with connect(CODECS[codec]) as table:
        for number in (0, 5, -7, 2**63 - 1, -(2**63)):
            table["count"] = number
            assert raw["count"] == b"%d" % number
            assert same(table["count"], kind(number))
        assert table.incr("count", 2**63 - 1) == -1
        assert table.incr("new", 5) == 5
        assert same(table["new"], kind(5))
        assert table.update("new", lambda value: int(value or 0) + 1) == kind(6)
        # By a float, there is a fraction; or a number that has none, and is too large for 64 bits.
        for by, sum_ in ((0.5, 6.5), (-7.25, -0.75), (0.75, 0), (1e300, 1e300)):
            table.incr("new", by)
            found = table["new"]
            assert type(found) is (str if codec == "text" else int if codec == "json" and by > 1 else type(sum_))
            assert float(found) == sum_
        # A truth is none, and neither is a number of another type.
        if codec not in ("text", "array"):
            table["truth"] = True
            assert table["truth"] is True
            table["level"] = Level.FIVE
            assert table["level"] == (Level.FIVE if "pickle" in codec else 0x35)
            with pytest.raises(NotAnInteger):
                table.incr("truth")


# What another codec has written, and what is damaged


def written_by(codec: str) -> bytes:
    """What a codec writes of a value of its own."""
    found = ringtable._codecs.codec_of(CODECS[codec])
    value = numpy.arange(3) if codec == "array" else "häh"
    return bytes(memoryview(cast("bytes", found.encode(value))))


@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "Latin"])
def test_values_of_other_codecs(server: Server, raw: Table, codec: str) -> None:
    """What has a beginning of its own is known to all others by it."""
    with connect(CODECS[codec]) as table:
        for other in CODECS:
            data = {"Latin": b"h\xe4h"}.get(other) or written_by(other)
            raw["key"] = data
            if other == codec or ({codec, other} <= {"text", "json"} and codec == "text"):
                assert table["key"] is not None
                continue
            with pytest.raises(DecodeError) as refused:
                table["key"]
            error = refused.value
            assert (error.key, error.codec) == ("key", codec.removesuffix(", signed"))
            assert 0 <= error.position <= len(data)
            assert repr(error.codec) in str(error)
            assert f"byte {error.position}" in str(error)
            if other in ("pickle", "pickle, signed", "array") and codec.partition(",")[0] != other:
                assert error.written_by == other
                assert repr(other) in str(error)
            # The same at every door, and the value stays.
            doors = (table.get, lambda key: table.get_many([key]), table.get_with_version, table.read_bucket)
            takes = (table.pop, lambda key: table.pop(key, None), table.get_and_delete, lambda _: table.popitem())
            for read in (*doors, *takes):
                with pytest.raises(DecodeError, match=repr(codec.removesuffix(", signed"))):
                    cast("Any", read)("key")
            with pytest.raises(DecodeError):
                list(table.items())
            with pytest.raises(DecodeError):
                table.get_or_set("key", lambda: 5)
            with pytest.raises(DecodeError):
                table.update("key", lambda _: 5)
            results = table.pipeline().set("other", 5).get("key").get("other").execute(raise_errors=False)
            assert isinstance(results[1], DecodeError)
            assert "command 2 of 3" in results[1].__notes__[0]
            assert (results[0], int(results[2])) == (True, 5)
            assert raw["key"] == data
            assert list(table) == ["key", "other"] or list(table) == ["other", "key"]
            table.clear()


DAMAGED: dict[str, Any] = {
    "a pickle": ("pickle", {"name": ["Ada", 36, b"\x00" * 40]}),
    "a pickle with a buffer": ("pickle", {"x": numpy.arange(3), "y": numpy.arange(2.0)}),
    "a signed pickle": ("pickle, signed", {"x": numpy.arange(3)}),
    "an array": ("array", numpy.arange(3)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage(server: Server, raw: Table, name: str) -> None:
    """Each byte is changed, and each end taken away: it is noticed before anything is unpickled.

    Of a buffer, a byte that was changed makes another element, unless it is signed; gaps are not read.
    """
    codec, value = DAMAGED[name]
    with connect(CODECS[codec]) as table:
        table["key"] = value
        data = raw["key"]
        # What is behind this is buffers.
        head = len(data)
        if codec != "pickle, signed" and name != "a pickle":
            count, size = struct.unpack_from("<IQ", data, 12)
            head = 24 + 16 * count + size
        for place in range(len(data)):
            for change in (0x01, 0x80, 0xFF):
                raw["key"] = data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]
                if place < head:
                    with pytest.raises(DecodeError) as refused:
                        table["key"]
                    assert 0 <= refused.value.position <= len(data)
                elif codec != "pickle, signed":
                    table.get("key")
        for size in range(len(data)):
            raw["key"] = data[:size]
            with pytest.raises(DecodeError):
                table["key"]
        raw["key"] = data + b"more"
        if name in ("a pickle", "a signed pickle"):
            with pytest.raises(DecodeError):
                table["key"]


def test_what_cannot_be_unpickled_here(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect("pickle") as table:
        table["key"] = User("Ada", 36)
        with monkeypatch.context() as patch:
            patch.delattr(sys.modules[__name__], "User")
            with pytest.raises(DecodeError, match="User") as refused:
                table["key"]
        assert isinstance(refused.value.__cause__, AttributeError)
        assert table["key"] == User("Ada", 36)


def test_errors_keep_what_they_are_made_of() -> None:
    error = DecodeError("the message", key="key", codec="json", position=5, written_by="pickle")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.key, copy.codec, copy.position, copy.written_by) == (
        "the message",
        "key",
        "json",
        5,
        "pickle",
    )
    assert isinstance(copy, ValueError)


# Signatures


class Trap:
    """What executes code when it is unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", True)


def test_nothing_is_unpickled_that_was_not_signed(server: Server, raw: Table) -> None:
    with connect(PickleCodec(key=SECRET)) as table, connect("pickle") as unsigned:
        unsigned["key"] = Trap()
        plain = raw["key"]
        with connect(PickleCodec(key=SECRET[::-1])) as other:
            other["key"] = Trap()
            foreign = raw["key"]
        for data in (plain, foreign, foreign[:64] + plain, foreign[:8] + bytes(56) + plain, foreign[:8]):
            raw["key"] = data
            with pytest.raises(DecodeError, match="signed"):
                table["key"]
        raw["key"] = foreign
        with pytest.raises(DecodeError, match="no key") as refused:
            unsigned["key"]
        assert refused.value.written_by == "pickle, signed"
        assert not Trap.sprung
        # The signature is that of the standard, over all that follows.
        table["key"] = "value"
        data = raw["key"]
        assert data[8:40] == hmac.digest(SECRET, data[40:], "sha256")


def test_keys_to_sign_with() -> None:
    for key in (b"", b"x" * 15):
        with pytest.raises(InvalidOption, match="16"):
            PickleCodec(key=key)
    assert repr(SECRET) not in repr(PickleCodec(key=SECRET))


# Pickled arrays


def with_buffers(value: Any) -> bytes:
    """A value as pickle itself writes it, with buffers."""
    buffers: list[Any] = []
    stream = pickle.dumps(value, 5, buffer_callback=buffers.append)
    assert buffers
    return b"".join(put_together(BUFFERS, stream, [buffer.raw() for buffer in buffers]))


def traits(array: Any) -> tuple[Any, ...]:
    """What can be told of an array without its elements' memory."""
    dtype, flags = array.dtype, array.flags
    return (
        *(type(array), dtype, dtype.num, dtype.isalignedstruct, dict(dtype.metadata or {}), array.shape, array.strides),
        *(flags.c_contiguous, flags.f_contiguous, flags.writeable, flags.aligned, repr(array.tolist())),
    )


class Framed(numpy.ndarray):  # type: ignore[misc]
    """A subclass, which numpy pickles without a buffer."""


def test_pickled_arrays_are_those_that_numpy_makes(server: Server, raw: Table) -> None:
    """Numbers are pickled in a way of our own, all else in numpy's; and what it has written its way can be read."""
    dtypes = [
        *"?bhilqpBHILQefdgFDG",
        *(">f8", "S5", ">U2", "V7", "M8[s]", "O", "S0"),
        [("count", ">i4"), ("name", "U3", (2,))],
        numpy.dtype([("a", "i1"), ("b", "f8")], align=True),
        numpy.dtype("i4", metadata={"unit": "m"}),
    ]
    given = []
    for dtype in map(numpy.dtype, dtypes):
        for shape in ((), (0, 3), (4,), (2, 3, 4)):
            array = numpy.ones(shape, dtype)
            locked = array.copy()
            locked.flags.writeable = False
            fortran = numpy.asfortranarray(array)
            given += [array, locked, fortran, array.T, array[..., ::-1] if shape else array, array.view(Framed)]
            given += [numpy.broadcast_to(array, (2, *shape)), array.transpose(1, 2, 0) if len(shape) > 2 else array]
    given += [numpy.ma.array([1, 2], mask=[False, True]), numpy.rec.array([(1, 2.0)])]
    with connect("pickle") as table:
        for array in given:
            # What has no buffer comes to the same pickler beside one that has.
            value = [array, numpy.arange(2)]
            raw["numpy's"], table["ours"] = with_buffers(value), value
            assert traits(table["ours"][0]) == traits(table["numpy's"][0]), (array.dtype, array.flags)


def test_pickled_numbers_name_nothing_but_the_public_class(server: Server, raw: Table) -> None:
    """So that any pickle reads them, whatever its numpy calls what is private."""
    array = numpy.arange(6.0).reshape(2, 3)
    with connect("pickle") as table:
        table["key"] = {"c": array, "f": array.T, "again": array, "plain": [array]}
        stream, buffers = take_apart(memoryview(raw["key"]))
        found = table["key"]
    names = [text for op, text, _ in pickletools.genops(bytes(stream)) if op.name == "SHORT_BINUNICODE"]
    assert names == ["c", "numpy", "ndarray", "<f8", "f", "<f8", "F", "again", "plain"]
    assert len(buffers) == 2
    assert found["again"] is found["c"] is found["plain"][0]
    # A reader that gives memory of its own may write to it.
    copy = pickle.loads(stream, buffers=map(bytearray, buffers))
    copy["c"][0, 0] = 7
    assert copy["again"].tolist() == [[7, 1, 2], [3, 4, 5]]


class Blob:
    """An object with a buffer that is none of numpy's."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce__(self) -> Any:
        return Blob, (pickle.PickleBuffer(self.data),)


def test_buffers_of_others(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    value = [Blob(bytearray(b"abc")), numpy.arange(3), Blob(bytearray(b"de"))]
    with connect("pickle") as table:
        table["key"] = value
        first, numbers, second = table["key"]
        assert (bytes(first.data), numbers.tolist(), bytes(second.data)) == (b"abc", [0, 1, 2], b"de")
        # How a program pickles arrays itself is what holds.
        monkeypatch.setitem(copyreg.dispatch_table, numpy.ndarray, lambda array: (list, (array.tolist(),)))
        table["key"] = value
        assert table["key"][1] == [0, 1, 2]
        # Where nobody has imported numpy there are no arrays.
        monkeypatch.setitem(sys.modules, "numpy", None)
        table["key"] = value[0]
        assert bytes(table["key"].data) == b"abc"
        # What cannot be pickled behind a buffer is told as if there was none.
        with pytest.raises((AttributeError, pickle.PicklingError)) as refused:
            table["key"] = [value[0], lambda: None]
        assert refused.value.__context__ is None


# Codecs of one's own, and options


def test_a_codec_of_ones_own_is_asked_about_everything(server: Server, raw: Table) -> None:
    """An encrypting one, say, must not find its numbers in the clear."""
    asked: list[Any] = []

    class Noting:
        def encode(self, value: Any, /) -> bytes:
            asked.append(value)
            return repr(value).encode()

        def decode(self, data: bytes, /) -> Any:
            asked.append(data)
            return int(data)

    with connect(Noting()) as table:
        table["key"] = 5
        assert table["key"] == 5
        raw["key"] = b"no number"
        with pytest.raises(DecodeError, match="'Noting', at byte 0: ValueError"):
            table["key"]
    assert asked == [5, b"5", b"no number"]


def test_what_a_codec_cannot_write(server: Server) -> None:
    wrong: dict[str, list[Any]] = {
        "text": [None, 1.5, b"bytes", True, "\udc80"],
        "json": [float("nan"), b"bytes", object(), {("a",): 1}],
        "pickle": [lambda: None],
        "msgpack": [object(), 2**64],
        "array": [
            *([1, 2], "text", None, 1.5, numpy.array([{}]), numpy.array([1, None])),
            # One with a mask, which would be lost, and one whose fields overlap.
            numpy.ma.array([1, 2], mask=[False, True]),
            numpy.zeros(2, dtype={"names": ["a", "b"], "formats": ["<i4", "<i2"], "offsets": [0, 2]}),
        ],
    }
    for codec, values in wrong.items():
        others = () if codec == "array" else (ValueError, OverflowError, AttributeError, pickle.PicklingError)
        with connect(codec) as table:
            for value in values:
                doors = WRITES | {name: compute for name, compute in COMPUTED.items() if value is not None}
                for write in doors.values():
                    with pytest.raises((TypeError, *others)) as refused:
                        write(table, value)
                    assert f"of 'ké', in a table with codec {codec!r}" in refused.value.__notes__[0]
            assert not len(table)


class ByInterface:
    """An array of another library's."""

    def __init__(self, array: Any) -> None:
        self.__array_interface__ = array.__array_interface__
        self._array = array


class ByDlpack:
    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def test_arrays_of_other_libraries(server: Server) -> None:
    array = numpy.arange(6.0).reshape(2, 3)
    with connect("array") as table:
        for value in (ByInterface(array), ByDlpack(array), memoryview(array)):
            table["key"] = value
            assert same(table["key"], array)
        table["key"] = numpy.float64(1.5)
        assert same(table["key"], numpy.array(1.5))
        # Back by protocol, without a copy.
        assert numpy.from_dlpack(table["key"]).shape == ()


def test_options(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidOption, match="'bytes', 'text', 'json', 'pickle', 'msgpack', 'array', or an object"):
        connect("yaml")
    for codec in (5, Latin, object()):
        with pytest.raises(TypeError, match="encode and decode"):
            connect(codec)
    for codec, keys in (("json", "text"), ("bytes", "str")):
        with pytest.raises(InvalidOption, match="keys is"):
            connect(codec, keys=keys)
    monkeypatch.setitem(sys.modules, "msgspec", None)
    monkeypatch.delitem(sys.modules, "ringtable._codecs.msgpack", raising=False)
    with pytest.raises(InvalidOption, match=r"pip install 'ringtable\[msgpack\]'"):
        connect("msgpack")
    assert type(connect("bytes")) is Table


def test_a_table_takes_its_codec_along(server: Server) -> None:
    for codec in CODECS.values():
        with connect(codec, keys="bytes") as table, pickle.loads(pickle.dumps(table)) as copy:
            if codec != "array":
                table["key"] = "text"
                assert dict(copy) == {b"key": "text"}
            assert "codec" in repr(copy)
    with ringtable.open(codec="json") as table:
        table["key"] = [1]
        assert table["key"] == [1]


def test_pythons_own_tests_of_mappings(server: Server) -> None:
    """All of them pass, and none is skipped."""
    pytest.importorskip("test.mapping_tests", reason="this Python was installed without its own tests")
    with connect("pickle") as table:
        result = unittest.TestResult()
        pythons_mapping_tests(table).run(result)
    assert (result.failures, result.errors, result.skipped) == ([], [], [])
    assert result.testsRun >= 14


@pytest.mark.parametrize("codec", ["text", "json", "pickle"])
def test_what_tools_keep_is_no_value_of_the_table(server: Server, codec: Any) -> None:
    with ringtable.connect(codec=codec) as table:
        table["mine"] = "value"
        assert table.rate_limiter("5/hour")("ip")
        assert table.memoize()(os.path.basename)("a/b") == "b"
        assert ("mine", "value") in list(table.items())
        assert "value" in list(table.values())
        popped = []
        with suppress(KeyError):
            while True:
                popped.append(table.popitem())
        assert ("mine", "value") in popped
        table.call("SET", "memo", b"\xff")
        with pytest.raises(DecodeError):
            list(table.items())
        with pytest.raises(DecodeError):
            table.popitem()
