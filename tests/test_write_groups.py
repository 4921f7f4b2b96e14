"""Writes that wait share a transaction, but no fault; and a write has 5 s to begin."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest
from assertions import assert_error, assert_json, assert_task, assert_tasks
from client import Client
from database import execute, insert_tasks, read_tasks, workers_lock, write_lock
from server import Server

import todo

UNAVAILABLE = "The server cannot do this now: try again"
BREAD = {"name": "bread", "done": False}


# Writes share a commit


def test_writes_that_wait_share_one_commit(make_client):
    client = make_client()
    statements: list[str] = []
    client.application.database.file.writer.set_trace_callback(statements.append)
    with client.hold_writes():
        creates = [
            client.begin("POST", "/tasks", json={"name": str(number), "done": False})
            for number in range(10)
        ]
    for number, create in enumerate(creates):
        task = {"name": str(number), "done": False, "id": number + 1}
        assert_task(create.result(10), task, location=f"/tasks/{number + 1}")
    assert statements.count("BEGIN IMMEDIATE") == 1
    assert statements.count("COMMIT") == 1


# A failed write fails alone


@pytest.mark.parametrize(
    "action",
    [
        "ABORT",  # undoes the statement
        "FAIL",  # leaves what the statement has done so far
        "ROLLBACK",  # ends the transaction of the whole group
    ],
)
def test_a_write_that_violates_a_constraint_is_a_500_and_fails_alone(make_client, action, caplog):
    client = make_client()
    execute(
        client.db,
        "CREATE TRIGGER refuse AFTER INSERT ON task WHEN NEW.name = 'bad' "
        f"BEGIN UPDATE task SET name = 'spoilt'; SELECT RAISE({action}, 'no'); END",
    )
    names = ["milk", "bread", "bad", "eggs", "tea"]
    with client.hold_writes():
        creates = [
            client.begin("POST", "/tasks", json={"name": name, "done": False}) for name in names
        ]
    responses = [create.result(10) for create in creates]
    assert [response.status_code for response in responses] == [200, 200, 500, 200, 200]
    assert_error(responses[2], 500, "Internal Server Error")
    assert [task["name"] for task in client.list_tasks()] == ["milk", "bread", "eggs", "tea"]
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert repr(record.exc_info[1]) == "IntegrityError('no')"


def test_a_failed_write_is_answered_when_the_one_before_it_was_cancelled(make_client):
    client = make_client()
    execute(
        client.db,
        "CREATE TRIGGER refuse AFTER INSERT ON task WHEN NEW.name = 'bad' "
        "BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    with client.hold_writes():
        cancelled = client.begin("POST", "/tasks", json={"name": "milk", "done": False})
        client.get("/info")  # When this is answered, the first write waits for the lock.
        failed = client.begin("POST", "/tasks", json={"name": "bad", "done": False})
        cancelled.cancel()
    assert_error(failed.result(10), 500, "Internal Server Error")
    assert client.list_tasks() == []


def test_writes_whose_shared_commit_fails_are_tried_again_one_by_one(make_client):
    client = make_client()
    writer = client.application.database.file.writer
    failures = [sqlite3.SQLITE_DENY]  # The first COMMIT fails with an error of SQLite's.

    def authorize(action: int, operation: str | None, *_: object) -> int:
        is_commit = (action, operation) == (sqlite3.SQLITE_TRANSACTION, "COMMIT")
        return failures.pop() if is_commit and failures else sqlite3.SQLITE_OK

    statements: list[str] = []
    writer.set_trace_callback(statements.append)
    with client.hold_writes():
        writer.set_authorizer(authorize)
        creates = [client.begin("POST", "/tasks", json=BREAD) for _ in range(3)]
    for id, create in enumerate(creates, start=1):
        assert_task(create.result(10), {**BREAD, "id": id}, location=f"/tasks/{id}")
    transactions = [statement for statement in statements if "INSERT" not in statement]
    shared, alone = ["BEGIN IMMEDIATE", "ROLLBACK"], ["BEGIN IMMEDIATE", "COMMIT"]
    assert transactions == [*shared, *alone, *alone, *alone]
    assert_tasks(read_tasks(client.db), [{**BREAD, "id": id} for id in (1, 2, 3)])


def test_a_write_is_carried_out_although_the_rollback_before_it_has_failed(make_client):
    client = make_client()
    # A ROLLBACK that fails leaves its transaction open, and so does this.
    client.application.database.file.writer.execute("BEGIN")
    client.create_task("milk")
    assert_tasks(read_tasks(client.db), [{"name": "milk", "done": False, "id": 1}])


# How long a write may take


def make_deletes_slow(client: Client) -> tuple[threading.Event, threading.Event]:
    """Let a deletion set the first of two events when it begins, and then wait for the second.

    A trigger calls a function that waits. It must be known to the connection that writes.
    """
    has_begun = threading.Event()
    may_end = threading.Event()

    def wait() -> None:
        has_begun.set()
        may_end.wait(30)

    client.application.database.file.writer.create_function("wait", 0, wait)
    execute(client.db, "CREATE TRIGGER slow BEFORE DELETE ON task BEGIN SELECT wait(); END")
    return has_begun, may_end


@contextlib.contextmanager
def slow_delete(client: Client) -> Iterator[Future[httpx.Response]]:
    """Begin a DELETE of all done tasks, whose statement ends after the end of the block."""
    has_begun, may_end = make_deletes_slow(client)
    deletion = client.begin("DELETE", "/tasks?done=true")
    assert has_begun.wait(10)
    try:
        yield deletion
    finally:
        may_end.set()


def test_a_write_that_has_begun_is_answered_with_its_outcome_however_long_it_takes(
    make_client, monkeypatch
):
    monkeypatch.setattr(todo, "WRITE_TIMEOUT", 0.5)
    client = make_client()
    insert_tasks(client.db, [("milk", True), ("bread", True)])
    with slow_delete(client) as deletion:
        # When this write has timed out, so has the deletion, which was sent before.
        assert_error(client.post("/tasks", json=BREAD), 503, UNAVAILABLE)
        assert len(client.list_tasks()) == 2, "The deletion should not have ended yet."
    assert_json(deletion.result(10), 2)


def test_a_write_that_waits_behind_a_long_one_times_out_and_never_happens(
    make_client, monkeypatch, caplog
):
    client = make_client()
    insert_tasks(client.db, [("milk", True)])
    with slow_delete(client) as deletion, monkeypatch.context() as patch:
        patch.setattr(todo, "WRITE_TIMEOUT", 0.1)
        late = client.post("/tasks", json={"name": "late", "done": False})
    assert_error(late, 503, UNAVAILABLE)
    [message] = caplog.messages
    assert "TimeoutError" in message
    assert_json(deletion.result(10), 1)
    client.create_task("bread")  # Whatever was queued before it would have happened by now.
    assert_tasks(client.list_tasks(), [{"name": "bread", "done": False, "id": 2}])


def test_after_writes_have_timed_out_the_next_one_is_tried_afresh(make_client, monkeypatch):
    monkeypatch.setattr(todo, "WRITE_TIMEOUT", 0.1)
    client = make_client()
    with write_lock(client.db):
        for _ in range(3):
            assert_error(client.post("/tasks", json=BREAD), 503, UNAVAILABLE)
    monkeypatch.setattr(todo, "WRITE_TIMEOUT", 5)
    response = client.post("/tasks", json={"name": "milk", "done": False})
    assert_task(response, {"name": "milk", "done": False, "id": 1}, location="/tasks/1")
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


def test_a_write_whose_request_is_cancelled_before_it_begins_never_happens(make_client):
    client = make_client()
    with client.hold_writes():
        cancelled = client.begin("POST", "/tasks", json={"name": "milk", "done": False})
        client.get("/info")  # When this is answered, the write waits for the lock.
        cancelled.cancel()
        other = client.begin("POST", "/tasks", json={"name": "bread", "done": False})
    assert_task(other.result(10), {"name": "bread", "done": False, "id": 1}, location="/tasks/1")
    assert_tasks(client.list_tasks(), [{"name": "bread", "done": False, "id": 1}])


def test_a_write_is_answered_when_one_before_it_is_cancelled_after_both_have_begun(make_client):
    client = make_client()
    insert_tasks(client.db, [("milk", True)])
    has_begun, may_end = make_deletes_slow(client)
    with client.hold_writes():
        cancelled = client.begin("POST", "/tasks", json={"name": "bread", "done": False})
        client.get("/info")  # When this is answered, the first write waits for the lock.
        deletion = client.begin("DELETE", "/tasks?done=true")
    assert has_begun.wait(10)
    cancelled.cancel()
    client.get("/info")  # When this is answered, the request has been cancelled.
    may_end.set()
    assert_json(deletion.result(10), 1)
    assert client.list_tasks() == [{"name": "bread", "done": False, "id": 2}]


def timed_create(server: Server) -> tuple[float, httpx.Response]:
    """Create a task; return how many seconds that took, and the response."""
    started = time.monotonic()
    response = server.request("POST", "/tasks", json=BREAD)
    return time.monotonic() - started, response


@pytest.mark.slow
@pytest.mark.parametrize("lock", [write_lock, workers_lock])
def test_a_write_times_out_after_5_s_while_another_process_holds_a_lock(make_server, lock):
    server = make_server()
    with ThreadPoolExecutor() as pool, lock(server.db):
        first = pool.submit(timed_create, server)
        with pytest.raises(TimeoutError):
            first.result(1)
        second = pool.submit(timed_create, server)  # The thread has waited for 1 s already.
        outcomes = [first.result(30), second.result(30)]
    for seconds, response in outcomes:
        assert_error(response, 503, UNAVAILABLE)
        assert 4.9 < seconds < 6
    assert "Traceback" not in server.log
    _, response = timed_create(server)
    assert_task(response, {**BREAD, "id": 1}, location="/tasks/1")
    assert_tasks(server.list_tasks(), [{**BREAD, "id": 1}])
