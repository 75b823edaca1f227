"""Objects of all kinds as keys, values, numbers and buffers of all calls, some of which run code in the middle of one.

Whatever it is that is given, a call returns or raises an ordinary exception, and the table goes on. What holds pointers
is no value, and nothing is copied over it: others would follow them, or the interpreter.
"""

import array
import ctypes
import gc
import importlib
import mmap
import random
import time
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from ringtable import Table
from support import Way

from proof.callers import CALL_S_MAX, Figures, own_key, rounds_until
from proof.marks import Wrong

# Not as its stubs have it: they know of no buffers before Python 3.12.
numpy: Any = importlib.import_module("numpy")

PLAIN = ("u1", "i2", ">i4", "f2", "f8", ">f8", "c8", "c16", "?", "S3", "U2", "V5", "M8[s]", "m8[ms]")
DEPTH_MAX = 3
LENGTHS = (0, 1, 5, 2**40, 2**62, -1)


class Pair(ctypes.Structure):
    _fields_ = (("count", ctypes.c_int), ("name", ctypes.c_char_p))


class Plain(ctypes.Structure):
    _fields_ = (("count", ctypes.c_int), ("part", ctypes.c_double))


class Text(str):
    """A text that says something else of itself."""

    __slots__ = ()

    def __str__(self) -> str:
        return "another"

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"another"


class Bytes(bytes):
    """Bytes that say something else of themselves."""

    def __bytes__(self) -> bytes:
        return b"another"

    def __len__(self) -> int:
        return 2**62


@dataclass(frozen=True)
class Value:
    """An object to be given as a value, or to be read into."""

    object: Any
    data: bytes | None
    """What is to be stored of it; nothing if it is none."""


class Number(int):
    """A number whose text and index are made by a function."""

    code: Callable[[], object]

    def __str__(self) -> str:
        self.code()
        return "1"

    def __index__(self) -> int:
        self.code()
        return 1


class Real(float):
    """The same for a fraction."""

    code: Callable[[], object]

    def __float__(self) -> float:
        self.code()
        return 1.0


class Items:
    """Items that are made by a function, and lie about how many there are."""

    def __init__(self, made: list[Any], length: int, code: Callable[[], object]) -> None:
        self.made, self.length, self.code = made, length, code

    def __len__(self) -> int:
        return self.length

    def __length_hint__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        for item in self.made:
            self.code()
            yield item

    def __getitem__(self, place: Any) -> Any:
        self.code()
        return self.made[place]


class Changing(UserDict[Any, Any]):
    """A mapping that is not a `dict`, and runs code when it is asked."""

    code: Callable[[], object] = staticmethod(lambda: None)

    def __getitem__(self, key: Any) -> Any:
        self.code()
        return super().__getitem__(key)


class Interrupting(dict[Any, Any]):
    """A `dict` whose own methods run code, if they are asked at all."""

    code: Callable[[], object] = staticmethod(lambda: None)

    def items(self) -> Any:
        self.code()
        return super().items()

    def __iter__(self) -> Iterator[Any]:
        self.code()
        return super().__iter__()


