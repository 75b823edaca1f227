"""What type checkers say of typical uses: mypy, strict, and pyright where it is installed. Each misuse is an error."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BYTES = """
import array
import datetime
import pathlib
import numpy
import ringtable

table = ringtable.connect(pathlib.Path("x.sock"))
table["key"] = numpy.arange(3)
table["key"] = numpy.float64(1.5)
table["key"] = array.array("i", [1])
table.set("key", numpy.zeros((2, 3), dtype=numpy.uint8), ttl=datetime.timedelta(days=1))
table.set_many({"key": numpy.arange(3)}, ttl=1)
table.update({"key": numpy.arange(3)})
table.pipeline().set("key", numpy.arange(3)).get("key").execute()
table.get_or_set("key", lambda: numpy.arange(3), 5, stale=1.5, stale_if_error=datetime.timedelta(hours=1))
table.get_into("key", numpy.zeros(3))
with table.view("key") as view:
    numbers = numpy.frombuffer(view, dtype=numpy.int64)
    total: int = numbers.sum().item()
    size: int = memoryview(view).nbytes
    copy: bytes = bytes(view)
entries: int = table.stats()["entries"]
server = ringtable.Server(max_memory=numpy.int64(1 << 30), buckets=1e6, slot_size="1KiB")
keys: list[bytes] = list(table)
values: dict[bytes, bytes] = dict(table.items())
found: bytes | None = table.get("key")
changed: bytes = table.update("key", lambda value: value or b"")
event: bytes = next(table.watch()).key


def use(table: ringtable.Table) -> bytes:
    return table["key"]


use(table)
"""
BYTES_MISUSED = [
    'table["key"] = "text"',
    'table["key"] = [1]',
    'table.set("key", b"", ttl="5")',
    'table.stats()["no such figure"]',
    "table[5]",
    'table.pipeline().expire("key", None)',
    'text: str = table["key"]',
    "name: str = next(iter(table))",
    'table.update("key", lambda value: 5)',
]

OBJECTS = """
from dataclasses import dataclass
from typing import Any
import ringtable


@dataclass
class User:
    name: str
    age: int


class Users:
    def encode(self, value: User, /) -> bytes:
        return f"{value.age} {value.name}".encode()

    def decode(self, data: bytes, /) -> User:
        age, _, name = data.decode().partition(" ")
        return User(name, int(age))


codec: ringtable.Codec[User] = Users()
users = ringtable.connect("users", codec=Users(), timeout=5.0)
opened: ringtable.Table[User] = ringtable.open("users", codec=Users(), max_memory="64MiB")
users["ada"] = User("Ada", 36)
ada: User = users["ada"]
maybe: User | None = users.get("ada")
other: User | int = users.get("ada", 5)
names: list[str] = list(users)
by_name: dict[str, User] = dict(users.items())
ages: list[int] = [user.age for user in users.values()]
several: list[User | None] = users.get_many(["ada", b"bob"])
users.set_many({"bob": User("Bob", 40)}, ttl=5)
users.update(bob=User("Bob", 41))
users.set("bob", User("Bob", 42), nx=True)
users.add("bob", User("Bob", 43))
made: User = users.get_or_set("eve", lambda: User("Eve", 44), 5)
changed: User = users.update("ada", lambda user: User("Ada", user.age + 1 if user else 0))
gone: User | None = users.pop("bob", None)
name, user = users.popitem()
both: tuple[str, User] = (name, user)
versioned = users.get_with_version("ada")
if versioned is not None:
    users.set("ada", versioned[0], if_version=versioned[1])
users.pipeline().set("ada", ada).get("ada").execute()
key: str = next(users.watch("a")).key
visits: int = users.incr("visits")

texts = ringtable.connect(codec="text")
texts["key"] = "value"
text: str = texts["key"]
anything = ringtable.connect(codec="pickle", keys="bytes")
anything["key"] = object()
anything["key"] = b"bytes"
anything.set_many({"key": [1]})
anything.update("key", lambda value: (value or 0) + 1)
loaded: dict[str, int] = anything["key"]
found: str = next(iter(ringtable.connect(codec="json")))
signed = ringtable.connect(codec=ringtable.PickleCodec(key=b"secret"))
signed["key"] = ada


def use(table: ringtable.Table[User], anything: ringtable.Table[Any]) -> str:
    return table["ada"].name


use(users, anything)
"""
OBJECTS_MISUSED = [
    'users["ada"] = b"bytes"',
    'users["ada"] = "text"',
    "users[5]",
    'age: int = users["ada"]',
    'users.set("ada", 5)',
    'users.set_many({"ada": 5})',
    'users.get_or_set("ada", lambda: 5)',
    'users.update("ada", lambda user: 5)',
    'users.pipeline().set("ada", 5)',
    "raw: bytes = next(iter(users))",
    'texts["key"] = b"bytes"',
    'number: int = texts["key"]',
    'ringtable.connect(codec="yaml")',
    "ringtable.connect(codec=5)",
    'ringtable.connect(keys="str")',
    "wrong: ringtable.Codec[str] = Users()",
    "use(texts, anything)",
]


TOOLS = """
import datetime
from collections.abc import Coroutine
from typing import Any
import ringtable

