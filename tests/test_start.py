"""Start just works: on a missing, new or old file, at any path, beside other servers."""

import logging
import os
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from assertions import assert_task, assert_tasks
from database import execute, insert_tasks, read_tasks, workers_lock, write_lock
from server import ROOT, Server
from starting import (
    MIGRATIONS,
    STOPPED,
    assert_serves,
    copy_application,
    file_names,
    lock_waiters,
    mount_prefix,
    require_prefix,
    wait_until,
)

import todo

# The file


def test_a_missing_file_is_created_and_named_in_one_line_of_the_log(make_server, tmp_path):
    db = tmp_path / "new.db"
    server = make_server(db=db)
    assert_serves(server)
    assert server.stop() in STOPPED
    assert [line for line in server.lines if str(db) in line] == [
        f"INFO:     Serving the tasks in {db}\n",
    ]
    assert file_names(tmp_path) == ["new.db", "new.db-lock"]


@pytest.mark.slow
def test_the_file_is_todo_db_in_the_working_directory_unless_another_is_named(
    make_server, tmp_path
):
    db = tmp_path / "todo.db"
    server = make_server("--app-dir", str(ROOT), db=db, folder=tmp_path, TODO_DB=None)
    assert_serves(server)
    assert server.stop() in STOPPED
    assert file_names(tmp_path) == ["todo.db", "todo.db-lock"]


def test_an_empty_setting_means_todo_db_in_the_working_directory(
    make_client, tmp_path, monkeypatch
):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    client = make_client(TODO_DB="")
    client.create_task()
    client.stop()
    assert file_names(tmp_path / "folder") == ["todo.db", "todo.db-lock"]


def test_an_empty_file_will_do(make_client, tmp_path):
    db = tmp_path / "empty.db"
    db.touch()
    make_client(TODO_DB=str(db)).create_task()
    assert_tasks(read_tasks(db), [{"name": "milk", "done": False, "id": 1}])


@pytest.mark.parametrize(
    "name",
    [
        "a b?mode=memory&x.db",
        "100%41#;'ü\".db",
        "a[1]*",
        "\\x",
        ":memory:",
        "-x",
        pytest.param("\udcff", id="not UTF-8"),
    ],
)
def test_a_path_means_itself_whatever_is_in_it(make_client, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    client = make_client(TODO_DB=str(folder / name))
    client.create_task()
    client.stop()
    assert file_names(folder) == [name, f"{name}-lock"]
    assert_tasks(read_tasks(folder / name), [{"name": "milk", "done": False, "id": 1}])


def test_all_paths_and_links_to_a_file_lead_to_one_lock(make_client, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "linked folder").symlink_to("there")
    (tmp_path / "link").symlink_to("linked folder/todo.db")
    (tmp_path / "link to link").symlink_to(tmp_path / "link")
    direct = make_client(TODO_DB=f"{tmp_path}//there/../there/todo.db")
    linked = make_client(TODO_DB=str(tmp_path / "link to link"))
    with workers_lock(tmp_path / "there" / "todo.db"):
        one = direct.begin("POST", "/tasks", json={"name": "one", "done": False})
        two = linked.begin("POST", "/tasks", json={"name": "two", "done": False})
        wait_until("both wait", lambda: lock_waiters(tmp_path / "there" / "todo.db") == 2)
        assert [one.done(), two.done()] == [False, False]
    names = {one.result(10).json()["name"], two.result(10).json()["name"]}
    assert names == {task["name"] for task in read_tasks(tmp_path / "there" / "todo.db")}
    direct.stop()
    linked.stop()
    assert file_names(tmp_path / "there") == ["todo.db", "todo.db-lock"]
    assert "link to link-lock" not in file_names(tmp_path)


def test_a_file_that_another_program_has_taken_out_of_wal_mode_is_set_to_it_again(make_client):
    client = make_client()
    client.stop()
    execute(client.db, "PRAGMA journal_mode = DELETE")
    client.start()
    assert execute(client.db, "PRAGMA journal_mode") == [("wal",)]


# The application


@pytest.mark.slow
def test_the_application_may_be_at_any_path(make_server, tmp_path):
    folder = copy_application(tmp_path / "todo [1] a*b?%41#")
    assert_serves(make_server(db=tmp_path / "new.db", folder=folder))


def test_hidden_files_beside_statements_and_migrations_are_ignored(make_server, tmp_path):
    """macOS writes `._name` beside a file, and Emacs makes `.#name` a link that leads nowhere."""
    folder = copy_application(tmp_path / "copy")
    (folder / "sql" / "._get_task.sql").write_bytes(b"\x00\x05\x16\x07\xff")
    (folder / "sql" / ".#get_task.sql").symlink_to("me@host.1234")
    (folder / "migrations" / "._0001-task.sql").write_bytes(b"\x00\x05\x16\x07\xff")
    (folder / "migrations" / "._0001-task.rollback.sql").write_bytes(b"\x00\x05\x16\x07\xff")
    (folder / "migrations" / ".#0001-task.sql").symlink_to("me@host.1234")
    (folder / "migrations" / ".9999-draft.sql").write_text("DROP TABLE task;")
    assert_serves(make_server(db=tmp_path / "new.db", folder=folder))


@pytest.mark.slow
def test_without_docstrings_it_serves_all_the_same(make_server):
    command = [sys.executable, "-OO", "-m", "uvicorn", "todo:app", "--port", "0"]
    assert_serves(make_server(command=command))


@pytest.mark.slow
def test_without_fcntl_as_on_windows_it_serves_all_the_same(make_server, tmp_path):
    # In some Pythons fcntl is built in, so a module of that name on the path would not hide it.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['fcntl'] = None")
    folder = tmp_path / "folder"
    folder.mkdir()
    server = make_server(db=folder / "new.db", PYTHONPATH=str(tmp_path))
    with workers_lock(server.db):  # The server cannot see this lock.
        assert_serves(server)
    assert server.stop() in STOPPED
    assert file_names(folder) == ["new.db", "new.db-lock"]


@pytest.mark.slow
def test_a_user_without_a_name_may_start_it(make_server, tmp_path):
    """yoyo asks for the name of the user; in a container there may be none."""
    as_nobody = ["setpriv", "--reuid=12345", "--clear-groups"]
    as_nobody += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]  # It may read all.
    require_prefix(as_nobody)
    unnamed = {"LOGNAME": None, "USER": None, "LNAME": None, "USERNAME": None}
    assert_serves(make_server(db=tmp_path / "new.db", prefix=as_nobody, **unnamed))


