"""Settings for Django's own tests: as its `tests/test_sqlite.py`, and the cache is a table."""

from __future__ import annotations

CACHES = {"default": {"BACKEND": "ringtable.adapters.django.RingtableCache", "LOCATION": "django"}}

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3"}, "other": {"ENGINE": "django.db.backends.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SECRET_KEY = "of Django's tests"
TEST_RUNNER = "suites.django_runner.Runner"
USE_TZ = False
