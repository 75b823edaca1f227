"""Puts ringtable's storage in the place of limits' `RedisStorage`, and of what its tests ask a server of Redis."""

from __future__ import annotations

from typing import Any

import limits.storage
import pytest
import redis
import valkey
from ringtable.adapters._shared import held
from ringtable.adapters.limits import RingtableStorage

_NAME, _OPTIONS = "limits", {"codec": "bytes"}


class InPlaceOfRedis(RingtableStorage):
    """Knows Redis' schemes, too, and has one table for all addresses."""

    STORAGE_SCHEME = ["redis", "redis+unix", "valkey"]  # noqa: RUF012 (the base class declares it so)

    def __init__(self, uri: str, *arguments: Any, **options: Any) -> None:
        """Have the table."""
        super().__init__(f"ringtable://{_NAME}", *arguments, **options)


class _Client:
    """What the tests ask a client of Redis."""

    def __init__(self, *where: Any, **options: Any) -> None:
        """Take any address."""

    def flushall(self) -> None:
        """Empty the table."""
        held(_NAME, _OPTIONS).table().clear()

    def get(self, key: str) -> Any:
        """Return a value."""
        return held(_NAME, _OPTIONS).table().get(key)

    def close(self) -> None:
        """Do nothing."""


class _Services:
    """In the place of a plugin that starts containers."""

    def start(self, name: str) -> None:
        """Start nothing, for what the table is in the place of."""
        if name not in ("redis-basic", "redis-uds", "valkey-basic"):
            pytest.skip(f"another storage: {name}")


@pytest.fixture(scope="session")
def docker_services() -> _Services:
    """What starts a server."""
    return _Services()


_limits: Any = limits.storage
_limits.RedisStorage = InPlaceOfRedis
_redis: Any = redis
_redis.StrictRedis = _redis.from_url = _Client
valkey.Valkey = _Client
