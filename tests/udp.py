"""What the tests of the UDP port share: its wire format, written anew, a raw client, and a bad network."""

from __future__ import annotations

import os
import random
import select
import selectors
import socket
import struct
import threading
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Self

from support import DEADLINE_S

# The head: "rtbl", version, kind, 0; then the boot number, a cookie or token, a number, and one more word.
HEAD = struct.Struct("=4sBBHQQQQ")
VERSION = 1
DATAGRAM_SIZE_MAX = 65_504
RECORD_SIZE_MAX = DATAGRAM_SIZE_MAX - HEAD.size
WINDOW = 32


class Kind(IntEnum):
    """The kinds of messages."""

    HELLO = 1
    COOKIE = 2
    JOIN = 3
    JOINED = 4
    FULL = 5
    REQUEST = 6
    REPLY = 7
    LEAVE = 8


# Command numbers, as in lane records.
GET, SET, INCR, PING, LEASE = 0, 1, 5, 15, 31
# Kinds of replies.
NIL, OK, STATUS, ERROR, INTEGER, BULK = 0, 1, 2, 3, 4, 7


def filled(piece: bytes) -> bytes:
    return piece + b"\0" * (-len(piece) % 8)


def record(number: int, *arguments: bytes) -> bytes:
    """A request as it flows through a lane."""
    lengths = filled(b"".join(struct.pack("=I", len(argument)) for argument in arguments))
    body = lengths + b"".join(filled(argument) for argument in arguments)
    return struct.pack("=IHH", 8 + len(body), number, len(arguments)) + body


@dataclass(frozen=True)
class Message:
    """A datagram, taken apart."""

    kind: int
    boot: int = 0
    name: int = 0
    number: int = 0
    last: int = 0
    record: bytes = b""

    def pack(self) -> bytes:
        return HEAD.pack(b"rtbl", VERSION, self.kind, 0, self.boot, self.name, self.number, self.last) + self.record

    @classmethod
    def unpack(cls, datagram: bytes) -> Message:
        magic, version, kind, zero, boot, name, number, last = HEAD.unpack_from(datagram)
        assert (magic, version, zero) == (b"rtbl", VERSION, 0)
        return cls(kind, boot, name, number, last, datagram[HEAD.size :])

    def reply(self) -> tuple[int, bytes]:
        """The kind of the reply that it carries, and its bytes."""
        size, kind, filling, _ = struct.unpack_from("=IBBH", self.record)
        assert size == len(self.record)
        return kind, self.record[8 : size - filling]

    def integer(self) -> int:
        kind, body = self.reply()
        assert kind == INTEGER, self
        return int.from_bytes(body, "little", signed=True)


def port_of(address: str) -> tuple[str, int]:
    """The host and port of a `udp://` URL."""
    host, _, port = address.removeprefix("udp://").rpartition(":")
    return host.strip("[]"), int(port)


class RawClient:
    """A UDP socket that says to a server whatever a test wants."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect(port_of(address))
        self.boot = self.cookie = self.token = 0

    def send(self, message: Message | bytes) -> None:
        self.socket.send(message if isinstance(message, bytes) else message.pack())

    def receive(self) -> Message:
        return Message.unpack(self.socket.recv(1 << 16))

    def ask(self, message: Message | bytes) -> Message:
        self.send(message)
        return self.receive()

    def has_nothing(self) -> bool:
        """Whether nothing has come that was not received."""
        return not select.select([self.socket], [], [], 0)[0]

    def drain(self) -> None:
        """Drop what has come."""
        while not self.has_nothing():
            self.socket.recv(1 << 16)

    def hello(self) -> Message:
        """Get a cookie. All that was sent before has been dealt with then."""
        nonce = random.getrandbits(64)
        answer = self.ask(Message(Kind.HELLO, number=nonce))
        assert (answer.kind, answer.number) == (Kind.COOKIE, nonce)
        self.boot, self.cookie = answer.boot, answer.name
        return answer

    def joining(self, nonce: int | None = None) -> Message:
        return Message(Kind.JOIN, self.boot, self.cookie, random.getrandbits(64) if nonce is None else nonce)

    def join(self) -> Self:
        self.hello()
        answer = self.ask(self.joining())
        assert answer.kind == Kind.JOINED
        self.token = answer.name
        return self

    def request(self, number: int, command: int, *arguments: bytes, floor: int | None = None) -> Message:
        """A request whose client has the replies to all before it, unless told otherwise."""
        floor = number if floor is None else floor
        return Message(Kind.REQUEST, self.boot, self.token, number, floor, record(command, *arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()


class BadNetwork:
    """A way to a UDP port that loses, doubles and reorders datagrams in both directions.

    Nothing is held back for ever: what is held goes when the next datagram of its direction comes, and a client that
    waits asks again.
    """

    def __init__(
        self,
        address: str,
        generator: random.Random,
        *,
        loss: float = 0.2,
        doubling: float = 0.2,
        reordering: float = 0.2,
    ) -> None:
        self._random = generator
        self._chances = loss, doubling, reordering
        self.is_cut = False
        self.carried = self.lost = 0
        self._server = port_of(address)
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._front, selectors.EVENT_READ)
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        # The socket that speaks to the server for a client, and the client that it speaks for.
        self._backs: dict[tuple[str, int], socket.socket] = {}
        self._clients: dict[socket.socket, tuple[str, int]] = {}
        self._last: dict[socket.socket, bytes] = {}
        self._held: dict[tuple[socket.socket, tuple[str, int]], list[bytes]] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"udp://127.0.0.1:{self._front.getsockname()[1]}"

    def say_farewell(self) -> None:
        """Say to the server, for each client, that it needs its session no more."""
        for back, last in list(self._last.items()):
            request = Message.unpack(last)
            back.send(Message(Kind.LEAVE, request.boot, request.name).pack())

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == self._wake_read:
                    return
                assert isinstance(key.fileobj, socket.socket)
                self._carry(key.fileobj)

    def _carry(self, arrived: socket.socket) -> None:
        try:
            datagram, sender = arrived.recvfrom(1 << 16)
        except ConnectionRefusedError:
            return  # the server is gone, which this network does not tell
        if arrived is self._front:
            back = self._backs.get(sender)
            if back is None:
                back = self._backs[sender] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                back.connect(self._server)
                self._clients[back] = sender
                self._selector.register(back, selectors.EVENT_READ)
            self._last[back] = datagram
            self._pass(back, self._server, datagram)
        else:
            self._pass(self._front, self._clients[arrived], datagram)

    def _pass(self, out: socket.socket, to: tuple[str, int], datagram: bytes) -> None:
        loss, doubling, reordering = self._chances
        held = self._held.setdefault((out, to), [])
        if self.is_cut or self._random.random() < loss:
            self.lost += 1
            return
        if self._random.random() < reordering:
            held.append(datagram)
            return
        going = [datagram] * (2 if self._random.random() < doubling else 1) + held
        held.clear()
        self._random.shuffle(going)
        for one in going:
            self.carried += 1
            try:
                if out is self._front:
                    out.sendto(one, to)
                else:
                    out.send(one)
            except ConnectionRefusedError:
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.write(self._wake_write, b"x")
        self._thread.join(DEADLINE_S)
        self._selector.close()
        for used in (self._front, *self._clients):
            used.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
