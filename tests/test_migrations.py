"""Migrations: applied at start, all or none, by one server at a time, however long they take."""

import asyncio
import contextlib
import gc
import logging
import shutil
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from assertions import assert_page, assert_task
from database import execute, insert_tasks, read_tasks, workers_lock, write_lock
from server import ServerExited
from starting import (
    MIGRATIONS,
    applied_migrations,
    assert_serves,
    copy_application,
    count_writer_threads,
    file_names,
    lock_holders,
    lock_waiters,
    run_yoyo,
    snapshot,
    wait_until,
)
from tracing import killing_prefix

import todo

slow = pytest.mark.slow


# All or none, once


def test_a_start_that_migrates_says_so_and_the_next_one_does_not(make_client, old_db, caplog):
    caplog.set_level(logging.INFO, "uvicorn.error")
    tasks = read_tasks(old_db)
    client = make_client(TODO_DB=str(old_db))
    assert client.list_tasks() == tasks
    assert applied_migrations(old_db) == MIGRATIONS
    client.stop()
    client.start()
    assert caplog.messages == [
        *[f"Migrating the database: {migration}" for migration in MIGRATIONS[1:]],
        f"Serving the tasks in {old_db}",
        f"Serving the tasks in {old_db}",
    ]


def test_migrations_are_applied_all_or_none(make_client, old_db, tmp_path, monkeypatch):
    folder = copy_application(tmp_path / "copy")
    (folder / "migrations" / "9999-broken.sql").write_text("UPDATE nowhere SET x = 1;")
    monkeypatch.setattr(todo, "FOLDER", folder)
    with pytest.raises(todo.StartRefused, match="no such table: nowhere"):
        make_client(TODO_DB=str(old_db))
    assert applied_migrations(old_db) == ["0001-task"]


def test_a_file_of_the_first_version_serves_its_names_beyond_the_limit(
    make_client, tmp_path, monkeypatch
):
    """In that version names had no limit, and their JSON was computed for each read."""
    first = copy_application(tmp_path / "first")
    for migration in MIGRATIONS[1:]:
        (first / "migrations" / f"{migration}.sql").unlink()
    (first / "migrations" / "0001-task.sql").write_text("""
        CREATE TABLE task (
            id    INTEGER  PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
            name  TEXT     NOT NULL,
            done  INTEGER  NOT NULL CHECK (done IN (0, 1)),
            json  TEXT     NOT NULL GENERATED ALWAYS AS (
                json_object('name', name, 'done', json(iif(done, 'true', 'false')), 'id', id)
            ) VIRTUAL
        ) STRICT;

        CREATE INDEX task_done ON task (done);
    """)
    db = tmp_path / "first.db"
    with monkeypatch.context() as patch:
        patch.setattr(todo, "FOLDER", first)
        make_client(TODO_DB=str(db)).stop()
    assert applied_migrations(db) == ["0001-task"]
    long = "é" * 5000
    insert_tasks(db, [(long, False)])
    client = make_client(TODO_DB=str(db))
    assert applied_migrations(db) == MIGRATIONS
    assert_task(
        client.patch("/tasks/1", json={"done": True}), {"name": long, "done": True, "id": 1}
    )
    client.create_task("milk")
    assert_page(
        client.get("/tasks"),
        [{"name": long, "done": True, "id": 1}, {"name": "milk", "done": False, "id": 2}],
    )


@pytest.mark.parametrize("deleted", ["id = 1000", "true"], ids=["last task", "all tasks"])
def test_an_id_is_never_given_twice_after_a_migration_either(make_client, old_db, deleted):
    execute(old_db, f"DELETE FROM task WHERE {deleted}")
    client = make_client(TODO_DB=str(old_db))
    assert client.create_task().json()["id"] == 1001


def test_a_key_that_was_used_before_an_upgrade_is_known_after_it(make_client, tmp_path):
    """Databases have these digests: no later version may compute another one for the same body."""
    db = tmp_path / "used.db"
    run_yoyo(db, "apply", "--revision", "0002-idempotency-key")
    rows = [
        ("milk", False, "key-1", '"4ef69dc96f247c457b8c28d6"'),
        ("bread", True, "key-2", '"8d532269102168bbe254eafc"'),
    ]
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.executemany(
            "INSERT INTO task (name, done, key, request) VALUES (?, ?, ?, ?)", rows
        )
    client = make_client(TODO_DB=str(db))
    for id, (name, done, key, _) in enumerate(rows, start=1):
        response = client.create_task(name, done, headers={"Idempotency-Key": key})
        assert_task(response, {"name": name, "done": done, "id": id}, location=f"/tasks/{id}")


