"""Every error: what causes it, and its whole answer; then the order in which they come.

`check_error` in helpers.py is the contract of an error. For 304 and 412 see test_conditions.py, for
401 test_access.py, for a full disk test_crash.py, for real connections test_wire.py.
"""

import asyncio
import json
import logging
import sqlite3
from contextlib import closing
from itertools import product
from urllib.parse import unquote_plus

import helpers
import pytest
from helpers import BODY_ROUTES, BREAD, MIB, TASK, check, check_error, compact, entry

import todo

TASK_WITH = '{"name":"x","done":true,"more":%s}'
UNREADABLE = [
    *[b"\xff", b"1e999", b'{"name":1e999}', b'{"name":"x","done":[-1e999]}', b"[" * 100_000],
    *[b'{"name":"%s"}' % it for it in (b"\xff", b"\xed\xa0\x80", b"\xc0\x80")],
    *[(TASK_WITH % '"é"').encode(it) for it in ("utf-16", "utf-16-le", "latin-1")],
    *[(TASK_WITH % it).encode() for it in ("1" * 4301, "[" * 10_000 + "]" * 10_000)],
]
PATHS = "/nothing /Tasks /tasks.json /tasks/1/ /tasks/1/x /tasks// //tasks // /info/ /docs/ /%0A"
PATHS += " /openapiXjson /info%0A /tasks%0A /tasks/%0A /tasks/1%0A /tasks%2F1%2F2 /tasks%3Fdone=on"
IDS = "0 01 +1 -1 1.0 1e0 0x1 1_0 %201 1%20 %0A1 x 1%00 1x %EF%BC%91 %D9%A1 null true * %FF 1;2 2"
LONG_IDS = [str(2**63 - 1), str(2**64 + 1), "9" * 5000, "0" * 5000 + "1"]
LARGEST = compact(TASK).ljust(MIB)
TYPES = "text/plain text/json json application/jsonx application/json+x application/x/y+json"
TYPES += " application/x-www-form-urlencoded text/plain;application/json text/x,application/json"
REFUSED = [("/tasks", 413, {}), ("/tasks", 415, {"content_type": "x"}), ("/none", 404, {})]
REFUSED += [("/info", 405, {}), ("/tasks", 401, {"authorization": "Bearer x"})]
MALFORMED = (
    b"""{ {"a"} {"a":} {"a":1,} {'a':1} [1, "abc "\\x" x 01 +1 .5 1. True {}{} \xef\xbb\xbf"""
)
NO_WORDS = ["maybe", "", "2", "01", "1.0", " true", "true ", "true\x00", "o\uff4e"]
NO_STRINGS = [None, True, 0, -1.5, [], {}, ["x"], 10**4000]
NO_BOOLEANS = [None, [], {}, [True], 0.5, 1e-300, 1e19, 2**63]
CONSTANTS = ["NaN", "Infinity", "-Infinity"]
TWO_FAULTS = [entry("string_type", "body name", 5), entry("bool_parsing", "body done", "maybe")]
NO_DIGITS = ["", "x", "1.5", "-1", "%2B1", "1_0", "1%00", "1%0A", "%D9%A1", "%C2%B2", "1" * 4301]
BOTH = [entry("bool_parsing", "query done", "z"), entry("int_parsing", "query after", "y")]
NO_DONE = entry("bool_parsing", "query done", "all")
EXTRA = entry("extra_forbidden", "query done", "true")
DELETIONS = [
    ("", [entry("missing", "query done", None)]),
    ("?Done=true", [entry("missing", "query done", None)]),
    ("?done=all", [NO_DONE]),
    ("?done=all&q=", [entry("extra_forbidden", "query q", ""), NO_DONE]),
    ("?limit=1&done=true", [EXTRA]),
    ("?done=false&done=true", [EXTRA]),
]
WRITES = [*BODY_ROUTES, ("DELETE", "/tasks/1"), ("DELETE", "/tasks?done=false")]
ORDER = [  # a request with every fault, and each mended in its turn
    (401, {"authorization": "Bearer x"}),
    (404, {"path": "/nothing"}),
    (405, {"path": "/info"}),
    (415, {"content_type": "text/plain"}),
    (413, {"content_length": str(2**30)}),
    (408, {"is_cut": True}),
    (400, {"body": b'{"name":5,"\xff":1}'}),
    (422, {"body": b'{"name":5,"done":true}'}),
    (404, {"path": "/tasks/2"}),
    (412, {"if_match": '"x"'}),
]


