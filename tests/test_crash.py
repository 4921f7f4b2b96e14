"""Acknowledged is durable, a failed write fails alone, and the log stays small.

With TODO_ROUNDS=100, `pytest tests/test_crash.py` crashes a hundred times, not twice.
"""

import os
import random
import re
import shutil
import socket
import sqlite3
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from helpers import BREAD, MIB, TASK, check_error, insert, locked
from processes import Load, read_trace, tampered, tasks_in, tasks_of, traced

ROUNDS = int(os.environ.get("TODO_ROUNDS", "2"))
FULL = "pwrite64:error=ENOSPC:when=3+"  # there is room for a part of the first write


def log_size(db):
    return Path(f"{db}-wal").stat().st_size


@pytest.mark.parametrize("workers", ["1", "4"])
def test_what_was_acknowledged_survives_kill_9(serve, workers):
    load = Load()
    server = serve("--workers", workers)
    for n in range(ROUNDS):
        load.start(server, 16)
        load.wait(answers=random.Random(n).randrange(30))
        server.kill()
        load.stop()
        server = serve("--workers", workers)
        load.check(server)
    assert load.statuses.keys() == {200}


class Disk:
    """A file as a disk keeps it: what was synced, and the writes that were not yet."""

    def __init__(self):
        self.content, self.unsynced = bytearray(), []

    def do(self, call):
        if call.name == "pwrite64":
            self.unsynced.append(call)
        else:  # a sync
            self.content, self.unsynced = self.after_a_cut([5000]), []

    def after_a_cut(self, sizes):
        """The file with at most so many bytes of each write that was not synced, at random."""
        content = self.content.copy()
        for call in self.unsynced:
            part = call.data[: random.choice(sizes)]
            content.extend(bytes(max(0, call.offset - len(content))))
            content[call.offset : call.offset + len(part)] = part
        return content


def test_what_was_acknowledged_survives_a_power_cut_at_any_moment(serve, tmp_path):
    """The calls that reached the kernel, replayed as if the power had failed after any of them."""
    db, left, trace = (tmp_path / name for name in ("todo.db", "left.db", "trace"))
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
    cuts = Counter(random.choice(random.choice((answers, during))) for _ in range(10 * ROUNDS))
    disks, answered = {str(db): Disk(), f"{db}-wal": Disk()}, set()
    for n, call in enumerate(calls[: answers[-1] + 1]):
        if call.path in disks:
            disks[call.path].do(call)
        answered |= {int(id) for id in re.findall(rb"location: /tasks/(\d+)", call.data)}
        for _ in range(cuts[n]):
            Path(f"{left}-shm").unlink(missing_ok=True)
            sizes = random.choice(([0], [0, 512, 5000]))
            for path, disk in disks.items():
                Path(path.replace("todo.db", "left.db")).write_bytes(disk.after_a_cut(sizes))
            survived = tasks_in(left)
            assert answered <= survived.keys(), f"lost after {call.name}, the call {n}"
            assert survived.items() <= created.items()


@pytest.mark.parametrize("fault", ["fdatasync:error=EIO", "pwrite64:error=EIO", FULL])
def test_after_a_fault_of_the_disk_writes_go_on(serve, fault):
    server = serve()
    with server.client() as http:
        assert http.post("/tasks", json=TASK).status_code == 200
        with tampered(server, fault):
            for _ in range(2):
                check_error(http.post("/tasks", json=BREAD), 507 if fault == FULL else 503)
                assert http.get("/tasks").json() == [TASK | {"id": 1}]
                assert http.get("/healthz").status_code == 200
        assert http.post("/tasks", json=BREAD).json() == BREAD | {"id": 2}
    server.kill()
    assert server.log.partition("running on")[2].count("\n") == 3, "a line for each"
    assert tasks_of(serve()) == {1: ("milk", False), 2: ("bread", True)}


def test_reads_stay_quick_and_writes_share_commits_while_a_sync_takes_50_ms(serve):
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


@pytest.mark.parametrize("fault", ["ABORT", "ROLLBACK"])
def test_a_write_that_the_database_refuses_fails_alone(start, fault):
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


@pytest.mark.parametrize("event", ["moved", "replaced", "linked", "log replaced"])
def test_a_file_that_is_not_where_it_was_takes_no_writes(start, empty, event, caplog):
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
    assert all(str(client.db) in text for text in caplog.messages)
    assert client.tasks() == [TASK | {"id": 1}]
    if event in ("moved", "replaced"):  # all is in the old file, and nothing spoils a new one
        client.close()
        assert (tasks_in(kept), log_size(lost)) == ({1: ("milk", False)}, 0)
    else:
        kept.rename(lost)
        assert client.create().json()["id"] == 2


def test_the_log_shrinks_after_a_bulk_delete(start):
    client, tasks = start(), [("🦆" * 1000, True)] * 3000
    insert(client.db, tasks)
    assert client.delete("/tasks?done=true").json() == 3000
    client.create()  # after the clean-up
    assert log_size(client.db) < MIB
    insert(client.db, tasks)
    with closing(sqlite3.connect(client.db)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM task").fetchone()  # holds up the clean-up
        assert client.delete("/tasks?done=true").json() == 3000
        client.create()
        assert log_size(client.db) > 10 * MIB, "the deletion changes too little for this test"
    client.create()
    client.create()
    assert log_size(client.db) < 9 * MIB


@pytest.mark.slow
def test_the_log_stays_small_under_searches_lists_and_writes(serve):
    servers = [serve() for _ in range(3)]
    insert(servers[0].db, (("x" * 100, n % 2 == 0) for n in range(50_000)))
    load = Load(size=980)
    for server in servers:
        load.start(server, 8)

    def read(server, target):
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
    assert load.statuses.keys() == {200}
    assert largest < 64 * MIB
