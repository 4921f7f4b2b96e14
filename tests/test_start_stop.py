"""Start just works, or says in one sentence why not. Stop just works: one file is left."""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from helpers import TASK, check_error, insert, locked
from processes import ROOT, Load, Server, strace, tasks_in, tasks_of

import todo

slow = pytest.mark.slow

STOPPED = (0, -signal.SIGTERM, -signal.SIGINT)  # uvicorn raises the signal again at its end
MIGRATIONS = sorted(
    file.stem for file in ROOT.glob("migrations/*.sql") if not file.stem.endswith(".rollback")
)
OLD = {id: (f"old {id}", id % 2 == 1) for id in range(1, 1001)}
PATHS = ["a b?mode=memory&x.db", "100%41#;'ü\".db", ":memory:", "a[1]*", "\udcff"]
WHEN = [("pwrite64", 20), *[pytest.param("pwrite64", n, marks=slow) for n in (1, 2, 5, 10, 30)]]
WHEN += [pytest.param("fdatasync", n, marks=slow) for n in (1, 2, 4)]
AS_NOBODY = ["env", *[f"-u{name}" for name in ("LOGNAME", "USER", "LNAME", "USERNAME")]]
AS_NOBODY += ["setpriv", "--reuid=12345", "--clear-groups"]
AS_NOBODY += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]  # it may read all
AS_SOMEBODY = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
# What a shell makes beside a database named empty.db, and why it is refused.
UNFIT = {
    "yes 'a diary, no database' | head -c 9000 >todo.db": "file is not a database",
    "mkdir todo.db": "must be a regular file",
    "mkfifo todo.db": "must be a regular file",
    "ln -s /dev/null todo.db": "must be a regular file",
    "ln -s todo.db todo.db": "unable to open database file",
    "mv empty.db todo.db; ln todo.db other.db": "hard links",
    "rm empty.db; rmdir $PWD": "No such file or directory",
    "mv empty.db todo.db; yes | dd of=todo.db bs=4k seek=1 count=1 conv=notrunc": "malformed",
}
# What another program makes of a database, and why it is refused.
STRANGE = {
    "INSERT INTO _yoyo_migration (migration_hash, migration_id) VALUES ('x', '9999')": "is newer",
    "DROP TABLE task; DROP TABLE _yoyo_migration; CREATE TABLE task (title TEXT)": "already exists",
}


def yoyo(db, *command, cwd=ROOT):
    """What yoyo says, run by hand as in the README."""
    program = Path(sys.executable).with_name("yoyo")
    options = ["--batch", "--no-config-file", "--database", f"sqlite:///{db}"]
    words = [program, command[0], *options, *command[1:], "migrations"]
    run = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout


def applied(db):
    """The migrations that a file has had."""
    with closing(sqlite3.connect(db)) as connection:
        rows = connection.execute("SELECT migration_id FROM _yoyo_migration ORDER BY 1")
        return [id for (id,) in rows]


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def flocks(db, word):
    """The lines of the kernel's list of locks for the workers' lock: `->` is one who waits."""
    inode = f":{Path(f'{db}-lock').stat().st_ino} "
    lines = Path("/proc/locks").read_text().splitlines()
    return [line for line in lines if inode in line and word in line]


def copy_application(folder):
    """Copy the application there, and return what to start a server of the copy with."""
    for name in ("sql", "migrations"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "todo.py", folder)
    return "env", "-C", str(folder)


def works(server):
    """Check that a server that has just started serves what it should, with every migration."""
    with server.client() as http:
        id = http.post("/tasks", json=TASK).json()["id"]
        assert http.get(f"/tasks/{id}").json() == TASK | {"id": id}
        assert http.delete(f"/tasks/{id}").json() == 1
    assert applied(server.db) == MIGRATIONS


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """A file that has had the first migration only, with tasks in it; to be copied."""
    db = tmp_path_factory.mktemp("early") / "todo.db"
    yoyo(db, "apply", "--revision", MIGRATIONS[0])
    insert(db, OLD.values())
    assert applied(db) == MIGRATIONS[:1]
    return db


@pytest.fixture
def old(early, tmp_path):
    return shutil.copy(early, tmp_path / "old.db")


# Start


def test_a_missing_file_is_created_and_named_in_one_line_of_the_log(serve, tmp_path):
    server = serve(db=tmp_path / "new.db")
    works(server)
    assert server.stop() in STOPPED
    assert server.log.count(str(server.db)) == 1
    assert "rror" not in server.log
    assert names(tmp_path) == ["new.db", "new.db-lock"]


