"""Start just works, or says in one sentence why not. Stop just works: what was accepted is answered, no WAL is left."""

import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT, Server
from test_durability import (  # noqa: F401
    Load,
    arrived,
    ask,
    create,
    request,
    sound,
    strace,
    tasks_in,
    tasks_of,
)

Serve = Callable[..., Server]
MIGRATIONS = sorted(file.stem for file in ROOT.glob("migrations/*.sql") if not file.stem.endswith(".rollback"))
OLD = {id: (f"old {id}", id % 2 == 1) for id in range(1, 1001)}
STOPPED = (0, -signal.SIGTERM, -signal.SIGINT)


def yoyo(db: Path, *command: str) -> str:
    """Run yoyo by hand; its path is a part of a URL, so that it has to be quoted."""
    program = Path(sys.executable).with_name("yoyo")
    options = ["--batch", "--no-config-file", "--database", f"sqlite:///{db}"]
    words = [program, command[0], *options, *command[1:], "migrations"]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    return run.stdout


def applied(db: Path) -> list[str]:
    with closing(sqlite3.connect(db)) as connection:
        return [id for (id,) in connection.execute("SELECT migration_id FROM _yoyo_migration ORDER BY 1")]


def files(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


@pytest.fixture
def empty() -> Path | None:
    """Nothing: here servers make their files."""
    return None


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that has had the first migration only, with tasks in it."""
    db = tmp_path / "old.db"
    yoyo(db, "apply", "--revision", MIGRATIONS[0])
    with closing(sqlite3.connect(db)) as connection:
        connection.executemany("INSERT INTO task VALUES (?, ?, ?)", [(id, *task) for id, task in OLD.items()])
        connection.commit()
    assert applied(db) == MIGRATIONS[:1]
    return db


# Start


@pytest.mark.usefixtures("stopping")
def test_a_missing_file_is_created_and_migrated(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    assert tasks_of(server) == {}
    assert applied(server.db) == MIGRATIONS
    assert "rror" not in server.log


def test_an_empty_file_is_migrated(serve: Serve, tmp_path: Path) -> None:
    (db := tmp_path / "empty.db").touch()
    assert tasks_of(serve(db=db)) == {}


def test_an_old_file_is_migrated(serve: Serve, old: Path) -> None:
    assert tasks_of(serve(db=old)) == OLD
    assert applied(old) == MIGRATIONS


@pytest.mark.parametrize("name", ["a b?mode=memory&x.db", "100%41#;'ü\".db", ":memory:"])
def test_a_path_means_itself_whatever_characters_are_in_it(serve: Serve, tmp_path: Path, name: str) -> None:
    (directory := tmp_path / name).mkdir()
    server = serve(db=directory / name)
    assert create(server, "here")[0] == 200
    assert server.stop() in STOPPED
    assert files(directory) == sorted([name, f"{name}-lock"])
    assert tasks_in(directory / name) == {1: ("here", False)}


@pytest.mark.parametrize("file", ["new", "old"])
def test_several_servers_of_several_workers_start_at_once(serve: Serve, tmp_path: Path, old: Path, file: str) -> None:
    db = old if file == "old" else tmp_path / "new.db"
    with ThreadPoolExecutor(3) as threads:
        servers = list(threads.map(lambda _: serve("--workers", "2", db=db), range(3)))
    for server in servers:
        assert server.log.count("startup complete") == 2
        assert "rror" not in server.log
        assert create(server, "new")[0] == 200
    assert len(tasks_of(servers[0])) == len(OLD if file == "old" else {}) + 3
    assert applied(db) == MIGRATIONS


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
def test_a_start_that_is_killed_at_any_of_its_writes_blocks_no_later_one(
    serve: Serve,
    tmp_path: Path,
    strace: str,  # noqa: F811
    call: str,
) -> None:
    def killed_then_started(when: int) -> bool:
        db = tmp_path / f"{when}.db"
        options = f"-D -f -o {os.devnull} -e trace={call} -e inject={call}:signal=KILL:when={when}".split()
        killed = serve(db=db, prefix=(strace, *options)).wait() == -signal.SIGKILL
        started = time.monotonic()
        server = serve(db=db)
        assert time.monotonic() - started < 8
        assert create(server, "works")[0] == 200
        assert applied(db) == MIGRATIONS
        server.kill()
        return killed

    with ThreadPoolExecutor(2) as threads:
        moments = (14, 33, 53) if call == "pwrite64" else (4, 9)
        assert all(threads.map(killed_then_started, moments))


def kill_a_start(db: Path, after: float) -> None:
    command = [sys.executable, "-m", "uvicorn", "todo:app", "--port", "0"]
    environment = {**os.environ, "TODO_DB": str(db)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if "Waiting for application startup" in line:
                break
        threading.Event().wait(after)
        process.kill()


def test_starts_that_are_killed_at_random_moments_lose_nothing(serve: Serve, old: Path) -> None:
    for n in range(4):
        kill_a_start(old, random.Random(n).uniform(0, 0.06))
    assert tasks_of(serve(db=old)) == OLD
    assert applied(old) == MIGRATIONS
    assert sound(old)


@pytest.mark.slow
def test_a_hundred_killed_starts_block_no_later_one(serve: Serve, tmp_path: Path) -> None:
    for n in range(100):
        db = tmp_path / f"{n // 2}.db"
        kill_a_start(db, random.Random(n).uniform(0, 0.06))
        if n % 2:
            server = serve(db=db)
            assert create(server, "works")[0] == 200
            server.kill()


def test_a_lock_that_a_killed_start_left_blocks_no_later_one(serve: Serve, tmp_path: Path) -> None:
    """yoyo notes in a table who may migrate; nothing removes the note of a process that was killed."""
    db = tmp_path / "todo.db"
    lock = "CREATE TABLE yoyo_lock (locked INT DEFAULT 1, ctime TIMESTAMP, pid INT NOT NULL, PRIMARY KEY (locked))"
    execute(db, lock, "INSERT INTO yoyo_lock VALUES (1, '2020-01-01', 1)")
    started = time.monotonic()
    assert tasks_of(serve(db=db)) == {}
    assert time.monotonic() - started < 8


# Files that can't serve


def no_database(db: Path) -> None:
    db.write_text("This is a diary, not a database. " * 100)


def directory(db: Path) -> None:
    db.mkdir()


def missing_directory(db: Path) -> None:
    db.parent.rmdir()


def newer(db: Path) -> None:
    yoyo(db, "apply")
    execute(db, "INSERT INTO _yoyo_migration (migration_hash, migration_id) VALUES ('x', '9999-from-the-future')")


def other_table(db: Path) -> None:
    execute(db, "CREATE TABLE task (title TEXT, due TEXT)", "INSERT INTO task VALUES ('mine', 'today')")


def similar_table(db: Path) -> None:
    execute(db, "CREATE TABLE task (id INTEGER PRIMARY KEY, name TEXT, done INTEGER)")


def execute(db: Path, *statements: str) -> None:
    with closing(sqlite3.connect(db)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def refused(server: Server) -> str:
    """The one sentence with which a server refused to start."""
    code = server.wait()
    lines = [line for line in server.lines if not line.startswith("INFO:")]
    assert "Traceback" not in server.log
    sentences = [line for line in lines if str(server.db) in line]
    assert len(sentences) == 1, server.log
    assert {line for line in lines if line not in sentences} <= {"ERROR:    Application startup failed. Exiting.\n"}
    assert code == 3
    return sentences[0]


@pytest.mark.parametrize("make", [no_database, directory, missing_directory, newer, other_table, similar_table])
def test_a_file_that_cant_serve_stops_the_start_with_one_sentence_and_stays_as_it_was(
    serve: Serve, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (parent := tmp_path / "parent").mkdir()
    db = parent / "todo.db"
    make(db)
    before = content(db)
    sentence = refused(serve(db=db))
    words = {no_database: "not a database", newer: "newer"}
    assert words.get(make, "") in sentence
    assert content(db) == before


def test_a_path_that_is_not_unicode_stops_the_start_with_one_sentence(serve: Serve, tmp_path: Path) -> None:
    server = serve(db=tmp_path / "\udcff.db")
    assert server.wait() == 3
    assert server.log.count(str(tmp_path)) == 1
    assert "Traceback" not in server.log


def content(db: Path) -> list[str] | bytes | None:
    if not db.is_file():
        return None
    try:
        with closing(sqlite3.connect(db)) as connection:
            return [line for line in connection.iterdump() if "yoyo" not in line]
    except sqlite3.DatabaseError:
        return db.read_bytes()


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_file_that_cant_be_written_stops_the_start_with_one_sentence(serve: Serve, tmp_path: Path, what: str) -> None:
    (parent := tmp_path / "parent").mkdir()
    db = parent / "todo.db"
    serve(db=db).stop()
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:  # who may write everything; without this capability, even root may not
        prefix = "setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"
        if subprocess.run([*prefix, "true"], capture_output=True).returncode:
            pytest.skip("root can't be kept from writing here")
    if what == "file":
        db.chmod(0o444)
    else:
        db.with_name("todo.db-lock").unlink()
        parent.chmod(0o555)
    refused(serve(db=db, prefix=prefix))
    parent.chmod(0o755)


def test_several_workers_stop_too_when_the_file_cant_serve(serve: Serve, tmp_path: Path) -> None:
    no_database(db := tmp_path / "todo.db")
    server = serve("--workers", "2", db=db)
    server.wait()
    assert "Traceback" not in server.log
    assert str(db) in server.log


def test_an_empty_token_stops_the_start(serve: Serve) -> None:
    assert "TODO_TOKEN is empty" in refused(serve(TODO_TOKEN=""))


# Stop


@pytest.mark.parametrize(("sig", "workers"), [(signal.SIGTERM, "1"), (signal.SIGINT, "1"), (signal.SIGTERM, "2")])
def test_a_stop_under_load_answers_what_it_writes_and_leaves_one_file(
    serve: Serve, tmp_path: Path, sig: signal.Signals, workers: str
) -> None:
    server = serve("--workers", workers)
    load = Load(server, 16)
    load.wait(answers=10)
    assert server.stop(sig) in STOPPED
    load.stop()
    assert load.statuses.keys() == {200}
    assert files(tmp_path) == ["todo.db", "todo.db-lock"]
    tasks = tasks_in(server.db)
    ledgers = {id: task for client in load.clients for id, task in client.ledger.items()}
    assert tasks == ledgers, "a write was lost, or made and not answered"
    assert sound(server.db)
    assert "Traceback" not in server.log


def test_a_stop_answers_writes_that_wait_for_another_program(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    with ThreadPoolExecutor(10) as threads, closing(sqlite3.connect(server.db, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writes = [threads.submit(create, server, f"{n}") for n in range(10)]
        arrived(server)
        server.process.terminate()
        while "Shutting down" not in server.log:
            assert server.process.poll() is None
            threading.Event().wait(0.01)
        other.execute("ROLLBACK")
        assert [write.result()[0] for write in writes] == [200] * 10
    assert server.wait() in STOPPED
    assert files(tmp_path) == ["todo.db", "todo.db-lock"]
    assert sorted(name for name, _ in tasks_in(server.db).values()) == sorted(map(str, range(10)))


def send_half(server: Server) -> list[socket.socket]:
    """Connections with nothing, half a head, and half a body."""
    nothing, head = (socket.create_connection(server.address, timeout=30) for _ in range(2))
    head.sendall(b"POST /tasks HTTP/1.1\r\nhost: x\r\ncontent-le")
    body = request(server, "POST /tasks", b'{"name": "half"', 100)
    arrived(server)
    return [nothing, head, body]


Stopped = tuple[int, float, list[bytes]]


def stop_half_sent(server: Server) -> Stopped:
    """Stop a server beside half-sent requests: the exit code, the seconds it took, and what each connection got."""
    connections = send_half(server)
    started = time.monotonic()
    code = server.stop()
    seconds = time.monotonic() - started
    got = []
    for connection in connections:
        with connection, connection.makefile("rb") as file:
            got.append(file.read())
    return code, seconds, got


@pytest.fixture(scope="module")
def stopping(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Server, Future[Stopped]]]:
    """A stop that has to wait for 10 s. It begins with the first test, so that the last need not wait for it."""
    server = Server(tmp_path_factory.mktemp("stopping") / "todo.db")
    with ThreadPoolExecutor(1) as pool:
        yield server, pool.submit(stop_half_sent, server)


def test_a_stop_that_may_not_wait_answers_503(serve: Serve, tmp_path: Path) -> None:
    """And a client that does not read its long list does not block it either."""
    server = serve("--timeout-graceful-shutdown", "1")
    execute(server.db, "INSERT INTO task (name, done) SELECT printf('%0100000d', value), 0 FROM json_each('[1,2,3]')")
    for _ in range(7):
        execute(server.db, "INSERT INTO task (name, done) SELECT name, done FROM task")
    with closing(request(server, "GET /tasks")) as deaf:
        assert deaf.recv(12) == b"HTTP/1.1 200"
        nothing, head, body = send_half(server)
        started = time.monotonic()
        assert server.stop() in STOPPED
        assert time.monotonic() - started < 4
    with nothing, head, body:
        assert body.recv(10_000).startswith(b"HTTP/1.1 503 ")
    assert files(tmp_path) == ["todo.db", "todo.db-lock"]
    assert "Traceback" not in server.log


def test_a_stop_that_may_not_wait_for_writes_loses_no_answered_one(serve: Serve, tmp_path: Path) -> None:
    server = serve("--timeout-graceful-shutdown", "1")
    with ThreadPoolExecutor(10) as threads, closing(sqlite3.connect(server.db, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writes = [threads.submit(create, server, f"{n}") for n in range(10)]
        arrived(server)
        server.process.terminate()
        assert {write.result()[0] for write in writes} == {503}
        other.execute("ROLLBACK")
    assert server.wait() in STOPPED
    assert files(tmp_path) == ["todo.db", "todo.db-lock"]
    assert "Traceback" not in server.log


# Migrations by hand


def test_yoyo_lists_and_applies_beside_a_running_server(serve: Serve) -> None:
    server = serve()
    load = Load(server, 4)
    load.wait(answers=1)
    listed = yoyo(server.db, "list")
    assert all(re.search(rf"^A +{migration} ", listed, re.MULTILINE) for migration in MIGRATIONS), listed
    load.wait(answers=1)
    load.stop()
    yoyo(server.db, "apply")
    assert load.statuses.keys() == {200}
    load.check(server)


def test_yoyo_rolls_back_and_applies_again_beside_a_running_server(serve: Serve) -> None:
    server = serve()
    assert create(server, "gone")[0] == 200
    yoyo(server.db, "rollback", "--all")
    for method, path in (("GET", "/tasks"), ("GET", "/tasks/1"), ("GET", "/healthz"), ("DELETE", "/tasks/1")):
        status, answer = ask(server, method, path)
        assert (status, answer.keys()) == (503, {"detail"})
    yoyo(server.db, "apply")
    assert tasks_of(server) == {}
    assert create(server, "back")[0] == 200
    assert "Traceback" not in server.log


@pytest.mark.parametrize("migration", MIGRATIONS[1:])
def test_a_later_migration_rolls_back_and_applies_again_with_the_data_kept(
    serve: Serve, tmp_path: Path, migration: str
) -> None:
    server = serve()
    for n in range(10):
        assert create(server, f"{n}")[0] == 200
    server.stop()
    yoyo(server.db, "rollback", "--revision", migration)
    assert applied(server.db) == MIGRATIONS[: MIGRATIONS.index(migration)]
    assert len(tasks_in(server.db)) == 10
    server = serve()
    assert len(tasks_of(server)) == 10
    assert create(server, "eleventh")[1] == {"name": "eleventh", "done": False, "id": 11}
    assert applied(server.db) == MIGRATIONS


def test_all_migrations_roll_back_to_an_empty_file(serve: Serve) -> None:
    server = serve()
    assert create(server, "gone")[0] == 200
    server.stop()
    yoyo(server.db, "rollback", "--all")
    with closing(sqlite3.connect(server.db)) as connection:
        left = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE '%task%'")}
    assert left == set()
    assert tasks_of(serve()) == {}


def test_a_half_sent_request_ends_in_408_and_does_not_block_the_stop(
    stopping: tuple[Server, Future[Stopped]],
) -> None:
    server, stopped = stopping
    code, seconds, (nothing, head, body) = stopped.result()
    assert code in STOPPED
    assert seconds < 12
    assert [nothing, head] == [b"", b""]
    assert body.startswith(b"HTTP/1.1 408 ")
    assert re.search(rb'\r\n\r\n\{"detail":"[^"]+"\}$', body)
    assert "Traceback" not in server.log
    assert tasks_in(server.db) == {}
