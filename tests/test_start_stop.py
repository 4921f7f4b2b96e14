"""Start just works, or says in one sentence why not. Stop just works: what was accepted is
answered, and one file is left.
"""

import contextlib
import fcntl
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import pytest
from helpers import BREAD, TASK, Client, check, check_error, check_tagged, compact, insert, locked
from processes import ROOT, Server
from wire import Wire, ask, written

import todo

Serve = Callable[..., Server]
Start = Callable[..., Client]
Make = Callable[[Path], None]

ROUNDS = int(os.environ.get("TODO_ROUNDS", "5"))
MIGRATIONS = ["0001-task", "0002-idempotency-key"]
STOPPED = (0, -signal.SIGTERM, -signal.SIGINT)
LONG = "é" * 5000
OLD = [{"name": f"old {id}", "done": id % 2 == 1, "id": id} for id in range(1, 301)]
FIRST = """
CREATE TABLE IF NOT EXISTS task (
    id    INTEGER  PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
    name  TEXT     NOT NULL,
    done  INTEGER  NOT NULL CHECK (done IN (0, 1)),
    json  TEXT     NOT NULL GENERATED ALWAYS AS (
        json_object('name', name, 'done', json(iif(done, 'true', 'false')), 'id', id)
    ) VIRTUAL
) STRICT;

CREATE INDEX IF NOT EXISTS task_done ON task (done);
"""


