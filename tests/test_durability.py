"""Acknowledged is durable, and a failed write fails alone: with crashes, power cuts, bad disks and bad clients."""

import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from conftest import Server

Serve = Callable[..., Server]
Task = tuple[str, bool]
Traced = tuple[Path, list[tuple[str, str, int, bytes]], dict[int, Task]]
ANSWER = re.compile(rb"location: /tasks/(\d+)")


class Client(threading.Thread):
    """Creates, replaces and deletes tasks of its own until `enough`, an error, or the server's end.

    `ledger` is what the answers promised. `doubt` is what a request without an answer would make of one task."""

    def __init__(self, server: Server, number: int, enough: threading.Event, size: int, creates: float) -> None:
        super().__init__(daemon=True)
        self.number, self.enough, self.size, self.creates = number, enough, size, creates
        self.random = random.Random(number)
        self.connection = HTTPConnection(*server.address, timeout=30)
        self.ledger: dict[int, Task] = {}
        self.doubt: tuple[int, Task | None] | None = None
        self.statuses: Counter[int] = Counter()
        self.answers = threading.Semaphore(0)
        self.slowest = 0.0
        self.send("GET", "/info")  # which worker this client talks to is settled now

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        headers = {"content-type": "application/json"} if body else {}
        self.connection.request(method, path, body and json.dumps(body).encode(), headers)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def run(self) -> None:
        with closing(self.connection):
            try:
                while not self.enough.is_set() and self.statuses.keys() <= {200}:
                    self.write()
            except (OSError, HTTPException):
                return

    def write(self) -> None:
        id, task = 0, (f"{self.number} {sum(self.statuses.values())} " + "é" * self.random.randrange(self.size), False)
        method, path, body = "POST", "/tasks", dict(zip(("name", "done"), task, strict=True))
        if self.ledger and self.random.random() > self.creates:
            id = self.random.choice(list(self.ledger))
            method, path = self.random.choice(("PUT", "DELETE")), f"/tasks/{id}"
        self.doubt = id, None if method == "DELETE" else task
        started = time.monotonic()
        status, answer = self.send(method, path, None if method == "DELETE" else body)
        self.slowest = max(self.slowest, time.monotonic() - started)
        self.statuses[status] += 1
        if status == 200:
            self.ledger = self.after(id or answer["id"])
            self.doubt = None
        self.answers.release()

    def after(self, id: int) -> dict[int, Task]:
        """The ledger once the request in doubt has happened to the task with this id."""
        assert self.doubt
        return {key: task for key, task in {**self.ledger, id: self.doubt[1]}.items() if task}

    def check(self, tasks: dict[int, Task]) -> None:
        """Every acknowledged write is there, and the one in doubt is there whole or not at all."""
        mine = {id: task for id, task in tasks.items() if task[0].startswith(f"{self.number} ")}
        if mine != self.ledger:
            assert self.doubt, f"lost or changed: {sorted(mine.items() ^ self.ledger.items())}"[:500]
            assert mine == self.after(self.doubt[0] or max(mine.keys() - self.ledger.keys(), default=0))


class Load:
    """Many clients at once."""

    def __init__(self, server: Server, clients: int, size: int = 200, creates: float = 0.6) -> None:
        self.server, self.enough, self.options = server, threading.Event(), (size, creates)
        self.clients: list[Client] = []
        self.add(clients)

    def add(self, clients: int) -> list[Client]:
        new = [Client(self.server, len(self.clients) + n, self.enough, *self.options) for n in range(clients)]
        self.clients += new
        for client in new:
            client.start()
        return new

    def wait(self, answers: int) -> None:
        """Wait until each client that still runs has had so many more answers."""
        for client in self.clients:
            while client.answers.acquire(blocking=False):
                pass
        for client in self.clients:
            for _ in range(answers):
                while client.is_alive() and not client.answers.acquire(timeout=0.1):
                    pass

    def stop(self) -> None:
        self.enough.set()
        for client in self.clients:
            client.join(60)

    @property
    def statuses(self) -> Counter[int]:
        return sum((client.statuses for client in self.clients), Counter())

    def check(self, server: Server) -> None:
        """See Client.check, for a server that runs on the file now."""
        tasks = tasks_of(server)
        assert {int(name.split()[0]) for name, _ in tasks.values()} <= {client.number for client in self.clients}
        for client in self.clients:
            client.check(tasks)
        assert sound(server.db)


