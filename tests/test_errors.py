"""Every error but those that have files of their own, and the order of all of them.

401 is in test_token.py, 408 in test_slow_bodies.py, 412 in test_preconditions.py, 422 in
test_validation.py, and 503 because a file was moved in test_moved_files.py. The errors here are
caused in this process. For real disks that are full see test_durability.py, for bytes that no HTTP
client would send test_http.py.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3

import pytest
from assertions import (
    assert_error,
    assert_head,
    assert_json,
    assert_status,
    assert_task,
    assert_tasks,
)
from client import on_every_route_with_a_body, stalling
from database import insert_tasks, write_lock

import todo

UNREADABLE = "There was an error parsing the body"
UPGRADE_WITH_BODY = (
    "A request with a body must not offer an upgrade: leave out the Upgrade header "
    "(in Java, set HttpClient.Version.HTTP_1_1)"
)
NOT_JSON = "Send JSON with the header Content-Type: application/json (curl --json does)"
TOO_LARGE = "The body is larger than 1048576 bytes: send less"
UNAVAILABLE = "The server cannot do this now: try again"
DISK_FULL = "The disk is full: try again when there is room"

MIB = 2**20
MILK = {"name": "milk", "done": False}
BREAD = {"name": "bread", "done": True}
TOKEN = {"Authorization": "Bearer secret"}

with_every_write = pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/tasks", BREAD),
        ("PUT", "/tasks/1", BREAD),
        ("PATCH", "/tasks/1", BREAD),
        ("DELETE", "/tasks/1", None),
        ("DELETE", "/tasks?done=false", None),
    ],
)


# 400


@on_every_route_with_a_body
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xff", id="not UTF-8"),
        pytest.param(b'{"name":"\xff","done":true}', id="a name that is not UTF-8"),
        pytest.param(b'{"name":"\xc0\x80","done":true}', id="an overlong NUL"),
        pytest.param(b'{"name":"\xed\xa0\x80","done":true}', id="a surrogate in UTF-8"),
        pytest.param(b'{"name":"x","done":true,"x":"\xe9"}', id="an unknown member in Latin-1"),
        pytest.param('{"name":"x","done":true}'.encode("utf-16"), id="UTF-16 with a mark"),
        pytest.param('{"name":"é","done":true}'.encode("utf-16-le"), id="UTF-16 without a mark"),
        pytest.param(b"1e999", id="an infinite body"),
        pytest.param(b'{"name":1e999,"done":true}', id="an infinite name"),
        pytest.param(b'{"name":"x","done":[-1e999]}', id="an infinite item"),
        pytest.param(b'{"name":"x","done":true,"x":%s}' % (b"1" * 4301), id="4301 digits"),
        pytest.param(b"[" * 100_000, id="deep nesting that does not end"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deep nesting"),
        pytest.param(
            b'{"name":"x","done":true,"x":%s}' % (b"[" * 100_000 + b"]" * 100_000),
            id="deep nesting in an unknown member",
        ),
    ],
)
def test_a_body_that_cannot_be_read_is_400(client, method, target, body):
    insert_tasks(client.db, [("milk", False)])
    assert_error(client.request(method, target, content=body), 400, UNREADABLE)
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


def test_nesting_that_python_has_read_but_cannot_repeat_is_400(client, monkeypatch):
    nested = []
    for _ in range(200_000):
        nested = [nested]
    # Python reads a little more nesting than it writes. How much depends on its version.
    monkeypatch.setattr(todo, "parse_json", lambda content: nested)
    assert_error(client.post("/tasks", content=b"[]"), 400, UNREADABLE)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/tasks"),
        ("PUT", "/tasks/1"),
        ("DELETE", "/tasks/1"),
        ("GET", "/tasks"),
        ("GET", "/nothing"),
    ],
)
@pytest.mark.parametrize("protocol", ["h2c", "websocket", "x"])
def test_a_body_in_a_request_that_offers_an_upgrade_is_400(client, method, target, protocol):
    insert_tasks(client.db, [("milk", False)])
    headers = {"Upgrade": protocol, "Connection": "Upgrade"}
    response = client.request(method, target, json=MILK, headers=headers)
    assert_error(response, 400, UPGRADE_WITH_BODY, connection="close")
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


# 404


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize(
    "path",
    [
        *["/nothing", "/Tasks", "/tasks.json", "/openapiXjson", "/tasks%3Fdone=on"],
        *["//", "//tasks", "/tasks//", "/tasks/1/", "/tasks/1/x", "/tasks%2F1%2F2"],
        *["/info/", "/docs/", "/healthz/", "/openapi.json/"],
        *["/%0A", "/info%0A", "/tasks%0A", "/tasks/%0A", "/tasks/%0A1", "/tasks/1%0A"],
    ],
)
def test_an_unknown_path_is_404(client, method, path):
    insert_tasks(client.db, [("milk", False)])
    assert_error(client.request(method, path), 404, "Not Found")
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "id",
    [
        *["0", "01", "+1", "-1", "1.0", "1e0", "0x1", "1_0", "1;2", "2"],
        *["%201", "1%20", "1%00", "1x", "x", "null", "true", "*", "%FF"],
        pytest.param("%EF%BC%91", id="a wide 1"),
        pytest.param("%D9%A1", id="an Arabic 1"),
        pytest.param("9223372036854775807", id="2^63-1"),
        pytest.param("9223372036854775808", id="2^63"),
        pytest.param("18446744073709551617", id="2^64+1"),
        pytest.param("9" * 5000, id="5000 digits"),
        pytest.param("0" * 5000 + "1", id="5000 zeros and a 1"),
    ],
)
def test_an_id_that_no_task_has_is_404(client, method, id):
    insert_tasks(client.db, [("milk", False)])
    body = BREAD if method in ("PUT", "PATCH") else None
    assert_error(client.request(method, f"/tasks/{id}", json=body), 404, "Task not found")
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


@pytest.mark.parametrize(
    ("path", "detail"), [("/tasks/1", "Task not found"), ("/nothing", "Not Found")]
)
def test_head_is_404_where_get_is(client, path, detail):
    response = client.get(path)
    assert_error(response, 404, detail)
    assert_head(client.head(path), response)


# 413 and 415


@on_every_route_with_a_body
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Content-Length": "5"}, id="declared too short"),
        pytest.param({"Content-Length": "1048577"}, id="declared as it is"),
        pytest.param({"Content-Length": "4611686018427387904"}, id="declared much too long"),
        pytest.param({"Transfer-Encoding": "chunked"}, id="chunked"),
    ],
)
def test_a_body_of_more_than_1_mib_is_413(client, method, target, headers):
    insert_tasks(client.db, [("milk", False)])
    body = b'{"name":"bread","done":true}'.ljust(MIB + 1)
    response = client.request(method, target, content=body, headers=headers)
    assert_error(response, 413, TOO_LARGE)
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


@on_every_route_with_a_body
@pytest.mark.parametrize("body", [b'{"name":"bread","done":true}', b""])
@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param("", id="none"),
        pytest.param(" ", id="blank"),
        *["text/plain", "text/json", "json", "application/x-www-form-urlencoded"],
        *["application/jsonx", "application/json+x", "application/x/y+json"],
        *["text/plain;application/json", "text/x,application/json", "application/json,text/x"],
    ],
)
def test_a_body_that_is_not_sent_as_json_is_415(client, method, target, body, content_type):
    insert_tasks(client.db, [("milk", False)])
    headers = {"Content-Type": content_type}
    assert_error(client.request(method, target, content=body, headers=headers), 415, NOT_JSON)
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


@pytest.fixture
def huge_body():
    """A body of 64 MiB, which counts how many MiB of it were received."""

    class Huge:
        received = 0

        async def __aiter__(self):
            while self.received < 64:
                self.received += 1
                yield bytes(MIB)

    return Huge()


@pytest.mark.parametrize(
    ("path", "headers", "status", "detail"),
    [
        ("/tasks", {}, 401, "Not authenticated"),
        ("/nothing", TOKEN, 404, "Not Found"),
        ("/tasks", {"Content-Type": "text/plain", **TOKEN}, 415, NOT_JSON),
        ("/tasks", {"Content-Length": "1048577", **TOKEN}, 413, TOO_LARGE),
    ],
    ids=["401", "404", "415", "413 as declared"],
)
def test_of_a_refused_body_16_mib_are_read(make_client, huge_body, path, headers, status, detail):
    client = make_client(TODO_TOKEN="secret")
    response = client.post(path, content=aiter(huge_body), headers=headers)
    assert_error(response, status, detail, connection="close")
    assert 16 <= huge_body.received <= 18


@pytest.mark.parametrize(
    ("method", "path", "detail"),
    [
        ("POST", "/tasks", TOO_LARGE),
        ("GET", "/info", "The body is larger than 16777216 bytes, and not needed: send none"),
    ],
)
def test_of_a_body_that_is_too_large_16_mib_are_read(client, huge_body, method, path, detail):
    assert_error(client.request(method, path, content=aiter(huge_body)), 413, detail)
    assert 16 <= huge_body.received <= 18


# The order of the checks

JSON = "application/json"


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(
    ("status", "token", "path", "content_type", "length", "stalls", "body"),
    [
        (401, "other", "/nothing", "text/plain", "9999999", True, b'{"name":5,"\xff":1}'),
        (404, "secret", "/nothing", "text/plain", "9999999", True, b'{"name":5,"\xff":1}'),
        (405, "secret", "/info", "text/plain", "9999999", True, b'{"name":5,"\xff":1}'),
        (415, "secret", "/tasks/2", "text/plain", "9999999", True, b'{"name":5,"\xff":1}'),
        (413, "secret", "/tasks/2", JSON, "9999999", True, b'{"name":5,"\xff":1}'),
        (408, "secret", "/tasks/2", JSON, "9999", True, b'{"name":5,"\xff":1}'),
        (400, "secret", "/tasks/2", JSON, "16", False, b'{"name":5,"\xff":1}'),
        (422, "secret", "/tasks/2", JSON, "22", False, b'{"name":5,"done":true}'),
        (404, "secret", "/tasks/2", JSON, "27", False, b'{"name":"milk","done":true}'),
        (412, "secret", "/tasks/1", JSON, "27", False, b'{"name":"milk","done":true}'),
    ],
    ids=["401", "404 path", "405", "415", "413", "408", "400", "422", "404 task", "412"],
)
def test_of_several_faults_the_first_in_this_order_is_answered(
    make_client, monkeypatch, method, status, token, path, content_type, length, stalls, body
):
    """Each request has its own fault and those of all below it: every If-Match is false."""
    monkeypatch.setattr(todo, "BODY_PAUSE", 0.02)
    client = make_client(TODO_TOKEN="secret")
    client.create_task(headers=TOKEN)
    headers = {"Authorization": f"Bearer {token}", "If-Match": '"x"'}
    headers |= {"Content-Type": content_type, "Content-Length": length}
    content = stalling(body) if stalls else body
    assert_status(client.request(method, path, content=content, headers=headers), status)


# 500: a defect, or something that needs a person


def serve(client, monkeypatch, operation):
    """Let the application of a client run this operation for GET /failing."""
    resource = todo.Resource("/failing", tag="server", GET=operation)
    monkeypatch.setattr(client.application.router, "routes", [resource, *todo.ROUTES])


def raising(error):
    """Return an operation that raises this error."""

    async def fail(request, database):
        raise error

    return fail


def sqlite_error(kind, name):
    """Return an error as Python's sqlite3 raises it for a result code of SQLite."""
    error = kind(f"this is {name}")
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    return error


