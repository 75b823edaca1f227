"""What Django's tests have for each of its backends, for ringtable's: its tests of caches, with a table as the cache.

Django's file has a class for each backend that it knows, which says what the caches of its tests are. These are such
classes for another backend: all tests are Django's.
"""

from __future__ import annotations

from typing import Any

from cache import tests
from django.test import TestCase, override_settings

_TABLE = {"BACKEND": "ringtable.adapters.django.RingtableCache", "LOCATION": "django"}

# As Django has it for backends that evict by bytes: Redis and memcached.
_NO_CULLING = {"cull", "zero_cull"}


def _caches(**settings: Any) -> Any:
    return override_settings(CACHES={"default": {**_TABLE, **settings}})


@override_settings(CACHES=tests.caches_setting_for_tests(base=_TABLE, exclude=_NO_CULLING))
class RingtableCacheTests(tests.BaseCacheTests, TestCase):  # type: ignore[misc]
    """What every backend has to do."""


@override_settings(
    CACHES=tests.caches_setting_for_tests(
        base=_TABLE,
        exclude=_NO_CULLING,
        LOCATION="other",
        OPTIONS={
            "IGNORE_EXCEPTIONS": True,
            "max_memory": "64MiB",
            "serializer": "django.core.cache.backends.redis.RedisSerializer",
        },
    )
)
class RingtableCacheWithOptionsTests(tests.BaseCacheTests, TestCase):  # type: ignore[misc]
    """The same with options, and with the serializer of Django's backend for Redis."""


@_caches()
class RingtableCacheUtils(tests.CacheUtils):  # type: ignore[misc]
    """Keys of pages."""


@_caches(KEY_PREFIX="cacheprefix")
class RingtablePrefixedCacheUtils(tests.CacheUtils):  # type: ignore[misc]
    """The same with a prefix."""


@_caches()
class RingtableCacheHEADTest(tests.CacheHEADTest):  # type: ignore[misc]
    """Requests for a page's head."""


@_caches()
class RingtableCacheI18nTest(tests.CacheI18nTest):  # type: ignore[misc]
    """Pages in several languages."""


@_caches(KEY_PREFIX="cacheprefix")
class RingtablePrefixedCacheI18nTest(tests.CacheI18nTest):  # type: ignore[misc]
    """The same with a prefix."""


@override_settings(CACHES={"default": _TABLE, "other": {**_TABLE, "LOCATION": "other", "TIMEOUT": "1"}})
class RingtableCacheMiddlewareTest(tests.CacheMiddlewareTest):  # type: ignore[misc]
    """The middleware that keeps whole pages, in two tables."""


@_caches()
class RingtableWithTemplateResponse(tests.TestWithTemplateResponse):  # type: ignore[misc]
    """Responses that are made of templates."""
