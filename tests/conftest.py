"""What the tests share: a real uvicorn on a real file, and clients for it."""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent


class Server:
    """uvicorn in a process group of its own, started on `db`; `url` is where it listens."""

    def __init__(self, db: Path, *options: str, prefix: tuple[str, ...] = (), **env: str) -> None:
        self.db = db
        self.lines: list[str] = []
        workers = int(options[options.index("--workers") + 1]) if "--workers" in options else 1
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "uvicorn", "todo:app", "--port", "0", "--no-access-log", *options],
            cwd=ROOT,
            env={**os.environ, "TODO_DB": str(db), **env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.url = ""
        assert self.process.stderr
        for line in self.process.stderr:  # until it serves, or ends
            self.lines.append(line)
            if found := re.search(r"running on (http://\S+)", line):
                self.url = found[1]
            if self.url and self.log.count("startup complete") >= workers:
                break
        self.reader = threading.Thread(target=self.lines.extend, args=(self.process.stderr,), daemon=True)
        self.reader.start()
        while workers > 1 and self.url and self.process.poll() is None and not self.listens():
            pass  # a worker listens a moment after it has started

    def listens(self) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(self.address) == 0

    @property
    def log(self) -> str:
        return "".join(self.lines)

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, url.port or 80

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, verify=False, **options)  # type: ignore[arg-type]

    def children(self) -> list[int]:
        """The processes of the workers."""
        pid = self.process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Send the signal to the server and return its exit code once it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.wait()

    def kill(self) -> int:
        """kill -9 the whole tree at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(30)
        self.reader.join(30)
        assert self.process.stderr
        self.process.stderr.close()
        return code


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A file without tasks. To copy it takes less time than to migrate another."""
    db = tmp_path_factory.mktemp("empty") / "todo.db"
    Server(db).stop()
    return db


@pytest.fixture
def serve(tmp_path: Path, empty: Path | None) -> Iterator[Callable[..., Server]]:
    """Start servers: `serve("--workers", "2", TODO_TOKEN="x")`, on an empty file unless `db` is given."""
    servers: list[Server] = []
    if empty:
        shutil.copy(empty, tmp_path)

    def start(*options: str, db: Path = tmp_path / "todo.db", prefix: tuple[str, ...] = (), **env: str) -> Server:
        servers.append(Server(db, *options, prefix=prefix, **env))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not care what else is in its file."""
    server = Server(tmp_path_factory.mktemp("server") / "todo.db")
    yield server
    assert server.stop() in (0, -signal.SIGTERM), server.log


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """A client of `server`, whose table is empty again."""
    with closing(sqlite3.connect(server.db, isolation_level=None)) as db:
        db.execute("DELETE FROM task")
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def pauses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, list[Future[None]], Future[bytes]]]:
    """Bodies that pause for 10 s. They begin with the first test that asks for them, so that the last need not wait."""
    from test_errors import STOPS, stop_in_the_middle, trickle

    server = Server(tmp_path_factory.mktemp("pauses") / "todo.db")
    with ThreadPoolExecutor(len(STOPS) + 1) as pool:
        stopped = [pool.submit(stop_in_the_middle, server, *stop) for stop in STOPS]
        yield server, stopped, pool.submit(trickle, server, "/tasks")
    server.stop()


@pytest.fixture(scope="session")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[None]]:
    """Writes to a database that another program holds for more than 5 s. They begin in the same way."""
    from test_workers import give_up

    server = Server(tmp_path_factory.mktemp("held") / "todo.db", "--workers", "2")
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(give_up, server)
    server.stop()
