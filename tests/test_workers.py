"""Any number of workers on one file: no write fails for another, and none starves."""

from __future__ import annotations

import contextlib
import fcntl
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from assertions import assert_json, assert_page, assert_task, assert_tasks
from database import insert_tasks, workers_lock
from load import Load
from server import paused
from starting import wait_until
from tracing import Call, read_trace, recording_prefix


@pytest.mark.parametrize("clients", [4, pytest.param(16, marks=pytest.mark.slow)])
def test_four_workers_with_many_clients_each_give_nothing_but_200(make_server, clients):
    server = make_server("--workers", "4")
    load = Load()
    load.start_on_each_worker(server, clients)
    load.wait_for_responses(10)
    load.stop()
    assert set(load.statuses) == {200}
    load.assert_kept(server)


def test_a_worker_gets_its_turn_although_another_one_always_has_more_to_write(make_client):
    """SQLite's own lock has no queue: without the lock of the workers, one waits for seconds.

    The lock of the workers promises no order either, so a worker may have bad luck once.
    """
    busy, other = make_client(), make_client()
    commits: list[str] = []
    is_over = threading.Event()

    def commit_slowly(statement: str) -> None:
        if statement == "COMMIT":
            commits.append(statement)
            time.sleep(0.01)  # as with a slow disk; so the lock is hardly ever free

    def write_until_it_is_over() -> None:
        while not is_over.is_set():
            busy.create_task()

    def count_commits_during_five_writes() -> int:
        before = len(commits)
        for _ in range(5):
            other.create_task()
        return len(commits) - before

    busy.application.database.file.writer.set_trace_callback(commit_slowly)
    with ThreadPoolExecutor(8) as threads:
        writes = [threads.submit(write_until_it_is_over) for _ in range(8)]
        try:
            wait_until("the other worker is busy", lambda: len(commits) > 5)
            assert any(count_commits_during_five_writes() < 50 for _ in range(4))
        finally:
            is_over.set()
    for write in writes:
        write.result()


def checkpoints_and_overlaps(calls: Iterable[Call], db: Path) -> tuple[int, list[Call]]:
    """Return how many checkpoints there were, and each write of a commit during one of them.

    A checkpoint writes to the file and then syncs it; a commit writes to the WAL. What a thread
    commits during its own checkpoint does not count.
    """
    checkpoints = 0
    checkpointing = None  # the thread that is in a checkpoint
    overlaps = []
    for call in calls:
        if call.path == str(db) and call.name == "pwrite64":
            if checkpointing is None:
                checkpoints += 1
            checkpointing = call.thread
        elif call.path == str(db):
            checkpointing = None
        elif call.path == f"{db}-wal" and checkpointing not in (None, call.thread):
            overlaps.append(call)
    return checkpoints, overlaps


@pytest.mark.slow
def test_commits_and_checkpoints_of_two_workers_never_overlap(make_server, tmp_path):
    """With SQLite 3.7.0 to 3.51.2 the file can become corrupt if they do."""
    db, trace = tmp_path / "todo.db", tmp_path / "trace"
    delay = ["-s", "0", "-e", "inject=fdatasync:delay_enter=2000"]
    prefix = recording_prefix(trace, "pwrite64,fdatasync", *delay)
    server = make_server("--workers", "2", db=db, prefix=prefix)
    load = Load(name_length=980, creates=1)
    load.start_on_each_worker(server, 8)
    load.wait_for_responses(60)
    load.stop()
    server.stop()
    checkpoints, overlaps = checkpoints_and_overlaps(read_trace(trace), db)
    assert checkpoints >= 3, "Too little was written for this test."
    assert overlaps == []


def test_every_transaction_and_checkpoint_holds_the_lock_of_the_workers(make_client):
    client = make_client()
    insert_tasks(client.db, [("🦆" * 1000, True)] * 3000)
    statements: list[str] = []
    without_lock: list[str] = []

    def check_lock(statement: str) -> None:
        """Remember a statement, and whether another worker could take the lock meanwhile."""
        statements.append(statement)
        with contextlib.suppress(BlockingIOError), open(f"{client.db}-lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # the weakest lock
            without_lock.append(statement)

    client.application.database.file.writer.set_trace_callback(check_lock)
    client.application.database.file.checkpointer.set_trace_callback(check_lock)
    client.delete("/tasks?done=true")  # It changes so much that the WAL is truncated.
    client.stop()
    assert statements.count("BEGIN IMMEDIATE") == 1
    assert statements.count("COMMIT") == 1
    assert statements.count("PRAGMA wal_checkpoint(TRUNCATE)") == 2  # the other one at the stop
    assert without_lock == []


# A worker that is frozen while it holds the lock: the test holds it in its place


def test_beside_a_frozen_worker_reads_go_on(make_client):
    client = make_client()
    client.create_task("milk")
    milk = {"name": "milk", "done": False, "id": 1}
    with workers_lock(client.db):
        update = client.begin("PATCH", "/tasks/1", json={"name": "bread"})
        assert_page(client.get("/tasks"), [milk])
        assert_task(client.get("/tasks/1"), milk)
        assert_json(client.get("/healthz"), {"status": "ok"}, cache_control="no-store")
        assert not update.done(), "The write did not wait for the lock."
    assert_task(update.result(10), {"name": "bread", "done": False, "id": 1})


def test_beside_a_frozen_worker_another_one_starts(make_client):
    frozen = make_client()
    frozen.create_task("milk")
    with workers_lock(frozen.db):
        started = make_client()
        assert_tasks(started.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


@pytest.mark.slow
def test_a_worker_that_is_frozen_at_any_moment_costs_no_acknowledged_write(make_server):
    servers = [make_server(), make_server()]
    load = Load()
    for server in servers:
        load.start(server, 8)
    for number in range(10):
        load.wait_for_responses(3)
        with paused(servers[number % 2].process.pid):
            time.sleep(0.2)  # The other one waits, if the lock is held, or goes on: nobody knows.
    load.stop()
    assert set(load.statuses) == {200}
    load.assert_kept(servers[0])
