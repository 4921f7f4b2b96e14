"""Stop just works: what was accepted is answered, one file is left, or the log says why not."""

import contextlib
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from assertions import assert_error, assert_status, assert_task, assert_tasks
from database import insert_tasks, read_tasks, workers_lock, write_lock
from load import Load
from server import paused
from starting import STOPPED, count_writer_threads, file_names, lock_holders, open_files, wait_until
from tracing import injected
from wire import Connection

import todo

slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("sig", "workers"),
    [
        (signal.SIGINT, 1),
        pytest.param(signal.SIGTERM, 2, marks=slow),
        pytest.param(signal.SIGTERM, 1, marks=slow),
        pytest.param(signal.SIGINT, 4, marks=slow),
    ],
)
def test_a_stop_under_load_answers_what_was_accepted_and_leaves_one_file(
    make_server, tmp_path, sig, workers
):
    server = make_server("--workers", str(workers), db=tmp_path / "new.db")
    load = Load()
    load.start(server, 16)
    load.wait_for_responses(5)
    assert server.stop(sig) in STOPPED
    load.stop()
    assert set(load.statuses) == {200}
    assert file_names(tmp_path) == ["new.db", "new.db-lock"]
    stored = {task["id"]: task for task in read_tasks(server.db)}
    assert stored == load.acknowledged, "a write was lost, or executed and not answered"
    assert [line for line in server.lines if not line.startswith("INFO:")] == []


def test_a_stop_comes_after_the_writes_that_wait(make_client, caplog):
    client = make_client()
    with ThreadPoolExecutor() as threads:
        with write_lock(client.db):
            create = client.begin("POST", "/tasks", json={"name": "milk", "done": False})
            client.get("/info")  # When this is answered, the write waits for the lock.
            stop = threads.submit(client.stop)
            wait_until("the stop begins", lambda: client.application.database is None)
            client.get("/info")  # When this is answered, the stop waits behind the write.
            caplog.clear()  # The last request was answered 503.
        stop.result(30)
    assert_task(create.result(10), {"name": "milk", "done": False, "id": 1}, location="/tasks/1")
    assert caplog.messages == []
    assert_tasks(read_tasks(client.db), [{"name": "milk", "done": False, "id": 1}])