@pytest.mark.slow
def test_a_mounted_folder_is_served(make_server, tmp_path):
    """A container's volume is mounted like this."""
    folder = tmp_path / "a b"
    folder.mkdir()
    prefix = mount_prefix(folder, folder)
    assert_serves(make_server(db=folder / "todo.db", prefix=prefix))
    assert file_names(folder) == ["todo.db", "todo.db-lock", "todo.db-shm", "todo.db-wal"]


def test_everybody_who_may_write_the_file_may_lock_it(make_client, empty_db, tmp_path):
    db = Path(shutil.copy(empty_db, tmp_path / "shared.db"))
    db.chmod(0o666)
    if os.geteuid() == 0:
        os.chown(db, 12345, 54321)
    make_client(TODO_DB=str(db))
    status, lock = db.stat(), Path(f"{db}-lock").stat()
    assert (lock.st_mode, lock.st_uid, lock.st_gid) == (
        status.st_mode,
        status.st_uid,
        status.st_gid,
    )


# Beside others


def start_at_once(make_server, db):
    """Start a server of one worker and one of two at once, and return them."""
    with ThreadPoolExecutor() as threads:
        starts = [threads.submit(make_server, "--workers", str(n), db=db) for n in (1, 2)]
    return [start.result() for start in starts]


def migrations_in_logs(servers):
    """Return the migrations that servers have applied, as their logs say."""
    lines = servers[0].lines + servers[1].lines
    assert [line for line in lines if not line.startswith("INFO:")] == []
    return [line.split()[-1] for line in lines if "Migrating" in line]


def test_applications_start_at_once_on_a_new_file(make_client, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "folder"
    folder.mkdir()
    with ThreadPoolExecutor() as threads:
        starts = [threads.submit(make_client, TODO_DB=str(folder / "new.db")) for _ in range(5)]
    clients = [start.result() for start in starts]
    for number, client in enumerate(clients, start=1):
        assert client.create_task().json()["id"] == number
    migrating = [message for message in caplog.messages if "Migrating" in message]
    assert [message.split()[-1] for message in migrating] == MIGRATIONS
    for client in clients:
        client.stop()
    assert file_names(folder) == ["new.db", "new.db-lock"]


@pytest.mark.slow
def test_several_servers_of_several_workers_start_at_once_on_a_new_file(make_server, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    servers = start_at_once(make_server, folder / "new.db")
    for server in servers:
        assert_serves(server)
    assert migrations_in_logs(servers) == MIGRATIONS
    with ThreadPoolExecutor() as threads:
        assert set(threads.map(Server.stop, servers)) <= set(STOPPED)
    assert file_names(folder) == ["new.db", "new.db-lock"]


@pytest.mark.slow
def test_several_servers_of_several_workers_start_at_once_on_an_old_file(make_server, old_db):
    tasks = read_tasks(old_db)
    servers = start_at_once(make_server, old_db)
    for server in servers:
        assert_serves(server)
        assert server.list_tasks() == tasks
    assert migrations_in_logs(servers) == MIGRATIONS[1:]


@pytest.fixture
def ready_db(empty_db, tmp_path):
    """A file with nothing to migrate, one task, and the lock of its workers beside it."""
    db = tmp_path / "ready.db"
    shutil.copy(empty_db, db)
    insert_tasks(db, [("milk", False)])
    (tmp_path / "ready.db-lock").touch()
    return db


def test_a_start_with_nothing_to_migrate_needs_neither_lock(make_client, ready_db, monkeypatch):
    monkeypatch.setattr(todo, "START_TIMEOUT", 5)
    with write_lock(ready_db), workers_lock(ready_db):
        client = make_client(TODO_DB=str(ready_db))
        assert_task(client.get("/tasks/1"), {"name": "milk", "done": False, "id": 1})


@pytest.mark.slow
def test_a_worker_that_is_replaced_while_others_hold_the_locks_comes_up(make_server, ready_db):
    server = make_server("--workers", "2", db=ready_db)
    with write_lock(ready_db), workers_lock(ready_db):
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        wait_until("a third worker is up", lambda: server.log.count("startup complete") == 3)
        assert len(server.worker_pids()) == 2
        assert_tasks(server.list_tasks(), [{"name": "milk", "done": False, "id": 1}])
    assert_serves(server)
