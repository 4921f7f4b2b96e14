"""Measure what the slowest requests take, how long a start takes, and the memory.

    python tests/bench/tail.py

The server may use all cores, and wrk runs on the last one. The memory of several workers is a sum
that counts what they share several times.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path

import report
import yoyo
from load import finish_wrk, start_wrk
from servers import ROOT, Server, insert_tasks, memory_mb, prepare, say, serving

LOADS = {  # connections by kind of request
    "64 writers": {"create": 64},
    "32 readers beside 32 writers": {"read": 32, "create": 32},
}


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=1_000_000, help="in the table (1000000)")
    parser.add_argument("--rounds", type=int, default=5, help="for each start (5)")
    parser.add_argument("--seconds", type=int, default=10, help="for each load (10)")
    return parser.parse_args()


def wait_for_first_answer(server: Server) -> None:
    connection = HTTPConnection(*server.address, timeout=30)
    connection.request("GET", "/tasks/1")
    connection.getresponse().read()
    connection.close()


def measure_start(db: Path) -> float:
    """Return the seconds from the start of a server on this file to its first answer."""
    start = time.perf_counter()
    with serving(db) as server:
        wait_for_first_answer(server)
        return time.perf_counter() - start


def create_old_file(db: Path, tasks: int) -> None:
    """Create a file with tasks that has had only the first migration."""
    with yoyo.get_backend(f"sqlite:///{db}") as backend:
        backend.apply_migrations(yoyo.read_migrations(str(ROOT / "migrations"))[:1])
    insert_tasks(db, tasks)


def measure_migrations(folder: Path, options: argparse.Namespace) -> list[float]:
    """Return the seconds of starts that migrate an old file with the tasks in it."""
    original, db = folder / "original.db", folder / "old.db"
    create_old_file(original, options.tasks)
    times = []
    for _ in range(options.rounds):
        shutil.copy(original, db)
        times.append(measure_start(db))
    original.unlink()
    db.unlink()
    return times


def measure_starts(folder: Path, options: argparse.Namespace) -> list[list[str]]:
    """Return table rows of starts; leaves folder/todo.db with the tasks in it."""
    say("starts")
    db = folder / "todo.db"
    numbers = range(options.rounds)
    new = [measure_start(folder / f"{number}.db") for number in numbers]
    measure_start(db)
    empty = [measure_start(db) for _ in numbers]
    insert_tasks(db, options.tasks)
    full = [measure_start(db) for _ in numbers]
    old = measure_migrations(folder, options)
    files = {
        "new file": new,
        "empty file": empty,
        f"file with {options.tasks:,} tasks": full,
        "such a file that must be migrated": old,
    }
    return [
        [name, f"{statistics.median(times):.2f} s", f"{max(times):.2f} s"]
        for name, times in files.items()
    ]


def measure_loads(server: Server, options: argparse.Namespace) -> list[list[str]]:
    """Return table rows of the latencies under each load."""
    rows = []
    for name, kinds in LOADS.items():
        say(name)
        running = {
            kind: start_wrk(server, kind, options.tasks, options.seconds, connections)
            for kind, connections in kinds.items()
        }
        for kind, wrk in running.items():
            result = finish_wrk(wrk, server)
            latencies = [f"{result[value]:.1f} ms" for value in ("p50", "p99", "max")]
            rate = f"{result['requests'] / result['seconds']:,.0f}"
            rows.append([name, kind, rate, *latencies])
    return rows


def main() -> None:
    options = read_options()
    prepare()
    latencies, memories = [], []
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        starts = measure_starts(folder, options)
        for workers in ("1", "2"):
            with serving(folder / "todo.db", "--workers", workers) as server:
                wait_for_first_answer(server)
                at_rest = memory_mb(server, "VmRSS")
                latencies += [[workers, *row] for row in measure_loads(server, options)]
                peak = memory_mb(server, "VmHWM")
            memories.append([workers, f"{at_rest:.0f} MB", f"{peak:.0f} MB"])
    print("Time from the start to the first answer\n")
    print(report.table(["", "median", "slowest"], starts))
    print("\nLatency\n")
    head = ["workers", "load", "request", "requests a second", "p50", "p99", "max"]
    print(report.table(head, latencies))
    print("\nMemory\n")
    print(report.table(["workers", "at rest", "peak under load"], memories))


if __name__ == "__main__":
    main()
