"""The list of all tasks when it is long: it is sent while it is read."""

import contextlib
import shutil
import sqlite3

import pytest
from assertions import (
    assert_json,
    assert_status,
    assert_task,
    assert_tasks,
    headers_of,
    strict_json,
)
from database import insert_tasks
from server import Server
from wire import Connection, encode_request

pytestmark = pytest.mark.slow  # test_list.py has the quick tests of streamed lists

TASKS = 100_000
MIB = 2**20


@pytest.fixture(scope="module")
def long_db(empty_db, tmp_path_factory):
    """The path of a database with 100,000 tasks, which are 14 MB of JSON."""
    db = shutil.copy(empty_db, tmp_path_factory.mktemp("long"))
    insert_tasks(db, ((f"{number:0100}", False) for number in range(1, TASKS + 1)))
    return db


@pytest.fixture(scope="module")
def long_server(long_db):
    """A server with 100,000 tasks, which no test changes."""
    server = Server(long_db)
    yield server
    server.stop()
    assert "Traceback" not in server.log


def assert_still_usable(connection):
    """Assert that another request on this connection gets its own response."""
    connection.send_request("GET", "/info")
    assert_json(connection.read_response(), "starlette")


def test_the_list_is_complete_whatever_changes_meanwhile(make_server, long_db, tmp_path):
    server = make_server(db=shutil.copy(long_db, tmp_path))
    with Connection(server) as connection:
        connection.send_request("GET", "/tasks")
        head = connection.read_head()
        bread = {"name": "bread", "done": True}
        changed = server.request("PUT", f"/tasks/{TASKS}", json=bread).json()
        created = server.request("POST", "/tasks", json=bread).json()
        assert_json(server.request("DELETE", f"/tasks/{TASKS - 1}"), 1)
        tasks = strict_json(connection.read_body(head))
        assert_still_usable(connection)
    assert_tasks(tasks[:1], [{"name": f"{1:0100}", "done": False, "id": 1}])
    assert tasks[-2:] == [changed, created]
    assert [task["id"] for task in tasks[:-2]] == list(range(1, TASKS - 1))


def test_the_list_has_neither_a_length_nor_an_etag(long_server):
    with Connection(long_server) as connection:
        connection.send_request("GET", "/tasks")
        head = connection.read_head()
    expected = {"content-type": "application/json", "transfer-encoding": "chunked"}
    assert (head.status_code, headers_of(head)) == (200, expected)


def test_head_of_the_list_is_answered_without_a_body(long_server):
    with Connection(long_server) as connection:
        connection.send_request("HEAD", "/tasks")
        head = connection.read_head()
        assert (head.status_code, headers_of(head)) == (200, {"content-type": "application/json"})
        assert_still_usable(connection)


def test_memory_stays_flat(long_server):
    """Twenty lists of 14 MB are on their way, and only one of their clients reads."""
    with contextlib.ExitStack() as stack:
        long_server.request("GET", "/tasks/1")  # What the first request takes does not count.
        long_server.forget_peak_memory()
        before = long_server.peak_memory()
        for _ in range(20):
            connection = stack.enter_context(Connection(long_server))
            connection.send_request("GET", "/tasks")
            head = connection.read_head()
        connection.read_body(head)
        assert_still_usable(connection)
        growth = long_server.peak_memory() - before
    assert growth < 10 * MIB


def test_short_requests_are_served_while_a_list_is_sent(long_server):
    with Connection(long_server) as connection:
        connection.send_request("GET", "/tasks")
        head = connection.read_head()
        with long_server.client() as client:
            for _ in range(10):
                task = {"name": f"{1:0100}", "done": False, "id": 1}
                assert_task(client.get("/tasks/1"), task)
        assert len(connection.read_body(head)) > 10 * MIB


def test_a_list_that_breaks_off_has_no_end_and_no_second_response(make_server, long_db, tmp_path):
    server = make_server(db=shutil.copy(long_db, tmp_path))
    with Connection(server) as connection:
        connection.send(encode_request("GET", "/tasks") + encode_request("GET", "/info"))
        head = connection.read_head()
        assert_status(head, 200)
        with contextlib.closing(sqlite3.connect(server.db)) as database:
            database.execute("ALTER TABLE task RENAME TO task_no_more")
        with pytest.raises(ConnectionError, match="cut off"):
            connection.read_body(head)
        assert connection.read_rest() == b""
    server.stop()
    broken_off = [line for line in server.lines if "broke off" in line]
    assert len(broken_off) == 1
    assert "no such table" in server.log
