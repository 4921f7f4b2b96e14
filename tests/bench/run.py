"""Measure this server beside a bare ASGI app (the limit) and the same API in FastAPI and SQLAlchemy.

    pip install -e '.[bench]'
    python tests/bench/run.py                     measures everything in some ten minutes and prints two tables
    python tests/bench/run.py --json              prints JSON
    python tests/bench/run.py --chart             also draws chart-light.svg and chart-dark.svg
    python tests/bench/run.py --only point-read   measures less: names of measures, contenders, numbers of tasks

It needs Linux and wrk. All servers run on one core, with this interpreter, and wrk and this script on another, with 64
connections. The contenders take turns, in rounds. Each measure starts on new files with so many tasks (`create`,
`workers` and `delete` change that), in the temporary directory: set TMPDIR if that is no disk. A deletion needs tasks
to delete: it is measured with a million only.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import report
from servers import CORES, Server, serving

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CONTENDERS = {"todo": "this server", "bare": "bare ASGI app", "fastapi": "FastAPI + SQLAlchemy"}
SMALL, LARGE = 1000, 1_000_000
MEASURES = {
    "root": ("GET /", [SMALL]),
    "point-read": ("point read", [SMALL, LARGE]),
    "list-100": ("list of 100", [SMALL, LARGE]),
    "create": ("create", [SMALL, LARGE]),
    "update": ("update", [SMALL, LARGE]),
    "delete": ("delete", [LARGE]),
    "mix": ("half reads, half updates", [SMALL, LARGE]),
    "workers": ("create, four workers", [SMALL, LARGE]),
    "list-all": ("list of all", [LARGE]),
}
CONNECTIONS = 64
PATIENCE = 120  # seconds for a list of all
Row = dict[str, Any]


def say(text: str) -> None:
    sys.stderr.write(f"\r\033[K{text}" if sys.stderr.isatty() else f"{text}\n" if text else "")
    sys.stderr.flush()


# Measures


def drive(server: Server, measure: str, tasks: int, seconds: int) -> Row:
    """Send requests for some seconds, or more until one is answered; exits unless all of them succeed."""
    url = f"http://127.0.0.1:{server.port}"
    command = [
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "--timeout",
        "60s",
        "-s",
        str(HERE / "requests.lua"),
    ]
    cpu = server.cpu()
    done = subprocess.run(
        [*command, url, "--", measure, str(tasks), str(server.used)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"wrk failed:\n{done.stdout}{done.stderr}")
    cpu = server.cpu_at_rest() - cpu
    result = json.loads(done.stdout.splitlines()[-1])
    requests = result["requests"] + CONNECTIONS  # each of which had one on its way when wrk hung up
    server.used += requests
    if not any(result[kind] for kind in ("requests", "refused", "failed")) and seconds < 30:
        return drive(server, measure, tasks, 2 * seconds)  # the machine is busy
    if result["refused"] or result["failed"] or not result["requests"]:
        sys.exit(f"{server.name} failed at {measure}: {result}\n{server.log.read_text()[-2000:]}")
    return {"rps": result["requests"] / result["seconds"], "cpu_us": cpu / requests * 1e6}


def stream(server: Server, measure: str, tasks: int, seconds: int) -> Row:
    """List all the tasks; gives up after PATIENCE seconds."""
    start, count, end = time.perf_counter(), 0, b""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request("GET", "/tasks")
        response = connection.getresponse()
        chunk = response.read(1)
        first = time.perf_counter() - start
        while chunk and time.perf_counter() - start < PATIENCE:
            count += (end + chunk).count(b'"id"')
            end, chunk = chunk[-3:], response.read1(2**20)
    except TimeoutError:
        return {"gave_up_s": PATIENCE, "memory_mb": server.memory("VmHWM") - server.idle}
    finally:
        connection.close()
    if response.status != 200 or (count != tasks and not chunk):
        sys.exit(f"{server.name} failed at {measure}: {response.status}, {count} tasks")
    total = {"gave_up_s": PATIENCE} if chunk else {"total_s": time.perf_counter() - start}
    return {
        "first_byte_ms": first * 1e3,
        **total,
        "memory_mb": server.memory("VmHWM") - server.idle,
    }


def ask_sqlite(home: Path, tasks: int) -> Row:
    """Time how 100 tasks are read with SQLite alone, on the servers' core."""
    os.sched_setaffinity(0, CORES[:1])
    with contextlib.closing(sqlite3.connect(home / "todo.db")) as connection:
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(1000):
            rows = connection.execute(
                "SELECT name, done, id FROM task ORDER BY id LIMIT 100"
            ).fetchall()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    os.sched_setaffinity(0, CORES[-1:])
    assert len(rows) == min(tasks, 100)
    return {"rps": 1000 / wall, "cpu_us": cpu * 1000}