def test_a_view_of_another_program_is_no_obstacle_to_a_migration(make_client, old_db):
    """If a migration drops and renames tables, SQLite checks every view at each step."""
    execute(old_db, "CREATE VIEW name_of_done AS SELECT name FROM task WHERE done")
    names = execute(old_db, "SELECT * FROM name_of_done")
    make_client(TODO_DB=str(old_db))
    assert applied_migrations(old_db) == MIGRATIONS
    assert execute(old_db, "SELECT * FROM name_of_done") == names


@slow
@pytest.mark.parametrize("migration", MIGRATIONS[1:])
def test_a_later_migration_rolls_back_and_applies_again_and_keeps_the_tasks(make_client, migration):
    client = make_client()
    for _ in range(10):
        client.create_task()
    client.delete("/tasks/10")
    tasks = client.list_tasks()
    client.stop()
    run_yoyo(client.db, "rollback", "--revision", migration)
    assert applied_migrations(client.db) == MIGRATIONS[: MIGRATIONS.index(migration)]
    client.start()
    assert applied_migrations(client.db) == MIGRATIONS
    assert client.list_tasks() == tasks
    assert client.create_task().json()["id"] == 11


def test_a_migration_may_rebuild_the_table(make_client, old_db, tmp_path, monkeypatch):
    """RENAME makes a connection open its temporary database.

    If that connection then sets the file to WAL mode, `PRAGMA wal_checkpoint` fails on it.
    """
    folder = copy_application(tmp_path / "copy")
    (folder / "migrations" / "9999-rename.sql").write_text(
        "ALTER TABLE task RENAME TO other; ALTER TABLE other RENAME TO task;"
    )
    monkeypatch.setattr(todo, "FOLDER", folder)
    new_db = tmp_path / "new.db"
    tasks = read_tasks(old_db)
    assert make_client(TODO_DB=str(old_db)).list_tasks() == tasks
    assert make_client(TODO_DB=str(new_db)).list_tasks() == []
    assert applied_migrations(old_db) == applied_migrations(new_db) == [*MIGRATIONS, "9999-rename"]


@pytest.mark.parametrize(
    "change",
    [
        "id = 0",
        "name = NULL",
        "done = NULL",
        "done = 2",
        "key = x'00'",
    ],
)
def test_the_table_takes_nothing_but_tasks(client, change):
    client.create_task()
    with pytest.raises(sqlite3.IntegrityError):
        execute(client.db, f"UPDATE task SET {change}")


# Killed


@pytest.mark.parametrize(
    ("call", "when"),
    [
        pytest.param("unlink", 1, marks=slow),  # It removes the journal: that is the commit.
        pytest.param("pwrite64", 1, marks=slow),
        pytest.param("pwrite64", 2, marks=slow),
        pytest.param("pwrite64", 3, marks=slow),
        pytest.param("pwrite64", 5, marks=slow),
        pytest.param("pwrite64", 10, marks=slow),
        pytest.param("pwrite64", 20, marks=slow),
        pytest.param("fdatasync", 1, marks=slow),
        pytest.param("fdatasync", 2, marks=slow),
        pytest.param("fdatasync", 4, marks=slow),
    ],
)
def test_a_start_that_is_killed_at_one_of_its_writes_blocks_no_later_one(
    make_server, old_db, call, when
):
    tasks = read_tasks(old_db)
    with pytest.raises(ServerExited) as exited:
        make_server(db=old_db, prefix=killing_prefix(call, when))
    assert exited.value.code == -signal.SIGKILL
    assert "Serving" not in exited.value.server.log
    started = time.monotonic()
    server = make_server(db=old_db)
    assert time.monotonic() - started < 8, "It has waited for a lock."
    assert_serves(server)
    assert server.list_tasks() == tasks


def test_a_row_that_a_killed_yoyo_left_blocks_no_later_start(make_client, old_db, monkeypatch):
    """yoyo notes in a table who may migrate; nobody removes the row if it is killed."""
    monkeypatch.setattr(todo, "START_TIMEOUT", 5)
    execute(old_db, "INSERT INTO yoyo_lock VALUES (1, '2020-01-01', 1)")
    make_client(TODO_DB=str(old_db))
    assert applied_migrations(old_db) == MIGRATIONS


# Beside others


def is_waiting_for_workers(db):
    """Return whether a start waits for the lock of the workers."""
    return lock_waiters(db) == 1


def is_waiting_for_sqlite(db):
    """Return whether a start has the lock of the workers, but cannot go on."""
    return lock_holders(db) == 1 and lock_waiters(db) == 0