def yoyo(db: Path, *command: str, cwd: Path = ROOT) -> str:
    """Run yoyo by hand, as one does who looks after the file."""
    options = ["--batch", "--no-config-file", "--database", f"sqlite:///{db}"]
    program = Path(sys.executable).with_name("yoyo")
    run = subprocess.run(
        [program, command[0], *options, *command[1:], "migrations"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def execute(db: Path, *statements: str) -> list[str]:
    """Execute statements past the server; return the first column of what the last one finds."""
    with closing(sqlite3.connect(db)) as connection, connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return [row[0] for row in rows]


def applied(db: Path) -> list[str]:
    return execute(db, "SELECT migration_id FROM _yoyo_migration ORDER BY 1")


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def check_serves(server: Server, tasks: list[dict[str, object]] | None = None) -> None:
    """Check that a server has these tasks, takes another, and has logged one line of its file."""
    check_tagged(ask(server, "GET", "/tasks"), tasks or [])
    id = len(tasks or []) + 1
    answer = ask(server, "POST", "/tasks", compact(TASK))
    check_tagged(answer, {**TASK, "id": id}, location=f"/tasks/{id}")
    assert "Traceback" not in server.log
    assert server.log.count(f"Serving the tasks in {server.db}\n") == 1
    assert applied(server.db) == MIGRATIONS


# Files


def missing(db: Path) -> None:
    pass


def nothing(db: Path) -> None:
    db.touch()


def old(db: Path) -> None:
    yoyo(db, "apply", "--revision", MIGRATIONS[0])
    insert(db, [(task["name"], task["done"]) for task in OLD])
    assert applied(db) == MIGRATIONS[:1]


def first(db: Path) -> None:
    """Make what the first version of this server would have made, with names beyond the limit."""
    folder = db.parent / "first"
    shutil.copytree(ROOT / "migrations", folder / "migrations")
    (folder / "migrations" / "0001-task.sql").write_text(FIRST)
    yoyo(db, "apply", cwd=folder)
    insert(db, [(LONG, False), ("\0" * 100_000, True)])


def stale(db: Path) -> None:
    """Leave yoyo's note that a process migrates, as one that is killed does."""
    table = "CREATE TABLE yoyo_lock (locked INT DEFAULT 1, ctime TIMESTAMP, pid INT NOT NULL"
    execute(db, f"{table}, PRIMARY KEY (locked))", "INSERT INTO yoyo_lock VALUES (1, 'then', 1)")


STORED = {missing: [], nothing: [], stale: [], old: OLD}
STORED[first] = [
    {"name": LONG, "done": False, "id": 1},
    {"name": "\0" * 100_000, "done": True, "id": 2},
]


@pytest.mark.parametrize("make", STORED)
def test_a_file_that_is_missing_empty_or_old_is_brought_up_to_date(
    start: Start, tmp_path: Path, make: Make
) -> None:
    db = tmp_path / "here.db"
    make(db)
    client = start(TODO_DB=str(db))
    id = len(STORED[make]) + 1
    check_tagged(client.get("/tasks"), STORED[make])
    check_tagged(client.create(), {**TASK, "id": id}, location=f"/tasks/{id}")
    if id > 1:
        check_tagged(client.patch("/tasks/1", {"done": False}), STORED[make][0] | {"done": False})
    assert applied(db) == MIGRATIONS
    client.close()
    assert execute(db, "PRAGMA integrity_check") == ["ok"]
    assert {"here.db-wal", "here.db-shm"}.isdisjoint(files(tmp_path))


def test_one_line_of_the_log_names_the_file(server: Server) -> None:
    found = [line for line in server.lines if str(server.db) in line]
    assert found == [f"INFO:     Serving the tasks in {server.db}\n"]


NAMES = [
    "todo [1]",
    "a*b?",
    "%41#?.db",
    "a b?mode=memory&x.db",
    ":memory:",
    "ü;'\".db",
    "\udcff.db",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_path_means_itself_whatever_is_in_it(start: Start, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    client = start(TODO_DB=str(folder / name))
    client.create("here")
    client.close()
    assert files(folder) == sorted([name, f"{name}-lock"])
    again = start(TODO_DB=str(folder / name))
    assert again.tasks() == [{"name": "here", "done": False, "id": 1}]


@pytest.mark.parametrize("way", ["link.db", "link/todo.db", "/todo.db", "folder/../todo.db"])
def test_a_file_has_one_lock_by_whatever_way_it_is_reached(
    start: Start, tmp_path: Path, way: str
) -> None:
    (tmp_path / "link.db").symlink_to("todo.db")
    (tmp_path / "link").symlink_to(".")
    (tmp_path / "folder").mkdir()
    client = start(TODO_DB=f"{tmp_path}/{way}")
    client.create("here")
    assert start().tasks() == client.tasks() == [{"name": "here", "done": False, "id": 1}]
    locks = [name for name in files(tmp_path) if name.endswith("-lock")]
    assert locks == ["todo.db-lock"]


def test_the_file_is_todo_db_in_the_working_directory_unless_it_is_said(
    serve: Serve, tmp_path: Path
) -> None:
    unset = ("env", "-C", str(tmp_path), "-u", "TODO_DB")
    server = serve("--app-dir", str(ROOT), db=tmp_path / "todo.db", prefix=unset)
    check_serves(server)


def copy_application(folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(ROOT / "todo.py", folder)
    for name in ("sql", "migrations"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


@pytest.mark.parametrize("name", ["todo [1]", "a*b?"])
def test_the_application_itself_may_lie_anywhere(serve: Serve, tmp_path: Path, name: str) -> None:
    folder = copy_application(tmp_path / name)
    check_serves(serve(db=tmp_path / "new.db", prefix=("env", "-C", str(folder))))


# What else a start may find


@pytest.fixture
def nobody() -> Iterator[tuple[tuple[str, ...], Path]]:
    """What starts a server under a uid without a name, and a folder of its own."""
    command = ("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups")
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can take another uid")
    unset = [f"--unset={name}" for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME")]
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 12345, 12345)
        yield (*command, "env", *unset), Path(folder)


def test_a_uid_without_a_name_serves(serve: Serve, nobody: tuple[tuple[str, ...], Path]) -> None:
    prefix, folder = nobody
    check_serves(serve(db=folder / "todo.db", prefix=prefix))


def test_a_system_without_file_locks_serves(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['fcntl'] = None\n")
    server = serve(db=tmp_path / "new.db", PYTHONPATH=str(tmp_path))
    check_serves(server)
    assert server.stop() in STOPPED
    assert [name for name in files(tmp_path) if "wal" in name or "shm" in name] == []


@pytest.mark.parametrize("make", [missing, old])
def test_several_servers_of_several_workers_start_at_once(
    serve: Serve, tmp_path: Path, make: Make
) -> None:
    db = tmp_path / "here.db"
    make(db)
    with ThreadPoolExecutor(2) as threads:
        servers = list(threads.map(lambda _: serve("--workers", "2", db=db), range(2)))
    for server in servers:
        assert server.log.count(f"Serving the tasks in {db}\n") == 2
        assert "rror" not in server.log
        assert ask(server, "POST", "/tasks", compact(TASK)).status_code == 200
    assert ask(servers[0], "GET", "/tasks?after=300").json() == (
        [{**TASK, "id": 301}, {**TASK, "id": 302}] if make is old else []
    )
    assert applied(db) == MIGRATIONS


def kill_a_start(db: Path, seed: int, *options: str) -> None:
    """Kill a server, and all its workers, at a random moment of its start."""
    moment = random.Random(seed).uniform(0, 0.06)
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "todo:app", "--port", "0", *options],
        cwd=ROOT,
        env={**os.environ, "TODO_DB": str(db)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr
        next(line for line in process.stderr if "Waiting for application startup" in line)
        Event().wait(moment)
        os.killpg(process.pid, signal.SIGKILL)


def check_survives(start: Start, db: Path) -> None:
    client = start(TODO_DB=str(db))
    client.create()
    assert client.tasks()[:-1] == (OLD if db.name == "old.db" else [])
    assert applied(db) == MIGRATIONS
    client.close()
    assert execute(db, "PRAGMA integrity_check") == ["ok"]


def test_starts_that_are_killed_block_no_later_one(start: Start, tmp_path: Path) -> None:
    old(tmp_path / "old.db")
    for seed in range(2):
        kill_a_start(tmp_path / "old.db", seed)
    check_survives(start, tmp_path / "old.db")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "4", "8"])
def test_many_starts_that_are_killed_block_no_later_one(
    start: Start, tmp_path: Path, workers: str
) -> None:
    old(tmp_path / "old.db.orig")
    for seed in range(ROUNDS):
        shutil.copy(tmp_path / "old.db.orig", tmp_path / "old.db")
        for name in ("old.db", f"new {seed}.db"):
            kill_a_start(tmp_path / name, seed, "--workers", workers)
            check_survives(start, tmp_path / name)


def test_migrations_are_applied_all_or_none(serve: Serve, tmp_path: Path) -> None:
    old(tmp_path / "old.db")
    folder = copy_application(tmp_path / "broken")
    (folder / "migrations" / "0003-broken.sql").write_text("UPDATE nowhere SET x = 1;\n")
    server = serve(db=tmp_path / "old.db", prefix=("env", "-C", str(folder)))
    assert "no such table: nowhere" in refusal(server)
    assert applied(tmp_path / "old.db") == MIGRATIONS[:1]
    check_serves(serve(db=tmp_path / "old.db"), OLD)


# Starts that are refused


def refusal(server: Server) -> str:
    """The one sentence with which a server refused to start."""
    code = server.wait()
    others = [line for line in server.lines if not line.startswith("INFO:")]
    assert [line for line in others if "Application startup failed" not in line] == others[:1]
    assert "Traceback" not in server.log
    assert code == 3
    return others[0]


def no_database(db: Path) -> None:
    db.write_text("This is a diary, not a database. " * 100)


def broken(db: Path) -> None:
    old(db)
    data = bytearray(db.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    db.write_bytes(data)


def newer(db: Path) -> None:
    yoyo(db, "apply")
    values = "VALUES ('x', '9999-from-the-future')"
    execute(db, f"INSERT INTO _yoyo_migration (migration_hash, migration_id) {values}")


def foreign_table(db: Path) -> None:
    execute(db, "CREATE TABLE task (title TEXT)", "INSERT INTO task VALUES ('mine')")


def similar_table(db: Path) -> None:
    execute(db, "CREATE TABLE task (id INTEGER PRIMARY KEY, name TEXT, done INTEGER)")


def folder(db: Path) -> None:
    db.mkdir()


def no_folder(db: Path) -> None:
    db.parent.rmdir()


def device(db: Path) -> None:
    db.symlink_to("/dev/null")


def loop(db: Path) -> None:
    db.symlink_to(db)


def hard_linked(db: Path) -> None:
    db.touch()
    db.with_name("other.db").hardlink_to(db)


UNFIT = {
    no_database: "file is not a database",
    broken: "malformed",
    newer: "it is newer than this server, which lacks a migration of it",
    foreign_table: "table task already exists",
    similar_table: "table task already exists",
    folder: "it is no regular file",
    no_folder: "No such file or directory",
    os.mkfifo: "it is no regular file",
    device: "it is no regular file",
    loop: "",
    hard_linked: "it has several names (hard links), each of which has its own lock",
}


@pytest.mark.parametrize("make", UNFIT)
def test_a_file_that_is_unfit_stops_the_start_with_a_sentence_and_stays_as_it_is(
    start: Start, tmp_path: Path, make: Make
) -> None:
    db = tmp_path / "folder" / "unfit.db"
    db.parent.mkdir()
    make(db)
    before = content(db)
    with pytest.raises(todo.StartRefused) as refused:
        start(TODO_DB=str(db))
    sentence = str(refused.value)
    print(sentence)
    assert sentence.startswith(f"Can't serve {os.path.realpath(db)}: ")
    assert UNFIT[make] in sentence
    assert "\n" not in sentence
    assert content(db) == before


def content(db: Path) -> object:
    """What is in a file, but for what yoyo notes of itself."""
    if not db.is_file():
        return None
    try:
        with closing(sqlite3.connect(db)) as connection:
            return [line for line in connection.iterdump() if "yoyo" not in line]
    except sqlite3.DatabaseError:
        return db.read_bytes()


ORIGINS = [
    "localhost:3000",
    "https://example.com/",
    "https://Example.com",
    "http://a:80",
    "HTTP://a",
]
ORIGINS += [
    "https://a:443",
    "http://a:",
    "http://a:70000",
    "http://a:0",
    "http://",
    "null",
    "'",
    "#",
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_an_origin_that_no_browser_sends_stops_the_start(start: Start, origin: str) -> None:
    with pytest.raises(todo.StartRefused, match=r"^TODO_CORS_ORIGINS: .* is no origin") as refused:
        start(TODO_CORS_ORIGINS=f"https://good.example,{origin}")
    assert repr(origin) in str(refused.value)


@pytest.mark.parametrize("token", ["", " ", "\t", "a\nb", "\x7f"])
def test_a_token_that_no_header_can_carry_stops_the_start(start: Start, token: str) -> None:
    with pytest.raises(todo.StartRefused, match=r"^TODO_TOKEN is empty, or has characters"):
        start(TODO_TOKEN=token)


def test_an_sqlite_that_is_too_old_stops_the_start(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.36.0")
    with pytest.raises(todo.StartRefused) as refused:
        start()
    reason = "it takes SQLite 3.37, and this Python has 3.36.0"
    assert str(refused.value) == f"Can't serve {tmp_path}/todo.db: {reason}"


def test_a_refused_start_ends_with_one_sentence_and_exit_code_3(
    serve: Serve, tmp_path: Path
) -> None:
    no_database(db := tmp_path / "diary.db")
    assert refusal(serve(db=db)) == f"ERROR:    Can't serve {db}: file is not a database\n"
    assert "TODO_TOKEN is empty" in refusal(serve(db=tmp_path / "new.db", TODO_TOKEN=""))
    assert not (tmp_path / "new.db").exists()


def test_several_workers_end_too_when_their_start_is_refused(serve: Serve, tmp_path: Path) -> None:
    no_database(db := tmp_path / "diary.db")
    server = serve("--workers", "2", db=db)
    server.wait()
    assert f"Can't serve {db}: file is not a database\n" in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_cant_be_written_stops_the_start(
    serve: Serve, nobody: tuple[tuple[str, ...], Path], empty: Path, what: str
) -> None:
    prefix, folder = nobody
    db = folder / "todo.db"
    shutil.copy(empty, db)  # root's, for all to read
    if what == "folder":
        os.chown(db, 12345, 12345)
        folder.chmod(0o555)
    sentence = refusal(serve(db=db, prefix=prefix))
    assert sentence.startswith(f"ERROR:    Can't serve {db}: ")


@pytest.mark.slow
def test_a_lock_that_another_process_holds_ends_the_start_with_a_sentence(
    serve: Serve, tmp_path: Path
) -> None:
    db = tmp_path / "held.db"
    with (tmp_path / "held.db-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = time.monotonic()
        sentence = refusal(serve(db=db))
        assert time.monotonic() - started < 35
    assert f"Can't serve {db}: " in sentence
    assert f"{db}-lock" in sentence
    assert not db.exists()


@pytest.mark.slow
def test_a_file_that_another_program_locks_ends_the_start_with_a_sentence(
    serve: Serve, tmp_path: Path
) -> None:
    old(tmp_path / "old.db")
    with locked(tmp_path / "old.db"):
        sentence = refusal(serve(db=tmp_path / "old.db"))
    assert sentence == f"ERROR:    Can't serve {tmp_path}/old.db: database is locked\n"


# Stop


def check_stopped(server: Server, sig: int = signal.SIGTERM) -> None:
    """Check that a server ends at this signal, without a word, and leaves one file."""
    assert server.stop(sig) in STOPPED
    check_left(server.db)
    assert "Traceback" not in server.log


def check_left(db: Path) -> None:
    left = [name for name in files(db.parent) if name.startswith(db.name)]
    assert left == [db.name, f"{db.name}-lock"]
    assert execute(db, "PRAGMA integrity_check") == ["ok"]


@pytest.mark.parametrize(
    ("sig", "workers"), [(signal.SIGTERM, "1"), (signal.SIGINT, "1"), (signal.SIGTERM, "2")]
)
def test_a_stop_under_load_answers_what_it_writes(
    serve: Serve, sig: signal.Signals, workers: str
) -> None:
    server = serve("--workers", workers)
    answered: list[int] = []

    def work(wire: Wire) -> None:
        with wire, contextlib.suppress(ConnectionError):  # no answer: it had not been accepted
            while True:
                answer = wire.request("POST", "/tasks", compact(TASK)).answer()
                assert answer.status_code == 200
                answered.append(answer.json()["id"])

    with ThreadPoolExecutor(16) as threads:
        working = [threads.submit(work, Wire(server)) for _ in range(16)]
        while len(answered) < 50:
            assert server.process.poll() is None
            time.sleep(0.001)
        check_stopped(server, sig)
        for worker in working:
            worker.result()
    assert execute(server.db, "SELECT id FROM task ORDER BY id") == sorted(answered)


def send_writes(server: Server, count: int) -> list[Wire]:
    """Connections on each of which a write has arrived."""
    wires = [Wire(server).request("POST", "/tasks", compact(TASK)) for _ in range(count)]
    check(ask(server, "GET", "/info"), "starlette")  # which came later
    return wires


def test_a_stop_answers_the_writes_that_wait_for_another_program(serve: Serve) -> None:
    server = serve()
    with locked(server.db) as other:
        wires = send_writes(server, 5)
        server.process.terminate()
        while "Shutting down" not in server.log:
            time.sleep(0.001)
        other.rollback()
    assert [wire.answer().status_code for wire in wires] == [200] * 5
    check_stopped(server)


def test_a_stop_carries_out_what_is_in_line(start: Start) -> None:
    client = start()
    with locked(client.db) as other:
        writes = [client.begin("POST", "/tasks", TASK) for _ in range(5)]
        check(client.get("/info"), "starlette")
        closing = Thread(target=client.close)
        closing.start()
        later = client.begin("POST", "/tasks", BREAD)
        other.rollback()
    closing.join()
    assert [write.result(9).status_code for write in [*writes, later]] == [200] * 6
    check_left(client.db)


def test_a_stop_that_may_not_wait_answers_503(serve: Serve) -> None:
    server = serve("--timeout-graceful-shutdown", "1")
    insert(server.db, [("x" * 1000, False)] * 20_000)
    stalled = Wire(server).send(written("POST", "/tasks", compact(TASK))[:-5])
    deaf = Wire(server).request("GET", "/tasks")
    assert deaf.head().status_code == 200
    with locked(server.db):
        wires = [stalled, *send_writes(server, 5)]
        server.process.terminate()
        for wire in wires:
            check_error(wire.answer(), 503)
    check_stopped(server)
    assert execute(server.db, "SELECT count(*) FROM task") == [20_000]


@pytest.mark.slow
def test_half_a_request_holds_up_no_stop_for_longer_than_10_s(serve: Serve) -> None:
    server = serve()
    nothing, head, body = Wire(server), Wire(server), Wire(server)
    head.send(written("POST", "/tasks", compact(TASK))[:30])
    body.send(written("POST", "/tasks", compact(TASK))[:-5])
    check(ask(server, "GET", "/info"), "starlette")
    started = time.monotonic()
    check_stopped(server)
    assert time.monotonic() - started < 13
    check_error(body.answer(), 408)
    assert [nothing.rest(), head.rest()] == [b"", b""]


@pytest.mark.slow
def test_a_lock_that_another_process_holds_holds_up_no_stop_for_longer_than_5_s(
    serve: Serve,
) -> None:
    server = serve()
    with Path(f"{server.db}-lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = time.monotonic()
        assert server.stop() in STOPPED
        assert time.monotonic() - started < 8
    assert "Traceback" not in server.log


# Migrations by hand


def test_yoyo_lists_rolls_back_and_applies_beside_a_running_server(serve: Serve) -> None:
    server = serve()
    check_serves(server)
    listed = yoyo(server.db, "list")
    assert re.findall(r"^A +(\S+)", listed, re.MULTILINE) == MIGRATIONS
    yoyo(server.db, "rollback", "--all")
    for method, path in [("GET", "/tasks"), ("GET", "/tasks/1"), ("GET", "/healthz")]:
        check_error(ask(server, method, path), 503)
    check_error(ask(server, "POST", "/tasks", compact(TASK)), 503)
    assert execute(server.db, "SELECT name FROM sqlite_master WHERE name LIKE 'task%'") == []
    yoyo(server.db, "apply")
    check_serves(server)


def test_the_later_migrations_roll_back_and_apply_again_with_the_tasks_kept(
    start: Start, tmp_path: Path
) -> None:
    client = start()
    client.create("kept", idempotency_key="x")
    client.close()
    yoyo(client.db, "rollback", "--revision", MIGRATIONS[1])
    assert applied(client.db) == MIGRATIONS[:1]
    assert start().tasks() == [{"name": "kept", "done": False, "id": 1}]
    assert applied(client.db) == MIGRATIONS


# Installed


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """The site-packages of a fresh environment, in which the dependencies can be imported."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    [packages] = (tmp_path / "venv").glob("lib/*/site-packages")
    [dependencies] = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")
    return packages


def pip(python: Path | str, *command: object) -> None:
    words = [str(python), "-m", "pip", "-q", "--disable-pip-version-check", *map(str, command)]
    subprocess.run(words, check=True, timeout=300)


@pytest.mark.slow
def test_a_wheel_is_one_package_and_serves_from_another_folder(
    serve: Serve, fresh: Path, tmp_path: Path
) -> None:
    before = files(fresh)
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "tests"))
    pip(sys.executable, "wheel", "--no-deps", "-w", tmp_path / "dist", source)
    [wheel] = (tmp_path / "dist").iterdir()
    python = tmp_path / "venv" / "bin" / "python"
    pip(python, "install", "--no-deps", wheel)
    assert {*files(fresh)} - {*before} == {"todo", "todo-1.0.0.dist-info"}
    (tmp_path / "elsewhere").mkdir()
    inside = ("env", "-C", str(tmp_path / "elsewhere"), str(python), "-P", "-m", "uvicorn")
    run = 'cd "$0" && shift 3 && exec "$@"'
    del inside, run
    pip(python, "uninstall", "-y", "todo")
    pip(python, "install", "--no-deps", "-e", source)
    assert "todo" not in files(fresh)
    assert {"sql", "migrations"}.isdisjoint(files(fresh))
