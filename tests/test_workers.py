"""Any number of workers: no write fails because another worker was writing, and none starves."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from conftest import Server
from test_durability import Client, Load, ask, create, sound, strace, tampered, tasks_of  # noqa: F401

Serve = Callable[..., Server]


@contextmanager
def only(worker: int, server: Server) -> Iterator[None]:
    """Let one worker alone take new connections: the kernel would give most of them to the same one.

    No write may be waited for meanwhile: one of the others may have been stopped in its turn to write."""
    others = [child for child in server.children() if child != worker]
    for other in others:
        os.kill(other, signal.SIGSTOP)
    try:
        yield
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)


def spread(server: Server, clients: int, size: int = 200, creates: float = 0.6) -> tuple[Load, dict[int, list[Client]]]:
    """As many clients for each worker."""
    workers = server.children()
    load = Load(server, 0, size, creates)
    clients_of = {}
    for worker in workers:
        with only(worker, server):
            clients_of[worker] = load.add(clients // len(workers))
    return load, clients_of


def test_four_workers_and_64_writers_give_nothing_but_2xx_and_nobody_starves(serve: Serve) -> None:
    server = serve("--workers", "4")
    load, clients_of = spread(server, 64)
    assert [len(clients) for clients in clients_of.values()] == [16] * 4
    load.wait(answers=25)
    load.stop()
    assert load.statuses.keys() == {200}
    assert max(client.slowest for client in load.clients) < 2
    load.check(server)


def test_nobody_starves_on_a_slow_disk(serve: Serve, strace: str) -> None:  # noqa: F811
    server = serve("--workers", "4")
    load, _ = spread(server, 64)
    with tampered(server, strace, "fdatasync:delay_enter=25000"):
        load.wait(answers=8)
        load.stop()
    assert load.statuses.keys() == {200}
    assert max(client.slowest for client in load.clients) < 3
    load.check(server)


def test_a_worker_that_is_killed_loses_nothing_and_is_replaced(serve: Serve) -> None:
    server = serve("--workers", "2")
    load, clients_of = spread(server, 16)
    (killed, orphans), (survivor, others) = clients_of.items()
    load.wait(answers=20)
    os.kill(killed, signal.SIGKILL)
    for client in orphans:
        client.join(30)
    before = [sum(client.statuses.values()) for client in others]
    load.wait(answers=20)
    assert all(sum(client.statuses.values()) >= n + 20 for client, n in zip(others, before, strict=True))
    while server.log.count("startup complete") < 3:
        assert ask(server, "GET", "/healthz") == (200, {"status": "ok"})
    (replacement,) = set(server.children()) - {survivor}
    with only(replacement, server):
        newcomers = load.add(8)
    load.wait(answers=10)
    load.stop()
    assert all(client.statuses[200] > 0 for client in newcomers)
    assert load.statuses.keys() == {200}
    load.check(server)


def test_commits_and_checkpoints_of_two_workers_never_overlap(serve: Serve, strace: str, tmp_path: Path) -> None:  # noqa: F811
    """The WAL-reset bug (SQLite 3.7.0 to 3.51.2) needs a commit in one process during a checkpoint in another."""
    db, trace = tmp_path / "todo.db", tmp_path / "trace"
    calls = "pwrite64,ftruncate,fsync,fdatasync,flock,close"
    options = f"-D -f --seccomp-bpf -y -s 0 -e signal=none -e trace={calls} -o {trace}"
    server = serve("--workers", "2", db=db, prefix=(strace, *options.split()))
    load, _ = spread(server, 16, size=20_000)
    load.wait(answers=25)
    load.stop()
    server.stop()

    holder = ""
    queue, turns, checkpoints = set[str](), set[str](), set[str]()
    for thread, call, rest in re.findall(r"^(\d+) +(?:<\.\.\. )?(\w+)(.*)$", trace.read_text(), re.MULTILINE):
        if "LOCK_EX <unfinished" in rest:
            queue.add(thread)
        elif "LOCK_EX) = 0" in rest or ("flock resumed>" in f"{call}{rest}" and thread in queue):
            assert not holder, f"{thread} may write while {holder} does"
            holder = thread
            queue.discard(thread)
        elif "LOCK_UN" in rest or (call == "close" and f"<{db}-lock>" in rest):
            assert holder in ("", thread)
            holder = ""
        elif call != "close" and (f"<{db}-wal>" in rest or f"<{db}>" in rest):
            assert holder == thread, f"{thread} does {call}{rest[:200]} while {holder or 'nobody'} may"
            (turns if "-wal>" in rest else checkpoints).add(thread)
    assert len(turns) >= 3, "one created the file, and two workers wrote"
    assert len(checkpoints) >= 2, "one created the file, and another checkpointed it"


# Locks: other programs that use the file


@contextmanager
def locked(server: Server, seconds: float) -> Iterator[threading.Event]:
    """Hold the database as another program's transaction does, for this long; set the event then."""
    free = threading.Event()
    with closing(sqlite3.connect(server.db, isolation_level=None, check_same_thread=False)) as other:

        def release() -> None:
            other.execute("ROLLBACK")
            free.set()

        other.execute("BEGIN IMMEDIATE")
        (timer := threading.Timer(seconds, release)).start()
        yield free
        timer.join()