@pytest.mark.parametrize(
    ("lock", "is_waiting"),
    [
        pytest.param(workers_lock, is_waiting_for_workers, id="workers' lock"),
        pytest.param(write_lock, is_waiting_for_sqlite, id="SQLite's lock"),
    ],
)
def test_a_start_that_must_migrate_waits_for_the_locks(make_client, old_db, lock, is_waiting):
    with ThreadPoolExecutor() as threads:
        with lock(old_db):
            start = threads.submit(make_client, TODO_DB=str(old_db))
            wait_until("the start waits", lambda: is_waiting(old_db))
            assert applied_migrations(old_db) == ["0001-task"]
            assert not start.done()
        start.result(20)
    assert applied_migrations(old_db) == MIGRATIONS


def test_a_start_waits_while_another_program_lets_nobody_read(make_client, old_db):
    with ThreadPoolExecutor() as threads:
        with contextlib.closing(sqlite3.connect(old_db, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            start = threads.submit(make_client, TODO_DB=str(old_db))
            wait_until("it waits", lambda: start.done() or is_waiting_for_sqlite(old_db))
        start.result(20)
    assert applied_migrations(old_db) == MIGRATIONS


def test_a_start_migrates_a_file_that_has_changed_while_it_waited(make_client, old_db):
    with ThreadPoolExecutor() as threads:
        with write_lock(old_db) as other:
            start = threads.submit(make_client, TODO_DB=str(old_db))
            wait_until("it waits", lambda: start.done() or is_waiting_for_sqlite(old_db))
            other.execute("INSERT INTO task (name, done) VALUES ('late', 0)")
            other.execute("COMMIT")
        start.result(20)
    assert applied_migrations(old_db) == MIGRATIONS
    assert read_tasks(old_db)[-1]["name"] == "late"


def test_a_new_file_is_not_created_without_the_lock(make_client, tmp_path):
    db = tmp_path / "new.db"
    with ThreadPoolExecutor() as threads:
        with workers_lock(db):
            start = threads.submit(make_client, TODO_DB=str(db))
            wait_until("the start waits", lambda: is_waiting_for_workers(db))
            assert file_names(tmp_path) == ["new.db-lock", "todo.db"]
        start.result(20)
    assert applied_migrations(db) == MIGRATIONS


def test_a_start_that_waited_for_a_lock_that_was_removed_waits_for_the_new_one(
    make_client, tmp_path
):
    db = tmp_path / "new.db"
    with ThreadPoolExecutor() as threads, contextlib.ExitStack() as removed:
        removed.enter_context(workers_lock(db))
        start = threads.submit(make_client, TODO_DB=str(db))
        wait_until("the start waits", lambda: is_waiting_for_workers(db))
        Path(f"{db}-lock").unlink()
        with workers_lock(db):
            removed.close()
            wait_until("it waits for the new lock", lambda: is_waiting_for_workers(db))
            assert file_names(tmp_path) == ["new.db-lock", "todo.db"]
        start.result(20)


def test_a_start_that_waits_in_vain_for_the_workers_is_refused_and_never_migrates(
    make_client, old_db, tmp_path, monkeypatch
):
    monkeypatch.setattr(todo, "START_TIMEOUT", 0.3)
    threads = count_writer_threads()
    (tmp_path / "link").symlink_to(old_db)
    with workers_lock(old_db), pytest.raises(todo.StartRefused) as refused:
        make_client(TODO_DB=str(tmp_path / "link"))
    reason = f"another process holds {old_db}-lock, or has locked the file"
    assert str(refused.value) == f"Cannot serve {old_db}: {reason}"
    wait_until("the writer thread has ended", lambda: count_writer_threads() == threads)
    assert applied_migrations(old_db) == ["0001-task"]


def test_a_refused_start_closes_the_file_if_it_is_opened_after_all(empty_db, tmp_path, monkeypatch):
    """Its thread gets the lock when the start has been refused and the event loop is closed.

    There is nothing to migrate, but the file must be set to WAL mode: so the thread opens it.
    """
    monkeypatch.setattr(todo, "START_TIMEOUT", 0.1)
    db = Path(shutil.copy(empty_db, tmp_path))
    execute(db, "PRAGMA journal_mode = DELETE")
    threads = count_writer_threads()
    with workers_lock(db), pytest.raises(todo.StartRefused):
        asyncio.run(todo.Database.open(str(db)))
    wait_until("the writer thread has ended", lambda: count_writer_threads() == threads)
    assert file_names(tmp_path) == ["todo.db", "todo.db-lock"]


def test_a_refused_start_logs_nothing_when_its_thread_fails_later(old_db, monkeypatch, caplog):
    monkeypatch.setattr(todo, "START_TIMEOUT", 0.1)
    threads = count_writer_threads()

    def wait_for_the_thread():
        wait_until("the writer thread has ended", lambda: count_writer_threads() == threads)

    async def start():
        with workers_lock(old_db), pytest.raises(todo.StartRefused):
            await todo.Database.open(str(old_db))
        await asyncio.to_thread(wait_for_the_thread)

    asyncio.run(start())
    gc.collect()  # asyncio logs an exception that nobody has received when it is collected.
    assert caplog.messages == []


@slow
def test_a_start_that_waits_in_vain_for_sqlite_is_refused_and_changes_nothing(
    make_server, tmp_path, old_db
):
    impatient = tmp_path / "impatient"
    impatient.mkdir()
    (impatient / "impatient.py").write_text("import todo; todo.START_TIMEOUT = 3; app = todo.app")
    before = snapshot(old_db.parent)
    with write_lock(old_db), pytest.raises(ServerExited) as exited:
        make_server("--app-dir", str(impatient), db=old_db, app="impatient:app")
    assert exited.value.code == 3
    sentence = f"Cannot serve {old_db}: another program has locked it"
    assert f"ERROR:    {sentence}\n" in exited.value.server.lines
    assert snapshot(old_db.parent) == before


# Long


@pytest.fixture
def long_migration(tmp_path, monkeypatch):
    """A file: as long as it exists, and 20 s at most, a migration of the application goes on."""
    file = tmp_path / "goes on"
    file.touch()
    folder = copy_application(tmp_path / "copy")
    (folder / "migrations" / "9999-long.py").write_text(f"""if True:
        import os, time, yoyo

        def wait(connection):
            deadline = time.monotonic() + 20
            while os.path.exists({str(file)!r}) and time.monotonic() < deadline:
                time.sleep(0.005)

        steps = [yoyo.step(wait)]
    """)
    monkeypatch.setattr(todo, "FOLDER", folder)
    yield file
    file.unlink(missing_ok=True)


@slow
def test_a_migration_may_take_longer_than_a_start_waits_for_locks(
    make_client, old_db, long_migration, monkeypatch
):
    monkeypatch.setattr(todo, "START_TIMEOUT", 2)
    with ThreadPoolExecutor() as threads:
        start = threads.submit(make_client, TODO_DB=str(old_db))
        with pytest.raises(TimeoutError):
            start.result(4)
        long_migration.unlink()
    start.result()
    assert applied_migrations(old_db) == [*MIGRATIONS, "9999-long"]


def test_a_start_waits_for_the_migration_of_another_one_however_long(
    make_client, old_db, tmp_path, long_migration, monkeypatch
):
    link = tmp_path / "link.db"
    link.symlink_to(old_db)
    with ThreadPoolExecutor() as threads, monkeypatch.context() as patch:
        first = threads.submit(make_client, TODO_DB=str(old_db))
        wait_until("it migrates", lambda: todo.is_migration_noted(str(old_db)))
        patch.setattr(todo, "START_TIMEOUT", 0.1)
        second = threads.submit(make_client, TODO_DB=str(link))
        with pytest.raises(TimeoutError):
            second.result(0.3)
        assert is_waiting_for_workers(old_db)
        patch.undo()
        long_migration.unlink()
    first.result()
    second.result()
    assert applied_migrations(old_db) == [*MIGRATIONS, "9999-long"]


def test_the_note_of_a_migration_that_was_killed_is_removed_by_the_next_start(make_client, old_db):
    lock = old_db.with_name("old.db-lock")
    lock.write_text(todo.MIGRATION_NOTE)
    make_client(TODO_DB=str(old_db))
    assert lock.read_text() == ""


def test_the_wal_of_a_long_migration_is_truncated_before_the_server_has_started(
    make_client, tmp_path, monkeypatch
):
    """Another program has the file open, so SQLite does not truncate the WAL by itself."""
    folder = copy_application(tmp_path / "copy")
    (folder / "migrations" / "9999-all.sql").write_text("UPDATE task SET name = name || '!';")
    client = make_client()
    insert_tasks(client.db, [(f"{number:0100}", False) for number in range(5000)])
    client.stop()
    monkeypatch.setattr(todo, "FOLDER", folder)
    with contextlib.closing(sqlite3.connect(client.db)) as other:
        assert other.execute("SELECT count(*) FROM task").fetchall() == [(5000,)]
        client.start()
        assert client.db.with_name("todo.db-wal").stat().st_size == 0
        assert client.get("/tasks/5000").json()["name"].endswith("4999!")