table = ringtable.connect(timeout=5)
objects = ringtable.connect(codec="pickle")
texts = ringtable.connect(codec="text")
with table.lock("report", timeout=10, ttl=datetime.timedelta(seconds=30)) as lock:
    token: int | None = lock.token
    lock.extend(5)
taken: bool = table.lock("report", reentrant=True).acquire(blocking=False)
with table.semaphore("gpu", 2) as seats:
    count: int = seats.holders()
ready: bool = table.event("ready").wait(timeout=5)
place: int = table.barrier("start", parties=2).wait()
ran: bool = table.once("migrate")(lambda: print("migrated"))
limit = table.rate_limiter("100/minute", name="web", algorithm="sliding")
if not (allowed := limit("10.0.0.7", cost=2)):
    pause: float = allowed.retry_after
left: int = allowed.remaining


@table.memoize(ttl=60, stale=10)
def page(number: int, *, wide: bool = False) -> str:
    return f"<html>{number}"


@objects.memoize(key=lambda user: f"user:{user}")
async def profile(user: str) -> dict[str, str]:
    return {"name": user}


text: str = page(7, wide=True)
coroutine: Coroutine[Any, Any, dict[str, str]] = profile("ada")
users: ringtable.Table[str] = texts.namespace("users:")
users["ada"] = "Ada"
names: list[str] = list(users.namespace("admins:"))
raw: list[bytes] = list(table.namespace("users:"))
gone: bytes | None = table.get_and_delete("job")
session: str | None = texts.get_and_expire("session", 3600)
total: float = table.incr("balance", 0.5)
visits: int | None = table.incr("visits", maximum=10, ttl_if_new=60)
times: list[float | None] = table.ttl_many(["a", b"b"])
some: dict[bytes, bytes] = dict(table.items(prefix="user:"))
with texts.watch("user:", timeout=datetime.timedelta(minutes=1)) as watch:
    for event in watch:
        if isinstance(event, ringtable.Lagged):
            continue
        name: str = event.key


def counted(value: str | None) -> str:
    return value or ""


def work(table: ringtable.Table[Any], lock: object = None) -> None:
    with table.lock("a"), table.pipeline() as pipeline:
        pipeline.incr("count").get("other")


work(objects)
try:
    table["key"] = b"value"
except (ringtable.ServerGone, ringtable.Timeout, ringtable.OutOfMemory) as error:
    print(error)
"""
TOOLS_MISUSED = [
    "table.lock(5)",
    'table.lock("a", timeout="5")',
    'table.semaphore("gpu")',
    'table.semaphore("gpu", "2")',
    "table.rate_limiter(100)",
    'table.rate_limiter("1/s", algorithm="leaky")',
    "limit(5)",
    "number: int = page(7)",
    'page("7")',
    "page(7, tall=True)",
    'table.barrier("start", parties="2").wait()',
    'users["ada"] = 5',
    'table.once("migrate")(5)',
    'table.get_and_expire("session", "60")',
    'table.memoize(ttl="60")',
    'wrong: str = limit("ip").remaining',
    'table.no_such_tool("x")',
]


PROGRAMS = {"bytes": (BYTES, BYTES_MISUSED), "objects": (OBJECTS, OBJECTS_MISUSED), "tools": (TOOLS, TOOLS_MISUSED)}


@pytest.mark.parametrize("version", ["3.11", pytest.param("3.14", marks=pytest.mark.slow)])
def test_uses_and_misuses(tmp_path: Path, version: str) -> None:
    """Before 3.12 the buffer protocol has no methods, and numpy's arrays and views were no buffers to them."""
    expected = set()
    for name, (uses, misuses) in PROGRAMS.items():
        lines = [*uses.splitlines(), *misuses]
        (tmp_path / f"{name}.py").write_text("\n".join(lines) + "\n")
        expected |= {(name, number) for number in range(len(lines) - len(misuses) + 1, len(lines) + 1)}
    checkers = [["mypy", "--strict", "--config-file=", f"--python-version={version}", "--cache-dir", str(tmp_path)]]
    if shutil.which("pyright"):
        checkers.append(["pyright", f"--pythonversion={version}", "--pythonpath", sys.executable])
    for checker, *options in checkers:
        command = [sys.executable, "-m", "mypy"] if checker == "mypy" else [checker]
        programs = [f"{name}.py" for name in PROGRAMS]
        checked = subprocess.run(
            [*command, *options, *programs], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        errors = re.findall(r"(\w+)\.py:(\d+):(?:\d+:? -)? error", checked.stdout)
        found = {(name, int(line)) for name, line in errors}
        assert found == expected, checked.stdout + checked.stderr