def warnings_in(caplog):
    """Return what was logged as a warning or an error since the last call."""
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return records


def assert_logged_in_one_line(caplog, *texts):
    """Assert that one error without a traceback was logged, in a line that has these texts."""
    [record] = warnings_in(caplog)
    message = record.getMessage()
    assert (record.levelname, record.exc_info) == ("ERROR", None), message
    assert "\n" not in message
    for text in texts:
        assert text in message


def assert_logged_with_traceback(caplog, message, error):
    """Assert that one error was logged, with the traceback of an exception of this type."""
    [record] = warnings_in(caplog)
    assert (record.levelname, record.getMessage()) == ("ERROR", message)
    assert record.exc_info, "There is no traceback."
    assert record.exc_info[0] is error


@pytest.mark.parametrize(
    "error",
    [
        LookupError("a defect"),
        RuntimeError("a defect"),
        todo.StartRefused("not at this time"),
        sqlite3.ProgrammingError("without a result code"),
        sqlite3.OperationalError("without a result code"),
        sqlite_error(sqlite3.OperationalError, "SQLITE_ERROR"),
        sqlite_error(sqlite3.OperationalError, "SQLITE_AUTH"),
        sqlite_error(sqlite3.IntegrityError, "SQLITE_CONSTRAINT_CHECK"),
        sqlite_error(sqlite3.DatabaseError, "SQLITE_CORRUPT"),
        sqlite_error(sqlite3.DatabaseError, "SQLITE_NOTADB"),
        sqlite_error(sqlite3.InterfaceError, "SQLITE_MISUSE"),
        sqlite_error(sqlite3.DataError, "SQLITE_TOOBIG"),
    ],
    ids=repr,
)
def test_a_defect_is_500_and_its_traceback_is_logged(client, monkeypatch, caplog, error):
    serve(client, monkeypatch, raising(error))
    assert_error(client.get("/failing"), 500, "Internal Server Error")
    assert_logged_with_traceback(caplog, "Internal Server Error", type(error))
    assert_json(client.get("/info"), "starlette")


