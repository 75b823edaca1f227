"""Codecs: how objects become the bytes of a value, and come back. A file for each, which imports what it needs.

codec.py        what a codec is; what it says of bytes that it cannot read
formats.py      how a value begins, by which codecs know each other's; numbers, which all have in common
buffers.py      large pieces of memory behind a small head, each at an aligned place
text.py         `str` as UTF-8, bare
json.py         JSON, bare
pickle.py       pickle, with its buffers out of band, and signed if wanted
pickler.py      pickling of what has buffers: numpy's arrays in a short way
msgpack.py      MessagePack, bare: needs msgspec
array.py        arrays with dtype and shape: needs numpy
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ringtable._codecs.codec import Codec
from ringtable._errors import InvalidOption
from ringtable._later import imports

# The class of each codec that has a name. Its file is imported when it is asked for.
_CLASSES = {
    "text": "TextCodec",
    "json": "JsonCodec",
    "pickle": "PickleCodec",
    "msgpack": "MsgpackCodec",
    "array": "ArrayCodec",
}


def codec_of(codec: Any) -> Codec[Any]:
    """Return the codec of this name, or the object that is one.

    Raises:
        InvalidOption: There is no codec of this name, or what it needs is not installed.
        TypeError: It is neither a name nor an object with `encode` and `decode`.
    """
    if isinstance(codec, str):
        if codec not in _CLASSES:
            names = ", ".join(repr(name) for name in ["bytes", *_CLASSES])
            raise InvalidOption(f"codec is {codec!r}; allowed are {names}, or an object with encode and decode")
        try:
            with imports:
                module = import_module(f"ringtable._codecs.{codec}")
        except ImportError as error:
            raise InvalidOption(
                f"codec={codec!r} needs {error.name}, which is not installed: pip install 'ringtable[{codec}]'"
            ) from error
        found: Codec[Any] = getattr(module, _CLASSES[codec])()
        return found
    if isinstance(codec, type) or not isinstance(codec, Codec):
        raise TypeError(f"codec is a name or an object with encode and decode, not {codec!r}")
    return codec


def name_of(codec: object) -> str:
    """The name of a codec, for messages."""
    return str(getattr(codec, "name", None) or type(codec).__name__)