def ask(server: Server, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """The status and the JSON of one answer, on a connection of its own."""
    with closing(HTTPConnection(*server.address, timeout=30)) as connection:
        headers = {"content-type": "application/json"} if body else {}
        connection.request(method, path, body and json.dumps(body).encode(), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def create(server: Server, name: str) -> tuple[int, Any]:
    return ask(server, "POST", "/tasks", {"name": name, "done": False})


def tasks_of(server: Server) -> dict[int, Task]:
    status, tasks = ask(server, "GET", "/tasks")
    assert status == 200
    return {task["id"]: (task["name"], task["done"]) for task in tasks}


def sound(file: Path) -> bool:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.fixture(scope="module")
def strace() -> str:
    """The path of strace, where it may trace."""
    if not (path := shutil.which("strace")):
        pytest.skip("strace is not installed")
    if subprocess.run([path, "-o", os.devnull, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    return path


@contextmanager
def tampered(server: Server, strace: str, injection: str) -> Iterator[None]:
    """Make some system calls of a running server slow, or fail."""
    processes = ",".join(str(process) for process in [server.process.pid, *server.children()])
    command = [strace, "-f", "-o", os.devnull, "-e", f"inject={injection}", "-p", processes]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        if "attached" not in (line := process.stderr.readline()):
            pytest.skip(f"strace may not attach here: {line}")
        try:
            yield
        finally:
            process.terminate()
            process.stderr.read()


# Crash


@pytest.mark.parametrize("workers", ["1", "3"])
def test_what_was_acknowledged_survives_kill_9_of_everything(serve: Serve, workers: str) -> None:
    server = serve("--workers", workers)
    load = Load(server, 16)
    load.wait(answers=25)
    server.kill()
    load.stop()
    assert load.statuses.keys() == {200}
    load.check(serve())


def test_what_was_acknowledged_survives_kill_9_in_the_middle_of_a_commit(serve: Serve, strace: str) -> None:
    server = serve()
    with tampered(server, strace, "pwrite64:delay_enter=2000"):
        load = Load(server, 8, size=2000)
        load.wait(answers=5)
        threading.Event().wait(0.01)
        server.kill()
        load.stop()
    load.check(serve())


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_hundred_crashes(serve: Serve, tmp_path: Path) -> None:
    for n in range(100):
        server = serve("--workers", "2", db=tmp_path / f"{n}.db")
        load = Load(server, 16)
        load.wait(answers=random.Random(n).randrange(50))
        server.kill()
        load.stop()
        server = serve(db=tmp_path / f"{n}.db")
        load.check(server)
        server.stop()


# Power cut: the calls that reached the kernel, replayed as if the power had failed after any of them


class Disk:
    """The database and its WAL as a disk keeps them: what was synced, and what was not."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)
        self.files = {str(directory / name): bytearray() for name in ("todo.db", "todo.db-wal")}
        self.unsynced: dict[str, list[tuple[int, bytes]]] = {path: [] for path in self.files}
        self.named = False

    def do(self, call: str, path: str, offset: int, data: bytes) -> None:
        self.named |= call == "fdatasync" and path == self.directory
        if path in self.files and call == "pwrite64":
            self.unsynced[path].append((offset, data))
        elif path in self.files and call in ("fsync", "fdatasync"):
            for at, piece in self.unsynced[path]:
                put(self.files[path], at, piece)
            self.unsynced[path] = []

    def fail(self, to: Path, rng: random.Random | None) -> None:
        """Write the files as the power cut leaves them: without what was not synced, or with a random part of it."""
        assert self.named, "the directory was not synced, so the files have no names"
        (to / "todo.db-shm").unlink(missing_ok=True)
        for path, content in self.files.items():
            left = content.copy()
            for at, piece in self.unsynced[path] if rng else ():
                put(left, at, piece[: rng.choice((0, 512, len(piece)))])
            (to / Path(path).name).write_bytes(left)


def put(content: bytearray, at: int, piece: bytes) -> None:
    content.extend(bytes(max(0, at - len(content))))
    content[at : at + len(piece)] = piece


def read_trace(trace: Path) -> Iterator[tuple[str, str, int, bytes]]:
    """The traced calls, with path, offset and data: a write when it begins, a sync when it has ended."""
    begun: dict[str, str] = {}
    for line in trace.read_text().splitlines():
        thread, text = line.split(maxsplit=1)
        if resumed := " resumed>" in text:
            text = begun.pop(thread)
        elif text.endswith("<unfinished ...>"):
            begun[thread] = text
        is_sync = text.startswith(("fsync", "fdatasync"))
        if text.endswith("<unfinished ...>") and resumed != is_sync:
            continue
        if match := re.match(r"(\w+)\(\d+<([^>]+)>", text):
            data = b"".join(unhex(piece) for piece in re.findall(r'"(\\x[^"]*)"', text))
            offset = re.search(r'", \d+, (\d+)', text)
            yield match[1], unhex(match[2]).decode(), int(offset[1]) if offset else 0, data


def unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, strace: str) -> Traced:
    """The directory and the trace of a server under load whose WAL was checkpointed, and every task it created."""
    directory = tmp_path_factory.mktemp("power")
    calls = "pwrite64,write,writev,sendto,sendmsg,fsync,fdatasync"
    options = f"-D -f --seccomp-bpf -y -xx -s 5000 -e signal=none -e trace={calls} -o {directory / 'trace'}".split()
    server = Server(directory / "todo.db", prefix=(strace, *options))
    load = Load(server, 8, size=20_000, creates=1)
    load.wait(answers=30)
    load.stop()
    server.stop()
    return directory, list(read_trace(directory / "trace")), tasks_in(directory / "todo.db")


def tasks_in(file: Path) -> dict[int, Task]:
    with closing(sqlite3.connect(file)) as connection:
        return {id: (name, bool(done)) for id, name, done in connection.execute("SELECT id, name, done FROM task")}


@pytest.mark.parametrize("left", ["what was synced", "some of the rest"])
def test_what_was_acknowledged_survives_a_power_cut_at_any_moment(traced: Traced, tmp_path: Path, left: str) -> None:
    directory, calls, created = traced
    rng = random.Random(left)
    disk, answered = Disk(directory), set[int]()
    answers = [n for n, call in enumerate(calls) if ANSWER.search(call[3]) and call[1].startswith("socket")]
    cuts = {*rng.sample(answers, 10), *rng.sample(range(answers[0], answers[-1]), 10)}
    assert sum(call[1] == str(directory / "todo.db") for call in calls[answers[0] : answers[-1]]), "no checkpoint"
    for n, (call, path, offset, data) in enumerate(calls[: answers[-1] + 1]):
        disk.do(call, path, offset, data)
        answered |= {int(id) for id in ANSWER.findall(data) if path.startswith("socket")}
        if n in cuts:
            disk.fail(tmp_path, None if left == "what was synced" else rng)
            survived = tasks_in(tmp_path / "todo.db")
            assert sound(tmp_path / "todo.db")
            assert answered <= survived.keys(), f"lost after call {n}: {sorted(answered - survived.keys())}"
            assert survived.items() <= created.items()


# Disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    (disk := tmp_path / "disk").mkdir()
    if (mount := shutil.which("mount")) is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(server: Server) -> dict[int, Task]:
    """Create tasks until the disk is full, and return them."""
    created: dict[int, Task] = {}
    for n in range(1000):
        status, answer = create(server, f"{n} " + "x" * 20_000)
        if status != 200:
            assert (status, answer) == (507, {"detail": "The disk is full"})
            return created
        created[answer["id"]] = answer["name"], answer["done"]
    raise AssertionError("the disk never was full")


def test_a_full_disk_is_507_and_loses_nothing(small_disk: Path, serve: Serve) -> None:
    server = serve(db=small_disk / "todo.db")
    created = fill(server)
    assert len(created) > 20
    server.kill()
    shutil.copytree(small_disk, moved := small_disk.parent / "moved", dirs_exist_ok=True)
    assert tasks_of(serve(db=moved / "todo.db")) == created
    assert sound(moved / "todo.db")


def test_reads_go_on_while_the_disk_is_full(small_disk: Path, serve: Serve) -> None:
    server = serve(db=small_disk / "todo.db")
    created = fill(server)
    assert tasks_of(server) == created
    assert ask(server, "GET", "/healthz") == (200, {"status": "ok"})
    assert ask(server, "GET", "/tasks/1") == (200, {"name": created[1][0], "done": False, "id": 1})
    assert "Traceback" not in server.log


def test_writes_go_on_once_a_full_disk_has_room(small_disk: Path, serve: Serve) -> None:
    (ballast := small_disk / "ballast").write_bytes(bytes(1_200_000))
    server = serve(db=small_disk / "todo.db")
    created = fill(server)
    ballast.unlink()
    status, answer = create(server, "after")
    assert status == 200
    created[answer["id"]] = "after", False
    assert server.stop() in (0, -signal.SIGTERM)
    assert sorted(file.name for file in small_disk.iterdir()) == ["todo.db", "todo.db-lock"]
    assert tasks_of(serve(db=small_disk / "todo.db")) == created


def test_a_write_that_the_disk_has_no_room_for_fails_alone(small_disk: Path, serve: Serve) -> None:
    (small_disk / "ballast").write_bytes(bytes(2**20))
    server = serve(db=small_disk / "todo.db")
    names = [f"{n} " + "x" * (900_000 if n == 5 else 10) for n in range(10)]
    with closing(sqlite3.connect(server.db, isolation_level=None)) as other, ThreadPoolExecutor(11) as threads:
        other.execute("BEGIN IMMEDIATE")  # while this holds the database, the writes gather
        first = threads.submit(create, server, "first")
        arrived(server)
        outcomes = [threads.submit(create, server, name) for name in names]
        arrived(server)
        other.execute("ROLLBACK")
        statuses = [outcome.result()[0] for outcome in [first, *outcomes]]
    assert statuses == [200] * 6 + [507] + [200] * 4
    assert sorted(name for name, _ in tasks_of(server).values()) == sorted(["first", *names[:5], *names[6:]])


def arrived(server: Server) -> None:
    """Wait until the requests that were sent before have arrived: until the server has answered later ones."""
    for _ in range(30):
        assert ask(server, "GET", "/") == (200, "Hello, world!")


@pytest.mark.parametrize("fault", ["ABORT", "ROLLBACK"])
def test_a_write_that_the_database_refuses_fails_alone(serve: Serve, fault: str) -> None:
    """ABORT undoes the statement, ROLLBACK ends the transaction of the whole group."""
    server = serve()
    with closing(sqlite3.connect(server.db, isolation_level=None)) as other, ThreadPoolExecutor(11) as threads:
        other.execute(
            "CREATE TRIGGER refuse AFTER INSERT ON task WHEN NEW.name = '5' "
            f"BEGIN UPDATE task SET name = 'spoilt'; SELECT RAISE({fault}, 'refused'); END"
        )
        other.execute("BEGIN IMMEDIATE")
        first = threads.submit(create, server, "first")
        arrived(server)
        outcomes = [threads.submit(create, server, str(n)) for n in range(10)]
        arrived(server)
        other.execute("ROLLBACK")
        statuses = [outcome.result()[0] for outcome in [first, *outcomes]]
    assert statuses == [200] * 6 + [503] + [200] * 4
    assert sorted(name for name, _ in tasks_of(server).values()) == sorted(["first", *"012346789"])


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
def test_an_io_error_is_503_while_it_lasts_and_loses_nothing(serve: Serve, strace: str, call: str) -> None:
    server = serve()
    assert create(server, "before")[0] == 200
    with tampered(server, strace, f"{call}:error=EIO"), server.client() as http:
        for _ in range(2):
            answer = http.post("/tasks", json={"name": "never", "done": False})
            assert answer.status_code == 503
            assert answer.json().keys() == {"detail"}
            assert answer.headers["retry-after"] == "1"
            assert http.get("/tasks").json() == [{"name": "before", "done": False, "id": 1}]
            assert http.get("/healthz").status_code == 200
    assert create(server, "after")[0] == 200
    server.kill()
    names = [name for name, _ in tasks_of(serve()).values()]
    assert names == ["before", "after"]
    assert sound(server.db)
    assert "Traceback" not in server.log


def test_an_io_error_now_and_then_loses_nothing(serve: Serve, strace: str) -> None:
    server = serve()
    load = Load(server, 8)
    with tampered(server, strace, "fdatasync:error=EIO:when=5+7"):
        load.wait(answers=15)
    load.stop()
    assert load.statuses.keys() <= {200, 503}
    server.kill()
    load.check(serve())


def test_reads_stay_quick_and_writes_come_in_groups_while_each_sync_takes_50_ms(serve: Serve, strace: str) -> None:
    server = serve()
    create(server, "read me")
    load = Load(server, 32, creates=1)
    times = []
    with tampered(server, strace, "fdatasync:delay_enter=50000"), server.client() as http:
        load.wait(answers=1)
        started, before = time.monotonic(), load.statuses[200]
        for _ in range(100):
            sent = time.monotonic()
            assert http.get("/tasks/1").status_code == 200
            times.append(time.monotonic() - sent)
            threading.Event().wait(0.01)  # a reader that is no load
        syncs, writes = (time.monotonic() - started) / 0.05, load.statuses[200] - before
        load.stop()
    assert load.statuses.keys() == {200}
    assert statistics.median(times) < 0.02, times
    assert writes > 4 * syncs


# Clients that vanish


def vanish(connection: socket.socket) -> None:
    """Close it as a crash or a pulled cable does: with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def request(server: Server, head: str, body: bytes = b"", length: int | None = None) -> socket.socket:
    connection = socket.create_connection(server.address, timeout=30)
    fields = f"host: x\r\ncontent-type: application/json\r\ncontent-length: {len(body) if length is None else length}"
    connection.sendall(f"{head} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body)
    return connection


def test_clients_that_vanish_in_the_middle_of_a_body_leave_no_trace(serve: Serve) -> None:
    server = serve()
    for length in range(1, 40):
        vanish(request(server, "POST /tasks", b'{"name": "half", "done": false, "x": 1}'[:length], 40))
    assert tasks_of(server) == {}
    assert server.stop() in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log


def test_clients_that_vanish_in_the_middle_of_a_write_take_nobody_with_them(serve: Serve) -> None:
    server = serve()
    with closing(sqlite3.connect(server.db, isolation_level=None)) as other, ThreadPoolExecutor(21) as threads:
        other.execute("BEGIN IMMEDIATE")
        first = threads.submit(create, server, "first")
        arrived(server)
        gone = [request(server, "POST /tasks", b'{"name": "gone", "done": false}') for _ in range(20)]
        outcomes = [threads.submit(create, server, f"stays {n}") for n in range(20)]
        arrived(server)
        for connection in gone:
            vanish(connection)
        arrived(server)
        other.execute("ROLLBACK")
        assert [outcome.result()[0] for outcome in [first, *outcomes]] == [200] * 21
    names = Counter(name for name, _ in tasks_of(server).values())
    assert names.pop("gone", 0) <= 20
    assert names == Counter(["first", *(f"stays {n}" for n in range(20))])
    assert server.stop() in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log


def test_clients_that_vanish_in_the_middle_of_a_long_list_cost_nothing_more(serve: Serve) -> None:
    server = serve()
    with closing(sqlite3.connect(server.db)) as other:
        numbers = "WITH n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 150000)"
        other.execute(f"INSERT INTO task (name, done) {numbers} SELECT printf('%0100d', n), n % 2 FROM n")
        other.commit()
    for _ in range(20):
        connection = request(server, "GET /tasks")
        assert b" 200 OK" in connection.recv(1000)
        vanish(connection)
    arrived(server)
    before = cpu(server)
    threading.Event().wait(0.3)
    assert cpu(server) - before < 0.1, "it still writes lists that nobody reads"
    assert server.stop() in (0, -signal.SIGTERM)
    assert "Traceback" not in server.log


def cpu(server: Server) -> float:
    """The seconds of processor time that a server has used."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
