"""Tests of other projects, unchanged, run against ringtable's adapters: `python -m suites --help`.

| module       | what it is                                                                                      |
|--------------|-------------------------------------------------------------------------------------------------|
| `suite`      | what a suite is: where it comes from, how it is run; folders, pins, results                     |
| `recording`  | notes, in the process that runs the tests, what became of each; leaves out what cannot apply    |
| `django`     | Django's tests of caches and sessions; `django_settings`, `_runner` and `_cases` are plugged in |
| `cachelib`   | cachelib's tests of its caches; `cachelib_plugin` is plugged in                                 |
| `joblib`     | joblib's tests of `Memory`; `joblib_plugin` is plugged in                                       |
| `diskcache`  | diskcache's tests of what tables can do, too; `as_diskcache` is what they import in its place   |
| `limits`     | limits' tests of its storages; `limits_plugin` is plugged in                                    |

Each suite is fetched as a source distribution of one version, whose checksum is written here, and lies in `.suites`
with what it needs, in the versions that `pins` has. Nothing of it is changed, and nothing of it is part of this
repository. A test that cannot apply is left out by name, and the suite's file says why.
"""