def test_a_stop_while_another_program_reads_says_that_the_wal_remains(make_client, caplog):
    client = make_client()
    client.create_task("one")
    with contextlib.closing(sqlite3.connect(client.db, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM task").fetchall() == [(1,)]
        client.create_task("two")
        client.stop()
        assert caplog.messages == [
            f"{client.db}-wal remains: another program is using the file",
        ]
        assert client.db.with_name("todo.db-wal").stat().st_size > 0
    assert [task["name"] for task in read_tasks(client.db)] == ["one", "two"]


def test_a_failure_while_closing_leaves_no_file_open(make_client, caplog):
    client = make_client()
    checkpointer = client.application.database.file.checkpointer
    checkpointer.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    client.stop()
    assert caplog.messages == [f"{client.db} was not closed properly"]
    assert open_files(client.db.parent) == []


@slow
def test_a_failure_while_closing_is_logged(make_server):
    server = make_server()
    server.request("POST", "/tasks", json={"name": "milk", "done": False})
    with injected(server, "fdatasync,fsync:error=EIO"):
        assert server.stop() in STOPPED
    failure = f"{server.db} was not closed properly: OperationalError: 'disk I/O error'"
    assert f"ERROR:    {failure}\n" in server.lines
    assert_tasks(read_tasks(server.db), [{"name": "milk", "done": False, "id": 1}])


# Another process holds the lock


def test_a_stop_that_cannot_have_the_lock_says_so(make_client, monkeypatch, caplog):
    monkeypatch.setattr(todo, "STOP_TIMEOUT", 0.2)
    threads = count_writer_threads()
    client = make_client()
    client.create_task()
    with workers_lock(client.db):
        client.stop()
        assert caplog.messages == [
            f"{client.db} was not closed in time: its lock is held, or a write takes long",
        ]
    wait_until("the writer thread has ended", lambda: count_writer_threads() == threads)
    assert_tasks(read_tasks(client.db), [{"name": "milk", "done": False, "id": 1}])


def begin_create_that_has_waited_20_s(client):
    """Begin to create a task while the lock of the workers is held."""
    create = client.begin("POST", "/tasks", json={"name": "milk", "done": False})
    lock = client.application.database.file.lock
    wait_until("the write waits", lambda: lock.seconds_waited() > 0)
    lock.waiting_since -= 20  # Only the test knows that it has not waited for so long.
    return create


def test_the_time_for_which_a_write_has_waited_is_taken_from_the_stop(make_client, monkeypatch):
    """Otherwise 5 s of the write and 5 s of the stop would be 10 s together."""
    monkeypatch.setattr(todo, "STOP_TIMEOUT", 20)
    client = make_client()
    with workers_lock(client.db):
        create = begin_create_that_has_waited_20_s(client)
        started = time.monotonic()
        client.stop()
        assert time.monotonic() - started < 10
    assert_task(create.result(10), {"name": "milk", "done": False, "id": 1}, location="/tasks/1")


def test_the_time_for_which_an_earlier_write_has_waited_is_not_taken_from_the_stop(
    make_client, monkeypatch
):
    monkeypatch.setattr(todo, "STOP_TIMEOUT", 0.3)
    client = make_client()
    with workers_lock(client.db):
        create = begin_create_that_has_waited_20_s(client)
    assert_task(create.result(10), {"name": "milk", "done": False, "id": 1}, location="/tasks/1")
    with workers_lock(client.db):
        started = time.monotonic()
        client.stop()
        assert time.monotonic() - started > 0.25


@slow
def test_a_worker_that_is_frozen_with_the_lock_delays_the_stop_of_others_by_5_s(make_server):
    frozen, other = make_server(), make_server()
    other.request("POST", "/tasks", json={"name": "milk", "done": False})
    with ThreadPoolExecutor() as threads, contextlib.ExitStack() as stack:
        with write_lock(frozen.db):
            late = {"name": "late", "done": False}
            create = threads.submit(frozen.request, "POST", "/tasks", json=late)
            wait_until("the server has the lock", lambda: lock_holders(frozen.db) == 1)
            stack.enter_context(paused(frozen.process.pid))
        started = time.monotonic()
        assert other.stop() in STOPPED
        assert 4.9 < time.monotonic() - started < 6.5
        assert lock_holders(frozen.db) == 1
        stack.close()
        create.result(20)
    message = f"{other.db} was not closed in time: its lock is held, or a write takes long"
    assert f"ERROR:    {message}\n" in other.lines
    assert frozen.stop() in STOPPED
    stored = [task for task in read_tasks(frozen.db) if task["name"] != "late"]
    assert_tasks(stored, [{"name": "milk", "done": False, "id": 1}])
    assert file_names(frozen.db.parent) == ["served.db", "served.db-lock"]


# --timeout-graceful-shutdown


@slow
def test_a_stop_that_may_not_wait_answers_503_to_what_remains(make_server):
    """A body that stalls, a write that waits, and a client that does not read its long list."""
    server = make_server("--timeout-graceful-shutdown", "1")
    insert_tasks(server.db, [("x" * 1000, False) for _ in range(20_000)])
    with Connection(server) as unread, Connection(server) as stalled, Connection(server) as waiting:
        unread.send_request("GET", "/tasks")
        assert_status(unread.read_head(), 200)
        headers = {"Content-Length": "100", "Expect": "100-continue"}
        stalled.send_request("POST", "/tasks", headers=headers)
        assert_status(stalled.read_head(), 100)
        with write_lock(server.db):
            waiting.send_request("POST", "/tasks", b'{"name": "milk", "done": false}')
            wait_until("the server has the lock", lambda: lock_holders(server.db) == 1)
            server.process.terminate()
            unavailable = "The server cannot do this now: try again"
            assert_error(waiting.read_response(), 503, unavailable, connection="close")
            assert_error(stalled.read_response(), 503, unavailable, connection="close")
        ended = time.monotonic()
        assert server.wait() in STOPPED
        assert time.monotonic() - ended < 3
    assert "Cancel 3 running task(s), timeout graceful shutdown exceeded\n" in server.log
    assert server.log.count("\nasyncio.exceptions.CancelledError: ") == 3
    assert file_names(server.db.parent) == ["served.db", "served.db-lock"]
    assert len(read_tasks(server.db)) == 20_000
