"""Acknowledged is durable, a failed write fails alone, and the log stays small.

With TODO_ROUNDS=100, `pytest -m slow tests/test_crash.py` crashes a hundred times, not three.
"""

import os
import random
import re
import shutil
import socket
import sqlite3
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from helpers import MIB, TASK, Client, check_error, insert, locked
from processes import Call, Load, Server, read_trace, tampered, tasks_in, tasks_of, traced

Serve = Callable[..., Server]
Start = Callable[..., Client]
ROUNDS = int(os.environ.get("TODO_ROUNDS", "3"))
FULL = {"name": "🦆" * 1000, "done": False}


def said(server: Server) -> list[str]:
    """The lines that a server, which has ended, has logged since it served."""
    return server.log.partition("running on")[2].splitlines()[1:]


def log_size(db: Path) -> int:
    return Path(f"{db}-wal").stat().st_size


# Crash


@pytest.mark.parametrize("workers", ["1", "4"])
@pytest.mark.parametrize("rounds", [1, pytest.param(ROUNDS, marks=pytest.mark.slow)])
def test_what_was_acknowledged_survives_kill_9(serve: Serve, workers: str, rounds: int) -> None:
    load = Load()
    server = serve("--workers", workers)
    for n in range(rounds):
        load.start(server, 16)
        load.wait(answers=random.Random(n).randrange(30))
        server.kill()
        load.stop()
        server = serve("--workers", workers)
        load.check(server)
    assert load.statuses.keys() == {200}


def test_what_was_acknowledged_survives_kill_9_in_the_middle_of_a_commit(serve: Serve) -> None:
    server = serve()
    load = Load(size=980)
    with tampered(server, "pwrite64,fdatasync:delay_enter=3000"):
        load.start(server, 8)
        load.wait(answers=4)
        server.kill()
        load.stop()
    load.check(serve())


# Power cut: the calls that reached the kernel, replayed as if the power had failed after any


class Disk:
    """The file and its log as a disk keeps them: what was synced, and what was not yet."""

    def __init__(self, db: Path) -> None:
        self.files = {str(db): bytearray(), f"{db}-wal": bytearray()}
        self.unsynced: dict[str, list[tuple[int, bytes]]] = {path: [] for path in self.files}

    def do(self, call: Call) -> None:
        if call.path in self.files and call.name == "pwrite64":
            self.unsynced[call.path].append((call.offset, call.data))
        elif call.path in self.files:  # a sync
            put(self.files[call.path], self.unsynced[call.path])
            self.unsynced[call.path] = []

    def fail(self, folder: Path, rng: random.Random) -> None:
        """Write the files as a power cut leaves them: with a random part of what is unsynced."""
        (folder / "todo.db-shm").unlink(missing_ok=True)
        sizes = rng.choice([(0,), (0, 512, 5000)])
        for path, content in self.files.items():
            left = content.copy()
            put(left, [(at, data[: rng.choice(sizes)]) for at, data in self.unsynced[path]])
            (folder / Path(path).name).write_bytes(left)


def put(content: bytearray, writes: list[tuple[int, bytes]]) -> None:
    for at, data in writes:
        content.extend(bytes(max(0, at - len(content))))
        content[at : at + len(data)] = data


