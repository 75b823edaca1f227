"""Benchmarks: ringtable beside its rivals, from Python, in one run (`python -m benches.compare --help`).

Four scripts of their own measure one thing each: `hit_ratio`, `overhead`, `payload` and `scale`.

| module       | what it holds                                                               |
|--------------|-----------------------------------------------------------------------------|
| `compare`    | the entry: arguments, the temporary folder                                  |
| `report`     | all there is to say of one run of `compare`                                 |
| `hit_ratio`  | a script: hit ratios of caches of the same size                             |
| `overhead`   | a script: what an entry costs beyond its key and value                      |
| `payload`    | a script: large values, beside plain copies                                 |
| `scale`      | a script: what operations cost by the size of the table                     |
| `standalone` | what these scripts have in common: arguments, a time limit, the report      |
| `sections`   | tables of text: the same for the terminal and as Markdown                   |
| `goals`      | what ringtable promises, each goal judged from the figures of this very run |
| `scenarios`  | what is measured, one function a scenario                                   |
| `figures`    | the measured values, by scenario, rival and metric                          |
| `crew`       | client processes that stand by and make the same call together              |
| `replay`     | plays a trace: get, and after a miss set; also in reference caches          |
| `traces`     | what caches are asked for: Zipf's law, with scans and without               |
| `workload`   | the timed loops and all else that runs inside a client                      |
| `movers`     | who moves large values, and how                                             |
| `memcached`  | memcached, if it is on the PATH                                             |
| `rivals`     | one adapter a rival, behind one small protocol                              |

A module uses only those below it. What `ringtable bench` needs, too, is in `ringtable._bench`.

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
