"""What a memoized function returns, as bytes: the one place that knows how.

It is what `codec="pickle"` writes for an object without buffers, so that a table with that codec can read it, and its
checksum finds damage. There are no buffers, since a result that was loaded is its caller's, to change.

Loading a pickle executes what it says: who may write to the table may run code in those who read such values.
"""

from __future__ import annotations

import pickle
from typing import Any
from zlib import crc32

from ringtable._codecs.formats import RESIDUE
from ringtable._codecs.pickle import PickleCodec, checksum
from ringtable._errors import DecodeError

_CODEC = PickleCodec()


def dumps(value: Any) -> bytes:
    """A value as bytes."""
    stream = pickle.dumps(value, protocol=5)
    return stream + checksum(stream)


def loads(key: bytes, data: bytes) -> Any:
    """The value of a key that was written.

    Raises:
        DecodeError: These bytes are none, or what they say cannot be made here.
    """
    try:
        return pickle.loads(data) if crc32(data) == RESIDUE else _CODEC.decode(data)
    except MemoryError:
        raise
    except Exception as error:
        name, position = key.decode(errors="surrogateescape"), getattr(error, "position", 0)
        message = f"the result that {name!r} has cannot be read, at byte {position}: {error}"
        raise DecodeError(message, key=name, codec="pickle", position=position) from error
