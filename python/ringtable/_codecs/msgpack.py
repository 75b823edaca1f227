"""MessagePack, bare, by msgspec."""

from __future__ import annotations

import re
from typing import Any

import msgspec.msgpack

from ringtable._codecs.codec import Undecodable
from ringtable._codecs.formats import read_number, written_integer

_POSITION = re.compile(r"byte (\d+)")


class MsgpackCodec:
    """Values are what MessagePack has: `None`, `bool`, numbers, `str`, `bytes`, lists and dicts, times.

    What msgspec writes beside them, such as dataclasses, comes back as a dict.
    """

    name = "msgpack"

    def encode(self, value: Any, /) -> bytes:
        """Raises `TypeError` for what MessagePack does not have."""
        digits = written_integer(value)
        if digits is not None:
            return digits
        data = msgspec.msgpack.encode(value)
        # A small number of another type, such as an enumeration's, would look like a digit: it has a longer form, too.
        return data if read_number(data) is None else b"\xcc" + data

    def decode(self, data: bytes, /) -> Any:
        number = read_number(data)
        if number is not None:
            return number
        try:
            return msgspec.msgpack.decode(data)
        except msgspec.DecodeError as error:
            found = _POSITION.search(str(error))
            # Where it is not told, the value has ended too early.
            raise Undecodable(int(found[1]) if found else len(data), str(error)) from None
