"""Any object, by pickle, with buffers out of band; signed if wanted.

# Design

- A pickle without buffers stands in its value as it is, and four bytes behind it are its checksum. Unpickling ends at
  the pickle's own end, and does not see them. The checksum of all together is a constant if it is right, so that
  reading costs one pass over the bytes, and no copy.
- Buffers (protocol 5: the data of numpy's arrays, say) follow the pickle, see `buffers.py`. What is unpickled uses them
  where they are, so that it is read-only, whatever its size.
- A value is pickled as one that has none. If a buffer comes up it is pickled once more, as `pickler.py` does it: the
  pickler that this takes would cost each small object 0.4 to 1 µs.
- A signature stands before either of them: HMAC-SHA-256 of all that follows it.

# Not promised

Unpickling executes what the pickle says. The checksum finds accidents; against somebody who may write to the table only
a signature helps, and it does not keep that one from putting an old value, or that of another key, in a value's place.

How often an object is asked for its state: twice, if the first buffer is in it or follows it.
"""

from __future__ import annotations

import hmac
from pickle import PickleBuffer, dumps, loads
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ringtable._codecs.buffers import put_together, take_apart
from ringtable._codecs.codec import Undecodable
from ringtable._codecs.formats import BUFFERS, MAGIC_SIZE, PICKLE, RESIDUE, SIGNED, read_number, written_integer
from ringtable._codecs.pickler import PROTOCOL, dump_with_buffers
from ringtable._errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable

    from ringtable._ringtable import View

_CHECKSUM_SIZE = 4

_DIGEST = "sha256"
_MAC = slice(8, 40)
# After the signature, so that buffers keep their alignment.
_GAP = bytes(24)
_INNER = slice(64, None)
_KEY_SIZE_MIN = 16


class PickleCodec:
    """Any object that can be pickled: `codec="pickle"`, or `codec=PickleCodec(key=...)` for values that are signed.

        table = ringtable.connect(codec=ringtable.PickleCodec(key=secret))

    Unpickling executes code, so that whoever may write to a table can run programs as those who read it. With a key, a
    value is looked at only if one who has the key has written it; all of its bytes are read for that. An integer is not
    signed, since it is written in decimal digits, as `incr` wants them; nor is what `incr` makes of it by a float.

    Arrays, and what else gives its buffers to pickle, come back read-only: see `docs/guide/objects.md`.
    """

    name = "pickle"
    takes_views = True
    __slots__ = ("_key", "read_checked")

    def __init__(self, key: bytes | None = None) -> None:
        """Make a codec.

        Args:
            key: What to sign with: at least 16 bytes that nobody can guess, such as `secrets.token_bytes(32)`; `None`
                not to sign.

        Raises:
            InvalidOption: The key is too short.
        """
        if key is not None and len(key) < _KEY_SIZE_MIN:
            raise InvalidOption(f"key has {len(key)} bytes; allowed are {_KEY_SIZE_MIN} and more")
        self._key = None if key is None else bytes(key)
        self.read_checked: Callable[[bytes], Any] | None = loads if key is None else None

    def encode(self, value: Any, /) -> bytes:
        digits = written_integer(value)
        if digits is not None:
            return digits
        pieces: list[bytes | memoryview] = []
        try:
            stream = dumps(value, PROTOCOL, buffer_callback=_refuse)
            pieces = [stream, checksum(stream)]
        except _HasBuffers:
            # Pickled below: an error that it raises there has no other one as its context.
            pass
        if not pieces:
            stream, buffers = dump_with_buffers(value)
            pieces = put_together(BUFFERS, stream, [buffer.raw() for buffer in buffers])
        if self._key is not None:
            mac = hmac.new(self._key, _GAP, _DIGEST)
            for piece in pieces:
                mac.update(piece)
            pieces = [SIGNED, mac.digest(), _GAP, *pieces]
        return b"".join(pieces)

    def decode(self, data: bytes | View, /) -> Any:
        value = memoryview(data)
        if type(data) is bytes and (number := read_number(data)) is not None:
            return number
        if self._key is None:
            if value[:MAGIC_SIZE] == SIGNED:
                raise Undecodable(0, "it is signed, and this codec has no key")
            return _load(value)
        if value[:MAGIC_SIZE] != SIGNED:
            raise Undecodable(0, "it is not signed")
        if not hmac.compare_digest(hmac.digest(self._key, value[_MAC.stop :], _DIGEST), value[_MAC]):
            raise Undecodable(_MAC.start, "it is not what was signed, or was signed with another key")
        return _load(value[_INNER])

    def __reduce__(self) -> tuple[Any, ...]:
        """A table that is sent to another process takes its codec along, with the key."""
        return type(self), (self._key,)

    def __repr__(self) -> str:
        return f"<ringtable.PickleCodec {'not signed' if self._key is None else 'signed'}>"


class _HasBuffers(Exception):
    """A value cannot be pickled as one without buffers."""


def _refuse(_: PickleBuffer) -> None:
    raise _HasBuffers


def checksum(stream: bytes) -> bytes:
    """What stands behind a pickle without buffers."""
    return crc32(stream).to_bytes(_CHECKSUM_SIZE, "little")


def _load(value: memoryview) -> Any:
    """What a pickle, with buffers or without, makes."""
    if value[:MAGIC_SIZE] == BUFFERS:
        stream, buffers = take_apart(value)
        return loads(stream, buffers=buffers)
    if value[: len(PICKLE)] != PICKLE:
        raise Undecodable(0, "it does not begin as a pickle of protocol 5 does")
    if crc32(value) != RESIDUE:
        raise Undecodable(max(0, value.nbytes - _CHECKSUM_SIZE), "its checksum, the last four bytes, is wrong")
    return loads(value)