@with_every_write
def test_a_violated_constraint_is_500(make_client, caplog, method, target, body):
    client = make_client()
    client.create_task()
    with contextlib.closing(sqlite3.connect(client.db)) as connection:
        for event in ("INSERT", "UPDATE", "DELETE"):
            connection.execute(
                f"CREATE TRIGGER forbid_{event} BEFORE {event} ON task "
                "BEGIN SELECT RAISE(ABORT, 'forbidden'); END"
            )
    assert_error(client.request(method, target, json=body), 500, "Internal Server Error")
    assert_logged_with_traceback(caplog, "Internal Server Error", sqlite3.IntegrityError)
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


@pytest.mark.parametrize(
    ("method", "target", "statement"),
    [
        ("GET", "/tasks/1", "get_task"),
        ("GET", "/tasks", "list_tasks"),
        ("POST", "/tasks", "create_task"),
        ("DELETE", "/tasks/1", "delete_task"),
    ],
)
def test_a_missing_parameter_of_a_statement_is_500(
    client, monkeypatch, caplog, method, target, statement
):
    client.create_task()
    monkeypatch.setitem(todo.SQL, statement, "SELECT :unknown")
    body = MILK if method == "POST" else None
    response = client.request(method, target, json=body)
    assert_error(response, 500, "Internal Server Error")
    assert_logged_with_traceback(caplog, "Internal Server Error", sqlite3.ProgrammingError)