@pytest.mark.parametrize("cuts", [20, pytest.param(ROUNDS, marks=pytest.mark.slow)])
def test_what_was_acknowledged_survives_a_power_cut_at_any_moment(
    serve: Serve, tmp_path: Path, cuts: int
) -> None:
    db, left, trace = tmp_path / "todo.db", tmp_path / "left", tmp_path / "trace"
    left.mkdir()
    names = "pwrite64,fsync,fdatasync,write,writev,sendto,sendmsg"
    server = serve(db=db, prefix=traced(trace, names, "-s", "5000"))
    load = Load(size=980, creates=1)
    load.start(server, 8)
    while log_size(db) < 1000 * 4096:  # then SQLite moves it into the file
        load.wait(answers=1)
    load.wait(answers=10)
    load.stop()
    server.stop()

    created = tasks_in(db)
    calls = list(read_trace(trace))
    answers = [n for n, call in enumerate(calls) if b"location: /tasks/" in call.data]
    assert len(answers) == len(created)
    folder = [n for n, call in enumerate(calls) if call.path == str(tmp_path)]
    assert folder[0] < answers[0], "the folder was not synced, so the files have no names yet"
    during = range(answers[0], answers[-1])
    assert any(calls[n].path == str(db) for n in during), "no checkpoint"
    rng = random.Random(cuts)
    moments = Counter(rng.choice(rng.choice((answers, during))) for _ in range(cuts))
    disk, answered = Disk(db), set()
    for n, call in enumerate(calls[: answers[-1] + 1]):
        disk.do(call)
        answered |= {int(id) for id in re.findall(rb"location: /tasks/(\d+)", call.data)}
        for _ in range(moments[n]):
            disk.fail(left, rng)
            survived = tasks_in(left / "todo.db")
            assert answered <= survived.keys(), f"lost after {call.name}, the call {n}"
            assert survived.items() <= created.items()


# A bad disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = f"mount -t tmpfs -o size=2m tmpfs '{disk}'"
    if subprocess.run(command, shell=True, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here: that takes root, and Linux")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_is_507_and_once_there_is_room_writes_go_on(
    small_disk: Path, serve: Serve, tmp_path: Path
) -> None:
    (small_disk / "ballast").write_bytes(bytes(MIB))
    server = serve(db=small_disk / "todo.db")
    created = {}
    with server.client() as http:
        answer = http.post("/tasks", json=FULL)
        while answer.status_code == 200 and len(created) < 300:
            created[answer.json()["id"]] = FULL["name"], False
            answer = http.post("/tasks", json=FULL)
        check_error(answer, 507, "The disk is full")
        check_error(http.post("/tasks", json=FULL), 507, "The disk is full")
        assert tasks_of(server) == created
        assert http.get("/tasks/1").json() == FULL | {"id": 1}
        assert http.get("/healthz").status_code == 200
        (small_disk / "ballast").unlink()
        id = http.post("/tasks", json=FULL).json()["id"]
    created[id] = FULL["name"], False
    server.kill()
    assert len(said(server)) == 2
    moved = shutil.copytree(small_disk, tmp_path / "moved")
    assert tasks_of(serve(db=moved / "todo.db")) == created


def test_an_io_error_is_503_and_the_next_write_works(serve: Serve) -> None:
    server = serve()
    with server.client() as http:
        for call in ("fdatasync", "pwrite64"):
            with tampered(server, f"{call}:error=EIO"):
                for _ in range(2):
                    answer = http.post("/tasks", json={"name": "never", "done": False})
                    check_error(answer, 503)
                    assert http.get("/tasks").status_code == 200
                    assert http.get("/healthz").status_code == 200
            assert http.post("/tasks", json={"name": call, "done": False}).status_code == 200
    server.kill()
    assert len(said(server)) == 4
    assert [name for name, _ in tasks_of(serve()).values()] == ["fdatasync", "pwrite64"]


def test_reads_stay_quick_and_writes_share_commits_while_a_sync_takes_50_ms(serve: Serve) -> None:
    server = serve()
    load = Load(creates=1)
    times = []
    with tampered(server, "fdatasync:delay_enter=50000"), server.client() as http:
        started = time.monotonic()
        load.start(server, 32)
        load.wait(answers=1)
        for _ in range(60):
            sent = time.monotonic()
            assert http.get("/tasks/1").status_code == 200
            times.append(time.monotonic() - sent)
            load.writers[0].join(0.01)  # a reader that is no load
        load.stop()
        syncs = (time.monotonic() - started) / 0.05
    assert statistics.median(times) < 0.02
    assert load.statuses.keys() == {200}
    assert load.statuses[200] > 4 * syncs


# A write that fails


