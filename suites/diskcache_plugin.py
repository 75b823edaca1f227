"""Has diskcache's tests import ringtable in diskcache's words."""

from __future__ import annotations

import sys

from suites import as_diskcache

sys.modules["diskcache"] = as_diskcache