def short(value):
    return ascii(value)[:40]


@pytest.fixture
def hasty(start, monkeypatch):
    """A client of an application that waits for bodies and locks for a moment only."""
    monkeypatch.setattr(todo, "BODY_TIMEOUT", 0.02)
    monkeypatch.setattr(todo, "WRITE_TIMEOUT", 0.05)
    return start()


async def stalled(sent):
    """A body of which the rest never comes."""
    yield sent
    await asyncio.Event().wait()


@pytest.mark.parametrize("body", UNREADABLE, ids=short)
def test_400_if_the_body_cannot_be_read(client, body):
    for method, path in BODY_ROUTES:
        check_error(client.request(method, path, body), 400)


def test_nesting_of_any_depth_is_a_clear_answer(client):
    for depth in [*range(900, 1100, 5), 100_000]:
        deep = b"[" * depth + b"]" * depth
        assert client.post("/tasks", b'{"name":%s}' % deep).status_code in (422, 400)


@pytest.mark.parametrize("path", PATHS.split())
def test_404_for_an_unknown_path_whatever_the_method(client, path):
    client.create(done=True)
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        check_error(client.request(method, path), 404, "Not Found")
    assert len(client.tasks()) == 1


@pytest.mark.parametrize("id", [*IDS.split(), *LONG_IDS], ids=short)
def test_404_for_an_id_that_no_task_has(client, id):
    task = client.create()
    for method, body in [("GET", b""), ("PUT", BREAD), ("PATCH", {}), ("DELETE", b"")]:
        check_error(client.request(method, f"/tasks/{id}", body), 404, "Task not found")
    assert client.head(f"/tasks/{id}").status_code == 404
    assert client.tasks() == [task.json()]


@pytest.mark.parametrize(("path", "methods"), helpers.METHODS.items())
def test_405_and_options_name_every_method(client, path, methods):
    options = client.options(path)
    allow = options.headers["allow"]
    helpers.check_empty(options, 204, allow=allow)
    assert sorted(allow.split(", ")) == sorted(methods.split())
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - {*methods.split()}:
        check_error(client.request(method, path), 405, allow=allow)


@pytest.mark.parametrize("sent", [b"", b'{"name":', b"\xff", b"{} "], ids=short)
def test_408_if_the_rest_of_a_body_does_not_come(hasty, sent):
    for method, path in BODY_ROUTES:
        check_error(hasty.request(method, path, stalled(sent), idempotency_key=""), 408)
    assert hasty.tasks() == []


@pytest.mark.parametrize("size", ["5", str(MIB + 1), str(2**62)])
def test_413_if_the_body_is_larger_than_1_mib(client, size):
    for method, path in BODY_ROUTES:
        check_error(client.request(method, path, LARGEST + b" ", content_length=size), 413)
    assert client.tasks() == []
    assert client.post("/tasks", LARGEST).status_code == 200


@pytest.mark.parametrize("content_type", [*TYPES.split(), "", []], ids=short)
def test_415_if_it_is_not_sent_as_json(client, content_type):
    for (method, path), body in product(BODY_ROUTES, (TASK, b"")):
        check_error(client.request(method, path, body, content_type=content_type), 415)
    assert client.tasks() == []