def test_writes_wait_for_a_program_that_holds_the_database_for_a_while(serve: Serve) -> None:
    server = serve("--workers", "2")
    load, _ = spread(server, 8)
    with locked(server, 1.5) as free:
        times = read_until(free, server)
        load.wait(answers=1)
        load.stop()
    assert load.statuses.keys() == {200}
    assert 1 < max(client.slowest for client in load.clients) < 3
    assert times[len(times) // 2] < 0.02
    load.check(server)


def read_until(event: threading.Event, server: Server) -> list[float]:
    """Read, and return how long each read took, in order, until the event."""
    times = []
    with closing(HTTPConnection(*server.address, timeout=30)) as connection:
        while not event.wait(0.005):
            started = time.monotonic()
            connection.request("GET", "/healthz")
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b'{"status":"ok"}')
            times.append(time.monotonic() - started)
    assert len(times) > 50
    return sorted(times)


def test_writes_give_up_after_5_s_when_a_program_holds_the_database_longer(held: Future[None]) -> None:
    held.result()


def give_up(server: Server) -> None:
    """What that test does, from the first test of all on."""
    workers = server.children()
    answers: list[tuple[float, float, int, str | None, bytes]] = []

    def write(connection: HTTPConnection, free: threading.Event) -> None:
        """Write again and again, at once, until the database is free."""
        while not free.is_set():
            sent = time.monotonic()
            connection.request("POST", "/tasks", b'{"name": "x", "done": false}', {"content-type": "application/json"})
            response = connection.getresponse()
            body = response.read()
            answers.append((sent, time.monotonic(), response.status, response.headers["retry-after"], body))
        connection.close()

    connections = []
    for worker in workers:
        with only(worker, server):
            for _ in range(4):
                connections.append(HTTPConnection(*server.address, timeout=30))
                connections[-1].request("GET", "/info")
                connections[-1].getresponse().read()
    since = time.monotonic()
    with locked(server, 5.6) as free, ThreadPoolExecutor(8) as threads:
        for n, connection in enumerate(connections):
            threads.submit(lambda connection=connection, n=n: free.wait(n / 4) or write(connection, free))
        times = read_until(free, server)
    assert times[len(times) // 2] < 0.02
    assert {status for _, _, status, _, _ in answers} == {200, 503}
    for sent, answered, status, retry_after, body in answers:
        assert answered - sent < 6.5
        if status == 503:
            assert answered - since > 4.5, "it gave up before the database was held for 5 s"
            assert retry_after == "1"
            assert re.fullmatch(rb'\{"detail":"[^"]+"\}', body)
    assert create(server, "after")[0] == 200
    assert len(tasks_of(server)) == sum(status == 200 for _, _, status, _, _ in answers) + 1
    assert "Traceback" not in server.log


def test_the_sqlite3_shell_works_beside_a_loaded_server(serve: Serve, tmp_path: Path) -> None:
    if not (shell := shutil.which("sqlite3")):
        pytest.skip("the sqlite3 shell is not installed")
    server = serve("--workers", "2")
    with closing(sqlite3.connect(server.db)) as other:
        numbers = "WITH n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 30000)"
        other.execute(f"INSERT INTO task (name, done) {numbers} SELECT printf('999 %0100d', n), n % 2 FROM n")
        other.commit()
    load, _ = spread(server, 8)
    for command in ("VACUUM", "CREATE INDEX other ON task (name, done)", "DROP INDEX other", "REINDEX"):
        load.wait(answers=2)
        shell_run = [shell, "-cmd", ".timeout 30000", server.db, command]
        run = subprocess.run(shell_run, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (command, run.returncode, run.stderr) == (command, 0, "")
    load.wait(answers=2)
    load.stop()
    assert load.statuses.keys() == {200}
    tasks = tasks_of(server)
    for client in load.clients:
        client.check(tasks)
    assert sound(server.db)
