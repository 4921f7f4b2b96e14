"""The contenders that run.py measures: uvicorn processes on the first core, each with a file of its own."""

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

APPS = {"todo": "todo:app", "bare": "bare:app", "fastapi": "fastapi_app:app"}
CORES = sorted(os.sched_getaffinity(0))
FILL = """
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
    INSERT INTO task (name, done) SELECT 'Buy milk ' || i, i % 2 FROM n
"""


class Server:
    """A contender on the first core, serving a file."""

    def __init__(self, name: str, home: Path, db: Path, workers: int = 1) -> None:
        self.name, self.log, self.used = name, db.with_suffix(".log"), 1
        options = [
            "--port",
            "0",
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--no-access-log",
            "--no-use-colors",
        ]
        command = [sys.executable, "-m", "uvicorn", APPS[name], *options, "--workers", str(workers)]
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TODO_", "UVICORN_"))
        }
        env |= {"TODO_DB": str(db), "PYTHONPATH": str(home)}
        os.sched_setaffinity(0, CORES[:1])  # which the server inherits
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=home, env=env, stdout=log, stderr=log, start_new_session=True
            )
        os.sched_setaffinity(0, CORES[-1:])
        try:
            self.port = self.wait(workers)
            self.idle = self.memory("VmRSS")
        except BaseException:
            self.stop()
            raise

    def wait(self, workers: int) -> int:
        """Wait until it serves; returns its port."""
        for _ in range(1500):
            log = self.log.read_text()
            found = re.search(r"running on http://127.0.0.1:(\d+)", log)
            if found and log.count("startup complete") >= workers:
                return int(found[1])
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        sys.exit(f"{self.name} did not start:\n{log}")

    def processes(self) -> list[Path]:
        found = [Path(f"/proc/{self.process.pid}")]
        for process in found:
            children = (process / "task" / process.name / "children").read_text()
            found.extend(Path(f"/proc/{pid}") for pid in children.split())
        return found

    def cpu(self) -> float:
        """Return the seconds of CPU time that all its processes have used."""
        stats = [
            (process / "stat").read_text().rpartition(")")[2].split()
            for process in self.processes()
        ]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")

    def cpu_at_rest(self) -> float:
        """Return the same once it has nothing left to do, which would fall into the next one's round."""
        before = -1.0
        while before != (now := self.cpu()):
            before = now
            time.sleep(0.1)
        return now

    def memory(self, line: str) -> float:
        """Return VmRSS (the memory that it has) or VmHWM (the most that it has had), in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{line}:")[2].split()[0]) / 1024

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def fill(name: str, home: Path, tasks: int) -> Path:
    """Return a file of this contender's that holds so many tasks."""
    db = home / f"{name}-{tasks}.db"
    if not db.exists() and name != "bare":
        Server(name, home, db).stop()  # it makes its table
        with contextlib.closing(sqlite3.connect(db)) as connection, connection:
            connection.execute(FILL, [tasks])
    return db


@contextlib.contextmanager
def serving(names: list[str], home: Path, tasks: int, workers: int) -> Iterator[list[Server]]:
    """Start these contenders, each on a new copy of its file."""
    with contextlib.ExitStack() as stack:
        servers = []
        for name in names:
            db, copy = fill(name, home, tasks), home / f"{name}.db"
            for old in home.glob(f"{name}.db*"):
                old.unlink()
            if db.exists():
                shutil.copy(db, copy)
                with copy.open("rb") as file:
                    os.fsync(file)  # so that no measure waits for it
            servers.append(Server(name, home, copy, workers))
            stack.callback(servers[-1].stop)
        yield servers