def damage(db):
    """Overwrite the table of the tasks in a database that is in use."""
    with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [page] = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'task'"
        ).fetchone()
        [size] = connection.execute("PRAGMA page_size").fetchone()
        with open(db, "r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)
        # After a write, the other connections read the file again, instead of what they remember.
        connection.execute("PRAGMA user_version = 1")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/tasks"),
        ("GET", "/tasks/1"),
        ("POST", "/tasks"),
        ("PUT", "/tasks/1"),
        ("DELETE", "/tasks/1"),
    ],
)
def test_a_damaged_file_is_500(make_client, caplog, method, target):
    client = make_client()
    client.create_task()
    damage(client.db)
    body = MILK if method in ("POST", "PUT") else None
    assert_error(client.request(method, target, json=body), 500, "Internal Server Error")
    assert_logged_with_traceback(caplog, "Internal Server Error", sqlite3.DatabaseError)


def test_an_error_after_the_first_piece_of_a_list_breaks_the_response_off(
    make_client, caplog, monkeypatch
):
    client = make_client()
    for name in ("milk", "bread", "apples"):
        client.create_task(name)
    monkeypatch.setattr(todo, "LIST_PIECE", 1)
    monkeypatch.setattr(todo, "WHOLE_LIST", 1)
    messages = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        messages.append(message)
        if message.get("body"):
            monkeypatch.setitem(todo.SQL, "list_tasks", "SELECT 1 FROM missing")

    scope = {"type": "http", "method": "GET", "path": "/tasks", "query_string": b"", "headers": []}
    client.portal.call(client.app, {**scope, "asgi": {"spec_version": "2.3"}}, receive, send)
    assert [message["type"] for message in messages][:2] == [
        "http.response.start",
        "http.response.body",
    ]
    assert messages[-1].get("more_body") is True
    assert_logged_with_traceback(caplog, "A response broke off", sqlite3.OperationalError)


