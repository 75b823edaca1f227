"""Random calls on a table and on a dict: both give the same answers."""

from typing import Any

import pytest
import ringtable
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ringtable import Table

# Few keys, so that the same ones are written, read and deleted again and again.
keys = st.sampled_from([b"", b"a", b"b", b"key", b"k" * 300, b"\xff\x00", b"1", b"2"])
values = st.one_of(st.binary(max_size=64), st.integers(0, 300_000).map(lambda size: b"v" * size))
numbers = st.integers(-(1 << 40), 1 << 40)


class TableAndDict(RuleBasedStateMachine):
    """Two handles of one table, used by turns, beside a dict that gets the same calls."""

    options: dict[str, Any]

    @initialize()
    def start(self) -> None:
        # One bucket at first, so that the table grows from the first entries on.
        self.server = ringtable.Server(buckets=1, workers=2, max_memory="64MiB")
        self.tables = [Table(**self.options), Table(**self.options)]
        self.model: dict[bytes, bytes] = {}

    def teardown(self) -> None:
        if hasattr(self, "server"):
            for table in self.tables:
                table.close()
            self.server.stop()

    @rule(table=st.integers(0, 1), key=keys, value=values)
    def set(self, table: int, key: bytes, value: bytes) -> None:
        self.tables[table][key] = value
        self.model[key] = value

    @rule(table=st.integers(0, 1), key=keys, value=values, only_absent=st.booleans())
    def set_if(self, table: int, key: bytes, value: bytes, only_absent: bool) -> None:
        allowed = (key not in self.model) == only_absent
        assert self.tables[table].set(key, value, nx=only_absent, xx=not only_absent) == allowed
        if allowed:
            self.model[key] = value

    @rule(table=st.integers(0, 1), key=keys, value=values, newest=st.booleans())
    def set_if_version(self, table: int, key: bytes, value: bytes, newest: bool) -> None:
        found = self.tables[1 - table].get_with_version(key)
        assert (found and found[0]) == self.model.get(key)
        version = found[1] if found else 0
        if newest:
            assert self.tables[table].set(key, value, if_version=version)
            self.model[key] = value
        else:
            assert not self.tables[table].set(key, value, if_version=version + 1)

    @rule(table=st.integers(0, 1), key=keys, suffix=st.none() | st.binary(max_size=8))
    def update(self, table: int, key: bytes, suffix: bytes | None) -> None:
        made = self.tables[table].update(key, lambda old: None if suffix is None else (old or b"") + suffix)
        if suffix is None:
            assert made is None
            self.model.pop(key, None)
        else:
            self.model[key] = self.model.get(key, b"") + suffix
            assert made == self.model[key]

    @rule(table=st.integers(0, 1), key=keys, value=values)
    def get_or_set(self, table: int, key: bytes, value: bytes) -> None:
        assert self.tables[table].get_or_set(key, lambda: value) == self.model.setdefault(key, value)

    @rule(table=st.integers(0, 1), key=keys)
    def delete(self, table: int, key: bytes) -> None:
        assert self.tables[table].delete(key) == (self.model.pop(key, None) is not None)

    @rule(table=st.integers(0, 1), entries=st.dictionaries(keys, values))
    def set_many(self, table: int, entries: dict[bytes, bytes]) -> None:
        self.tables[table].set_many(entries)
        self.model.update(entries)

    @rule(table=st.integers(0, 1), prefix=keys, count=st.integers(1, 200))
    def set_a_series(self, table: int, prefix: bytes, count: int) -> None:
        entries = {prefix + b"%d" % index: b"%d" % index for index in range(count)}
        self.tables[table].set_many(entries)
        self.model.update(entries)

    @rule(table=st.integers(0, 1), wanted=st.lists(keys))
    def delete_many(self, table: int, wanted: list[bytes]) -> None:
        expected = len(self.model.keys() & set(wanted))
        assert self.tables[table].delete_many(wanted) == expected
        for key in wanted:
            self.model.pop(key, None)

    @rule(table=st.integers(0, 1), wanted=st.lists(keys))
    def get_many(self, table: int, wanted: list[bytes]) -> None:
        assert self.tables[table].get_many(wanted) == [self.model.get(key) for key in wanted]

    @rule(table=st.integers(0, 1), key=st.sampled_from([b"n1", b"n2"]), by=numbers)
    def incr(self, table: int, key: bytes, by: int) -> None:
        total = int(self.model.get(key, b"0")) + by
        assert self.tables[table].incr(key, by) == total
        self.model[key] = b"%d" % total

    @rule(table=st.integers(0, 1), key=keys)
    def read_bucket(self, table: int, key: bytes) -> None:
        bucket = dict(self.tables[table].read_bucket(key))
        assert bucket.items() <= self.model.items()
        assert bucket.get(key) == self.model.get(key)

    @precondition(lambda self: len(self.model) > 50)
    @rule(table=st.integers(0, 1))
    def clear(self, table: int) -> None:
        self.tables[table].clear()
        self.model.clear()

    @invariant()
    def equal(self) -> None:
        if hasattr(self, "server"):
            for table in self.tables:
                assert len(table) == len(self.model)
                assert dict(table.items()) == self.model


OPTIONS: list[dict[str, Any]] = [
    {"transport": "lane"},
    {"transport": "lane", "reads": "server"},
    {"transport": "socket"},
]


def machine(options: dict[str, Any]) -> type[TableAndDict]:
    return type("TableAndDict", (TableAndDict,), {"options": options})


def test_smoke() -> None:
    state = machine(OPTIONS[0])()
    state.start()
    state.set(0, b"key", b"value")
    state.equal()
    state.teardown()


@pytest.mark.parametrize("options", OPTIONS)
def test_a_table_is_like_a_dict(options: dict[str, Any]) -> None:
    run_state_machine_as_test(machine(options))
