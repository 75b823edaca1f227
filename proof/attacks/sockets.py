"""What comes over a socket: what is malformed, too much, never read, half sent, or left by connections that end."""

import mmap
import os
import select
import socket
import struct
from collections import deque
from contextlib import ExitStack, closing, suppress
from random import Random
from typing import Any

from ringtable._ringtable import lane_request, rings_request, watch_request
from support import Passing, RawLane, resp

from proof.attacks.target import (
    DEADLINE_S,
    DELV,
    EXPIRE,
    GET,
    INCR,
    LARGE_VALUE_SIZE,
    PEXPIRE,
    PING,
    PREFIX,
    RING_INCR,
    SET,
    STATS,
    VALUE_SIZE_MAX,
    WORD_MAX,
    Attacks,
    Target,
    admitted,
    boundaries,
    padded,
    publish,
    record,
    settle,
)
from proof.collisions import colliding, colliding_long, seed_of
from proof.foreign import MARK, ORDERS, other_protocol

BUCKET_ENTRIES_MAX = 259
HELD = 12
"""Connections that a strategy keeps open while it goes on."""

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