class Odd:
    """Calls of one table with odd objects."""

    def __init__(self, table: Table, generator: random.Random, seed: int) -> None:
        self.table, self.random = table, generator
        self.keys = [own_key(seed, index) for index in range(4)]
        self.depth = 0
        self.figures: Figures = {"calls": 0, "refused": 0}

    # Objects

    def pointers(self) -> Any:
        """An object with pointers in it."""
        choose = self.random.choice
        shape = choose([(), (1,), (2,), (0,), (2, 2), (1, 3)])
        one = self.one_of([
            lambda: numpy.empty(shape, dtype=object),
            lambda: numpy.array([b"one", None, {}, self.table], dtype=object)[:: choose([1, 2, -1])],
            lambda: numpy.zeros(shape, dtype=self.type_with_objects()),
            lambda: numpy.array(["one" * 100, "two"], dtype=numpy.dtypes.StringDType()),
            lambda: (ctypes.py_object * choose([0, 1, 2]))(),
            lambda: ctypes.py_object(self.table),
            lambda: ctypes.c_void_p(choose([0, 8, 2**64 - 1])),
            lambda: (ctypes.c_void_p * 2)(),
            lambda: (ctypes.POINTER(ctypes.c_int) * 2)(),
            lambda: (ctypes.c_char_p * 2)(b"one", b"two"),
            lambda: (ctypes.c_wchar_p * 2)("one", "two"),
            lambda: ctypes.CFUNCTYPE(ctypes.c_int)(int),
            lambda: Pair(1, b"name"),
            lambda: (Pair * 2)(),
        ])  # fmt: skip
        if self.random.random() < 0.2:
            try:
                return memoryview(one)
            except (TypeError, BufferError, ValueError):
                return one
        return one

    def type_with_objects(self) -> Any:
        """A type of records somewhere in which there is an object."""
        fields: list[Any] = [
            (f"f{place}", self.random.choice(PLAIN), self.random.choice([(), (2,)]))
            for place in range(self.random.randrange(3))
        ]
        inner = "O" if self.random.random() < 0.6 else self.type_with_objects()
        fields.insert(self.random.randrange(len(fields) + 1), ("o", inner, self.random.choice([(), (2,), (2, 2)])))
        return numpy.dtype(fields, align=self.random.random() < 0.3)

    def data(self) -> Any:
        """An object that is data, in one piece."""
        choose = self.random.choice
        size = choose([0, 1, 7, 100, 5_000])
        shape = choose([(), (0,), (3,), (2, 3), (size,)])
        return self.one_of([
            lambda: self.random.randbytes(size),
            lambda: bytearray(size),
            lambda: memoryview(bytes(size)),
            lambda: memoryview(bytearray(2 * size))[size:],
            lambda: memoryview(bytes(12)).cast("I", (3,)),
            lambda: array.array(choose("bBhiqfd"), [1, 2, 3]),
            lambda: numpy.zeros(shape, dtype=choose(PLAIN)),
            lambda: numpy.zeros(2, dtype=[("O", "i4"), ("P&X", choose(PLAIN)), ("Zz", "S3", (2,))]),
            lambda: choose([numpy.float64(1.5), numpy.float32(1.5), numpy.int64(7)]),
            lambda: (ctypes.c_double * 2)(1, 2),
            lambda: (ctypes.c_wchar * 2)("a", "b"),
            lambda: (Plain * 3)(),
            lambda: mmap.mmap(-1, 4_096),
        ])  # fmt: skip

    def value(self) -> Value:
        """An object of any kind as a value."""
        match self.random.randrange(10):
            case 0 | 1 | 2:
                return Value(self.pointers(), None)
            case 3 | 4 | 5:
                data = self.data()
                is_numpy = isinstance(data, numpy.ndarray | numpy.generic)
                return Value(data, numpy.asarray(data).tobytes() if is_numpy else bytes(data))
            case 6:
                size = self.random.choice([0, 5, 500])
                return Value(Bytes(size), bytes(size))
            case 7:
                # In pieces.
                pieces = [memoryview(bytes(9))[::2], numpy.zeros((4, 4))[:, 1], numpy.zeros((3, 3)).T[1:, :2]]
                return Value(self.random.choice(pieces), None)
            case 8:
                released = memoryview(b"released")
                released.release()
                return Value(released, None)
            case _:
                return Value(self.thing(), None)

    def thing(self) -> Any:
        """What is neither data nor a number nor a text."""
        return self.random.choice(
            [None, object(), [], {}, (1,), 1.5, 7, "text", Ellipsis, self.table, type, len, {1, 2}]
        )

    def key(self) -> Any:
        if self.random.random() < 0.6:
            return self.random.choice(self.keys)
        key = self.random.choice(self.keys)
        return self.random.choice([
            key.decode(), Text(key.decode()), Bytes(key), bytearray(key), memoryview(key), numpy.bytes_(key), b"", "",
            numpy.str_(key.decode()), "\ud800", "key \udfff", bytes(65_535), bytes(65_536), "\u20ac" * 30_000, 5, None,
            numpy.zeros(3), numpy.array(None, dtype=object), memoryview(b"abcdef")[::2], self.thing(),
        ])  # fmt: skip

    def number(self) -> Any:
        if self.random.random() < 0.3:
            return self.random.randrange(1, 9)
        own = Number(self.random.randrange(-3, 9))
        own.code = self.code
        real = Real(1.5)
        real.code = self.code
        return self.random.choice([
            0, 1, -1, 5, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 2**70, 10**5_000, True, 1.5, 1e300,
            float("nan"), float("inf"), -0.0, 1e-300, Fraction(1, 3), Decimal("1.5"), numpy.int64(3), numpy.float32(2),
            numpy.uint64(2**64 - 1), own, real, "1", b"1", None, self.thing(),
        ])  # fmt: skip

    def code(self) -> None:
        """Something that is done in the middle of a call."""
        match self.random.randrange(8):
            case 0:
                raise LookupError("of the caller's")
            case 1:
                self.table.incr("odd count")
            case 2:
                self.table.get_many(self.keys)
            case 3:
                gc.collect(0)
            case 4 if self.depth < DEPTH_MAX:
                self.call()
            case 5:
                list(self.table)
            case _:
                pass

    def some(self, make: Callable[[], Any]) -> Any:
        """Some of what a function makes, in any form that can be gone through."""
        made = [make() for _ in range(self.random.randrange(4))]
        match self.random.randrange(8):
            case 0:
                return tuple(made)
            case 1:
                return iter(made)
            case 2:
                return Items(made, self.random.choice(LENGTHS), self.code)
            case 3:
                return map(self.through_code, made)
            case 4:
                return self.made_meanwhile(made)
            case 5:
                return self.thing()
            case 6:
                return numpy.array(made, dtype=object) if self.random.random() < 0.5 else made
            case _:
                return made

    def through_code(self, made: Any) -> Any:
        self.code()
        return made

    def made_meanwhile(self, made: list[Any]) -> Iterator[Any]:
        for each in made:
            self.code()
            yield each

    def mapping(self) -> Any:
        """Entries as a mapping, which may change meanwhile."""
        entries = {self.random.choice(self.keys): self.value().object for _ in range(self.random.randrange(4))}
        code = self.random.choice([self.code, entries.clear, lambda: entries.update({b"new": b"value"})])
        match self.random.randrange(4):
            case 0:
                changing = Changing(entries)
                changing.code = code
                return changing
            case 1:
                own = Interrupting(entries)
                own.code = code
                return own
            case _:
                return entries

    # Calls

    def one_of(self, calls: Sequence[Callable[[], Any]]) -> Any:
        return self.random.choice(calls)()

    def call(self) -> None:
        """Make some call, which ends by an answer or an ordinary exception."""
        self.depth += 1
        self.figures["calls"] += 1
        try:
            self.one_of([self.write, self.write, self.read_into, self.other, self.other, self.several])
        except Wrong:
            raise
        except Exception:
            self.figures["refused"] += 1
        finally:
            self.depth -= 1

    def write(self) -> None:
        """Write a value that may be none, in one of all ways."""
        table, key, value = self.table, self.random.choice(self.keys), self.value()
        given = value.object
        # What is a number or a text is a word there.
        word = memoryview(value.object) if isinstance(given, str | int | float) else given
        table.delete(key)
        self.one_of([
            lambda: table.__setitem__(key, given),
            lambda: table.set(key, given, ttl=60),
            lambda: table.set(key, given, nx=True),
            lambda: table.set(key, given, if_version=0),
            lambda: table.set(key, given, writes="posted"),
            lambda: table.add(key, given),
            lambda: table.set_many({key: given}),
            lambda: table.set_many([(key, given)]),
            lambda: table.update({key: given}),
            lambda: table.update(key, lambda _: given),
            lambda: table.get_or_set(key, lambda: given),
            lambda: table.setdefault(key, given),
            lambda: table.pipeline().set(key, given).execute(),
            lambda: table.call("SET", key, word),
            lambda: table.call_many([("SET", key, word)]),
        ])  # fmt: skip
        found = table.get(key)
        if found is None and given is None:
            return
        if value.data is None:
            if found is not None:
                raise Wrong(f"{type(given).__name__} {given!r:.200} is stored as {found!r:.100}")
        elif found != value.data:
            raise Wrong(
                f"{type(given).__name__} {given!r:.200} is stored as {found!r:.100}, and is {value.data!r:.100}"
            )

    def read_into(self) -> None:
        """Read into a buffer that may be none; the interpreter follows what is copied over pointers."""
        key = self.random.choice(self.keys)
        self.table[key] = bytes(range(8)) * self.random.choice([1, 2, 4, 100])
        buffer = self.value()
        self.table.get_into(key, buffer.object)
        if buffer.data is None:
            raise Wrong(f"{type(buffer.object).__name__} {buffer.object!r:.200} was read into")

    def other(self) -> None:
        """Any other call."""
        table, key, number = self.table, self.key(), self.number
        self.one_of([
            lambda: table[key],
            lambda: key in table,
            lambda: table.get(key, self.thing()),
            lambda: table.delete(key, self.key()),
            lambda: table.incr(key, number()),
            lambda: table.incr(key, number(), minimum=number(), maximum=number(), ttl_if_new=number()),
            lambda: table.set(key, b"value", ttl=number(), if_version=number()),
            lambda: table.set(key, self.value().object, **{self.random.choice(["nx", "xx", "writes"]): self.thing()}),
            lambda: table.delete_if_version(key, number()),
            lambda: table.get_with_version(key),
            lambda: table.expire(key, number()),
            lambda: table.ttl(key),
            lambda: table.scan(number()),
            lambda: table.read_bucket(key),
            lambda: table.view(key, copy_ok=self.thing()).close(),
            lambda: table.get_or_set(key, self.made, number(), stale=number(), timeout=self.random.choice([1, 1e300])),
            lambda: table.update(key, lambda _: self.made(), retries=number()),
            lambda: table.call("INCRBY", "odd count", number()),
            lambda: table.call(self.key(), number(), self.value().object),
            lambda: table.pop(key, self.thing()),
            lambda: table.pipeline().expire(key, number()).incr(key, number()).execute(),
            lambda: table.watch(key, timeout=number()).close(),
            lambda: Table(table.address, timeout=number(), transport=self.thing()).close(),
        ])  # fmt: skip

    def made(self) -> Any:
        self.code()
        return self.value().object

    def several(self) -> None:
        """Calls of many keys, commands or entries."""
        table = self.table
        self.one_of([
            lambda: table.get_many(self.some(self.key)),
            self.delete_some,
            lambda: table.set_many(self.mapping(), ttl=self.number()),
            lambda: table.set_many(self.some(lambda: (self.key(), self.value().object))),
            lambda: table.set_many(self.some(lambda: self.some(self.key))),
            lambda: table.update(self.mapping()),
            lambda: table.update(self.some(lambda: (self.key(), self.value().object))),
            lambda: table.call(*[self.number() for _ in range(self.random.randrange(4))]),
            lambda: table.call_many(self.some(lambda: self.some(self.number))),
            lambda: table.call_many(self.some(lambda: ["INCRBY", self.key(), self.number()])),
        ])  # fmt: skip

    def delete_some(self) -> None:
        keys = self.some(self.key)
        # Its keys are all that there are.
        if keys is not self.table:
            self.table.delete_many(keys)


def give(way: Way, seed: int, seconds: float) -> Figures:
    """Calls with odd objects, one after the other."""
    warnings.simplefilter("ignore")
    deadline = time.monotonic() + seconds
    with way.connect(timeout=CALL_S_MAX) as table:
        odd = Odd(table, random.Random(seed), seed)
        for count, _ in enumerate(rounds_until(deadline), 1):
            odd.call()
            if (found := table.incr(own_key(seed, 9))) != count:
                raise Wrong(f"after an odd call a count is {found} instead of {count}")
    return odd.figures
