"""Random calls on a table and on a dict: both give the same answers, whichever way leads to the table.

Several handles of one table are used by turns, some of which may go different ways or post their writes. Times to live
are either far in the future, or so short that the test waits until the key is gone: nothing depends on how long a call
takes.
"""

from typing import TYPE_CHECKING, Any

import hypothesis
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
from support import wait_until

if TYPE_CHECKING:
    from ringtable._types import Topology

# Few keys, so that the same ones are written, read and deleted again and again.
keys = st.sampled_from([b"", b"a", b"b", b"key", b"k" * 300, b"\xff\x00", b"1", b"2"])
values = st.one_of(st.binary(max_size=64), st.integers(0, 300_000).map(lambda size: b"v" * size))
numbers = st.integers(-(1 << 40), 1 << 40)
# Which of the tables is used; there may be fewer.
handles = st.integers(0, 5)
# Seconds that are certainly not over when the test is, and seconds that soon are.
FAR = 100_000.0
SOON = 0.001
far = st.none() | st.just(FAR)


class TableAndDict(RuleBasedStateMachine):
    """Some handles of one table, used by turns, beside a dict that gets the same calls."""

    topology: "Topology"
    ways: list[dict[str, Any]]

    @initialize()
    def start(self) -> None:
        # One bucket at first, so that the table grows from the first entries on.
        self.server = ringtable.Server(
            buckets=1, workers=2, max_memory="64MiB", topology=self.topology, tcp="127.0.0.1:0"
        )
        self.tables = [self.connect(**way) for way in self.ways]
        self.posting = [table for table in self.tables if table.writes == "posted"]
        self.last = self.tables[0]
        self.model: dict[bytes, bytes] = {}
        # Keys with a time to live, and keys whose time has passed, which the server may not have removed.
        self.mortal: set[bytes] = set()
        self.ghosts: set[bytes] = set()

    def connect(self, tcp: bool = False, **options: Any) -> Table:
        return Table(self.server.tcp or "" if tcp else "default", **options)

    def teardown(self) -> None:
        if hasattr(self, "server"):
            for table in self.tables:
                table.close()
            self.server.stop()

    def use(self, handle: int) -> Table:
        """The table of that number, which sees what others have posted: that is what `flush` is for."""
        table = self.tables[handle % len(self.tables)]
        if table is not self.last and self.last in self.posting:
            self.last.flush()
        self.last = table
        return table

    def wrote(self, key: bytes, value: bytes, ttl: float | None = None) -> None:
        self.model[key] = value
        self.ghosts.discard(key)
        (self.mortal.discard if ttl is None else self.mortal.add)(key)

    def deleted(self, key: bytes) -> bool:
        """Take a key out of the model, and say whether it was there."""
        self.mortal.discard(key)
        return self.model.pop(key, None) is not None

    def expired(self, key: bytes) -> None:
        self.deleted(key)
        self.ghosts.add(key)

    @rule(table=handles, key=keys, value=values, ttl=far)
    def set(self, table: int, key: bytes, value: bytes, ttl: float | None) -> None:
        assert self.use(table).set(key, value, ttl=ttl)
        self.wrote(key, value, ttl)

    @rule(table=handles, key=keys, value=values, only_absent=st.booleans(), ttl=far)
    def set_if(self, table: int, key: bytes, value: bytes, only_absent: bool, ttl: float | None) -> None:
        allowed = (key not in self.model) == only_absent
        done = self.use(table).set(key, value, nx=only_absent, xx=not only_absent, ttl=ttl, writes="acknowledged")
        assert done == allowed
        if allowed:
            self.wrote(key, value, ttl)

    @rule(table=handles, other=handles, key=keys, value=values, newest=st.booleans())
    def set_if_version(self, table: int, other: int, key: bytes, value: bytes, newest: bool) -> None:
        found = self.use(other).get_with_version(key)
        assert (found and found[0]) == self.model.get(key)
        version = found[1] if found else 0
        if newest:
            assert self.use(table).set(key, value, if_version=version)
            self.wrote(key, value)
        else:
            assert not self.use(table).set(key, value, if_version=version + 1)

    @rule(table=handles, other=handles, key=keys, newest=st.booleans())
    def delete_if_version(self, table: int, other: int, key: bytes, newest: bool) -> None:
        found = self.use(other).get_with_version(key)
        assert (found and found[0]) == self.model.get(key)
        version = found[1] if found else 7
        deleted = self.use(table).delete_if_version(key, version if newest else version + 1)
        assert deleted == (newest and found is not None)
        if deleted:
            self.deleted(key)

    @rule(table=handles, key=keys, suffix=st.none() | st.binary(max_size=8), ttl=far)
    def update(self, table: int, key: bytes, suffix: bytes | None, ttl: float | None) -> None:
        made = self.use(table).update(key, lambda old: None if suffix is None else (old or b"") + suffix, ttl=ttl)
        if suffix is None:
            assert made is None
            self.deleted(key)
        else:
            self.wrote(key, self.model.get(key, b"") + suffix, ttl)
            assert made == self.model[key]

    @rule(table=handles, key=keys, value=values, ttl=far, stale=st.sampled_from([0.0, FAR]))
    def get_or_set(self, table: int, key: bytes, value: bytes, ttl: float | None, stale: float) -> None:
        present = key in self.model
        # An entry that has less time left than this call would keep it stale is taken for a stale one.
        if ttl is None or (present and key in self.mortal):
            stale = 0.0
        found = self.use(table).get_or_set(key, lambda: value, ttl, stale=stale)
        if not present:
            self.wrote(key, value, ttl)
        assert found == self.model[key]

    @rule(table=handles, key=keys, old=values, value=values)
    def refresh_what_is_stale(self, table: int, key: bytes, old: bytes, value: bytes) -> None:
        chosen = self.use(table)
        self.delete(table, key)
        assert chosen.get_or_set(key, lambda: old, SOON, stale=FAR) == old
        wait_until(lambda: (chosen.ttl(key) or 0) < FAR, "the value is stale")
        # Nobody else computes it, so this caller does.
        assert chosen.get_or_set(key, lambda: value, SOON, stale=FAR) == value
        self.wrote(key, value, SOON)

    @rule(table=handles, key=keys, value=values, how=st.sampled_from(["set", "expire", "get_or_set", "expire now"]))
    def let_expire(self, table: int, key: bytes, value: bytes, how: str) -> None:
        chosen = self.use(table)
        if how == "set":
            chosen.set(key, value, ttl=SOON)
        elif how == "get_or_set":
            self.delete(table, key)
            assert chosen.get_or_set(key, lambda: value, SOON) == value
        else:
            chosen[key] = value
            if how == "expire":
                assert chosen.expire(key, SOON)
            else:
                assert chosen.call("PEXPIRE", key, "-1") == 1
        wait_until(lambda: key not in chosen, "the key is gone")
        self.expired(key)

    @rule(table=handles, key=keys)
    def expire(self, table: int, key: bytes) -> None:
        assert self.use(table).expire(key, FAR) == (key in self.model)
        if key in self.model:
            self.mortal.add(key)

    @rule(table=handles, key=keys)
    def ttl(self, table: int, key: bytes) -> None:
        chosen = self.use(table)
        if key not in self.model:
            with pytest.raises(KeyError):
                chosen.ttl(key)
        elif key in self.mortal:
            left = chosen.ttl(key)
            # Twice that, where a value is kept for as long again when it is stale.
            assert left is not None
            assert FAR / 2 < left <= 2 * FAR
        else:
            assert chosen.ttl(key) is None

    @rule(table=handles, key=keys)
    def delete(self, table: int, key: bytes) -> None:
        chosen = self.use(table)
        count, present = chosen.delete(key), self.deleted(key)
        assert chosen in self.posting or count == present

    @rule(table=handles, key=keys)
    def get(self, table: int, key: bytes) -> None:
        chosen = self.use(table)
        assert chosen.get(key) == self.model.get(key)
        assert (key in chosen) == (key in self.model)

    @rule(table=handles, key=keys)
    def view(self, table: int, key: bytes) -> None:
        chosen = self.use(table)
        if key in self.model:
            with chosen.view(key) as view:
                assert bytes(view) == self.model[key]
        else:
            with pytest.raises(KeyError):
                chosen.view(key)

    @rule(table=handles, entries=st.dictionaries(keys, values), ttl=far)
    def set_many(self, table: int, entries: dict[bytes, bytes], ttl: float | None) -> None:
        self.use(table).set_many(entries, ttl=ttl)
        for key, value in entries.items():
            self.wrote(key, value, ttl)

    @rule(table=handles, prefix=keys, count=st.integers(1, 200))
    def set_a_series(self, table: int, prefix: bytes, count: int) -> None:
        self.set_many(table, {prefix + b"%d" % index: b"%d" % index for index in range(count)}, None)

    @rule(table=handles, wanted=st.lists(keys))
    def delete_many(self, table: int, wanted: list[bytes]) -> None:
        expected = len(self.model.keys() & {*wanted})
        assert self.use(table).delete_many(wanted) == expected
        for key in wanted:
            self.deleted(key)

    @rule(table=handles, wanted=st.lists(keys))
    def get_many(self, table: int, wanted: list[bytes]) -> None:
        assert self.use(table).get_many(wanted) == [self.model.get(key) for key in wanted]

    @rule(table=handles, key=st.sampled_from([b"n1", b"n2"]), by=numbers)
    def incr(self, table: int, key: bytes, by: int) -> None:
        total = int(self.model.get(key, b"0")) + by
        assert self.use(table).incr(key, by, ttl_if_new=FAR) == total
        # One that was there keeps its time.
        mortal = key in self.mortal or key not in self.model
        self.wrote(key, b"%d" % total, FAR if mortal else None)

    @rule(table=handles, key=keys)
    def read_bucket(self, table: int, key: bytes) -> None:
        bucket = dict(self.use(table).read_bucket(key))
        assert bucket.items() <= self.model.items()
        assert bucket.get(key) == self.model.get(key)

    @precondition(lambda self: len(self.model) > 50)
    @rule(table=handles)
    def clear(self, table: int) -> None:
        self.use(table).clear()
        for key in list(self.model):
            self.deleted(key)
        self.ghosts.clear()

    @rule()
    def all_agree(self) -> None:
        for handle in range(len(self.tables)):
            self.use(handle)
            self.equal()

    @invariant()
    def equal(self) -> None:
        if hasattr(self, "server"):
            # Those who post are looked at by themselves: they see their own writes without a flush.
            for table in [self.last] if self.posting else self.tables:
                assert len(self.model) <= len(table) <= len(self.model) + len(self.ghosts)
                assert dict(table.items()) == self.model


