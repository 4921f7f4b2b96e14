"""The list of all tasks when it is long: it is sent while it is read."""

import contextlib
import shutil
import sqlite3
import time

import pytest
from assertions import assert_json, assert_status, assert_tasks, headers_of, strict_json
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
def server(long_db):
    """A server with 100,000 tasks, of which a test may change the last ones."""
    server = Server(long_db)
    yield server
    server.stop()
    assert "Traceback" not in server.log


def assert_still_usable(connection):
    """Assert that another request on this connection gets its own response."""
    connection.send_request("GET", "/info")
    assert_json(connection.read_response(), "starlette")


def test_the_list_is_complete_whatever_changes_meanwhile(server):
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


def test_the_list_has_neither_a_length_nor_an_etag(server):
    with Connection(server) as connection:
        connection.send_request("GET", "/tasks")
        head = connection.read_head()
    expected = {"content-type": "application/json", "transfer-encoding": "chunked"}
    assert (head.status_code, headers_of(head)) == (200, expected)


def test_the_first_bytes_arrive_at_once(server):
    seconds = []
    with Connection(server) as connection:
        for _ in range(3):
            started = time.perf_counter()
            connection.send_request("GET", "/tasks")
            head = connection.read_head()
            first = time.perf_counter() - started
            connection.read_body(head)
            seconds.append((first, time.perf_counter() - started))
    assert min(first / whole for first, whole in seconds) < 1 / 20, seconds


def test_head_reads_only_the_beginning_of_the_list(server):
    with Connection(server) as connection:
        seconds = {"HEAD": [], "GET": []}
        for method in ("HEAD", "GET", "HEAD", "HEAD"):
            started = time.perf_counter()
            connection.send_request(method, "/tasks")
            head = connection.read_head()
            assert_status(head, 200)
            if method == "GET":
                connection.read_body(head)
            assert_still_usable(connection)  # It is answered after the end of the list.
            seconds[method].append(time.perf_counter() - started)
    assert min(seconds["HEAD"]) < min(seconds["GET"]) / 20, seconds


def test_memory_stays_flat(server):
    """Twenty lists of 14 MB are on their way, and only one of their clients reads."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(Connection(server)).send_request("GET", "/tasks/1")
        server.forget_peak_memory()
        before = server.peak_memory()
        for _ in range(20):
            connection = stack.enter_context(Connection(server))
            connection.send_request("GET", "/tasks")
            head = connection.read_head()
        connection.read_body(head)
        assert_still_usable(connection)
        growth = server.peak_memory() - before
    assert growth < 10 * MIB


def test_short_requests_are_served_while_a_list_is_read(server):
    with Connection(server) as connection:
        connection.send_request("GET", "/tasks")
        head = connection.read_head()
        with server.client() as client:
            for _ in range(10):
                assert_status(client.get("/tasks/1"), 200)
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
