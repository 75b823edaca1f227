"""Arrays with dtype and shape, by numpy; those of other libraries are taken by protocol.

The head of `buffers.py`, whose stream is a line of JSON: the dtype as numpy's own files write it, the shape, and the
order of the elements ("C" or "F"). The only buffer is the data.
"""

from __future__ import annotations

import ast
import json
import sys
from typing import TYPE_CHECKING, Any

import numpy
from numpy.lib import format as npy

from ringtable._codecs.buffers import put_together, take_apart
from ringtable._codecs.codec import Undecodable
from ringtable._codecs.formats import ARRAY, MAGIC_SIZE, read_number, written_integer

if TYPE_CHECKING:
    from ringtable._ringtable import View


class ArrayCodec:
    """Values are arrays: numpy's, and what has `__array_interface__`, `__array__`, DLPack or a buffer.

    They come back as numpy's, with dtype, shape and order as they were, and read-only: `torch.from_dlpack` and the like
    take them from there. Those of 64 KiB and more lie in the table. Arrays of objects, and masked ones, are refused.
    """

    name = "array"
    takes_views = True

    def encode(self, value: Any, /) -> bytes:
        """Raises `TypeError` for what is no array of plain data."""
        digits = written_integer(value)
        if digits is not None:
            return digits
        array = _as_array(value)
        descr = _descr_of(array.dtype)
        order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        head = json.dumps([descr if isinstance(descr, str) else repr(descr), array.shape, order]).encode()
        # A copy only of what is not contiguous.
        flat = numpy.asarray(array, order=order).reshape(-1, order=order)  # type: ignore[call-overload]
        data = flat.view(numpy.uint8)
        return b"".join(put_together(ARRAY, head, [memoryview(data)]))

    def decode(self, data: bytes | View, /) -> Any:
        if type(data) is bytes and (number := read_number(data)) is not None:
            return number
        value = memoryview(data)
        if value[:MAGIC_SIZE] != ARRAY:
            raise Undecodable(0, "it does not begin as an array does")
        head, buffers = take_apart(value)
        try:
            descr, shape, order = json.loads(bytes(head))
            dtype = npy.descr_to_dtype(ast.literal_eval(descr) if descr.startswith("[") else descr)
            [elements] = buffers
            return numpy.ndarray(shape, dtype, elements, order=order)
        except (ValueError, TypeError, SyntaxError, AttributeError) as error:
            raise Undecodable(0, f"its head says nothing that numpy knows: {error}") from error


def _descr_of(dtype: Any) -> Any:
    """How a file tells the dtype of an array.

    Raises:
        TypeError: It cannot: the elements are objects, or fields that overlap, or their bytes are elsewhere.
    """
    try:
        descr: Any = None if dtype.hasobject else npy.dtype_to_descr(dtype)
        if descr is not None and npy.descr_to_dtype(descr) == dtype:
            return descr
    except (ValueError, TypeError):
        pass
    raise TypeError(f"an array of dtype {dtype} cannot be told by its bytes: convert it, or pickle it")


def _as_array(value: Any) -> Any:
    # Not imported for it: where nobody has, there are none.
    masked = sys.modules.get("numpy.ma")
    if masked is not None and isinstance(value, masked.MaskedArray):
        raise TypeError("values of codec='array' have no mask, and this array has one: fill it, or pickle it")
    if hasattr(value, "__array_interface__") or hasattr(value, "__array__"):
        return numpy.asarray(value)
    if hasattr(value, "__dlpack__"):
        return numpy.from_dlpack(value)
    try:
        return numpy.asarray(memoryview(value))
    except TypeError:
        raise TypeError(f"values of codec='array' are arrays, not {type(value).__name__}") from None