def test_a_response_whose_connection_is_lost_is_one_line_in_the_log(client, caplog):
    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        raise RuntimeError("the connection is lost")

    scope = {"type": "http", "method": "GET", "path": "/info", "query_string": b"", "headers": []}
    client.portal.call(client.app, scope, receive, send)
    assert_logged_in_one_line(caplog, "A response broke off", "the connection is lost")


# 503 and 507: a failure that can pass


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (OSError("it was moved"), 503, UNAVAILABLE),
        (TimeoutError("locked"), 503, UNAVAILABLE),
        (MemoryError(), 503, UNAVAILABLE),
        (sqlite_error(sqlite3.OperationalError, "SQLITE_BUSY"), 503, UNAVAILABLE),
        (sqlite_error(sqlite3.OperationalError, "SQLITE_BUSY_SNAPSHOT"), 503, UNAVAILABLE),
        (sqlite_error(sqlite3.OperationalError, "SQLITE_LOCKED"), 503, UNAVAILABLE),
        (sqlite_error(sqlite3.OperationalError, "SQLITE_PROTOCOL"), 503, UNAVAILABLE),
        (sqlite_error(sqlite3.OperationalError, "SQLITE_IOERR"), 503, UNAVAILABLE),
        (sqlite_error(sqlite3.OperationalError, "SQLITE_IOERR_FSYNC"), 503, UNAVAILABLE),
        (sqlite_error(sqlite3.OperationalError, "SQLITE_CANTOPEN"), 503, UNAVAILABLE),
        (sqlite_error(sqlite3.OperationalError, "SQLITE_READONLY_DBMOVED"), 503, UNAVAILABLE),
        (sqlite_error(sqlite3.OperationalError, "SQLITE_FULL"), 507, DISK_FULL),
    ],
    ids=repr,
)
def test_a_failure_that_can_pass_is_one_line_in_the_log(
    client, monkeypatch, caplog, error, status, detail
):
    serve(client, monkeypatch, raising(error))
    assert_error(client.get("/failing"), status, detail)
    assert_logged_in_one_line(caplog, type(error).__name__, str(error))


def test_a_text_with_line_breaks_is_logged_in_one_line(client, monkeypatch, caplog):
    serve(client, monkeypatch, raising(OSError("first\nsecond")))
    assert_error(client.get("/failing"), 503, UNAVAILABLE)
    assert_logged_in_one_line(caplog, r"first\nsecond")


def test_a_long_text_is_cut_in_the_log(client, monkeypatch, caplog):
    serve(client, monkeypatch, raising(OSError("x" * 1000)))
    assert_error(client.get("/failing"), 503, UNAVAILABLE)
    assert caplog.messages == [f"{UNAVAILABLE}: OSError: '{'x' * 300}'"]


def test_a_read_that_would_write_is_503_and_changes_nothing(client, monkeypatch, caplog):
    client.create_task("milk")
    monkeypatch.setitem(todo.SQL, "get_task", "DELETE FROM task RETURNING json")
    assert_error(client.get("/tasks/1"), 503, UNAVAILABLE)
    assert_logged_in_one_line(caplog, "readonly")
    assert client.list_tasks() == [{"name": "milk", "done": False, "id": 1}]


