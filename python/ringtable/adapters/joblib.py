"""A store of joblib's `Memory`: results of functions that all processes of the machine share.

# Design

An item of joblib's has a path, and its parts are files there. Here each part is an entry whose key is that path. A
result is pickled by the table's codec, so that large arrays in it lie in the table, and reading one copies nothing.

# Not promised

Arrays come back read-only, whatever `mmap_mode` says, and `compress` means nothing. `Memory.reduce_size` takes for the
time of the last access that of the computation. joblib computes a result in each process that asks before one has
written it; `Table.memoize` computes it once.
"""

from __future__ import annotations

import io
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any
from warnings import warn

from joblib import register_store_backend
from joblib._store_backends import CacheItemInfo, CacheWarning, StoreBackendBase, StoreBackendMixin

from ringtable.adapters._shared import MISSING, Calls, held

if TYPE_CHECKING:
    from collections.abc import Callable

    from ringtable import Table

_RESULT, _METADATA = "output.pkl", "metadata.json"


class RingtableStoreBackend(Calls, StoreBackendBase, StoreBackendMixin):  # type: ignore[misc]  # joblib has no types.
    """A table in the place of joblib's folder. Importing this module registers it as "ringtable".

        import ringtable.adapters.joblib

        memory = joblib.Memory("simulations", backend="ringtable", backend_options={"max_memory": "1GiB"})

    The location is what `ringtable.open` takes: the name of a table, or the path of a socket. `backend_options` are
    those of `ringtable.open`, and `start`: `False` not to start a server if there is none. One that is started here is
    a cache: it evicts.

    What cannot be written is computed anew, with a `CacheWarning`, as with joblib's own store.
    """

    def configure(self, location: str, verbose: int = 1, backend_options: dict[str, Any] | None = None) -> None:
        """Take what joblib says; the table is opened at the first use.

        Args:
            location: The table's name or path, and "/joblib", which joblib puts behind it.
            verbose: How much joblib prints.
            backend_options: Options of `ringtable.open`; and those of joblib, which mean nothing here.
        """
        self.location = location
        self.verbose = verbose
        options = dict(backend_options or {})
        self.compress, self.mmap_mode = options.pop("compress", False), options.pop("mmap_mode", None)
        self._options = options

    @property
    def _held(self) -> Any:  # type: ignore[override]
        return held(self.location.removesuffix("/joblib"), self._options)

    # The items

    def load_item(
        self, call_id: list[str], verbose: int = 1, timestamp: float | None = None, metadata: Any = None
    ) -> Any:
        """Return a result.

        Raises:
            KeyError: There is none.
        """
        path = self._path(*call_id)
        if verbose > 1:
            print(f"[Memory]: Loading {os.path.basename(call_id[0])} from {path}...")
        result = self._do(None, lambda table: table.get(f"{path}/{_RESULT}", MISSING))
        if result is MISSING:
            raise KeyError(f"Non-existing item (may have been cleared).\n{path} does not exist")
        return result

    def dump_item(self, call_id: list[str], item: Any, verbose: int = 1) -> None:
        """Write a result; warn if it cannot be."""
        path = self._path(*call_id)
        if verbose > 10:
            print(f"Persisting in {path}")
        try:
            self._do(None, lambda table: table.set(f"{path}/{_RESULT}", item))
        except Exception as error:
            warn(f"Unable to cache in the table. Exception: {error}.", CacheWarning, stacklevel=2)

    def clear_item(self, call_id: list[str]) -> None:
        """Forget a result."""
        path = self._path(*call_id)
        self._do(None, lambda table: table.delete(f"{path}/{_RESULT}", f"{path}/{_METADATA}"))

    def contains_item(self, call_id: list[str]) -> bool:
        """Return whether there is a result."""
        return self._item_exists(self._path(*call_id, _RESULT))

    def clear_path(self, call_id: list[str]) -> None:
        """Forget all results of a function."""
        self.clear_location(self._path(*call_id))

    def get_items(self) -> list[Any]:
        """Return what there is: places, sizes in bytes, and when it was computed."""
        return self._do([], lambda table: [self._info(table, key) for key in self._results(table)])

    def _results(self, table: Table[Any]) -> list[str]:
        return [key for key in table.keys(prefix=f"{self.location}/") if key.endswith(f"/{_RESULT}")]

    def _info(self, table: Table[Any], key: str) -> Any:
        path = key.removesuffix(f"/{_RESULT}")
        computed = self.get_metadata([os.path.relpath(path, self.location)]).get("time", 0)
        size = sum(_size(table, f"{path}/{part}") for part in (_RESULT, _METADATA))
        return CacheItemInfo(path, size, datetime.fromtimestamp(computed))

    def _path(self, *parts: str) -> str:
        return os.path.join(self.location, *parts)

    # What joblib makes the rest of: metadata, and the functions' source code

    def _open_item(self, path: str, mode: str) -> Any:
        if "w" in mode:
            return _Written(lambda data: self._do(False, lambda table: table.set(path, data)))
        data = self._do(MISSING, lambda table: table.get(path, MISSING))
        if data is MISSING:
            raise FileNotFoundError(path)
        return io.BytesIO(data)

    def _concurrency_safe_write(self, to_write: Any, path: str, write: Callable[[Any, str], object]) -> None:
        # An entry is written in one step.
        write(to_write, path)

    def _item_exists(self, path: str) -> bool:
        return self._do(False, lambda table: path in table)

    def _move_item(self, source: str, target: str) -> None:
        """Do nothing: what is written is where it is to be."""

    def create_location(self, location: str) -> None:
        """Do nothing: a path is a part of keys."""

    def clear_location(self, location: str) -> None:
        """Delete all that has this path, for which the server looks at all keys."""
        self._do(0, lambda table: table.delete_prefix(f"{location}/"))


def _size(table: Table[Any], key: str) -> int:
    try:
        with table.view(key, copy_ok=True) as view:
            return view.nbytes
    except KeyError:
        # Deleted, or evicted, meanwhile.
        return 0


class _Written(io.BytesIO):
    """A file whose bytes go to a function when it is closed."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        super().__init__()
        self._write = write

    def close(self) -> None:
        if not self.closed:
            self._write(self.getvalue())
        super().close()


register_store_backend("ringtable", RingtableStoreBackend)
