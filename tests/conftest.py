"""What tests are given: applications in this process, and real servers."""

import shutil
import sqlite3
from contextlib import closing

import pytest
from anyio.from_thread import start_blocking_portal
from helpers import Client
from processes import Server


@pytest.fixture(scope="session")
def portal():
    """An event loop in a thread of its own, for all applications in this process."""
    with start_blocking_portal("asyncio") as portal:
        yield portal


@pytest.fixture(scope="session")
def empty(portal, tmp_path_factory):
    """A file without tasks; to copy it takes less time than to make one."""
    db = tmp_path_factory.mktemp("empty") / "todo.db"
    Client(portal, TODO_DB=str(db)).open().close()
    return db


@pytest.fixture
def start(portal, empty, tmp_path):
    """start(TODO_TOKEN="x") is a client of an application with these settings, stopped at the end.

    It has a file of the test's own; a second one on the same file stands for a worker.
    """
    db = tmp_path / "todo.db"
    shutil.copy(empty, db)
    clients = []

    def start(**settings):
        clients.append(Client(portal, **{"TODO_DB": str(db), **settings}).open())
        return clients[-1]

    yield start
    for client in clients:
        client.close()


@pytest.fixture(scope="session")
def shared(portal, empty, tmp_path_factory):
    db = shutil.copy(empty, tmp_path_factory.mktemp("shared"))
    client = Client(portal, TODO_DB=str(db)).open()
    yield client
    client.close()


@pytest.fixture
def client(shared):
    """A client of the shared application, without tasks: the first one will have the id 1."""
    with closing(sqlite3.connect(shared.db)) as db, db:
        db.execute("DELETE FROM task")
        db.execute("DELETE FROM sqlite_sequence")
    return shared


@pytest.fixture
def serve(empty, tmp_path):
    """serve("--workers", "2", TODO_TOKEN="x") starts a uvicorn on an empty file, or on db=..."""
    servers = []

    def serve(*options, db=None, **settings):
        if db is None:
            db = tmp_path / "served.db"
            if not db.exists():
                shutil.copy(empty, db)
        servers.append(Server(db, *options, **settings))
        return servers[-1]

    yield serve
    for server in servers:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One real server for all tests that do not care what else is in its file."""
    server = Server(tmp_path_factory.mktemp("server") / "todo.db")
    yield server
    server.stop()
