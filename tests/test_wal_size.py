"""The WAL (the -wal file) stays under 64 MiB, and shrinks after a transaction of any size."""

from __future__ import annotations

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from assertions import assert_status
from database import execute, insert_tasks
from load import Load
from starting import wait_until
from wire import Connection

import todo

MIB = 2**20


def wal_size(db):
    """Return the size of the WAL in bytes."""
    return db.with_name(f"{db.name}-wal").stat().st_size


@contextlib.contextmanager
def open_read(db):
    """Read the file as another program, which keeps the WAL from being truncated."""
    with contextlib.closing(sqlite3.connect(db)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM task").fetchone()
        yield


def let_it_truncate(client):
    """Return when the server has truncated the WAL after its last write, if it does that.

    It does that before it begins another write, such as this one.
    """
    client.create_task()


@pytest.fixture
def eager_client(make_client, monkeypatch):
    """A client of an application that truncates the WAL at 128 KiB."""
    monkeypatch.setattr(todo, "WAL_LIMIT", 2**17)  # It is read when the application starts.
    return make_client()


def checkpoints_of(client):
    """Return a list to which the statements will be appended that truncate the WAL."""
    statements = []
    client.application.database.file.checkpointer.set_trace_callback(statements.append)
    return statements


def test_the_wal_shrinks_after_a_bulk_delete(make_client):
    client = make_client()
    insert_tasks(client.db, [("🦆" * 1000, True)] * 3000)
    client.delete("/tasks?done=true")
    let_it_truncate(client)
    assert wal_size(client.db) < MIB


def test_a_wal_that_another_program_holds_up_is_not_tried_again_for_every_write(eager_client):
    insert_tasks(eager_client.db, [("🦆" * 1000, True)] * 100)
    statements = checkpoints_of(eager_client)
    with open_read(eager_client.db):
        eager_client.delete("/tasks?done=true")
        eager_client.create_task()
        eager_client.create_task()
        let_it_truncate(eager_client)
    assert statements == ["PRAGMA wal_checkpoint(TRUNCATE)"]


def test_a_wal_that_grows_again_is_tried_again(eager_client):
    tasks = [("🦆" * 1000, True)] * 100
    insert_tasks(eager_client.db, tasks)
    statements = checkpoints_of(eager_client)
    with open_read(eager_client.db):
        eager_client.create_task()
        let_it_truncate(eager_client)
    execute(eager_client.db, "PRAGMA wal_checkpoint(TRUNCATE)")
    eager_client.create_task()
    let_it_truncate(eager_client)
    assert statements == ["PRAGMA wal_checkpoint(TRUNCATE)"]
    insert_tasks(eager_client.db, tasks)
    eager_client.create_task()
    let_it_truncate(eager_client)
    assert statements == ["PRAGMA wal_checkpoint(TRUNCATE)"] * 2


def test_a_failure_to_truncate_the_wal_is_logged(make_client, monkeypatch, caplog):
    monkeypatch.setattr(todo, "WAL_LIMIT", 0)
    client = make_client()
    checkpointer = client.application.database.file.checkpointer
    checkpointer.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    client.create_task()
    wait_until("the failure is logged", lambda: caplog.messages)
    assert caplog.messages == [f"{client.db}-wal was not truncated"]
    checkpointer.set_authorizer(None)


@pytest.mark.slow
def test_the_wal_shrinks_after_a_bulk_delete_that_another_program_has_held_up(make_client):
    client = make_client()
    insert_tasks(client.db, [("🦆" * 1000, True)] * 3000)
    with open_read(client.db):
        client.delete("/tasks?done=true")
        let_it_truncate(client)
        assert wal_size(client.db) > 10 * MIB, "The deletion changes too little for this test."
    client.create_task()
    let_it_truncate(client)
    assert wal_size(client.db) < 9 * MIB


@pytest.mark.slow
def test_the_wal_stays_small_under_searches_lists_and_writes(make_server):
    servers = [make_server() for _ in range(3)]
    db = servers[0].db
    insert_tasks(db, [("x" * 100, number % 2 == 0) for number in range(50_000)])
    load = Load(name_length=980)

    def read_again_and_again(server, target):
        while not load.is_stopping:
            with Connection(server) as connection:
                connection.send_request("GET", target)  # The client leaves before the response.
            assert_status(server.request("GET", target), 200)

    sizes = []
    with ThreadPoolExecutor(9) as threads:
        for server in servers:
            load.start(server, 8)
        try:
            readers = [
                threads.submit(read_again_and_again, server, target)
                for server in servers
                for target in ("/tasks?q=nothing", "/tasks?q=nothing&done=true", "/tasks")
            ]
            while load.statuses.total() < 8000:  # So many add up to 80 MiB in the WAL.
                load.wait_for_responses(1)
                sizes.append(wal_size(db))
        finally:
            load.stop()
    for reader in readers:
        reader.result()
    assert set(load.statuses) == {200}
    assert max(sizes) < 64 * MIB