def test_a_file_of_the_first_version_serves_its_names_beyond_the_limit(start, tmp_path):
    copy_application(tmp_path / "first")
    migration = tmp_path / "first" / "migrations" / "0001-task.sql"
    text = re.sub(r"CHECK \(length.*", ",", migration.read_text().replace("STORED", "VIRTUAL"))
    migration.write_text(text)
    db = tmp_path / "first.db"
    yoyo(db, "apply", cwd=tmp_path / "first")
    long = {"name": "é" * 5000, "done": False, "id": 1}
    insert(db, [(long["name"], False)])
    client = start(TODO_DB=str(db))
    assert client.patch("/tasks/1", {"done": True}).json() == long | {"done": True}
    assert client.create().json() == TASK | {"id": 2}
    assert client.tasks() == [long | {"done": True}, TASK | {"id": 2}]


def test_the_file_is_todo_db_in_the_working_directory_unless_another_is_named(serve, tmp_path):
    (tmp_path / "todo.db").touch()  # an empty file will do
    unnamed = ("env", "-C", str(tmp_path), "-u", "TODO_DB")
    works(serve("--app-dir", str(ROOT), db=tmp_path / "todo.db", prefix=unnamed))


@pytest.mark.parametrize("name", PATHS, ids=ascii)
def test_a_path_means_itself_whatever_is_in_it(start, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    client = start(TODO_DB=str(folder / name))
    client.create()
    client.close()
    assert names(folder) == [name, f"{name}-lock"]
    assert tasks_in(folder / name) == {1: ("milk", False)}


def test_a_link_leads_to_the_file_and_to_its_lock(start, tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.db"
    link.symlink_to("there/todo.db")
    linked, direct = start(TODO_DB=str(link)), start(TODO_DB=f"{tmp_path}//there/../there/todo.db")
    linked.create()
    assert direct.tasks() == [TASK | {"id": 1}]
    linked.close()
    direct.close()
    assert names(tmp_path / "there") == ["todo.db", "todo.db-lock"]
    assert "link.db-lock" not in names(tmp_path)


def test_the_application_may_lie_at_any_path(serve, tmp_path):
    works(serve(db=tmp_path / "new.db", prefix=copy_application(tmp_path / "todo [1] a*b?%41#")))


@pytest.mark.parametrize("tasks", [{}, OLD], ids=["new", "old"])
def test_several_servers_of_several_workers_start_at_once_on_a_new_file(
    serve, tmp_path, early, tasks
):
    db = tmp_path / "todo.db"
    if tasks:
        shutil.copy(early, db)
    with ThreadPoolExecutor() as threads:
        servers = list(threads.map(lambda count: serve("--workers", str(count), db=db), (1, 2)))
    for server, workers in zip(servers, (1, 2), strict=True):
        works(server)
        assert tasks_of(server) == tasks
        assert server.log.count("startup complete") == workers
        assert "rror" not in server.log
    with ThreadPoolExecutor() as threads:
        assert set(threads.map(Server.stop, servers)) <= set(STOPPED)
    assert not {"todo.db-wal", "todo.db-shm"} & set(names(tmp_path))
    assert tasks_in(db) == tasks


@pytest.mark.parametrize(("call", "when"), WHEN)
def test_a_start_that_is_killed_at_one_of_its_writes_blocks_no_later_one(serve, old, call, when):
    injection = f"-f -o {os.devnull} -e trace={call} -e inject={call}:signal=KILL:when={when}"
    killed = serve(db=old, prefix=(strace(), "-D", *injection.split()))
    assert killed.kill() == -signal.SIGKILL
    began = time.monotonic()
    server = serve(db=old)
    assert time.monotonic() - began < 8
    works(server)
    assert tasks_of(server) == OLD


def test_a_note_that_a_killed_start_left_blocks_no_later_one(start, tmp_path):
    """yoyo notes in a table who may migrate; nobody removes the note of a process that is gone."""
    db = tmp_path / "noted.db"
    with closing(sqlite3.connect(db)) as connection:
        connection.executescript("""
            CREATE TABLE yoyo_lock (locked INT PRIMARY KEY, ctime TIMESTAMP, pid INT NOT NULL);
            INSERT INTO yoyo_lock VALUES (1, '2020-01-01', 1);
        """)
    began = time.monotonic()
    assert start(TODO_DB=str(db)).tasks() == []
    assert time.monotonic() - began < 8


def test_migrations_are_applied_all_or_none(serve, old, tmp_path):
    prefix = copy_application(tmp_path / "broken")
    broken = tmp_path / "broken" / "migrations" / "0003-broken.sql"
    broken.write_text("UPDATE nowhere SET x = 1;")
    server = serve(db=old, prefix=prefix)
    assert refusal(server) == f"ERROR:    Can't serve {old}: no such table: nowhere\n"
    assert applied(old) == MIGRATIONS[:1]


def test_a_start_waits_for_another_that_holds_the_lock(serve, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    db = tmp_path / "new.db"
    with ThreadPoolExecutor() as threads, open(f"{db}-lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = threads.submit(serve, db=db)
        while not flocks(db, "->"):
            assert not server.done()
        assert not db.exists(), "it made the file without the lock"
        fcntl.flock(lock, fcntl.LOCK_UN)
        works(server.result(30))


def skip_unless(prefix):
    if not shutil.which("setpriv") or subprocess.run([*prefix, "true"]).returncode:
        pytest.skip("only root, with setpriv, can become another")


def test_a_uid_without_a_name_may_start_it(serve, tmp_path):
    skip_unless(AS_NOBODY)
    works(serve(db=tmp_path / "new.db", prefix=AS_NOBODY))


def test_without_fcntl_as_on_windows_it_serves_all_the_same(serve, tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "fcntl.py").write_text("raise ImportError('hidden')")
    db = tmp_path / "new.db"
    server = serve(db=db, PYTHONPATH=str(hidden))
    works(server)
    assert server.stop() in STOPPED
    assert names(tmp_path) == ["hidden", "new.db", "new.db-lock"]


def content(path):
    """What must not change in a refused file: its own tables, or its bytes."""
    if not path.is_file():
        return path.is_symlink(), path.is_dir(), path.is_fifo()
    try:
        with closing(sqlite3.connect(path)) as connection:
            return [line for line in connection.iterdump() if "yoyo" not in line]
    except sqlite3.DatabaseError:
        return path.read_bytes()[100:]  # but for the header, which may tell that there was a WAL


@pytest.mark.parametrize(("how", "reason"), (UNFIT | STRANGE).items())
def test_a_file_that_cant_serve_is_refused_in_a_sentence_and_stays_as_it_was(
    start, empty, tmp_path, how, reason
):
    db = tmp_path / "parent" / "todo.db"
    db.parent.mkdir()
    if how in UNFIT:
        shutil.copy(empty, db.with_name("empty.db"))
        subprocess.run(how, shell=True, cwd=db.parent, check=True, stderr=subprocess.DEVNULL)
    else:
        shutil.copy(empty, db)
        with closing(sqlite3.connect(db)) as connection:
            connection.executescript(how)
    before = content(db)
    with pytest.raises(todo.StartRefused) as refused:
        start(TODO_DB=str(db))
    sentence = str(refused.value)
    assert sentence.startswith(f"Can't serve {os.path.realpath(db)}: ")
    assert reason in sentence
    assert "\n" not in sentence
    assert content(db) == before


def test_an_sqlite_that_is_too_old_is_refused_in_a_sentence(start, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 9))
    with pytest.raises(todo.StartRefused, match=r"^Can't serve .*SQLite 3\.37"):
        start()


def refusal(server):
    """The one sentence with which a server refused to start: nothing else is in its log."""
    assert server.wait() == 3
    lines = [line for line in server.lines if not line.startswith("INFO:")]
    assert lines.pop() == "ERROR:    Application startup failed. Exiting.\n"
    (sentence,) = lines
    assert str(server.db) in sentence
    return sentence


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_cant_be_written_is_refused_in_one_line_and_exit_code_3(serve, empty, tmp_path, what):
    parent = tmp_path / "parent"
    parent.mkdir()
    db = shutil.copy(empty, parent / "todo.db")
    prefix = AS_SOMEBODY if os.geteuid() == 0 else ["env"]  # root may write everything
    skip_unless(prefix)
    if what == "file":
        db.chmod(0o444)
    else:
        parent.chmod(0o555)
    refusal(serve(db=db, prefix=prefix))
    parent.chmod(0o755)


# Stop


@pytest.mark.parametrize(
    ("sig", "workers"),
    [(signal.SIGINT, "1"), (signal.SIGTERM, "2"), pytest.param(signal.SIGINT, "4", marks=slow)],
)
def test_a_stop_under_load_answers_what_it_writes_and_leaves_one_file(
    serve, tmp_path, sig, workers
):
    server = serve("--workers", workers, db=tmp_path / "new.db")
    load = Load()
    load.start(server, 16)
    load.wait(answers=5)
    assert server.stop(sig) in STOPPED
    load.stop()
    assert load.statuses.keys() == {200}
    assert names(tmp_path) == ["new.db", "new.db-lock"]
    assert tasks_in(server.db) == load.ledger, "lost, or written and not answered"
    assert "Traceback" not in server.log


@slow
def test_a_stop_that_may_not_wait_answers_503(serve):
    """A body that stalls, a write that waits, and a client that does not read its long list."""
    server = serve("--timeout-graceful-shutdown", "1")
    insert(server.db, (("x" * 1000, False) for _ in range(20_000)))
    deaf, half = [socket.create_connection(server.address, timeout=30) for _ in range(2)]
    deaf.sendall(b"GET /tasks HTTP/1.1\r\nhost: x\r\n\r\n")
    assert deaf.recv(12) == b"HTTP/1.1 200"
    head = b"POST /tasks HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    half.sendall(head + b'content-length: 100\r\nexpect: 100-continue\r\n\r\n{"name": ')
    assert half.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"  # it is being read
    with deaf, half, ThreadPoolExecutor() as threads, locked(server.db) as other:
        with server.client() as http:
            write = threads.submit(http.post, "/tasks", json=TASK)
            while not flocks(server.db, "FLOCK"):
                assert not write.done()
            server.process.terminate()
            check_error(write.result(30), 503, connection="close")
        began = time.monotonic()
        assert half.recv(12) == b"HTTP/1.1 503"
        other.execute("ROLLBACK")
        assert server.wait() in STOPPED
        assert time.monotonic() - began < 3
    assert "Traceback" not in server.log
    assert len(tasks_in(server.db)) in (20_000, 20_001)  # a 503 may have happened or not
    assert names(server.db.parent) == ["served.db", "served.db-lock"]


@slow
@pytest.mark.parametrize("migration", MIGRATIONS[1:])
def test_a_later_migration_rolls_back_and_applies_again_and_keeps_the_tasks(start, migration):
    client = start()
    for _ in range(10):
        client.create()
    tasks = client.tasks()
    client.close()
    yoyo(client.db, "rollback", "--revision", migration)
    assert applied(client.db) == MIGRATIONS[: MIGRATIONS.index(migration)]
    client = start()
    assert client.tasks() == tasks
    assert client.create("next").json() == {"name": "next", "done": False, "id": 11}
    assert applied(client.db) == MIGRATIONS


def installed(folder, *what):
    """A virtual environment with the project in it, and everything that it needs from this one."""
    commands = [
        [sys.executable, "-m", "venv", folder],
        [folder / "bin" / "pip", "install", "-q", "--no-deps", *what],
    ]
    for command in commands:
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if run.returncode:
            pytest.skip(f"can't be installed here: {run.stderr[-500:]}")
    (packages,) = folder.glob("lib/python*/site-packages")
    return packages


@slow
def test_a_wheel_puts_one_folder_into_site_packages_and_serves_from_anywhere(tmp_path):
    packages = installed(tmp_path / "venv", str(ROOT))
    ours = {name for name in names(packages) if not re.match("pip|setuptools|_|pkg_|dist", name)}
    assert ours == {"todo", "todo-1.0.0.dist-info"}
    (here,) = {Path(path) for path in sys.path if path.endswith("site-packages")}
    environment = {**os.environ, "PYTHONPATH": f"{packages}:{here}", "TODO_DB": "here.db"}
    script = """if True:
        import asyncio, todo
        async def main():
            async with todo.app.router.lifespan_context(todo.app):
                print(todo.__file__)
        asyncio.run(main())
    """
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, f"{packages}/todo/__init__.py\n"), run.stderr
    assert applied(tmp_path / "here.db") == MIGRATIONS


@slow
def test_an_editable_install_copies_nothing(tmp_path):
    packages = installed(tmp_path / "venv", "-e", str(ROOT))
    assert not {"todo", "todo.py", "sql", "migrations"} & set(names(packages))
