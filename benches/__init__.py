"""Benchmarks: ringtable beside its rivals, from Python, in one run (`python -m benches.compare --help`).

Seven other scripts measure one thing each: `disk`, `hit_ratio`, `overhead`, `payload`, `python`, `restarts`, `scale`.

| module       | what it holds                                                               |
|--------------|-----------------------------------------------------------------------------|
| `compare`    | the script for all rivals: what is asked for, and its tables                |
| `disk`       | a script: snapshots and logs, beside Valkey and LMDB                        |
| `hit_ratio`  | a script: hit ratios of caches of the same size                             |
| `overhead`   | a script: what an entry costs beyond its key and value                      |
| `payload`    | a script: large values, beside plain copies                                 |
| `python`     | a script: objects, locks, rate limiters, the import                         |
| `restarts`   | a script: what clients notice of a server that is killed or upgraded        |
| `scale`      | a script: what operations cost by the size of the table                     |
| `promises`   | what ringtable promises: the goals of `compare`                             |
| `scenarios`  | what `compare` measures, one function a scenario                            |
| `workload`   | what runs inside its clients                                                |
| `replay`     | plays a trace: get, and after a miss set; also in reference caches          |
| `traces`     | what caches are asked for: Zipf's law, with scans and without               |
| `memcached`  | memcached, if it is on the PATH                                             |
| `rivals`     | who is measured: the peers of `ringtable bench`, and variants               |
| `script`     | what all scripts have in common: arguments, a time limit, the report        |
| `goals`      | limits, each judged from the figures of this very run                       |
| `figures`    | the measured values, by scenario, rival and metric                          |

A module uses only those below it. What `ringtable bench` needs, too, is in `ringtable._bench`: crews of clients, timed
loops, servers and peers, tables.

Where the comparison is unfair, and to whom:

- **LMDB** gets its quickest settings (tmpfs, `writemap`, no syncs, spare transactions) and its quickest
  spelling: a read transaction that its last reference ends, a write transaction without `with`. The usual
  `with` blocks are the variant `lmdb-with`; goals are judged by the quicker one. Ordered keys, transactions
  over many keys and durability are not asked of it: unfair to LMDB for whoever needs them. Its burst is one
  transaction, so one snapshot; ringtable's `get_many` is not. The keys are random, so its B-tree is visited
  in random order; neighbouring keys would be kinder to it.
- **Posted** writes return once they are queued. Their loop ends with a `flush()` inside the measured time, so
  all are executed when the clock stops; but no rival has such a mode, and it is another promise, not only
  a quicker one.
- **Valkey** speaks a network protocol that other machines could use too; most of its time goes to waking
  processes and to redis-py. `MGET` and `MSET` are its quickest bursts and reported as `valkey`, the usual
  pipeline as `valkey-pipeline`. Nothing is persisted.
- **Manager().dict()** pickles everything and knows no burst read: a burst is 1,000 calls there.
- **dict** is the ceiling and no rival: not shared, it stores references and copies nothing. With 16 clients
  there are 16 dicts; none of them sees the writes of another.
- 16 clients outnumber the cores of many machines: there the loops measure the cost of an operation together
  with the switching between processes, not parallel speed. Nobody is pinned to a core.
- All loops are the same lines of Python, with the rival's statements written in place (as `timeit` does), so
  that no rival pays for a wrapper. The loop itself and its keys cost every rival the same few tens of ns:
  what `dict` takes is mostly that.
"""
