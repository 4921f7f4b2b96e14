"""Fixtures: applications in this process (`client`), and real servers (`server`).

The helpers are modules beside this one:

    client.py      requests to an application in this process, which take about 1 ms
    assertions.py  assertions on whole responses
    database.py    the database file, seen by another program
    server.py      real servers, with any number of workers
    starting.py    what a start leaves behind: files, locks, migrations
    wire.py        raw connections to them
    load.py        many clients at once that remember what was acknowledged
    tracing.py     system calls of a server: recorded, delayed, or made to fail (strace)
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

# pytest explains a failed assertion only in modules that it has rewritten: name the helpers before
# any of them is imported.
pytest.register_assert_rewrite(
    "assertions",
    "client",
    "database",
    "linearizability",
    "load",
    "server",
    "starting",
    "tracing",
    "wire",
)

from client import Client  # noqa: E402
from database import delete_all_tasks, insert_tasks  # noqa: E402
from server import Server  # noqa: E402
from starting import run_yoyo  # noqa: E402


@pytest.fixture(scope="session")
def portal():
    """An event loop in a thread of its own, for all applications in this process."""
    with start_blocking_portal("asyncio", {"use_uvloop": True}) as portal:
        yield portal
        portal.call(portal.stop, True)  # Cancel the requests that a failed test has left behind.


@pytest.fixture(scope="session")
def empty_db(portal, tmp_path_factory):
    """A database without tasks. To copy it takes less time than to create one."""
    db = tmp_path_factory.mktemp("empty") / "todo.db"
    Client(portal, TODO_DB=str(db)).start().stop()
    return db


@pytest.fixture(scope="session")
def early_db(tmp_path_factory):
    """A database with the first migration only, made with yoyo, and with 1,000 tasks."""
    db = tmp_path_factory.mktemp("early") / "early.db"
    run_yoyo(db, "apply", "--revision", "0001-task")
    insert_tasks(db, [(f"early {number}", number % 2 == 0) for number in range(1, 1001)])
    return db


@pytest.fixture
def old_db(early_db, tmp_path):
    """A copy of `early_db` in a folder of its own."""
    folder = tmp_path / "old"
    folder.mkdir()
    return Path(shutil.copy(early_db, folder / "old.db"))


@pytest.fixture(scope="session")
def shared_client(portal, empty_db, tmp_path_factory):
    db = shutil.copy(empty_db, tmp_path_factory.mktemp("shared"))
    client = Client(portal, TODO_DB=str(db)).start()
    yield client
    client.stop()


@pytest.fixture
def client(shared_client):
    """A client of an application without settings and without tasks; the first id will be 1."""
    delete_all_tasks(shared_client.db)
    return shared_client


@pytest.fixture
def make_client(portal, empty_db, tmp_path):
    """A function: make_client(TODO_TOKEN="secret") is a client of a new application.

    All applications of a test have one file, without tasks, so each stands for a worker.
    """
    db = tmp_path / "todo.db"
    shutil.copy(empty_db, db)
    clients = []

    def make_client(**settings):
        client = Client(portal, **{"TODO_DB": str(db), **settings})
        clients.append(client)
        return client.start()

    yield make_client
    for client in clients:
        client.stop()


@pytest.fixture
def make_server(empty_db, tmp_path):
    """A function: make_server("--workers", "2", TODO_TOKEN="secret") starts a server.

    Its arguments are those of Server. Without `db` all servers of a test have one file, without
    tasks.
    """
    servers = []

    def make_server(*options, db=None, **named):
        if db is None:
            db = tmp_path / "served.db"
            if not db.exists():
                shutil.copy(empty_db, db)
        server = Server(db, *options, **named)
        servers.append(server)
        return server

    yield make_server
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server without settings, shared by tests for which it does not matter what its file has."""
    server = Server(tmp_path_factory.mktemp("server") / "todo.db")
    yield server
    server.stop()
