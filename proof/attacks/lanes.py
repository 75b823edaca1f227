"""What a client with a lane writes where it may: positions, records, pins, hints, the words that it waits by."""

import fcntl
import mmap
import os
import select
import struct
import time
from contextlib import ExitStack, closing, suppress
from random import Random

from support import RawLane

from proof.attacks.target import (
    DEADLINE_S,
    DEL,
    EXPIRE,
    FLUSHALL,
    GET,
    PING,
    PINS,
    PREFIX,
    SET,
    STATS,
    WORD_MAX,
    Attacks,
    Hammer,
    Target,
    ask,
    boundaries,
    is_ended,
    own_key,
    padded,
    publish,
    random_words,
    record,
    settle,
    table_of,
)


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
