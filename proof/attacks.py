"""What a hostile client does: strategies, each a generator of attacks from a seed; an attack is done at each `yield`.

A strategy knows what is valid, and puts beside it what is at its edge (`boundaries`), or has a word change while the
server reads it (`Hammer`). It joins as a client does (`support.RawLane` and its kin), so that it is a member of the
house that does all this. Where the contract says what comes of an attack, the strategy checks it, by an assertion.

A hostile client may do whatever a command does: read, write and delete everything. That would show nothing here, so
these ones are kept from it. Well-formed requests have keys that begin with `PREFIX`, of which no honest client has any;
FLUSHALL is never sent; and words that are scribbled where a record may begin never have the number of a command that
writes (`harmless`), since a request that was forged by chance counts like any other.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from ringtable._ringtable import lane_request, rings_request, watch_request
from support import Closing, Passing, RawLane, RawMember, RawRings, SlotState, resp

from proof.collisions import colliding, colliding_long, seed_of
from proof.foreign import MARK, ORDERS, other_protocol

PREFIX = b"hostile"
DEADLINE_S = 10.0
"""For how long the server may take to answer an attack that it has to answer."""

WORD_MAX = (1 << 64) - 1
VALUE_SIZE_MAX = 512 << 20
LARGE_VALUE_SIZE = 64 << 10
BUCKET_ENTRIES_MAX = 259
# The numbers of commands, which `command/commands.rs` gives them for ever.
GET, SET, DEL, INCR, EXPIRE, PEXPIRE, FLUSHALL, PING, BUCKET, STATS = 0, 1, 2, 5, 8, 9, 13, 15, 20, 22
GETV, DELV, RING_INCR, PINS = 24, 25, 26, 29
WRITES = frozenset({SET, DEL, 4, INCR, 6, 7, EXPIRE, PEXPIRE, FLUSHALL, DELV, RING_INCR})
REFUSALS = (errno.EACCES, errno.EPERM, errno.EBADF, errno.EINVAL)
BLOWS = 1 << 16
LIBC = ctypes.CDLL(None, use_errno=True)
ADVICE_POPULATE_READ = 22
# Will be needed, will not, cold, can be swapped out, make huge pages of it.
ADVICES = (3, 4, 20, 21, 25)
ADVISED_SIZES = (4 << 10, 2 << 20, 32 << 20)
HELD = 12
"""Connections that a strategy keeps open while it goes on."""


@dataclass(frozen=True)
class Target:
    """A server to be attacked."""

    path: str
    """Of its unix socket."""

    tcp: tuple[str, int] | None = None
    unfinished_max: int = 1 << 30
    """How many bytes of unfinished requests it is to be given at most, before they are taken back."""

    def lane(self, *, sealed: bool = True) -> RawLane:
        lane = RawLane(self.path, sealed=sealed)
        lane.socket.settimeout(DEADLINE_S)
        return lane

    def rings(self) -> RawRings:
        rings = RawRings(self.path)
        rings.socket.settimeout(DEADLINE_S)
        return rings

    def socket(self, random: Random | None = None) -> socket.socket:
        """A connection over the unix socket; over either if a choice is to be made."""
        tcp = self.tcp if random is not None and random.random() < 0.5 else None
        connection = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        connection.settimeout(DEADLINE_S)
        try:
            connection.connect(tcp or self.path)
        except OSError:
            connection.close()
            raise
        return connection


Attacks = Generator[None, None, None]
Strategy = Callable[[Target, Random], Attacks]


def boundaries(near: int, size: int) -> list[int]:
    """The words at the edges of all that could be checked, where `near` is right and `size` is the most."""
    around = [near + step for step in (-size, -8, -1, 0, 1, 8, size - 8, size, size + 1, size + 8)]
    powers = [1 << 31, (1 << 32) - 8, (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 63) - 1, WORD_MAX - 7, WORD_MAX]
    return [word & WORD_MAX for word in (0, 1, 7, 8, 12, size - 1, size, size + 1, *around, *powers)]


def harmless(word: int) -> int:
    """The word, or one beside it that is not the head of a request that writes."""
    return word ^ 0x4000 << 32 if (word >> 32 & 0xFFFF) in WRITES else word


def random_words(random: Random, count: int) -> bytes:
    """So many words of noise."""
    words = np.frombuffer(random.randbytes(8 * count), dtype="<u8").copy()
    numbers = (words >> np.uint64(32)) & np.uint64(0xFFFF)
    words[np.isin(numbers, list(WRITES))] ^= np.uint64(0x4000 << 32)
    noise: bytes = words.tobytes()
    return noise


def record(number: int, *arguments: bytes) -> bytes:
    """A request as it flows through a lane: see `command/record/`."""
    lengths = b"".join(struct.pack("<I", len(argument)) for argument in arguments)
    parts = [padded(lengths), *map(padded, arguments)]
    size = 8 + sum(map(len, parts))
    return struct.pack("<IHH", size, number, len(arguments)) + b"".join(parts)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def own_key(random: Random) -> bytes:
    return PREFIX + b" %d" % random.randrange(8)


class Hammer(Closing):
    """Writes a few words to one place in turns, as fast as the processor can, from a thread of its own.

    The loop is numpy's, which lets go of the interpreter lock: an assignment to an array whose elements all lie at the
    same place.
    """

    def __init__(self, memory: mmap.mmap, place: int, words: list[int], stride: int = 0, count: int = BLOWS) -> None:
        self._all: Any = np.frombuffer(memory, dtype="<u8")
        first = self._all[place // 8 :]
        self._target: Any = np.lib.stride_tricks.as_strided(first, shape=(count,), strides=(stride,))
        self._words: Any = np.resize(np.array(words, dtype="<u8"), count)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._strike)
        self._thread.start()

    def _strike(self) -> None:
        while not self._ended.is_set():
            self._target[:] = self._words

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        # The mapping cannot be closed while arrays look at it.
        del self._target, self._all


# Lanes


def publish(lane: RawLane, data: bytes, at: int | None = None) -> None:
    """Put whole words behind what was published, and tell the server."""
    tail = lane.load(RawLane.REQUEST_TAIL) if at is None else at
    start = RawLane.REQUEST_DATA + tail % RawLane.RING_SIZE
    first = min(len(data), RawLane.REQUEST_DATA + RawLane.RING_SIZE - start)
    lane.memory[start : start + first] = data[:first]
    lane.memory[RawLane.REQUEST_DATA : RawLane.REQUEST_DATA + len(data) - first] = data[first:]
    lane.store(RawLane.REQUEST_TAIL, tail + len(data))
    lane.ring()


def is_ended(member: RawMember, wait_s: float = 0.0) -> bool:
    """Whether the server has ended the connection; waits for that."""
    return bool(select.select([member.socket], [], [], wait_s)[0])


def admitted(reply: bytes) -> bytes:
    """A reply, unless it says that the server has no room for another client: those that have gone may still count.

    Raises:
        ConnectionRefusedError: It says so.
    """
    if reply.startswith(b"-MAXCLIENTS"):
        raise ConnectionRefusedError(reply.decode())
    return reply


def settle(lane: RawLane, wait_s: float = 0.05) -> bool:
    """Wait until the server has taken all that was published or has ended the connection; return whether it did so."""
    deadline = time.monotonic() + wait_s
    while lane.load(RawLane.REQUEST_HEAD) != lane.load(RawLane.REQUEST_TAIL):
        if is_ended(lane, 0.0002):
            return True
        if time.monotonic() > deadline:
            break
    return is_ended(lane)


def ask(lane: RawLane, request: bytes) -> None:
    """Have a well-formed request answered, and pass over the reply."""
    assert is_answered(lane, request), f"the server ended a connection: {lane.last_words()!r}"


def is_answered(lane: RawLane, request: bytes) -> bool:
    """The same, unless the server ends the connection instead; return whether it has answered."""
    publish(lane, request)
    deadline = time.monotonic() + DEADLINE_S
    while lane.load(RawLane.RESPONSE_TAIL) == lane.load(RawLane.RESPONSE_HEAD):
        if is_ended(lane, 0.0001):
            return False
        assert time.monotonic() < deadline, f"the server did not answer within {DEADLINE_S} s"
    lane.store(RawLane.RESPONSE_HEAD, lane.load(RawLane.RESPONSE_TAIL))
    return True


def positions(target: Target, random: Random) -> Attacks:
    """Positions that cannot be: in front of the server, behind it, between words."""
    while True:
        with target.lane() as lane:
            size = RawLane.RING_SIZE
            if random.random() < 0.5:
                # Where the server has got to.
                near = 8 * random.randrange(4)
                publish(lane, record(PING) * (near // 8))
                assert not settle(lane, DEADLINE_S)
                position = random.choice(boundaries(near, size))
                # What lies in front of it is no record, or was one.
                lane.memory[RawLane.REQUEST_DATA + near : RawLane.REQUEST_DATA + size] = bytes(size - near)
                lane.store(RawLane.REQUEST_TAIL, position)
                lane.ring()
                allowed = near <= position <= near + size and position % 8 == 0
                if position != near:
                    words = lane.last_words()
                    assert (b"record" if allowed else b"position") in words, (near, position, words)
            else:
                # How far we have read is looked at once there is no room for more.
                for _ in range(40):
                    publish(lane, record(STATS) * 2)
                settle(lane)
                published = lane.load(RawLane.RESPONSE_TAIL)
                position = random.choice(boundaries(published, size))
                lane.store(RawLane.RESPONSE_HEAD, position)
                lane.ring()
                if published == size and (position % 8 or position > published):
                    words = lane.last_words()
                    assert b"position" in words, (position, words)
        yield


def records(target: Target, random: Random) -> Attacks:
    """Well-formed records of which one field is not."""
    while True:
        with target.lane() as lane:
            for _ in range(16):
                arguments = [own_key(random), random.randbytes(random.randrange(40)), b"EX", b"1"]
                data = bytearray(
                    record(random.choice([PING, GET, SET, DEL, EXPIRE]), *arguments[: random.randrange(5)])
                )
                match random.randrange(5):
                    case 0:
                        struct.pack_into("<I", data, 0, random.choice(boundaries(len(data), 1 << 17)) & 0xFFFFFFFF)
                    case 1:
                        number = random.choice([*range(40), 0x7FFF, 0xFFFF])
                        struct.pack_into("<H", data, 4, number if number != FLUSHALL else PING)
                    case 2:
                        struct.pack_into("<H", data, 6, random.choice([0, 1, 2, 5, 16, 17, 255, 0x7FFF, 0xFFFF]))
                    case 3 if len(data) >= 16:
                        length = random.choice(boundaries(8, 65_535)) & 0xFFFFFFFF
                        struct.pack_into("<I", data, 8 + 4 * random.randrange(2), length)
                    case _:
                        place = random.randrange(0, len(data), 8)
                        # What is not the head is an own key, a length, or a value.
                        data[place : place + 8] = random_words(random, 1)
                publish(lane, bytes(data))
                yield
                if settle(lane, 0.01):
                    break


def races(target: Target, random: Random) -> Attacks:
    """Fields that change while the server reads them: what it checks has to be what it uses."""
    large = 1 << 16
    while True:
        with target.lane() as lane, ExitStack() as stack:
            lane.memory[RawLane.REQUEST_DATA : RawLane.REQUEST_DATA + RawLane.RING_SIZE] = padded(PREFIX) * (
                RawLane.RING_SIZE // 8
            )
            place, start = 0, RawLane.REQUEST_DATA
            match random.randrange(4):
                case 0:
                    words = [8 | PING << 32, random.choice(boundaries(8, 1 << 17))]
                    words = [word if (word >> 32 & 0xFFFF) != FLUSHALL else 0 for word in words]
                case 1:
                    # The size of a large value, and whether it is one.
                    sizes = random.choices([large, large + 8, 3 * large, (1 << 32) - 8, 1 << 20, 24], k=2)
                    words = [size | SET << 32 | random.choice([2, 3, 4, 16, 17]) << 48 for size in sizes]
                    lane.store(start + 8, random.choice([8, 65_535]) | random.choice([large, 2 * large]) << 32)
                case 2:
                    # The lengths of its key and of it.
                    lane.store(start, 3 * large | SET << 32 | 2 << 48)
                    place = 8
                    words = [
                        random.choice([8, 65_535, 65_536])
                        | (random.choice(boundaries(large, large)) & 0xFFFFFFFF) << 32
                        for _ in range(2)
                    ]
                case _:
                    lane.memory[start : start + 8 * 64] = record(PING) * 64
                    start = place = RawLane.REQUEST_TAIL
                    words = [8 * random.randrange(64), random.choice(boundaries(8, RawLane.RING_SIZE))]
            stack.enter_context(Hammer(lane.memory, start if place == start else start + place, words))
            if start != RawLane.REQUEST_TAIL:
                lane.store(RawLane.REQUEST_TAIL, random.choice([8, 16, 24, 256, large, RawLane.RING_SIZE]))
            for _ in range(random.randrange(1, 6)):
                lane.ring()
                if is_ended(lane, 0.0005):
                    break
        yield


def noise(target: Target, random: Random) -> Attacks:
    """Noise over all of a lane, or a part of it."""
    while True:
        with target.lane() as lane:
            size = len(lane.memory)
            for _ in range(8):
                count = random.choice([1, 1, 8, 512, 16 << 10])
                # The control words are in front.
                start = random.randrange(0, 4_096 if random.random() < 0.5 else size - 8 * count, 8)
                count = min(count, (size - start) // 8)
                lane.memory[start : start + 8 * count] = random_words(random, count)
                lane.ring()
                yield
                if is_ended(lane, 0.0005):
                    break


def pins(target: Target, random: Random) -> Attacks:
    """Pins of nonsense, and of entries that others use, changed all the time."""
    while True:
        with target.lane() as lane, table_of(lane) as table:
            ask(lane, record(PINS))
            for _ in range(500):
                entries = slots_of(table, random)
                words = [
                    random.choice([*boundaries(8, len(table) // 8)[:8], random.getrandbits(64), random.getrandbits(24)])
                    if random.random() < 0.3 or not entries
                    else random.choice(entries)
                    for _ in range(64)
                ]
                lane.memory[1_024:1_536] = struct.pack("<64Q", *words)
                yield
            with Hammer(lane.memory, 1_024, words):
                ask(lane, record(PING))
                time.sleep(random.random() / 100)
            yield


@contextmanager
def table_of(member: RawMember) -> Iterator[mmap.mmap]:
    """The table, as any client may map it."""
    size = os.fstat(member.table).st_size
    with closing(mmap.mmap(member.table, size, mmap.MAP_SHARED, mmap.PROT_READ)) as table:
        yield table


def slots_of(table: mmap.mmap, random: Random) -> list[int]:
    """The places of some entries: those of a few buckets."""
    (buckets,) = struct.unpack_from("<Q", table, 128)
    found: list[int] = []
    for _ in range(8):
        slots = struct.unpack_from("<8Q", table, 65_536 + 64 * random.randrange(buckets))
        found += [slot & (1 << 41) - 1 for slot in slots[1:] if slot]
    return found


def hints(target: Target, random: Random) -> Attacks:
    """Hints of nonsense, as many and as fast as can be."""
    while True:
        with target.lane() as lane:
            for _ in range(200):
                position = lane.load(1_536)
                lane.memory[1_664 : 1_664 + 8 * 256] = random.randbytes(8 * 256)
                lane.store(1_536, random.choice([position + 256, *boundaries(position, 256)]) & WORD_MAX)
                yield
            step = random.choice([1, 256, 1 << 40])
            with Hammer(lane.memory, 1_536, [position + step * turn & WORD_MAX for turn in range(64)]):
                time.sleep(0.02)
            yield


def waiting_flags(target: Target, random: Random) -> Attacks:
    """Lies about sleep, processors and kinds of lanes. A client that rings is served all the same."""
    places = [0, 8, 16, 24, 640, 640, 640, 768]
    while True:
        with target.lane() as lane:
            for _ in range(200):
                word = random.choice([0, 1, *(cpu << 8 | asleep for cpu in range(3) for asleep in (0, 1)), WORD_MAX])
                lane.store(random.choice(places), word)
                ask(lane, record(PING))
                yield
            with Hammer(lane.memory, 640, [0, 1, WORD_MAX, 256]):
                for _ in range(100):
                    ask(lane, record(PING))
                    yield


def doorbell(target: Target, random: Random) -> Attacks:
    """Rings for nothing, with a counter that is full, through descriptors that were made to block."""
    while True:
        with target.lane() as lane:
            flags = fcntl.fcntl(lane.request_bell, fcntl.F_GETFL)
            fcntl.fcntl(lane.request_bell, fcntl.F_SETFL, flags | os.O_NONBLOCK)
            for _ in range(2_000):
                with suppress(BlockingIOError):
                    os.eventfd_write(lane.request_bell, random.choice([1, 1, 1, WORD_MAX - 1]))
                yield
            # Whoever waits on a descriptor that we were given is woken with us: others of our own, one in the other.
            with ExitStack() as stack:
                inner = lane.listener
                for _ in range(4):
                    outer = stack.enter_context(closing(select.epoll()))
                    with suppress(OSError):
                        outer.register(inner, select.EPOLLIN | select.EPOLLET)
                    inner = outer.fileno()
                lane.store(640, 1)
                for _ in range(100):
                    ask(lane, record(PING))
                    yield


# Sockets


TEMPLATES = (
    resp(b"SET", PREFIX, b"value", b"PX", b"1000"),
    resp(b"GET", PREFIX),
    resp(b"DEL", PREFIX, PREFIX),
    resp(b"PING"),
    b"PING\r\n",
    resp(b"HELLO", b"3"),
    resp(b"SCAN", b"0", b"COUNT", b"10"),
    resp(b"INCRBY", PREFIX + b"n", b"1"),
    resp(b"SET", PREFIX, bytes(LARGE_VALUE_SIZE)),
)
NUMBERS = [
    -2,
    -1,
    0,
    1,
    2,
    65_535,
    65_536,
    65_537,
    VALUE_SIZE_MAX,
    VALUE_SIZE_MAX + 1,
    1 << 31,
    1 << 32,
    1 << 63,
    1 << 64,
]


def malformed(target: Target, random: Random) -> Attacks:
    """Requests in RESP with a wrong number, a wrong byte, no end, or far too much of something; cut anywhere."""
    while True:
        data = bytearray(b"".join(random.choices(TEMPLATES, k=random.randrange(1, 4))))
        match random.randrange(6):
            case 0:
                for _ in range(random.randrange(1, 6)):
                    # Not a letter, so that no other command comes of it.
                    data[random.randrange(min(len(data), 200))] = random.choice(b"\r\n*$:+-0123456789\x00\xff")
            case 1:
                data[1 : data.index(b"\r")] = b"%d" % random.choice(NUMBERS)
            case 2:
                with suppress(ValueError):
                    start = data.index(b"$") + 1
                    data[start : data.index(b"\r", start)] = b"%d" % random.choice(NUMBERS)
            case 3:
                data = bytearray(random.choice([b"*", b"$", b"x", b"\r\n", b"*1\r\n", b"\x00"]) * 70_000)
            case 4:
                data = bytearray(b"*65536\r\n" + b"$0\r\n\r\n" * random.randrange(70_000))
            case _:
                del data[random.randrange(len(data)) :]
        with closing(target.socket(random)) as connection:
            connection.setblocking(False)
            with suppress(BlockingIOError, ConnectionError):
                sent = 0
                while sent < len(data):
                    piece = random.choice([1, 3, 1_000, len(data)])
                    sent += connection.send(data[sent : sent + piece])
            match random.randrange(3):
                case 0:
                    # Gone with a reset.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                case 1:
                    with suppress(OSError):
                        connection.shutdown(random.choice([socket.SHUT_RD, socket.SHUT_WR]))
                case _:
                    with suppress(BlockingIOError, ConnectionError):
                        connection.recv(4_096)
        yield


def foreign(target: Target, random: Random) -> Attacks:
    """What other protocols say, behind valid requests and with orders in it and behind it, cut anywhere.

    The requests before it are answered, the connection ends, and no order is executed.
    """
    valid = [(b"PING\r\n", b"+PONG"), (resp(b"EXISTS", MARK + b"\x00 HTTP/1.1\r\n"), b":0")]
    behind = [*ORDERS, b"\r\n", resp(b"PING")]
    while True:
        before = random.choices(valid, k=random.randrange(3))
        said = b"".join(request for request, _ in before) + other_protocol(random)
        said += b"".join(random.choices([*behind, random.randbytes(9)], k=random.randrange(1, 6)))
        cuts = sorted(random.randrange(len(said)) for _ in range(random.choice([0, 1, 1, 3])))
        heard = b""
        with closing(target.socket(random)) as connection:
            try:
                for start, stop in zip([0, *cuts], [*cuts, len(said)], strict=True):
                    connection.sendall(said[start:stop])
                while chunk := connection.recv(4_096):
                    heard = admitted(heard + chunk)
            except (ConnectionResetError, BrokenPipeError):
                # Bytes that the server has not read make it a reset, which may take its last words away.
                pass
            except TimeoutError:
                raise AssertionError(f"forbidden: the server goes on with who says {said!r}: {heard!r}") from None
        replies, expected = heard.split(b"\r\n")[:-1], [reply for _, reply in before]
        assert replies[: len(expected)] == expected[: len(replies)], (said, heard)
        errors = replies[len(expected) :]
        assert len(errors) <= 1, f"forbidden: to {said!r} the server says {heard!r}"
        assert all(error.startswith(b"-ERR") for error in errors), (said, heard)
        with closing(target.socket()) as connection:
            connection.sendall(resp(b"EXISTS", MARK))
            found = admitted(connection.recv(100))
        assert found == b":0\r\n", f"forbidden: {said!r} has executed something: {found!r}"
        yield


def extremes(target: Target, random: Random) -> Attacks:
    """Well-formed requests with arguments at the edges of what they may be; each is answered."""
    words = [b"%d" % (number % (1 << 64) - (random.random() < 0.5)) for number in boundaries(0, 1 << 20)]
    words += [b"", b"-1", b"text", b"1e9", b"-9223372036854775808", b"\x00" * 9, b"nan"]
    key = PREFIX + b"n"
    with closing(target.socket(random)) as connection, connection.makefile("rb") as replies:
        while True:
            word, other = random.choice(words), random.choice(words)
            long = PREFIX + b"l" * random.choice([65_528, 65_529, 70_000])
            request = random.choice(
                [
                    [b"INCRBY", key, word],
                    [b"DECRBY", key, word],
                    [b"SET", key, b"1", random.choice([b"EX", b"PX", b"IFVERSION"]), word],
                    [b"EXPIRE", key, word],
                    [b"PEXPIRE", key, word],
                    [b"SCAN", word, b"COUNT", other],
                    [b"RING.BUCKET", word],
                    [b"RING.DUMP", word],
                    [b"RING.GETV", key],
                    [b"RING.DELV", key, word],
                    [b"RING.INCR", key, word, b"MIN", other],
                    [b"RING.LEASE", key, word],
                    [b"RING.UNLEASE", key, word],
                    [b"RING.UNLEASE", key, b"TICKET", word],
                    [b"RING.LEASE", key, b"1", b"AFTER", word],
                    # It ends nothing to wait for a lease that there is not.
                    [b"RING.WAIT", key, word, other],
                    [b"RING.UNWAIT", key, word],
                    [
                        b"RING.HANDOVER",
                        key,
                        word,
                        random.choice([b"UNSTORED", b"FAILED"]),
                        *[long] * random.choice([0, 1]),
                    ],
                    [b"SET", long, word],
                    [b"GET", long],
                    [b"DEL", *[key] * random.choice([1, 1_000, 65_535])],
                    [b"DEL", key],
                    [b"RING.PINS"],
                    [b"HELLO", word],
                    [b"RING.STATS"],
                ]
            )
            connection.sendall(resp(*request))
            skip_reply(replies)
            yield


def skip_reply(replies: Any) -> None:
    line = admitted(replies.readline())
    assert line.endswith(b"\r\n"), f"the server ended a connection that asked for nothing forbidden: {line!r}"
    kind, rest = line[:1], line[1:-2]
    if kind == b"$" and rest != b"-1":
        replies.read(int(rest) + 2)
    elif kind in b"*%" and rest != b"-1":
        for _ in range(int(rest) * (2 if kind == b"%" else 1)):
            skip_reply(replies)


def collisions(target: Target, random: Random) -> Attacks:
    """Keys that all have one hash, by the seed that a client can read: they fill two buckets, which have an end.

    The short ones one, and the longest ones, which are compared to their last bytes, the other.
    """
    with closing(target.lane()) as lane:
        seed = seed_of(lane.table)
    made, made_long = colliding(seed, PREFIX, random), colliding_long(seed, PREFIX, random)
    keys = [next(made) for _ in range(3 * BUCKET_ENTRIES_MAX)] + [next(made_long) for _ in range(40)]
    with closing(target.socket(random)) as connection, connection.makefile("rb") as replies:
        # All of them, and then, again and again, some: the bucket is as full as it gets.
        requests = [[b"SET", key, b"value"] for key in keys]
        while True:
            key, some = random.choice(keys), random.sample(keys, random.choice([1, 16, 256]))
            made_up = random.randrange(34) << 32 | random.getrandbits(31)
            for request in [*requests, [b"RING.BUCKET", key]]:
                connection.sendall(resp(*request))
                if request[0] == b"RING.BUCKET":
                    count = int(admitted(replies.readline())[1:])
                    assert count <= 2 * BUCKET_ENTRIES_MAX, f"forbidden: a bucket of {count // 2} entries"
                    for _ in range(count):
                        skip_reply(replies)
                else:
                    skip_reply(replies)
            requests = random.choice(
                [
                    [[b"SET", each, b"value", *random.choice([[], [b"PX", b"20"], [b"EX", b"9"]])] for each in some],
                    [[b"EXISTS", *some]],
                    [[b"EXISTS", *some * 100]],
                    [[b"GET", key], [b"INCRBY", key, b"1"], [b"PEXPIRE", key, b"20"]],
                    [[b"DEL", *some]],
                    [[b"SCAN", b"%d" % made_up, b"COUNT", b"100000"]],
                ]
            )
            yield


def unread(target: Target, random: Random) -> Attacks:
    """Requests with long replies that are never read."""
    with ExitStack() as stack:
        with closing(target.socket()) as connection:
            connection.sendall(resp(b"SET", PREFIX + b" large", bytes(1 << 20)))
            connection.recv(100)
        held: deque[socket.socket] = deque()
        while True:
            connection = stack.enter_context(target.socket(random))
            connection.setblocking(False)
            request = random.choice([[b"GET", PREFIX + b" large"], [b"RING.STATS"], [b"RING.DUMP", b"0"], [b"PING"]])
            with suppress(BlockingIOError, ConnectionError):
                for _ in range(20):
                    connection.send(resp(*request) * 200)
            held.append(connection)
            if len(held) > HELD:
                held.popleft().close()
            yield


def ahead(target: Target, random: Random) -> Attacks:
    """As many requests as the server takes, of any size, whose replies are not read before it has had enough.

    What is read then is what was owed, and the reason last.
    """
    requests = [resp(b"PING"), resp(b"GET", PREFIX), resp(b"SET", PREFIX, bytes(50_000)), resp(b"RING.STATS")]
    with ExitStack() as stack:
        held: deque[socket.socket] = deque()
        while True:
            connection = stack.enter_context(target.socket(random))
            held.append(connection)
            if len(held) > HELD:
                held.popleft().close()
            with suppress(ConnectionError):
                for _ in range(random.choice([4, 16, 48])):
                    request = random.choice(requests)
                    connection.sendall(request * ((1 << 20) // len(request)))
                    yield
            if random.random() < 0.2:
                last = b""
                with suppress(ConnectionError), closing(held.pop()):
                    connection.shutdown(socket.SHUT_WR)
                    while piece := connection.recv(1 << 20):
                        last = (last + piece)[-200:]
                    assert last.endswith(b"\r\n"), f"a connection ends in the middle of a reply: {last!r}"
                yield


def drafts(target: Target, random: Random) -> Attacks:
    """Large values that are announced and never come, or in part."""
    sizes = [LARGE_VALUE_SIZE - 1, LARGE_VALUE_SIZE, 1 << 20, 16 << 20, VALUE_SIZE_MAX, VALUE_SIZE_MAX + 1]
    with ExitStack() as stack:
        held: deque[RawLane | socket.socket] = deque()
        while True:
            size, part = random.choice(sizes), random.randbytes(8) * random.choice([0, 1, 1_000, 12_000])
            if random.random() < 0.5:
                connection = stack.enter_context(target.socket(random))
                connection.setblocking(False)
                head = b"*3\r\n$3\r\nSET\r\n$7\r\n%b\r\n$%d\r\n" % (PREFIX, size)
                with suppress(BlockingIOError, ConnectionError):
                    connection.send(head + part)
                held.append(connection)
            else:
                lane = stack.enter_context(target.lane())
                whole = 16 + 8 + -(-size // 8) * 8
                head = struct.pack("<IHHII", whole, SET, 2, len(PREFIX), size) + padded(PREFIX)
                publish(lane, head + part[: RawLane.RING_SIZE - len(head)])
                held.append(lane)
            if len(held) > HELD:
                held.popleft().close()
            yield


def unfinished(target: Target, random: Random) -> Attacks:
    """Requests that are gathered and never end: as much of them as the server takes.

    The connection that goes beyond the bound is ended, and none before it.
    """
    piece = bytes(1 << 20)
    held: list[socket.socket] = []
    gathered = 0
    try:
        while True:
            if not held or (random.random() < 0.05 and len(held) < HELD):
                connection = target.socket(random)
                connection.sendall(b"*2\r\n$3\r\nDEL\r\n$%d\r\n" % VALUE_SIZE_MAX)
                held.append(connection)
            connection = random.choice(held)
            connection.settimeout(DEADLINE_S)
            try:
                connection.sendall(piece)
                gathered += len(piece)
            except ConnectionError:
                gathered = target.unfinished_max
            if gathered >= target.unfinished_max:
                while held:
                    held.pop().close()
                gathered = 0
            yield
    finally:
        for connection in held:
            connection.close()


def leases(target: Target, random: Random) -> Attacks:
    """All leases that there are, and keys that are as long as can be."""
    number = 0
    while True:
        with closing(target.socket(random)) as connection, connection.makefile("rb") as replies:
            filling = b"l" * random.choice([0, 0, 60_000])
            refused = False
            while not refused:
                keys = [PREFIX + b" %d " % (number + index) + filling for index in range(32)]
                number += len(keys)
                connection.sendall(b"".join(resp(b"RING.LEASE", key) for key in keys))
                for _ in keys:
                    refused |= replies.readline().startswith(b"-LEASES")
                    yield


def watches(target: Target, random: Random) -> Attacks:
    """Watches that are never read, and lies about their sleep."""
    with ExitStack() as stack:
        held: deque[tuple[ExitStack, mmap.mmap]] = deque()
        while True:
            one = ExitStack()
            stack.callback(one.close)
            connection = one.enter_context(target.socket())
            connection.sendall(resp(*(word.encode() for word in watch_request())))
            reply, descriptors, _, _ = socket.recv_fds(connection, 256, 8)
            for descriptor in descriptors:
                one.callback(os.close, descriptor)
            reply = admitted(reply)
            assert reply.startswith((b"+WATCH", b"-OOM")), reply
            if len(descriptors) == 3:
                state = one.enter_context(closing(mmap.mmap(descriptors[1], 4_096)))
                held.append((one, state))
            for _, state in held:
                for _ in range(20):
                    place = random.choice([0, 0, 0, 8 * random.randrange(512)])
                    state[place : place + 8] = random.choice([1, 1, 0, WORD_MAX]).to_bytes(8, "little")
                    yield
            if len(held) > HELD:
                held.popleft()[0].close()


def handshake(target: Target, random: Random) -> Attacks:
    """Joining that is given up at each step, mixed up, repeated, or comes with descriptors that nobody asked for."""
    joins = [resp(*(word.encode() for word in words())) for words in (lane_request, rings_request, watch_request)]
    while True:
        join = random.choice(joins)
        with ExitStack() as stack:
            connection = stack.enter_context(target.socket(random if random.random() < 0.3 else None))
            local = connection.family == socket.AF_UNIX
            # Not everything has a reply.
            connection.settimeout(0.02)
            with suppress(ConnectionError, TimeoutError):
                match random.randrange(8):
                    case 0:
                        pass
                    case 1:
                        connection.sendall(join[: random.randrange(len(join))])
                    case 2:
                        # Gone before the descriptors come, or with them on their way.
                        connection.sendall(join)
                        if random.random() < 0.5:
                            connection.shutdown(random.choice([socket.SHUT_RD, socket.SHUT_WR]))
                    case 3:
                        connection.sendall(join + random.choice([b"x", join, resp(b"PING") * 50]))
                        connection.recv(256)
                    case 4 if local:
                        send_descriptors(
                            connection, random.choice([join, b"PING\r\n", b"*"]), random.choice([1, 16, 250])
                        )
                        connection.recv(256)
                    case 5 if local:
                        # The same behind the handshake.
                        connection.sendall(join)
                        for descriptor in socket.recv_fds(connection, 256, 8)[1]:
                            stack.callback(os.close, descriptor)
                        send_descriptors(connection, b"x", random.choice([1, 16, 250]))
                        connection.recv(256)
                    case 6:
                        # Another version, of what comes second or, if there is that, third.
                        words = join.split(b"\r\n")
                        place = random.choice(range(4, len(words), 2))
                        words[place] = b"9" * len(words[place])
                        connection.sendall(b"\r\n".join(words))
                        connection.recv(256)
                    case _ if local:
                        # The memory and the bell outlive the connection.
                        lane = stack.enter_context(target.lane())
                        lane.socket.close()
                        publish(lane, record(PING) * 100)
            yield


def passing(target: Target, random: Random) -> Attacks:
    """Files for which who lets go of them last waits, passed to a server that wants none, wherever it may drop them."""
    joins = [resp(*(word.encode() for word in words())) for words in (lane_request, rings_request, watch_request)]
    while True:
        with Passing() as passing, ExitStack() as stack:
            for _ in range(8):
                connection = stack.enter_context(closing(target.socket()))
                before = random.choice([b"", resp(b"PING"), *joins])
                with suppress(ConnectionError):
                    connection.sendall(before)
                    if before:
                        for descriptor in socket.recv_fds(connection, 256, 8)[1]:
                            stack.callback(os.close, descriptor)
                    passing.to(
                        connection,
                        random.choice([b"PING\r\n", b"x"]),
                        count=random.choice([1, 1, 4, 250]),
                        depth=random.choice([0, 0, 1, 3]),
                    )
                if random.random() < 0.5:
                    connection.close()
                yield


def send_descriptors(connection: socket.socket, data: bytes, count: int) -> None:
    # Newer kernels refuse it.
    with open(os.devnull, "rb") as file, suppress(PermissionError):
        socket.send_fds(connection, [data], [file.fileno()] * count)


def crowd(target: Target, random: Random) -> Attacks:
    """Connections until there are no more."""
    while True:
        with ExitStack() as stack:
            for _ in range(1 << 10):
                connection = stack.enter_context(target.socket(random))
                if random.random() < 0.3:
                    with suppress(ConnectionError):
                        connection.sendall(random.choice([b"*", b"PING\r\n"]))
                yield
                if random.random() < 0.2 and select.select([connection], [], [], 0.001)[0]:
                    with suppress(ConnectionError):
                        if connection.recv(100).startswith(b"-MAXCLIENTS"):
                            break


def put(target: Target, key: bytes, value: bytes) -> None:
    """Write a key."""
    with closing(target.socket()) as connection:
        connection.sendall(resp(b"SET", key, value))
        reply = admitted(connection.recv(100))
        assert reply == b"+OK\r\n", reply


def single(target: Target, random: Random) -> Attacks:
    """Single requests on a large value: they cost no more than on a small one, and no copy of it."""
    key, count = PREFIX + b" huge", 2_000
    put(target, key, bytes(16 << 20))
    requests = [
        record(INCR, key),
        record(RING_INCR, key, b"1"),
        record(EXPIRE, key, b"1000"),
        record(PEXPIRE, key, b"1000000"),
        record(DELV, key, b"1"),
        record(SET, key, b"", b"NX"),
    ]
    with ExitStack() as stack:
        held: deque[socket.socket] = deque()
        while True:
            # To copy it for each of them would take half a minute.
            with target.lane() as lane:
                publish(lane, random.choice(requests) * count)
                assert not settle(lane, DEADLINE_S), f"the server ended a connection: {lane.last_words()!r}"
                taken = lane.load(RawLane.REQUEST_HEAD)
                assert taken == lane.load(RawLane.REQUEST_TAIL), f"{count} requests took longer than {DEADLINE_S} s"
            yield
            # Replies with the value in them, of which a part is read, or nothing.
            connection = stack.enter_context(closing(target.socket(random)))
            connection.sendall(resp(random.choice([b"GET", b"RING.GETV", b"RING.BUCKET"]), key))
            held.append(connection)
            if random.random() < 0.5:
                admitted(connection.recv(random.choice([1, 100, 1 << 20])))
            if len(held) > HELD or random.random() < 0.2:
                held.popleft().close()
            yield


def wills(target: Target, random: Random) -> Attacks:
    """Lanes that are full of requests when their owner goes: all of them are executed, and nobody waits for that."""
    key, middling = PREFIX + b" heavy", PREFIX + b" middling"
    put(target, key, bytes(256 << 10))
    put(target, middling, bytes(LARGE_VALUE_SIZE - 1))
    while True:
        request, count = random.choice(
            [
                (record(EXPIRE, key, b"1000"), 1_000),
                (record(PING), 10_000),
                (record(STATS), 64),
                (record(GET, key), 1_000),
                (record(GET, middling), 1_000),
            ]
        )
        with target.lane() as lane:
            lane.memory[RawLane.REQUEST_DATA : RawLane.REQUEST_DATA + count * len(request)] = request * count
            # What is behind it is in front of it, too, if it is believed to be more.
            lane.store(RawLane.REQUEST_TAIL, count * len(request) + random.choice([0, 0, 0, 8, 1 << 20]))
            if random.random() < 0.3:
                lane.ring()
        yield


def sealing(target: Target, random: Random) -> Attacks:
    """Attempts to write to the table, or to change the size of anything."""
    while True:
        with target.lane() as lane, table_of(lane) as table:
            for attempt in attempts_to_write(lane, random.randrange(len(table))):
                assert number_of_error(attempt) in REFUSALS, "the kernel lets a client write to the table, or resize it"
                yield
            assert not punch(lane), "the kernel lets a client punch holes into its lane, where a worker waits for it"
            lane.ring()
            yield


def punch(lane: RawLane) -> bool:
    """Try to punch a hole of the size of a lane into it; return whether that is possible."""
    result = LIBC.fallocate(lane.segment, 3, ctypes.c_long(0), ctypes.c_long(len(lane.memory)))
    assert result == 0 or ctypes.get_errno() == errno.EPERM
    return bool(result == 0)


def unsealed(target: Target, random: Random) -> Attacks:
    """Lanes that could have holes punched into them, all the time, while they ask to be served: none is."""
    while True:
        with target.lane(sealed=False) as lane:
            end = threading.Event()

            def punching(lane: RawLane = lane, end: threading.Event = end) -> None:
                while punch(lane) and not end.is_set():
                    pass

            thread = threading.Thread(target=punching)
            thread.start()
            try:
                for _ in range(random.randrange(20)):
                    lane.store(random.choice([RawLane.REQUEST_TAIL, 640]), random.choice([1, 8, 64]))
                    yield
                if random.random() < 0.5:
                    publish(lane, record(PING), 0)
                    words = lane.last_words()
                    assert b"not sealed" in words, words
                yield
            finally:
                end.set()
                thread.join()


def pages(target: Target, random: Random) -> Attacks:
    """All that can be done to the table's memory with a descriptor for reading: it fills, and is given back."""
    while True:
        with target.lane() as lane, ExitStack() as stack:
            size = os.fstat(lane.table).st_size
            maps = [stack.enter_context(table_of(lane)) for _ in range(8)]
            # A process that opened the file again would wait for 45 s, until we give the lease up.
            with suppress(OSError):
                fcntl.fcntl(lane.table, fcntl.F_SETLEASE, random.choice([fcntl.F_RDLCK, fcntl.F_WRLCK]))
            for _ in range(200):
                start = random.randrange(0, size, mmap.PAGESIZE)
                match random.randrange(5):
                    case 0:
                        for _ in range(50):
                            with suppress(OSError):
                                os.lseek(lane.table, start, random.choice([os.SEEK_HOLE, os.SEEK_DATA]))
                    case 1:
                        os.posix_fadvise(lane.table, start, size - start, random.choice([3, 4]))
                    case 2:
                        os.pread(lane.table, 1 << 20, start)
                    case _:
                        advice = random.choice([ADVICE_POPULATE_READ, *ADVICES])
                        with suppress(OSError, ValueError):
                            random.choice(maps).madvise(advice, start, min(size - start, random.choice(ADVISED_SIZES)))
                yield


