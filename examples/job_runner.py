"""Processes that work off jobs together: a lock for each job, a limit of how many may begin, a table of progress.

    python examples/job_runner.py

Four workers all know the same jobs. Each takes the lock of a job that has no result, asks the rate limiter whether
another one may begin, does the job, and writes the result into the table, where all see it. Meanwhile the parent prints
what the progress table says. The example ends when all jobs have a result, and says how often one was begun.

A worker that is killed loses its lock at once, and another one does its job. A server that is killed takes results,
locks and progress along: the parent starts the next one, the workers' tables go on with it, and what has no result any
more is done again. `--name` is the name of the server: some program may run it already.
"""

import argparse
import hashlib
import multiprocessing
import os
import random
import tempfile
import time
from collections import Counter
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.process import BaseProcess

import ringtable

WORKERS = 4
JOBS = [f"report {number}" for number in range(40)]
JOB_S = 0.05
RATE = "25/s"
# For how long a worker waits for the next server, and how often the parent looks for it, and at the progress.
WAIT_S = 60.0
LOOK_S = 0.25
# The server ends so long after the last process that uses it.
LINGER_S = 1.0

Table = ringtable.Table[dict[str, str]]


def do(job: str) -> str:
    """The job itself."""
    time.sleep(JOB_S)
    return hashlib.sha256(job.encode()).hexdigest()


def without_result(table: Table) -> list[str]:
    return [job for job in JOBS if f"result:{job}" not in table]


def work(name: str, seed: int) -> None:
    """What a worker does until each job has a result."""
    generator = random.Random(seed)
    with ringtable.connect(name, codec="json", wait=WAIT_S) as table:
        while missing := without_result(table):
            generator.shuffle(missing)
            for job in missing:
                # Others may be at this one. While they are at all, there is nothing to do but to wait for one.
                patience = None if job == missing[-1] else 0
                # What is lost with a server leaves a job without a result: it comes again.
                lost = suppress(ringtable.Timeout, ringtable.LockLost, ringtable.ServerGone)
                with lost, table.lock(f"job:{job}", timeout=patience):
                    attempt(table, job)


def attempt(table: Table, job: str) -> None:
    """Do the job, unless somebody else has done it meanwhile."""
    progress, results = table.namespace("progress:"), table.namespace("result:")
    if job in results:
        return
    may_begin = table.rate_limiter(RATE, name="jobs", algorithm="sliding")
    while not (allowed := may_begin("all")):
        progress[job] = {"state": "waiting"}
        time.sleep(allowed.retry_after)
    table.incr("begun")
    progress[job] = {"state": "running"}
    results[job] = {"digest": do(job), "by": str(os.getpid())}
    progress[job] = {"state": "done"}


def oversee(name: str) -> int:
    """Keep workers and server going until each job has a result, and return how often one was begun."""
    context = multiprocessing.get_context("spawn")
    workers: list[BaseProcess] = []
    table = ringtable.open(name, codec="json", linger=LINGER_S)
    try:
        while True:
            try:
                states = Counter(entry["state"] for entry in table.namespace("progress:").values())
                if not without_result(table):
                    return int(table.get("begun", 0))
            except ringtable.ServerGone:
                print("the server has gone: here is the next one", flush=True)
                table = ringtable.open(name, codec="json", linger=LINGER_S)
                continue
            print(*(f"{states[state]:3} {state}" for state in ("waiting", "running", "done")), flush=True)
            workers = [worker for worker in workers if worker.is_alive()]
            while len(workers) < WORKERS:
                workers.append(context.Process(target=work, args=(name, random.getrandbits(32))))
                workers[-1].start()
            connection.wait([worker.sentinel for worker in workers], LOOK_S)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
        table.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", help="of the table's server; without it, one of this program's own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        begun = oversee(options.name or f"{folder}/jobs.sock")
        print(f"{len(JOBS)} jobs are done, begun {begun} times, in {time.perf_counter() - start:.2f} s", flush=True)


if __name__ == "__main__":
    main()