@pytest.mark.parametrize(("path", "status", "headers"), REFUSED)
def test_what_is_sent_of_a_refused_body_is_read_up_to_16_mib(start, path, status, headers):
    client = start(TODO_TOKEN="token")
    read = 0

    async def endless():
        nonlocal read
        while True:
            read += 1
            yield bytes(MIB)

    answer = client.post(path, endless(), **{"authorization": "Bearer token", **headers})
    assert (answer.status_code, answer.headers["connection"]) == (status, "close")
    assert 16 <= read <= 18


def test_a_refused_body_that_stalls_hears_its_refusal_and_no_more(hasty):
    answer = hasty.post("/tasks", stalled(b"{"), content_type="text/plain")
    check_error(answer, 415, connection="close")
    check_error(hasty.post("/tasks", stalled(bytes(MIB + 1))), 413)
    check_error(hasty.post("/tasks", stalled(b"{"), content_length=str(MIB + 1)), 413)
    check_error(hasty.post("/nowhere", stalled(b"{")), 404, "Not Found", connection="close")


def with_value(name, type, value, **ctx):
    """A task with a bad value, and the entry for it."""
    return compact({**TASK, name: value}), [entry(type, f"body {name}", value, **ctx)]


def malformed(body):
    """A body that is no JSON, and where it breaks."""
    with pytest.raises(json.JSONDecodeError) as broken:
        json.loads(body.decode("utf-8-sig"))
    return body, [no_json(f"body {broken.value.pos}", broken.value.msg)]


def no_json(loc, error):
    return entry("json_invalid", loc, {}, error=error)


FAULTS = [
    *[malformed(body) for body in [b" ", b'"\n"', b'"\x01"', *MALFORMED.split()]],
    *[(it.encode(), [no_json("body 0", f"{it} is not JSON")]) for it in CONSTANTS],
    *[(compact(it), [entry("model_attributes_type", "body", it)]) for it in ([], 1, "x", [TASK])],
    *[(it, [entry("missing", "body", None)]) for it in (b"", b" null ", b"\xef\xbb\xbfnull")],
    *[with_value("name", "string_type", it) for it in NO_STRINGS],
    *[with_value("name", "string_too_long", it * 1001, max_length=1000) for it in "x\x00👍"],
    (b'{"name":"a\\ud800","done":1}', [entry("string_unicode", "body name", "a?")]),
    *[with_value("done", "bool_parsing", it) for it in [*NO_WORDS, 2, -1, 2.0, 1e10, 2**63 - 1]],
    *[with_value("done", "bool_type", it) for it in NO_BOOLEANS],
    (b'{"done":"maybe","name":5}', TWO_FAULTS),
]


@pytest.mark.parametrize(("body", "errors"), FAULTS, ids=short)
def test_422_has_an_entry_for_each_fault(client, body, errors):
    client.create()
    for method, path in BODY_ROUTES:
        check_error(client.request(method, path, body), 422, errors)
    assert client.tasks() == [{**TASK, "id": 1}]


@pytest.mark.parametrize("body", [{}, {"name": "x"}, {"done": 1}, {"Name": "x"}], ids=short)
def test_422_for_each_member_that_is_missing(client, body):
    missing = [name for name in ("name", "done") if name not in body]
    errors = [entry("missing", f"body {name}", body) for name in missing]
    check_error(client.post("/tasks", body), 422, errors)
    check_error(client.put("/tasks/1", body), 422, errors)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é", "a\tb"], ids=short)
def test_422_lists_a_bad_idempotency_key_first(client, key):
    sent, pattern = key.encode().decode("latin-1"), "^[!-~]{1,255}$"
    bad_key = entry("string_pattern_mismatch", helpers.KEY, sent, pattern=pattern)
    for body, errors in [(TASK, []), (b"", [entry("missing", "body", None)]), FAULTS[-1]]:
        check_error(client.post("/tasks", body, idempotency_key=key), 422, [bad_key, *errors])
    assert client.tasks() == []


def bad(type, name, text, **ctx):
    """A query with a value that cannot be read, and the entry for it."""
    return f"{name}={text}", [entry(type, f"query {name}", unquote_plus(text), **ctx)]