LANE: dict[str, Any] = {"transport": "lane"}
RINGS: dict[str, Any] = {"transport": "rings"}
SOCKET: dict[str, Any] = {"transport": "socket"}
TCP: dict[str, Any] = {"tcp": True}
ASKING: dict[str, Any] = {"reads": "server"}
POSTING: dict[str, Any] = {"writes": "posted"}

WAYS: dict[str, tuple["Topology", list[dict[str, Any]]]] = {
    "lanes": ("lanes", [LANE, LANE]),
    "lanes, reads through the server": ("lanes", [LANE | ASKING, LANE | ASKING]),
    "shared rings": ("shared", [RINGS, RINGS]),
    "sharded rings": ("sharded", [RINGS, RINGS, RINGS | ASKING]),
    "sockets": ("lanes", [SOCKET, SOCKET]),
    "tcp": ("lanes", [TCP, TCP]),
    "posted over lanes": ("lanes", [LANE | POSTING, LANE | POSTING | ASKING]),
    "posted over rings": ("shared", [RINGS | POSTING, RINGS]),
    "posted over sockets": ("lanes", [SOCKET | POSTING, TCP | POSTING]),
    "all ways to lanes": ("lanes", [LANE, LANE | ASKING, LANE | POSTING, SOCKET, SOCKET | POSTING, TCP]),
    "all ways to rings": ("sharded", [RINGS, RINGS | ASKING, RINGS | POSTING, SOCKET, TCP, TCP | POSTING]),
}


def machine(way: str) -> type[TableAndDict]:
    topology, ways = WAYS[way]
    return type("TableAndDict", (TableAndDict,), {"topology": topology, "ways": ways})


def test_smoke() -> None:
    state = machine("lanes")()
    state.start()
    state.set(0, b"key", b"value", None)
    state.let_expire(1, b"key", b"value", "set")
    state.equal()
    state.teardown()


@pytest.mark.parametrize("way", WAYS)
def test_a_table_is_like_a_dict(way: str) -> None:
    # There are many ways, and each is a test.
    few = hypothesis.settings(max_examples=hypothesis.settings().max_examples // 3)
    run_state_machine_as_test(machine(way), settings=few)