def waiters(target: Target, random: Random) -> Attacks:
    """Thousands of waiters on one's end of the socket, and on what one was given to sleep on, woken with each reply."""
    ping = resp(b"PING")
    while True:
        with target.lane() as lane, closing(target.socket()) as connection:
            descriptor = random.choice([connection.fileno(), lane.listener])
            with many_waiters(descriptor, 1 << 16) as are_there:
                while are_there():
                    if descriptor == lane.listener:
                        lane.store(640, 1)
                        if not is_answered(lane, record(PING)):
                            break
                    else:
                        connection.sendall(ping)
                        if not admitted(connection.recv(100)):
                            break
                    yield


@contextmanager
def many_waiters(descriptor: int, count: int, wait_ms: int = 500) -> Iterator[Callable[[], bool]]:
    """Have so many waiters on a descriptor for a while; gives a function that tells whether any are there."""
    at_once = min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    entries = (Waiter * at_once)()
    for entry in entries:
        entry.fd, entry.events = descriptor, select.POLLPRI
    # What ends them all.
    end = os.eventfd(0)
    entries[0].fd, entries[0].events = end, select.POLLIN
    threads = [
        threading.Thread(target=LIBC.poll, args=(entries, at_once, wait_ms)) for _ in range(-(-count // at_once))
    ]
    for thread in threads:
        thread.start()
    try:
        yield lambda: any(thread.is_alive() for thread in threads)
    finally:
        os.eventfd_write(end, 1)
        for thread in threads:
            thread.join()
        os.close(end)


class Waiter(ctypes.Structure):
    """`struct pollfd`."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


def attempts_to_write(lane: RawLane, place: int) -> list[Callable[[], object]]:
    return [
        lambda: mmap.mmap(lane.table, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_WRITE),
        lambda: mmap.mmap(lane.table, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
        lambda: os.pwrite(lane.table, b"x", place),
        lambda: os.ftruncate(lane.table, place),
        lambda: os.ftruncate(lane.segment, place),
        lambda: fcntl.fcntl(lane.table, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        lambda: fcntl.fcntl(lane.segment, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        lambda: os.posix_fallocate(lane.table, 0, place + 1),
        lambda: os.sendfile(lane.table, lane.segment, 0, 8),
    ]


def number_of_error(attempt: Callable[[], object]) -> int | None:
    """The number of the error that an attempt raises; `None` if it succeeds."""
    try:
        attempt()
    except OSError as error:
        return error.errno
    return None


# Shared rings


def queue_words(rings: RawRings) -> tuple[int, int]:
    """Where the queue begins, and its words."""
    return rings.slot(0), rings.slots * rings.slot_words


def stamps(target: Target, random: Random) -> Attacks:
    """Stamps that cannot be, near the tail, in anybody's name."""
    with closing(target.rings()) as rings:
        while True:
            position = rings.words[rings.QUEUE_TAIL] % (1 << 40) + random.randrange(-4, 8)
            laps = random.choice([-2, -1, 0, 0, 1, 2, 1 << 20, (1 << 45) - 1])
            owner = random.choice([0, 1, rings.number, 500, 0xFFFF])
            word = rings.stamp(max(position, 0), random.choice(list(SlotState)), owner, laps) & WORD_MAX
            rings.words[rings.slot(position)] = word
            rings.ring()
            yield


def tails(target: Target, random: Random) -> Attacks:
    """Tails that cannot be, and workers that seem awake."""
    with closing(target.rings()) as rings:
        while True:
            place = random.choice([rings.QUEUE_TAIL, rings.QUEUE_TAIL, rings.RESPONSE_TAIL, 48])
            rings.words[place] = random.choice(boundaries(rings.words[place], rings.slots))
            rings.ring()
            yield
            if random.random() < 0.1:
                # What a client checks when it joins; for a moment, since nobody can join meanwhile.
                place = random.randrange(7)
                right = rings.words[place]
                rings.words[place] = random.choice(boundaries(right, rings.slots))
                try:
                    yield
                finally:
                    rings.words[place] = right


def cursors(target: Target, random: Random) -> Attacks:
    """Cursors that hold everybody back, that go back, or that are ahead; those of others, too."""
    with closing(target.rings()) as rings:
        while True:
            number = random.choice([rings.number, rings.number, random.randrange(16)])
            near = rings.words[rings.RESPONSE_TAIL]
            rings.words[rings.CURSORS + 32 * number] = random.choice([WORD_MAX, *boundaries(near, rings.slots)])
            rings.words[rings.CURSORS + 32 * number + 16] = random.choice([0, 1, WORD_MAX])
            yield


def slots(target: Target, random: Random) -> Attacks:
    """Heads and pieces of nonsense, published or in the slots of others."""
    while True:
        with closing(target.rings()) as rings:
            while not is_ended(rings):
                with suppress(AssertionError):
                    position = rings.claim()
                    size = random.choice([0, 1, 8, 8 * (rings.slot_words - 2), 8 * (rings.slot_words - 2) + 1, 65_535])
                    rings.fill(
                        position,
                        [harmless(random.getrandbits(64)) for _ in range(random.randrange(rings.slot_words - 2))],
                        size=random.choice([size, 8]),
                        sequence=(rings.sequence + random.choice([0, 0, 1, 70, 1 << 31, -1])) & 0xFFFFFFFF,
                        generation=rings.generation + random.choice([0, 0, 0, 1]) & 0xFFFF,
                    )
                    rings.publish(position)
                start, words = queue_words(rings)
                # Anywhere in either ring, but not over a stamp: that is another strategy's.
                place = start + random.randrange(2 * words)
                if (place - start) % rings.slot_words:
                    rings.words[place] = harmless(random.getrandbits(64))
                yield


def laps(target: Target, random: Random) -> Attacks:
    """All stamps at once, again and again, as fast as can be: so that workers never come to an end of them."""
    while True:
        with closing(target.rings()) as rings:
            start, _ = queue_words(rings)
            states = [
                [rings.stamp(0, SlotState.FREE, 0, 1 << 44), rings.stamp(0, SlotState.FREE, 0, (1 << 44) + 1)],
                [rings.stamp(0, SlotState.QUARANTINED, 1), rings.stamp(0, SlotState.QUARANTINED, 2)],
                [rings.stamp(0, SlotState.CLAIMED), rings.stamp(0, SlotState.PUBLISHED)],
            ]
            memory = rings.memory
            with Hammer(memory, 8 * start, random.choice(states), 8 * rings.slot_words, rings.slots):
                for _ in range(20):
                    rings.ring()
                    time.sleep(0.0005)
            yield


def ring_noise(target: Target, random: Random) -> Attacks:
    """Noise over all that members share, but for the constants in front: without those nobody can join any more."""
    while True:
        with closing(target.rings()) as rings:
            for _ in range(50):
                count = random.choice([1, 8, 64])
                start = random.randrange(rings.QUEUE_TAIL, len(rings.words) - count)
                rings.memory[8 * start : 8 * (start + count)] = random_words(random, count)
                rings.ring()
                yield
                if is_ended(rings):
                    break


STRATEGIES: dict[str, Strategy] = {
    "positions": positions,
    "records": records,
    "races": races,
    "noise": noise,
    "pins": pins,
    "hints": hints,
    "waiting flags": waiting_flags,
    "doorbell": doorbell,
    "malformed": malformed,
    "foreign": foreign,
    "extremes": extremes,
    "collisions": collisions,
    "unread": unread,
    "ahead": ahead,
    "drafts": drafts,
    "unfinished": unfinished,
    "leases": leases,
    "watches": watches,
    "handshake": handshake,
    "crowd": crowd,
    "single": single,
    "wills": wills,
    "sealing": sealing,
    "unsealed": unsealed,
    "pages": pages,
    "waiters": waiters,
    "passing": passing,
}
"""By name, all those that a client with a lane or a socket has."""

RING_STRATEGIES: dict[str, Strategy] = {
    "stamps": stamps,
    "tails": tails,
    "cursors": cursors,
    "slots": slots,
    "laps": laps,
    "ring noise": ring_noise,
}
"""Those of a client that shares rings with others."""