PARAMETERS = [
    *[bad("bool_parsing", "done", text) for text in ("", "2", "+true", "1.0")],
    *[bad("int_parsing", name, text) for text in NO_DIGITS for name in ("limit", "after")],
    bad("greater_than_equal", "limit", "0", ge=1),
    bad("less_than_equal", "limit", "1001", le=1000),
    bad("less_than_equal", "limit", "1" * 4300, le=1000),
    bad("less_than_equal", "after", str(2**63), le=2**63 - 1),
    ("after=y&done=z&q=fine", BOTH),
]


@pytest.mark.parametrize(("query", "errors"), PARAMETERS, ids=short)
def test_422_for_a_bad_parameter_of_the_list(client, query, errors):
    for path in ("/tasks", "/tasks/"):
        check_error(client.get(f"{path}?{query}"), 422, errors)


@pytest.mark.parametrize(("query", "errors"), DELETIONS)
def test_422_rather_than_delete_too_many(client, query, errors):
    client.create(done=True)
    for path in ("/tasks", "/tasks/"):
        check_error(client.delete(path + query), 422, errors)
    assert len(client.tasks()) == 1


def test_500_and_a_traceback_in_the_log_for_a_defect(client, monkeypatch, caplog):
    async def fail(request, database):
        raise LookupError("a defect")

    resource = todo.Resource("/boom", GET=fail)
    monkeypatch.setattr(client.application.router, "routes", [resource, *todo.routes])
    check_error(client.get("/boom"), 500)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert 'LookupError("a defect")' in caplog.text
    check(client.get("/info"), "starlette")


def one_line(caplog):
    """The one line that was written to the log, which is then empty."""
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (record.levelname, record.exc_info) == ("ERROR", None)
    caplog.clear()
    return record.getMessage()


def test_503_while_another_program_holds_the_lock_and_it_never_happens(hasty, caplog):
    task = hasty.create().json()
    with helpers.locked(hasty.db):
        for method, path in WRITES:
            check_error(hasty.request(method, path, BREAD), 503)
            assert "TimeoutError" in one_line(caplog)
        assert hasty.tasks() == [task]
        check(hasty.get("/healthz"), {"status": "ok"}, cache_control="no-store")
    assert hasty.create().json()["id"] == 2
    assert hasty.tasks()[0] == task


def test_503_for_health_if_the_tasks_cannot_be_read(start, caplog):
    client = start()
    with closing(sqlite3.connect(client.db)) as db:
        db.execute("DROP TABLE task")
    check_error(client.get("/healthz"), 503)
    assert "no such table" in one_line(caplog)


def test_507_while_there_is_no_room(client, caplog):
    """SQLite says that it is full when it runs out of ids, too."""
    task = client.create().json()
    with closing(sqlite3.connect(client.db, isolation_level=None)) as db:
        db.execute("UPDATE sqlite_sequence SET seq = ?", [2**63 - 1])
        for _ in range(2):
            check_error(client.post("/tasks"), 507)
            assert "full" in one_line(caplog)
        assert client.tasks() == [task]
        assert client.put("/tasks/1", BREAD).status_code == 200
        db.execute("UPDATE sqlite_sequence SET seq = 1")
    assert client.create().json()["id"] == 2


@pytest.mark.usefixtures("hasty")
def test_refusals_come_in_order(start):
    client = start(TODO_TOKEN="token")
    client.post("/tasks", authorization="Bearer token")
    for turn, (status, _) in enumerate(ORDER):
        request = {"path": "/tasks/1", "body": compact(TASK), "authorization": "Bearer token"}
        for _, faults in reversed(ORDER[turn:]):
            request |= faults
        path, body, is_cut = request.pop("path"), request.pop("body"), request.pop("is_cut", False)
        for method in ("PUT", "PATCH"):
            sent = stalled(body) if is_cut else body
            assert client.request(method, path, sent, **request).status_code == status
