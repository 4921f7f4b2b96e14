"""The contenders: how each is started, on the first core and on a file full of tasks."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).parent.parent))  # for the tests' modules

from server import ROOT, Server, ServerExited

PEERS = Path(__file__).resolve().parent / "peers"
CORES = sorted(os.sched_getaffinity(0))
ON_FIRST_CORE = ("taskset", "--cpu-list", str(CORES[0]))  # what a command starts with
ON_LAST_CORE = ("taskset", "--cpu-list", str(CORES[-1]))
NODE_PACKAGES = ("fastify@5", "better-sqlite3@12")
INSERT_TASKS = """
    WITH RECURSIVE number (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM number WHERE i < ?)
    INSERT INTO task (name, done) SELECT 'Buy milk ' || i, i % 2 FROM number
"""


class Contender(NamedTuple):
    """A server to be measured, and what to know of it."""

    title: str
    app: str = ""  # for uvicorn
    command: tuple[str, ...] = ()  # instead of uvicorn
    folder: Path = PEERS  # where it is started
    writes: str = "synced"  # what has happened to a write when it is answered
    has_tasks: bool = True


CONTENDERS = {
    "todo": Contender("this server", "todo:app", folder=ROOT),
    "bare": Contender("bare uvicorn", "bare:app", writes="none", has_tasks=False),
    "starlette": Contender("Starlette + sqlite3", "starlette_app:app"),
    "fastapi": Contender("FastAPI + SQLAlchemy", "fastapi_app:app", writes="not synced"),
    "fastify": Contender("Fastify + better-sqlite3", command=("node", "fastify_app.js")),
}


def say(text: str) -> None:
    """Print what is going on, beside the report."""
    print(text, file=sys.stderr, flush=True)


def prepare() -> None:
    """Exit if a tool is missing. Let a signal end this process so that it stops its servers."""
    for tool in ("wrk", "taskset"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing: install it, for instance with apt")
    if len(CORES) == 1:
        say("There is only one core: wrk takes its share of it.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))


def install(name: str, folder: Path) -> str:
    """Install what a contender needs; return the reason if it can't be measured here, or ""."""
    if name == "fastapi":
        missing = [package for package in ("fastapi", "sqlalchemy") if not find_spec(package)]
        return f"not installed: {', '.join(missing)}" if missing else ""
    if name == "fastify":
        missing = [tool for tool in ("node", "npm") if not shutil.which(tool)]
        return f"not installed: {', '.join(missing)}" if missing else install_from_npm(folder)
    return ""


def install_from_npm(folder: Path) -> str:
    """Install the packages of the Fastify app; return the reason if that fails, or ""."""
    options = ("--silent", "--no-audit", "--no-fund", "--prefix", str(folder))
    command = ["npm", "install", *options, *NODE_PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    os.environ["NODE_PATH"] = str(folder / "node_modules")
    return f"npm install failed: {done.stderr[-500:]}" if done.returncode else ""


@contextmanager
def serving(db: Path, *options: str, **how):
    """Start a server on this file, as `Server` does; exit if it does not start."""
    try:
        server = Server(db, *options, **how)
    except ServerExited as error:
        sys.exit(f"A server did not start: {error}")
    try:
        yield server
    finally:
        if server.is_running():
            server.stop()


@contextmanager
def serving_contenders(names: list[str], folder: Path):
    """Start the contenders on the first core, each on its own file; yield them by their names."""
    with ExitStack() as stack:
        servers = {}
        for name in names:
            contender = CONTENDERS[name]
            server = serving(
                folder / f"{name}.db",
                app=contender.app,
                command=contender.command,
                folder=contender.folder,
                prefix=ON_FIRST_CORE,
                NODE_ENV="production",
            )
            servers[name] = stack.enter_context(server)
        yield servers


def insert_tasks(db: Path, tasks: int) -> None:
    """Insert so many tasks into a file in which a server has created the table."""
    with closing(sqlite3.connect(db)) as connection:
        with connection:
            connection.execute(INSERT_TASKS, [tasks])
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# What the kernel knows of a server


def cpu_seconds(server: Server) -> float:
    """Return the CPU time that the processes of a server have used."""
    ticks = 0
    for pid in [server.process.pid, *server.worker_pids()]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # in user mode and in the kernel
    return ticks / os.sysconf("SC_CLK_TCK")


def cpu_seconds_at_rest(server: Server) -> float:
    """Return the CPU time once the server has finished what it had left to do."""
    before, now = -1.0, cpu_seconds(server)
    while now != before:
        time.sleep(0.1)
        before, now = now, cpu_seconds(server)
    return now


def memory_mb(server: Server, line: str) -> float:
    """Return the memory of all processes of a server: VmRSS is that of now, VmHWM the peak."""
    kilobytes = 0
    for pid in [server.process.pid, *server.worker_pids()]:
        status = Path(f"/proc/{pid}/status").read_text()
        kilobytes += int(status.partition(f"{line}:")[2].split()[0])
    return kilobytes / 1024
