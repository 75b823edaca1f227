"""`ringtable get`, `set` and `del`: a quick look at a table."""

import sys

from ringtable._errors import Error
from ringtable._table import connect


def get(key: str, /, *, name: str = "default", trust_user: list[str] | None = None) -> None:
    """Print the value of a key, as it is, and a newline; exit status 1 where there is none.

    Args:
        key: The key.
        name: The server's name, the path of its socket, a `unix://` or a `tcp://` URL.
        trust_user: A user whose server that may be, besides this user and root; may be given several times.
    """
    with connect(name, trust_user=trust_user or ()) as table:
        value = table.get(key)
    if value is None:
        raise Error(f"there is no key {key!r}")
    sys.stdout.buffer.write(value + b"\n")


def set_(
    key: str,
    value: str,
    /,
    *,
    ttl: float | None = None,
    nx: bool = False,
    xx: bool = False,
    name: str = "default",
    trust_user: list[str] | None = None,
) -> None:
    """Write a value; exit status 1 where --nx or --xx forbids it.

    Args:
        key: The key.
        value: The value, written as UTF-8.
        ttl: Seconds after which the entry is gone.
        nx: Write only if the key is absent.
        xx: Write only if the key is present.
        name: The server's name, the path of its socket, a `unix://` or a `tcp://` URL.
        trust_user: A user whose server that may be, besides this user and root; may be given several times.
    """
    with connect(name, trust_user=trust_user or ()) as table:
        if not table.set(key, value.encode(), ttl=ttl, nx=nx, xx=xx):
            raise Error(f"not written: the key {key!r} is {'present' if nx else 'absent'}")


def delete(key: str, /, *keys: str, name: str = "default", trust_user: list[str] | None = None) -> None:
    """Delete keys, and print how many there were.

    Args:
        key: A key.
        keys: More keys.
        name: The server's name, the path of its socket, a `unix://` or a `tcp://` URL.
        trust_user: A user whose server that may be, besides this user and root; may be given several times.
    """
    with connect(name, trust_user=trust_user or ()) as table:
        print(table.delete(key, *keys))