@pytest.mark.parametrize("fault", ["ABORT", "ROLLBACK"])
def test_a_write_that_the_database_refuses_fails_alone(start: Start, fault: str) -> None:
    """ABORT undoes the statement, ROLLBACK ends the transaction of the whole group."""
    client = start()
    with closing(sqlite3.connect(client.db)) as other:
        other.execute(
            "CREATE TRIGGER refuse AFTER INSERT ON task WHEN NEW.name = '5' "
            f"BEGIN UPDATE task SET name = 'spoilt'; SELECT RAISE({fault}, 'refused'); END"
        )
    with locked(client.db):  # meanwhile the writes gather
        bodies = [{"name": str(n), "done": False} for n in range(10)]
        answers = [client.begin("POST", "/tasks", body) for body in bodies]
        client.get("/info")
    statuses = [answer.result(30).status_code for answer in answers]
    assert statuses == [200] * 5 + [503] + [200] * 4
    check_error(answers[5].result(), 503)
    assert [task["name"] for task in client.tasks()] == list("012346789")


# The file under the server


@pytest.mark.parametrize("event", ["moved", "replaced", "linked", "log replaced"])
def test_a_file_that_is_not_where_it_was_takes_no_writes(
    start: Start, empty: Path, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = start()
    client.create()
    lost = client.db.with_name("todo.db-wal") if event == "log replaced" else client.db
    kept = lost.rename(lost.with_name("kept"))
    if event == "linked":
        lost.symlink_to(kept)
    elif event != "moved":
        shutil.copy(empty, lost)
    for answer in (client.post("/tasks"), client.delete("/tasks/1"), client.get("/healthz")):
        check_error(answer, 503)
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert all(f"{client.db} was moved or replaced" in text for text in caplog.messages)
    assert client.tasks() == [TASK | {"id": 1}]
    kept.rename(lost)
    for answer in (client.post("/tasks"), client.get("/healthz")):
        assert answer.status_code == 200


# The log


def test_the_log_shrinks_after_a_bulk_delete(start: Start) -> None:
    client = start()
    insert(client.db, (("🦆" * 1000, True) for _ in range(6000)))
    with closing(sqlite3.connect(client.db)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM task").fetchone()  # holds up the clean-up
        assert client.delete("/tasks?done=true").json() == 6000
        assert log_size(client.db) > 20 * MIB, "the deletion changes too little for this test"
    client.create()
    client.create()
    assert log_size(client.db) < 9 * MIB


def test_a_clean_up_that_fails_takes_no_patience_from_later_writes(serve: Serve) -> None:
    server = serve()
    with closing(sqlite3.connect(server.db)) as reader, server.client() as http:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM task").fetchone()  # so that the log grows
        insert(server.db, (("🦆" * 1000, True) for _ in range(4000)))
        reader.rollback()
        with tampered(server, "ftruncate:error=EIO"):
            assert http.post("/tasks", json=TASK).status_code == 200
        with ThreadPoolExecutor() as threads, locked(server.db) as other:
            write = threads.submit(http.post, "/tasks", json=TASK)
            with pytest.raises(TimeoutError):
                write.result(0.3)
            other.rollback()
            assert write.result(30).status_code == 200


@pytest.mark.slow
def test_the_log_stays_small_under_searches_lists_and_writes(serve: Serve) -> None:
    servers = [serve(), serve(), serve()]
    insert(servers[0].db, (("x" * 100, n % 2 == 0) for n in range(50_000)))
    load = Load(size=980)
    for server in servers:
        load.start(server, 8)

    def read(server: Server, target: str) -> None:
        with server.client() as http:
            while not load.is_enough:
                with socket.create_connection(server.address, timeout=30) as abandoned:
                    abandoned.sendall(f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
                assert http.get(target).status_code == 200

    targets = ("/tasks?q=nothing", "/tasks?q=nothing&done=true", "/tasks")
    largest = 0
    with ThreadPoolExecutor(9) as threads:
        readers = [threads.submit(read, server, target) for server in servers for target in targets]
        end = time.monotonic() + 10
        while time.monotonic() < end:
            largest = max(largest, log_size(servers[0].db))
            load.writers[0].join(0.005)
        load.stop()
        for reader in readers:
            reader.result(30)
    print(f"the log took {largest / MIB:.1f} MiB at most, beside {load.statuses[200]} writes")
    assert load.statuses.keys() == {200}
    assert largest < 64 * MIB
