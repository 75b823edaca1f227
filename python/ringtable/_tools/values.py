"""What a memoized function returns, as bytes: the one place that knows how.

Loading a pickle executes what it says: who may write to the table may run code in those who read such values.
"""

from __future__ import annotations

import pickle
from typing import Any


def dumps(value: Any) -> bytes:
    """A value as bytes."""
    return pickle.dumps(value, protocol=5)


def loads(data: bytes) -> Any:
    """The value that was written."""
    return pickle.loads(data)