@with_every_write
def test_a_write_is_503_while_another_program_holds_the_lock_and_never_happens(
    make_client, monkeypatch, caplog, method, target, body
):
    client = make_client()
    client.create_task("milk")
    monkeypatch.setattr(todo, "WRITE_TIMEOUT", 0.05)
    with write_lock(client.db):
        assert_error(client.request(method, target, json=body), 503, UNAVAILABLE)
        assert_logged_in_one_line(caplog, "TimeoutError", "hold the lock")
        assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])
        assert_json(client.get("/healthz"), {"status": "ok"}, cache_control="no-store")
    monkeypatch.undo()
    client.create_task("apples")
    assert_tasks(
        client.list_tasks(),
        [
            {"name": "milk", "done": False, "id": 1},
            {"name": "apples", "done": False, "id": 2},
        ],
    )


def test_writes_are_503_while_the_file_cannot_be_written(make_client, caplog):
    client = make_client()
    writing = client.application.database.file.writer
    writing.execute("PRAGMA query_only = ON")
    assert_error(client.post("/tasks", json=MILK), 503, UNAVAILABLE)
    assert_logged_in_one_line(caplog, "readonly")
    assert client.list_tasks() == []
    writing.execute("PRAGMA query_only = OFF")
    client.create_task("milk")
    assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])


def test_writes_are_507_while_there_is_no_room(client, caplog):
    """SQLite reports that it is full also when it has no more ids."""
    client.create_task("milk")
    with contextlib.closing(sqlite3.connect(client.db, isolation_level=None)) as connection:
        connection.execute("UPDATE sqlite_sequence SET seq = ?", [2**63 - 1])
        assert_error(client.post("/tasks", json=MILK), 507, DISK_FULL)
        assert_logged_in_one_line(caplog, "full")
        assert_tasks(client.list_tasks(), [{"name": "milk", "done": False, "id": 1}])
        replaced = client.put("/tasks/1", json=BREAD)
        assert_task(replaced, {"name": "bread", "done": True, "id": 1})
        connection.execute("UPDATE sqlite_sequence SET seq = 1")
    assert client.create_task().json()["id"] == 2


# /healthz


def test_health_is_503_while_the_tasks_cannot_be_read(make_client, caplog):
    client = make_client()
    with contextlib.closing(sqlite3.connect(client.db)) as connection:
        connection.execute("ALTER TABLE task RENAME TO other")
        assert_error(client.get("/healthz"), 503, UNAVAILABLE)
        assert_logged_in_one_line(caplog, "no such table: task")
        connection.execute("ALTER TABLE other RENAME TO task")
    assert_json(client.get("/healthz"), {"status": "ok"}, cache_control="no-store")


def test_health_is_503_if_the_table_is_damaged(make_client, caplog):
    client = make_client()
    damage(client.db)
    assert_error(client.get("/healthz"), 503, UNAVAILABLE)
    assert_logged_in_one_line(caplog, "malformed")


def test_health_is_503_once_the_writer_thread_has_ended(make_client, caplog):
    """Only a defect of the thread ends it, and none is known: so this test causes one."""
    client = make_client()
    database = client.application.database
    database.thread.queue.put("not a write")
    database.thread.join(10)
    [ended] = warnings_in(caplog)
    assert str(client.db) in ended.getMessage()
    assert_error(client.get("/healthz"), 503, UNAVAILABLE)
    assert_logged_in_one_line(caplog, "the writer thread has ended")
    assert_json(client.get("/info"), "starlette")
    database.file.close()  # The thread would close the file, and has not.


def test_head_of_health_is_503_too(make_client):
    client = make_client()
    os.rename(client.db, f"{client.db}-moved")
    response = client.get("/healthz")
    assert_error(response, 503, UNAVAILABLE)
    assert_head(client.head("/healthz"), response)
