"""Every error: what causes it, and its whole answer; then the order in which they come.

`check_error` in helpers.py is the contract of an error. What only a real connection shows is in
test_wire.py, and a disk that is full in test_crash.py.
"""

import asyncio
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from itertools import product
from urllib.parse import unquote_plus

import pytest
from helpers import (
    BODY_ROUTES,
    BREAD,
    METHODS,
    MIB,
    TASK,
    Client,
    check,
    check_empty,
    check_error,
    compact,
    entry,
    locked,
)

import todo


def short(value: object) -> str:
    return ascii(value)[:40]


@pytest.fixture
def hasty(start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client of an application that waits for bodies and locks for a moment only."""
    monkeypatch.setattr(todo, "BODY_TIMEOUT", 0.02)
    monkeypatch.setattr(todo, "WRITE_TIMEOUT", 0.05)
    return start()


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    """A body without a declared length."""
    for chunk in chunks:
        yield chunk


async def stalled(*chunks: bytes) -> AsyncIterator[bytes]:
    """A body of which the rest never comes."""
    async for chunk in pieces(*chunks):
        yield chunk
    await asyncio.Event().wait()


# 304: test_conditions.py; 401: test_access.py

# 400

TASK_WITH = '{"name":"x","done":true,"more":%s}'
UNREADABLE = [
    *[b"\xff", b"1e999", b'{"name":1e999}', b'{"name":"x","done":[-1e999]}', b"[" * 100_000],
    *[b'{"name":"%s"}' % it for it in (b"\xff", b"\xed\xa0\x80", b"\xc0\x80")],
    *[(TASK_WITH % '"é"').encode(it) for it in ("utf-16", "utf-16-le", "latin-1")],
    *[(TASK_WITH % it).encode() for it in ("1" * 4301, "[" * 10_000 + "]" * 10_000)],
]


@pytest.mark.parametrize("body", UNREADABLE, ids=short)
def test_400_if_the_body_cannot_be_read(client: Client, body: bytes) -> None:
    for method, path in BODY_ROUTES:
        check_error(client.request(method, path, body), 400)


def test_nesting_of_any_depth_is_a_clear_answer(client: Client) -> None:
    for depth in [*range(900, 1100, 3), 5000, 100_000]:
        deep = "[" * depth + "]" * depth
        assert client.post("/tasks", (TASK_WITH % deep).encode()).status_code in (200, 400)
        assert client.post("/tasks", b'{"name":%s}' % deep.encode()).status_code in (422, 400)


# 404


PATHS = "/nothing /Tasks /tasks.json /tasks/1/ /tasks/1/x /tasks// //tasks /tasks//1 // /info/ /x/"
PATHS += " /healthz/ /docs/ /openapi.json/ /openapiXjson /%0A /info%0A /tasks%0A /tasks/%0A /redoc"
PATHS += " /tasks/1%0A /docs%0A /healthz%20 /tasks/1%2F /tasks%2F1%2F2 /tasks%3Fdone=true"


@pytest.mark.parametrize("path", [*PATHS.split(), "/%2e%2e/tasks"])
def test_404_for_an_unknown_path_whatever_the_method(client: Client, path: str) -> None:
    client.create(done=True)
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        check_error(client.request(method, path), 404, "Not Found")
    assert len(client.tasks()) == 1


IDS = "0 01 +1 -1 1.0 1. 1e0 0x1 1_0 %201 1%20 1%09 %0A1 x 1%00 1x %EF%BC%91 %D9%A1 %C2%B9 null"
IDS += " true * 1,2 %FF '1' 1%20OR%201=1 1;2 %C2%A01 2"
LONG_IDS = [str(2**63 - 1), str(2**63), str(2**64 + 1), "9" * 5000, "0" * 5000 + "1"]


@pytest.mark.parametrize("id", [*IDS.split(), *LONG_IDS], ids=short)
def test_404_for_an_id_that_no_task_has(client: Client, id: str) -> None:
    task = client.create()
    for method, body in [("GET", b""), ("PUT", BREAD), ("PATCH", {}), ("DELETE", b"")]:
        check_error(client.request(method, f"/tasks/{id}", body), 404, "Task not found")
    assert client.head(f"/tasks/{id}").status_code == 404
    assert client.tasks() == [task.json()]


# 405


@pytest.mark.parametrize(("path", "methods"), METHODS.items())
def test_405_and_options_name_every_method(client: Client, path: str, methods: str) -> None:
    options = client.options(path)
    allow = options.headers["allow"]
    check_empty(options, 204, allow=allow)
    assert sorted(allow.split(", ")) == sorted(methods.split())
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - {*methods.split()}:
        check_error(client.request(method, path), 405, allow=allow)


# 408


@pytest.mark.parametrize("sent", [[], [b'{"name":'], [b"\xff"], [b"{", b"}", b" "]], ids=short)
def test_408_if_the_rest_of_a_body_does_not_come(hasty: Client, sent: list[bytes]) -> None:
    for method, path in BODY_ROUTES:
        check_error(hasty.request(method, path, stalled(*sent), idempotency_key=""), 408)
    assert hasty.tasks() == []


# 413

LARGEST = compact(TASK).ljust(MIB)


@pytest.mark.parametrize("size", ["5", str(MIB + 1), str(2**62), None])
def test_413_if_the_body_is_larger_than_1_mib(client: Client, size: str | None) -> None:
    headers = {} if size is None else {"content_length": size}
    for method, path in BODY_ROUTES:
        check_error(client.request(method, path, pieces(LARGEST, b" "), **headers), 413)
    assert client.tasks() == []
    assert client.post("/tasks", pieces(LARGEST)).status_code == 200


REFUSED = [("/tasks", 413, {}), ("/tasks", 415, {"content_type": "x"}), ("/none", 404, {})]
REFUSED += [("/info", 405, {}), ("/tasks", 401, {"authorization": "Bearer x"})]


@pytest.mark.parametrize(("path", "status", "headers"), REFUSED)
def test_what_is_sent_of_a_refused_body_is_read_up_to_16_mib(
    start: Callable[..., Client], path: str, status: int, headers: dict[str, str]
) -> None:
    client = start(TODO_TOKEN="token")
    headers = {"authorization": "Bearer token", **headers}
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield bytes(MIB)

    assert client.post(path, endless(), **headers).status_code == status
    assert 16 <= read <= 18


def test_a_refused_body_that_stalls_hears_its_refusal_and_no_more(hasty: Client) -> None:
    answer = hasty.post("/tasks", stalled(b"{"), content_type="text/plain")
    check_error(answer, 415, connection="close")
    check_error(hasty.post("/tasks", stalled(bytes(MIB + 1))), 413, connection="close")
    check_error(hasty.post("/nowhere", stalled(b"{")), 404, "Not Found", connection="close")


# 415


TYPES = "text/plain text/json json application/jsonx application/json+x application/x-json"
TYPES += " application/x-www-form-urlencoded multipart/form-data;boundary=x application/x/y+json"
TYPES += " text/plain;application/json application/json,text/plain"


@pytest.mark.parametrize("content_type", [*TYPES.split(), "", []], ids=short)
def test_415_if_it_is_not_sent_as_json(client: Client, content_type: object) -> None:
    for (method, path), body in product(BODY_ROUTES, (TASK, b"")):
        check_error(client.request(method, path, body, content_type=content_type), 415)
    assert client.tasks() == []


# 422: bodies

MALFORMED = b"""{ {"a"} {"a":} {"a":1,} {'a':1} [1, "abc "\\x" x 01 +1 .5 1. 0x1 - tru True {}{} """
MALFORMED += b"""\xef\xbb\xbf //x{} <xml/> name=x \xc3\xa9 {"name":"milk" \x00 x"""
NO_WORDS = ["maybe", "", " ", "2", "-1", "01", "1.0", " true", "true ", "true\x00", "o\uff4e"]
NO_STRINGS = [None, True, 0, -1.5, [], {}, ["x"], 10**4000]
NO_BOOLEANS = [None, [], {}, [True], 0.5, 1e-300, 1e19, 2**63]
NO_OBJECTS = [[], 1, 1.5, "", "x", True, False, [TASK]]
EMPTY = [b"", b"null", b" null ", b"\xef\xbb\xbfnull"]
CONSTANTS = ["NaN", "Infinity", "-Infinity"]
HALVES = [r"\ud800", r"\udfff", r"a\ud83d b", r"\udc00\ud800"]


def with_value(name: str, type: str, value: object, **ctx: object) -> tuple[bytes, list]:
    """A task with a bad value, and the entry for it."""
    return compact({**TASK, name: value}), [entry(type, f"body {name}", value, **ctx)]


def with_half(text: str) -> tuple[bytes, list]:
    """A task of which the name has half a character, which is repeated as `?`."""
    name = json.loads(f'"{text}"').encode(errors="replace").decode()
    return b'{"name":"%s","done":0}' % text.encode(), [entry("string_unicode", "body name", name)]


def malformed(body: bytes) -> tuple[bytes, list]:
    """A body that is no JSON, and where it breaks."""
    with pytest.raises(json.JSONDecodeError) as broken:
        json.loads(body.decode("utf-8-sig"))
    return body, [no_json(f"body {broken.value.pos}", broken.value.msg)]


def no_json(loc: str, error: str) -> dict:
    return entry("json_invalid", loc, {}, error=error)


TWO_FAULTS = entry("string_type", "body name", 5), entry("bool_parsing", "body done", "maybe")
FAULTS = [
    *[malformed(body) for body in [b" ", b'"\n"', b'"\x01"', *MALFORMED.split()]],
    *[(it.encode(), [no_json("body 0", f"{it} is not JSON")]) for it in CONSTANTS],
    *[(compact(it), [entry("model_attributes_type", "body", it)]) for it in NO_OBJECTS],
    *[(it, [entry("missing", "body", None)]) for it in EMPTY],
    *[with_value("name", "string_type", it) for it in NO_STRINGS],
    *[with_value("name", "string_too_long", it * 1001, max_length=1000) for it in "x\x00é👍"],
    *[with_half(it) for it in HALVES],
    *[with_value("done", "bool_parsing", it) for it in [*NO_WORDS, 2, -1, 2.0, 1e10, 2**63 - 1]],
    *[with_value("done", "bool_type", it) for it in NO_BOOLEANS],
    (b'{"done":"maybe","name":5}', [*TWO_FAULTS]),
]


@pytest.mark.parametrize(("body", "errors"), FAULTS, ids=short)
def test_422_has_an_entry_for_each_fault(client: Client, body: bytes, errors: list) -> None:
    client.create()
    for method, path in BODY_ROUTES:
        check_error(client.request(method, path, body), 422, errors)
    assert client.tasks() == [{**TASK, "id": 1}]


@pytest.mark.parametrize("body", [{}, {"name": "x"}, {"done": 1}, {"Name": "x"}], ids=short)
def test_422_for_each_member_that_is_missing(client: Client, body: dict) -> None:
    missing = [name for name in ("name", "done") if name not in body]
    errors = [entry("missing", f"body {name}", body) for name in missing]
    check_error(client.post("/tasks", body), 422, errors)
    check_error(client.put("/tasks/1", body), 422, errors)


# 422: headers and parameters

PATTERN = {"pattern": "^[!-~]{1,255}$"}


@pytest.mark.parametrize("key", ["", "a b", '"a b"', "x" * 256, "é", "ключ", "a\tb"], ids=short)
def test_422_lists_a_bad_idempotency_key_first(client: Client, key: str) -> None:
    sent = key.encode().decode("latin-1")
    bad_key = entry("string_pattern_mismatch", "header idempotency-key", sent, **PATTERN)
    for body, errors in [(TASK, []), (b"", [entry("missing", "body", None)]), FAULTS[-1]]:
        check_error(client.post("/tasks", body, idempotency_key=key), 422, [bad_key, *errors])
    assert client.tasks() == []


NO_DIGITS = ["", "x", "1.5", "-1", "%2B1", "+1", "1_0", "1%00", "1%0A", "%D9%A1", "%C2%B2", "%FF"]
NO_DONES = ["", "2", "+true", "1.0"]
BOTH = entry("bool_parsing", "query done", "z"), entry("int_parsing", "query after", "y")


def bad(type: str, name: str, text: str) -> tuple[str, list]:
    """A query with a value that cannot be read, and the entry for it."""
    return f"{name}={text}", [entry(type, f"query {name}", unquote_plus(text))]


PARAMETERS = [
    *[bad("bool_parsing", "done", text) for text in NO_DONES],
    *[bad("int_parsing", "limit", text) for text in NO_DIGITS],
    *[bad("int_parsing", "after", text) for text in NO_DIGITS],
    ("done", [entry("bool_parsing", "query done", "")]),
    ("limit=0", [entry("greater_than_equal", "query limit", "0", ge=1)]),
    ("limit=1&limit=1001", [entry("less_than_equal", "query limit", "1001", le=1000)]),
    (f"limit={'1' * 5000}", [entry("less_than_equal", "query limit", "1" * 5000, le=1000)]),
    (f"after={2**63}", [entry("less_than_equal", "query after", str(2**63), le=2**63 - 1)]),
    ("after=y&done=z&q=fine", [*BOTH]),
]


@pytest.mark.parametrize(("query", "errors"), PARAMETERS, ids=short)
def test_422_for_a_bad_parameter_of_the_list(client: Client, query: str, errors: list) -> None:
    check_error(client.get(f"/tasks?{query}"), 422, errors)
    check_error(client.get(f"/tasks/?{query}"), 422, errors)


MISSING = entry("missing", "query done", None)
NO_DONE = entry("bool_parsing", "query done", "all")
SENT = {"Done": "true", "limit": "1", "done": "true", "q": ""}
EXTRAS = {name: entry("extra_forbidden", f"query {name}", it) for name, it in SENT.items()}
DELETIONS = [
    ("", [MISSING]),
    ("?done=all", [NO_DONE]),
    ("?Done=true", [MISSING, EXTRAS["Done"]]),
    ("?done=all&q=", [NO_DONE, EXTRAS["q"]]),
    ("?limit=1&done=true", [EXTRAS["limit"]]),
    ("?done=false&done=true", [EXTRAS["done"]]),
]


@pytest.mark.parametrize(("query", "errors"), DELETIONS)
@pytest.mark.parametrize("path", ["/tasks", "/tasks/"])
def test_422_rather_than_delete_too_many(
    client: Client, path: str, query: str, errors: list
) -> None:
    client.create(done=True)
    check_error(client.delete(path + query), 422, errors)
    assert len(client.tasks()) == 1


# 500


def test_500_and_a_traceback_in_the_log_for_a_defect(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(request: object, database: object) -> None:
        raise LookupError("a defect")

    resource = todo.Resource("/boom", GET=fail)
    monkeypatch.setattr(client.application.router, "routes", [resource, *todo.routes])
    check_error(client.get("/boom"), 500)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert 'LookupError("a defect")' in caplog.text
    check(client.get("/info"), "starlette")


# 503

WRITES = [*BODY_ROUTES, ("DELETE", "/tasks/1"), ("DELETE", "/tasks?done=false")]


def one_line(caplog: pytest.LogCaptureFixture) -> str:
    """The one line that was written to the log, which is then empty."""
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.levelname == "ERROR"
    assert record.exc_info is None
    caplog.clear()
    return record.getMessage()


def test_503_while_another_program_holds_the_lock_and_it_never_happens(
    hasty: Client, caplog: pytest.LogCaptureFixture
) -> None:
    task = hasty.create().json()
    with locked(hasty.db):
        for method, path in WRITES:
            check_error(hasty.request(method, path, BREAD), 503)
            one_line(caplog)
        assert hasty.tasks() == [task]
        check(hasty.get("/healthz"), {"status": "ok"}, cache_control="no-store")
    assert hasty.create().json()["id"] == 2
    assert hasty.tasks()[0] == task


def test_503_for_health_if_the_tasks_cannot_be_read(
    start: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    client = start()
    with closing(sqlite3.connect(client.db)) as db:
        db.execute("DROP TABLE task")
    check_error(client.get("/healthz"), 503)
    assert "no such table" in one_line(caplog)


# 507


def test_507_while_there_is_no_room(client: Client, caplog: pytest.LogCaptureFixture) -> None:
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


# The order of refusals

ORDER = [  # a request with every fault, and each mended in its turn
    (401, {"authorization": "Bearer x"}),
    (404, {"path": "/nothing"}),
    (405, {"path": "/info"}),
    (415, {"content_type": "text/plain"}),
    (413, {"content_length": str(2**30)}),
    (408, {"body": lambda: stalled(b"\xff")}),
    (400, {"body": lambda: pieces(b'{"name":5,"\xff":1}')}),
    (422, {"body": lambda: pieces(b'{"name":5,"done":true}')}),
    (404, {"path": "/tasks/2"}),
    (412, {"if_match": '"x"'}),
]


@pytest.mark.usefixtures("hasty")
def test_refusals_come_in_order(start: Callable[..., Client]) -> None:
    client = start(TODO_TOKEN="token")
    client.post("/tasks", authorization="Bearer token")
    for turn, (status, _) in enumerate(ORDER):
        request = {"path": "/tasks/1", "body": lambda: pieces(compact(TASK))}
        request |= {"authorization": "Bearer token"}
        for _, faults in reversed(ORDER[turn:]):
            request |= faults
        path, body = request.pop("path"), request.pop("body")
        for method in ("PUT", "PATCH"):
            assert client.request(method, path, body(), **request).status_code == status
