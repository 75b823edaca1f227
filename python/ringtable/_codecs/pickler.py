"""Pickling of what has buffers: their bytes stay out of the stream, and numpy's arrays are named shortly in it.

# Design

numpy pickles an array as a call of a private function, in Python, that calls two others, and its dtype as an object
with a state. Here arrays of numbers are calls of `numpy.ndarray` itself, with the dtype as a string, which make the
same array in half of the time. Any `pickle` reads them.

# Invariants

- Any other array is pickled as numpy does it. So are all if the program has told `copyreg` how to pickle arrays.
- This imports no numpy: a program that has not done so has no arrays.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from functools import partial
from io import BytesIO
from typing import Any

PROTOCOL = 5

_NUMBERS = "biufc"
"""The kinds of dtypes whose string says all of them: truths, integers, and numbers with a fraction."""


def dump_with_buffers(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """The stream of a value, and the buffers that it wants to be loaded with."""
    buffers: list[pickle.PickleBuffer] = []
    numpy: Any = sys.modules.get("numpy")
    # Another thread may be in the middle of its import.
    kind = getattr(numpy, "ndarray", None)
    if kind is None:
        return pickle.dumps(value, PROTOCOL, buffer_callback=buffers.append), buffers
    stream = BytesIO()
    pickler = pickle.Pickler(stream, PROTOCOL, buffer_callback=buffers.append)
    pickler.dispatch_table = {kind: partial(_reduced, numpy), **copyreg.dispatch_table}
    pickler.dump(value)
    return stream.getvalue(), buffers


def _reduced(numpy: Any, array: Any) -> Any:
    """What makes the array again: a function, and its arguments."""
    dtype = array.dtype
    name = dtype.str
    # The dtype of a number, in this machine's order of bytes and without metadata, is the one object of its name.
    if dtype.kind in _NUMBERS and numpy.dtype(name) is dtype:
        flags = array.flags
        if flags.c_contiguous:
            return numpy.ndarray, (array.shape, name, pickle.PickleBuffer(array))
        if flags.f_contiguous:
            return numpy.ndarray, (array.shape, name, pickle.PickleBuffer(array), 0, None, "F")
    return array.__reduce_ex__(PROTOCOL)
