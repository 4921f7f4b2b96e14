"""A start that is refused says why in one sentence, leaves no file behind and changes none."""

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest
from database import execute
from server import ROOT, ServerExited
from starting import (
    copy_application,
    file_names,
    mount_prefix,
    open_files,
    require_prefix,
    snapshot,
)
from tracing import require_strace

import todo

slow = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    """A folder for the file that is refused, with nothing else in it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def assert_refused(make_client, db, reason):
    """Assert that a start is refused for this reason and leaves everything as it was."""
    before = snapshot(db.parent)
    with pytest.raises(todo.StartRefused) as refused:
        make_client(TODO_DB=str(db))
    assert str(refused.value) == f"Cannot serve {db.resolve()}: {reason}"
    assert snapshot(db.parent) == before
    assert open_files(db.parent) == []


def refusal(make_server, *options, **named):
    """Return the sentence with which a server refuses to start; nothing else is in its log."""
    with pytest.raises(ServerExited) as exited:
        make_server(*options, **named)
    assert exited.value.code == 3
    lines = [line for line in exited.value.server.lines if not line.startswith("INFO:")]
    assert len(lines) == 2, exited.value
    assert lines[1] == "ERROR:    Application startup failed. Exiting.\n"
    return lines[0].removeprefix("ERROR:    ").removesuffix("\n")


# What is there


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("mkdir todo.db", "it is not a regular file"),
        ("mkfifo todo.db", "it is not a regular file"),
        ("printf x >todo.db", "file is not a database"),
        ("echo 'This is a diary.' >todo.db", "file is not a database"),
        ("yes 'This is a diary.' | head -c 9000 >todo.db", "file is not a database"),
        ("head -c 9000 /dev/zero >todo.db", "file is not a database"),
    ],
)
def test_what_is_no_database_is_refused(make_client, folder, command, reason):
    subprocess.run(command, shell=True, cwd=folder, check=True)
    assert_refused(make_client, folder / "todo.db", reason)


def test_a_device_is_refused(make_client, folder):
    (folder / "todo.db").symlink_to("/dev/null")
    assert_refused(make_client, folder / "todo.db", "it is not a regular file")


def test_a_link_to_itself_is_refused(make_client, folder):
    db = folder / "todo.db"
    db.symlink_to("todo.db")
    with pytest.raises(todo.StartRefused) as refused:
        make_client(TODO_DB=str(db))
    reason = f"[Errno {errno.ELOOP}] {os.strerror(errno.ELOOP)}: '{db}'"
    assert str(refused.value) == f"Cannot serve {db}: {reason}"
    assert file_names(folder) == ["todo.db"]


def test_a_link_into_a_missing_folder_is_refused(make_client, folder):
    db = folder / "todo.db"
    db.symlink_to("missing/todo.db")
    reason = f"the folder {folder}/missing does not exist"
    with pytest.raises(todo.StartRefused) as refused:
        make_client(TODO_DB=str(db))
    assert str(refused.value) == f"Cannot serve {folder}/missing/todo.db: {reason}"
    assert file_names(folder) == ["todo.db"]


def test_a_file_with_several_hard_links_is_refused(make_client, empty_db, folder):
    shutil.copy(empty_db, folder / "todo.db")
    os.link(folder / "todo.db", folder / "other.db")
    reason = "it has several hard links, and each would have a WAL and a lock of its own"
    assert_refused(make_client, folder / "todo.db", reason)
    assert_refused(make_client, folder / "other.db", reason)


def test_a_malformed_database_is_refused(make_client, empty_db, folder):
    db = folder / "todo.db"
    content = bytearray(empty_db.read_bytes())
    content[100:108] = b"\xff" * 8  # the header of the page that holds the schema
    db.write_bytes(content)
    assert_refused(make_client, db, "database disk image is malformed")


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_foreign_task_table_is_refused(make_client, folder, mode):
    db = folder / "todo.db"
    execute(db, f"PRAGMA journal_mode = {mode}")
    execute(db, "CREATE TABLE task (title TEXT)")
    assert_refused(make_client, db, "table task already exists")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param(
            "INSERT INTO _yoyo_migration (migration_hash, migration_id) VALUES ('x', '9999-x')",
            "it is newer than this server, which lacks one of its migrations",
            id="newer",
        ),
        pytest.param(
            "DROP TABLE task; CREATE TABLE task (title TEXT)",
            "no such column: json",
            id="another task table",
        ),
        pytest.param(
            "DROP TABLE task",
            "no such table: task",
            id="no task table",
        ),
    ],
)
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_that_another_program_has_changed_is_refused(
    make_client, empty_db, folder, script, reason, mode
):
    db = folder / "todo.db"
    shutil.copy(empty_db, db)
    with contextlib.closing(sqlite3.connect(db)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.executescript(script)
    assert_refused(make_client, db, reason)


# What is around it


@pytest.fixture(params=["new", "old", "old with lock", "ready"])
def db(request, empty_db, early_db, folder):
    """A path without a file, of a file that must be migrated, and of one that is ready."""
    db = folder / "todo.db"
    if request.param in ("old", "old with lock"):
        shutil.copy(early_db, db)
    if request.param == "old with lock":
        db.with_name("todo.db-lock").touch()
    if request.param == "ready":
        shutil.copy(empty_db, db)
    return db


def test_a_missing_folder_is_refused(make_client, folder):
    with pytest.raises(todo.StartRefused) as refused:
        make_client(TODO_DB=f"{folder}/missing/todo.db")
    assert str(refused.value) == (
        f"Cannot serve {folder}/missing/todo.db: the folder {folder}/missing does not exist"
    )
    assert file_names(folder) == []


def test_an_sqlite_that_is_too_old_is_refused(make_client, db, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 9))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.36.9")
    assert_refused(make_client, db, "SQLite 3.37 or newer is required, but this is 3.36.9")


def test_a_migration_that_fails_refuses_the_start(make_client, tmp_path, db, monkeypatch):
    copy = copy_application(tmp_path / "copy")
    (copy / "migrations" / "9999-broken.sql").write_text("UPDATE nowhere SET x = 1;")
    monkeypatch.setattr(todo, "FOLDER", copy)
    assert_refused(make_client, db, "no such table: nowhere")


def test_a_new_file_stays_if_another_worker_has_opened_it_before_the_start_failed(
    make_client, folder, monkeypatch
):
    open_file = todo.DatabaseFile
    others = []

    def open_for_another_worker_and_fail(path, given_path):
        others.append(open_file(path, given_path))
        raise OSError("too many open files")

    monkeypatch.setattr(todo, "DatabaseFile", open_for_another_worker_and_fail)
    with pytest.raises(todo.StartRefused) as refused:
        make_client(TODO_DB=str(folder / "todo.db"))
    assert str(refused.value) == f"Cannot serve {folder / 'todo.db'}: too many open files"
    [other] = others
    other.check_identity()
    other.close()
    assert file_names(folder) == ["todo.db", "todo.db-lock"]


@pytest.mark.parametrize("db", ["new"], indirect=True)
def test_an_application_without_its_migrations_is_refused(make_client, tmp_path, db, monkeypatch):
    copy = copy_application(tmp_path / "copy")
    shutil.rmtree(copy / "migrations")
    monkeypatch.setattr(todo, "FOLDER", copy)
    assert_refused(make_client, db, "no such table: task")


@pytest.mark.parametrize("db", ["new", "old", "ready"], indirect=True)
def test_a_folder_in_the_place_of_the_lock_is_refused(make_client, db):
    lock = db.with_name("todo.db-lock")
    lock.mkdir()
    assert_refused(make_client, db, f"[Errno 21] Is a directory: '{lock}'")


@pytest.mark.parametrize("name", ["link", pytest.param("to do\\.db", marks=slow)])
def test_a_file_that_is_a_mount_point_is_refused(make_server, empty_db, folder, name):
    db = folder / "to do\\.db"
    outside = folder / "outside.db"
    shutil.copy(empty_db, db)
    shutil.copy(empty_db, outside)
    (folder / "link").symlink_to(db.name)
    before = snapshot(folder)
    sentence = refusal(make_server, db=folder / name, prefix=mount_prefix(outside, db))
    reason = "it is a mount point of its own: mount its folder instead of the file"
    assert sentence == f"Cannot serve {db}: {reason}"
    assert snapshot(folder) == before


# root, but without its right to read and write every file
AS_OWNER = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        pytest.param(
            "chmod 444 todo.db",
            "{db} cannot be written",
            id="read-only file",
            marks=slow,
        ),
        pytest.param(
            "chmod 644 todo.db && chown 12345 todo.db && chmod 777 .",
            "{db} cannot be written",
            id="another user's file",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away"),
        ),
        pytest.param(
            "chmod 222 todo.db",
            "{db} cannot be written",
            id="file that cannot be read",
            marks=slow,
        ),
        pytest.param(
            "chmod 555 .",
            "its folder cannot be written, but SQLite keeps its WAL there",
            id="read-only folder",
            marks=slow,
        ),
        pytest.param(
            "rm todo.db && chmod 555 .",
            "its folder cannot be written, but SQLite keeps its WAL there",
            id="new file in a read-only folder",
            marks=slow,
        ),
        pytest.param(
            "touch todo.db-lock && chmod 444 todo.db-lock",
            "{db}-lock cannot be written",
            id="read-only lock",
            marks=slow,
        ),
        pytest.param(
            "touch todo.db-wal && chmod 444 todo.db-wal",
            "{db}-wal cannot be written",
            id="read-only WAL",
            marks=slow,
        ),
        pytest.param(
            "touch todo.db-shm && chmod 444 todo.db-shm",
            "{db}-shm cannot be written",
            id="read-only index of the WAL",
            marks=slow,
        ),
    ],
)
def test_what_cannot_be_written_is_refused(make_server, empty_db, folder, command, reason):
    db = folder / "todo.db"
    shutil.copy(empty_db, db)
    subprocess.run(command, shell=True, cwd=folder, check=True)
    prefix = AS_OWNER if os.geteuid() == 0 else ["env"]
    require_prefix(prefix)
    before = snapshot(folder)
    sentence = refusal(make_server, db=db, prefix=prefix)
    folder.chmod(0o755)
    assert sentence == f"Cannot serve {db}: {reason.format(db=db)}"
    assert snapshot(folder) == before


@slow
def test_it_is_the_effective_user_who_must_be_allowed_to_write(empty_db, folder):
    if os.geteuid() != 0:
        pytest.skip("only root can change its effective user alone")
    shutil.copy(empty_db, folder / "todo.db")
    folder.chmod(0o777)
    script = "import os, todo; os.seteuid(12345); todo.check_file('./todo.db')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1:] == ["OSError: ./todo.db cannot be written"]


@slow
@pytest.mark.parametrize("db", ["old", "new"], indirect=True)
def test_a_file_system_without_shared_memory_is_refused(make_server, db, tmp_path):
    """SQLite's WAL needs memory that processes share; some network file systems have none."""
    require_strace()
    before = snapshot(db.parent)
    # The server tries another file first, in a folder whose name is known here.
    (tmp_path / "sitecustomize.py").write_text(
        "import tempfile; tempfile._get_candidate_names = lambda: iter(['trial'])"
    )
    shared_memory = db.parent / "tmptrial" / "trial.db-shm"
    trace = ["strace", "-D", "-f", "-o", os.devnull, "-P", str(shared_memory)]
    prefix = [*trace, "-e", "inject=mmap:error=ENODEV"]
    sentence = refusal(make_server, db=db, prefix=prefix, PYTHONPATH=str(tmp_path))
    reason = "its file system does not support SQLite's WAL mode: disk I/O error"
    assert sentence == f"Cannot serve {db}: {reason}"
    assert snapshot(db.parent) == before


# The process


def test_a_refused_start_is_one_line_of_the_log_and_exit_code_3(make_server, folder):
    sentence = refusal(make_server, db=folder)
    assert sentence == f"Cannot serve {folder}: it is not a regular file"


@slow
def test_two_workers_that_are_refused_end_the_server(make_server, folder):
    """The supervisor looks for ended workers after 5 s."""
    with pytest.raises(ServerExited) as exited:
        make_server("--workers", "2", db=folder)
    sentence = f"ERROR:    Cannot serve {folder}: it is not a regular file\n"
    assert exited.value.server.lines.count(sentence) == 2
    assert "Traceback" not in exited.value.server.log


def test_a_working_directory_that_was_removed_is_refused_in_one_line(make_server, tmp_path):
    script = 'mkdir "$1" && cd "$1" && rmdir "$1" && shift && exec "$@"'
    prefix = ["sh", "-c", script, "sh", str(tmp_path / "gone")]
    sentence = refusal(make_server, "--app-dir", str(ROOT), prefix=prefix, TODO_DB=None)
    assert sentence == "Cannot serve todo.db: the working directory does not exist any more"