def measure_all(options: argparse.Namespace, home: Path) -> list[Row]:
    """Return what each round of each contender at each measure gave."""
    results: list[Row] = []
    plan = [(measure, tasks) for measure in options.measures for tasks in MEASURES[measure][1]]
    for measure, tasks in [item for item in plan if item[1] in options.tasks]:
        head = {"measure": measure, "tasks": tasks}
        say(f"{measure}, {tasks} tasks: starting")
        names = [name for name in options.contenders if (measure, name) != ("list-all", "bare")]
        with serving(names, home, tasks, workers=4 if measure == "workers" else 1) as servers:
            for number in range(options.rounds):
                for server in servers:
                    say(
                        f"{measure}, {tasks} tasks: round {number + 1} of {options.rounds}, {server.name}"
                    )
                    ask = stream if measure == "list-all" else drive
                    results.append(
                        {
                            **head,
                            "contender": server.name,
                            **ask(server, measure, tasks, options.seconds),
                        }
                    )
                if measure == "list-100" and "todo" in names:
                    results.append({**head, "contender": "sqlite", **ask_sqlite(home, tasks)})
    say("")
    return results


# The whole run


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="for each contender at each measure (5)"
    )
    parser.add_argument("--seconds", type=int, default=2, help="that a round takes (2)")
    words = [*MEASURES, *CONTENDERS, str(SMALL), str(LARGE)]
    parser.add_argument(
        "--only", nargs="+", choices=words, default=[], metavar="WORD", help=" ".join(words)
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--chart",
        nargs="?",
        type=Path,
        const=HERE,
        metavar="DIR",
        help=f"draw it in DIR ({HERE.name})",
    )
    options = parser.parse_args()
    options.measures = [word for word in MEASURES if word in options.only] or [*MEASURES]
    options.contenders = [word for word in CONTENDERS if word in options.only] or [*CONTENDERS]
    options.tasks = [size for size in (SMALL, LARGE) if str(size) in options.only] or [SMALL, LARGE]
    return options


def require(options: argparse.Namespace) -> None:
    """Exit if a program or a package is missing."""
    if not shutil.which("wrk"):
        sys.exit(
            "wrk is missing: apt install wrk, dnf install wrk, or build it from https://github.com/wg/wrk"
        )
    packages = ["fastapi", "sqlalchemy"] if "fastapi" in options.contenders else []
    packages += ["matplotlib"] if options.chart else []
    if missing := [package for package in packages if not importlib.util.find_spec(package)]:
        sys.exit(f"{', '.join(missing)} missing: pip install -e '.[bench]'")
    if options.chart:
        options.chart.mkdir(parents=True, exist_ok=True)
    if len(CORES) < 2:
        say("There is only one core: wrk takes its share of it, so only the CPU times mean much.\n")


def main() -> None:
    options = read_options()
    require(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and so the servers too
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)  # with a copy of the code, so that no edit falls into the run
        for source in (ROOT / "todo.py", HERE / "bare.py", HERE / "fastapi_app.py"):
            shutil.copy(source, home)
        for source in (ROOT / "sql", ROOT / "migrations"):
            shutil.copytree(source, home / source.name)
        results = report.summarize(measure_all(options, home))
    found = {
        "environment": report.environment(options.rounds, options.seconds, CONNECTIONS),
        "results": results,
        "ratios": report.compare(results),
    }
    titles = {measure: title for measure, (title, _) in MEASURES.items()}
    print(
        json.dumps(found, indent=1) if options.json else report.describe(found, titles, CONTENDERS)
    )
    if options.chart:
        report.draw(found, titles, CONTENDERS, options.chart)


if __name__ == "__main__":
    main()
