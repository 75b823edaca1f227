"""Puts ringtable's cache in the place of two of cachelib's, before its tests are imported."""

from __future__ import annotations

import itertools
from typing import Any

import cachelib
from ringtable.adapters.cachelib import RingtableCache

# A new cache of cachelib's is empty, and a table is there for all that name it.
_numbers = itertools.count()


class InPlaceOfRedis(RingtableCache):
    """As the tests of `RedisCache` make one, with a port, and empty it."""

    def __init__(self, *arguments: Any, port: int = 0, **options: Any) -> None:
        """Have a table for each port."""
        super().__init__(f"port-{port}", *arguments, **options)
        self._write_client = self

    def flushdb(self) -> None:
        """Empty the table, also of keys without the prefix."""
        self.table.clear()


class InPlaceOfSimple(RingtableCache):
    """As the tests of `SimpleCache` make one: each is one of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Have a prefix of its own."""
        super().__init__("simple", *arguments, **{"key_prefix": f"{next(_numbers)}:", **options})


cachelib.RedisCache = InPlaceOfRedis
cachelib.SimpleCache = InPlaceOfSimple
