"""The log (the -wal file) stays under 64 MiB, and shrinks after a transaction of any size."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from database import insert_tasks
from load import Load
from starting import wait_until
from wire import Connection

import todo

MIB = 2**20


def log_size(db):
    """Return the size of the log in bytes."""
    return db.with_name(f"{db.name}-wal").stat().st_size


@contextlib.contextmanager
def open_read(db):
    """Read the file as another program, which keeps the log from being moved into it."""
    with contextlib.closing(sqlite3.connect(db)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM task").fetchone()
        yield


def test_the_log_shrinks_after_a_bulk_delete(make_client):
    client = make_client()
    insert_tasks(client.db, [("🦆" * 1000, True)] * 3000)
    client.delete("/tasks?done=true")
    client.create_task()  # This waits until the log has been shortened.
    assert log_size(client.db) < MIB


def test_a_log_that_another_program_holds_up_is_not_tried_again_for_every_write(
    make_client, monkeypatch
):
    monkeypatch.setattr(todo, "WAL_LIMIT", 2**17)
    client = make_client()
    insert_tasks(client.db, [("🦆" * 1000, True)] * 100)
    statements = []
    client.application.database.file.checkpointer.set_trace_callback(statements.append)
    with open_read(client.db):
        client.delete("/tasks?done=true")
        for _ in range(3):
            client.create_task()
        assert statements == ["PRAGMA wal_checkpoint(TRUNCATE)"]


def test_a_log_that_grows_again_is_tried_again(make_client, monkeypatch):
    monkeypatch.setattr(todo, "WAL_LIMIT", 2**17)
    client = make_client()
    tasks = [("🦆" * 1000, True)] * 100
    insert_tasks(client.db, tasks)
    statements = []
    client.application.database.file.checkpointer.set_trace_callback(statements.append)
    with open_read(client.db):
        client.create_task()
        client.create_task()  # When this begins, the log was tried after the write before it.
    with contextlib.closing(sqlite3.connect(client.db)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    client.create_task()
    client.create_task()
    assert statements == ["PRAGMA wal_checkpoint(TRUNCATE)"]
    insert_tasks(client.db, tasks)
    client.create_task()
    wait_until("the log is tried again", lambda: len(statements) == 2)


def test_a_failure_to_shorten_the_log_is_logged(make_client, monkeypatch, caplog):
    monkeypatch.setattr(todo, "WAL_LIMIT", 0)
    client = make_client()
    checkpointer = client.application.database.file.checkpointer
    checkpointer.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    client.create_task()
    wait_until("the failure is logged", lambda: caplog.messages)
    assert caplog.messages == [f"{client.db}-wal was not truncated"]
    checkpointer.set_authorizer(None)


@pytest.mark.slow
def test_the_log_shrinks_after_a_bulk_delete_that_another_program_has_held_up(make_client):
    client = make_client()
    insert_tasks(client.db, [("🦆" * 1000, True)] * 3000)
    with open_read(client.db):
        client.delete("/tasks?done=true")
        client.create_task()
        assert log_size(client.db) > 10 * MIB, "The deletion changes too little for this test."
    client.create_task()
    client.create_task()
    assert log_size(client.db) < 9 * MIB


@pytest.mark.slow
def test_the_log_stays_small_under_searches_lists_and_writes(make_server):
    servers = [make_server() for _ in range(3)]
    insert_tasks(servers[0].db, [("x" * 100, number % 2 == 0) for number in range(50_000)])
    load = Load(name_length=980)
    for server in servers:
        load.start(server, 8)

    def read_again_and_again(server, target):
        while not load.is_stopping:
            with Connection(server) as connection:
                connection.send_request("GET", target)  # The client leaves before the response.
            assert server.request("GET", target).status_code == 200

    targets = ["/tasks?q=nothing", "/tasks?q=nothing&done=true", "/tasks"]
    sizes = []
    with ThreadPoolExecutor(9) as pool:
        readers = [
            pool.submit(read_again_and_again, server, target)
            for server in servers
            for target in targets
        ]
        end = time.monotonic() + 10
        while time.monotonic() < end:
            sizes.append(log_size(servers[0].db))
            load.writers[0].join(0.005)
        load.stop()
        for reader in readers:
            reader.result(30)
    assert set(load.statuses) == {200}
    assert max(sizes) < 64 * MIB
