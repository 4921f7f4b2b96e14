"""Any number of workers on one file: no write fails for another, and none starves."""

from __future__ import annotations

import contextlib
import fcntl
import time

import pytest
from assertions import assert_error, assert_json, assert_page, assert_task, assert_tasks
from database import insert_tasks
from load import Load
from server import paused
from tracing import read_trace, recording


def test_four_workers_and_64_writers_give_nothing_but_200_and_nobody_starves(make_server):
    server = make_server("--workers", "4")
    load = Load()
    load.start_on_each_worker(server, 16)
    load.wait_for_responses(10)
    load.stop()
    assert set(load.statuses) == {200}
    slowest = [writer.slowest for writer in load.writers]
    assert max(slowest) < 2
    load.assert_kept(server)


@pytest.mark.slow
def test_commits_and_checkpoints_of_two_workers_never_overlap(make_server, tmp_path):
    """SQLite 3.7.0 to 3.51.2 can corrupt a file when one process commits while another checkpoints.

    A checkpoint writes to the file and then syncs it; a commit writes to the log.
    """
    db, trace = tmp_path / "todo.db", tmp_path / "trace"
    delay = ["-s", "0", "-e", "inject=fdatasync:delay_enter=2000"]
    prefix = recording(trace, "pwrite64,fdatasync", *delay)
    server = make_server("--workers", "2", db=db, prefix=prefix)
    load = Load(name_length=980, creates=1)
    load.start_on_each_worker(server, 8)
    load.wait_for_responses(60)
    load.stop()
    server.stop()
    checkpoints = 0
    checkpointing = None  # the thread that is in a checkpoint
    overlaps = []
    for call in read_trace(trace):
        if call.path == str(db) and call.name == "pwrite64":
            checkpoints += checkpointing is None
            checkpointing = call.thread
        elif call.path == str(db):
            checkpointing = None
        elif call.path == f"{db}-wal" and checkpointing not in (None, call.thread):
            overlaps.append(call)
    assert checkpoints >= 3, "The log was too short for this test."
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
    client.delete("/tasks?done=true")  # It changes so much that the log is shortened.
    client.stop()
    assert statements.count("BEGIN IMMEDIATE") == 1
    assert statements.count("COMMIT") == 1
    assert statements.count("PRAGMA wal_checkpoint(TRUNCATE)") == 2, "One is that of the stop."
    assert without_lock == []


# A worker that is frozen while it holds the lock: the test holds it in its place


@contextlib.contextmanager
def workers_lock(db):
    """Hold the lock of the workers."""
    with open(f"{db}-lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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
def test_beside_a_frozen_worker_a_write_is_a_503_after_5_s(make_server):
    server = make_server()
    with server.client() as client, workers_lock(server.db):
        started = time.monotonic()
        response = client.post("/tasks", json={"name": "milk", "done": False})
        seconds = time.monotonic() - started
    assert_error(response, 503, "The server cannot do this now: try again")
    assert 4.9 < seconds < 6
    assert "Traceback" not in server.log
    response = server.request("POST", "/tasks", json={"name": "bread", "done": False})
    assert_task(response, {"name": "bread", "done": False, "id": 1}, location="/tasks/1")
    assert_tasks(server.list_tasks(), [{"name": "bread", "done": False, "id": 1}])


@pytest.mark.slow
def test_beside_a_frozen_worker_a_stop_takes_5_s_and_says_that_the_file_was_not_closed(
    make_server,
):
    server = make_server()
    server.request("POST", "/tasks", json={"name": "milk", "done": False})
    with workers_lock(server.db):
        started = time.monotonic()
        server.stop()
        seconds = time.monotonic() - started
    assert seconds < 6
    assert f"{server.db} was not closed" in server.log
    assert "Traceback" not in server.log
    assert_tasks(make_server().list_tasks(), [{"name": "milk", "done": False, "id": 1}])


@pytest.mark.slow
def test_a_worker_that_is_frozen_at_any_moment_costs_no_acknowledged_write(make_server):
    servers = [make_server(), make_server()]
    load = Load()
    for server in servers:
        load.start(server, 8)
    for number in range(10):
        load.wait_for_responses(3)
        with paused(servers[number % 2].process.pid):
            time.sleep(0.2)
    load.stop()
    assert set(load.statuses) == {200}
    load.assert_kept(servers[0])
