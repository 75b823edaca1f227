"""Spans of time, as numbers."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ringtable._types import Seconds


def seconds(span: Seconds) -> float:
    """A span of time, in seconds."""
    return span.total_seconds() if isinstance(span, timedelta) else float(span)
