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
from pathlib import Path

import pytest
from helpers import (
    BODY_ROUTES,
    BREAD,
    METHODS,
    MIB,
    TASK,
    Client,
    check,
    check_error,
    compact,
    entry,
    locked,
)

import todo


def short(value: object) -> str:
    return ascii(value)[:40]


@pytest.fixture
def hasty(client: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client of an application that waits for the rest of a body for a moment only."""
    monkeypatch.setattr(todo, "BODY_TIMEOUT", 0.02)
    return client


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    """A body without a declared length."""
    for chunk in chunks:
        yield chunk


async def stalled(*chunks: bytes) -> AsyncIterator[bytes]:
    """A body of which the rest never comes."""
    for chunk in chunks:
        yield chunk
    await asyncio.Event().wait()


# 304: test_conditions.py; 401: test_access.py

# 400

UNREADABLE = [
    b"\xff",
    b'{"name":"\xff","done":true}',
    b'{"name":"\xed\xa0\x80","done":true}',  # half a character, encoded
    b'{"name":"\xc0\x80","done":true}',  # an overlong NUL
    b'{"name":"x","done":true,"more":"\xff"}',
    compact(TASK).decode().encode("utf-16"),
    '{"name":"é"}'.encode("utf-16-le"),
    '{"name":"é"}'.encode("latin-1"),
    b'{"name":"x","done":%s}' % (b"1" * 4301),  # more digits than Python reads
    b"[" * 100_000,
    b'{"name":"x","done":true,"more":%s}' % (b"[" * 10_000 + b"]" * 10_000),
    b'{"name":1e999,"done":true}',  # what a 422 could not repeat
    b'{"name":"x","done":[-1e999]}',
    b"1e999",
    b'{"name":1e999}',
]


@pytest.mark.parametrize("body", UNREADABLE, ids=short)
def test_400_if_the_body_cannot_be_read(client: Client, body: bytes) -> None:
    for method, path in BODY_ROUTES:
        check_error(client.request(method, path, body), 400)


def test_nesting_of_any_depth_is_a_clear_answer(client: Client) -> None:
    for depth in [*range(900, 1100, 3), 5000, 100_000]:
        deep = b"[" * depth + b"]" * depth
        unknown = client.post("/tasks", b'{"name":"x","done":true,"more":%s}' % deep)
        known = client.post("/tasks", b'{"name":%s,"done":true}' % deep)
        assert unknown.status_code in (200, 400)
        assert known.status_code in (422, 400)
        assert known.content.startswith(b'{"detail":')


# 404

PATHS = ["/nothing", "/Tasks", "/tasks.json", "/tasks/1/", "/tasks/1/x", "/tasks//", "//tasks"]
PATHS += ["/tasks//1", "//", "/info/", "/healthz/", "/docs/", "/openapi.json/", "/openapiXjson"]
PATHS += ["/%0A", "/info%0A", "/tasks%0A", "/tasks/%0A", "/tasks/1%0A", "/docs%0A", "/healthz%20"]
PATHS += ["/tasks/1%2F", "/tasks%2F1%2F2", "/tasks%3Fdone=true", "/%2e%2e/tasks", "/redoc", "/x/"]


@pytest.mark.parametrize("path", PATHS)
def test_404_for_an_unknown_path_whatever_the_method(client: Client, path: str) -> None:
    client.create(done=True)
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        check_error(client.request(method, path), 404, "Not Found")
    assert len(client.tasks()) == 1


IDS = ["0", "01", "+1", "-1", "1.0", "1.", "1e0", "0x1", "1_0", "%201", "1%20", "1%09", "%0A1", "x"]
IDS += ["1%00", "1x", "%EF%BC%91", "%D9%A1", "%C2%B9", "null", "true", "*", "1,2", "%FF", "'1'"]
IDS += ["1%20OR%201=1", "1;2", "%C2%A01", "2", str(2**63 - 1), str(2**63), str(2**64 + 1)]
IDS += ["9" * 5000, "0" * 5000 + "1", "1" + "0" * 5000]


@pytest.mark.parametrize("id", IDS, ids=short)
def test_404_for_an_id_that_no_task_has(client: Client, id: str) -> None:
    task = client.create()
    for method, body in [("GET", b""), ("PUT", BREAD), ("PATCH", {}), ("DELETE", b"")]:
        check_error(client.request(method, f"/tasks/{id}", body), 404, "Task not found")
    assert client.head(f"/tasks/{id}").status_code == 404
    assert client.tasks() == [task.json()]


# 405


@pytest.mark.parametrize(("path", "methods"), METHODS.items())
def test_405_names_every_method_of_the_path(client: Client, path: str, methods: str) -> None:
    others = {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"}
    for method in others - set(methods.split()):
        answer = client.request(method, path)
        check_error(answer, 405, allow=answer.headers["allow"])
        assert sorted(answer.headers["allow"].split(", ")) == sorted(methods.split())


# 408


@pytest.mark.parametrize("sent", [[], [b'{"name":'], [b"\xff"], [b"{", b"}", b" "]], ids=short)
def test_408_if_the_rest_of_a_body_does_not_come(hasty: Client, sent: list[bytes]) -> None:
    for method, path in BODY_ROUTES:
        check_error(hasty.request(method, path, stalled(*sent), idempotency_key=""), 408)
    assert hasty.tasks() == []


def test_a_body_may_take_longer_if_it_never_pauses_for_so_long(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(todo, "BODY_TIMEOUT", 0.3)

    async def slow() -> AsyncIterator[bytes]:
        for byte in (b"{", b'"name":"milk",', b'"done":false', b"}"):
            await asyncio.sleep(0.1)
            yield byte

    assert client.post("/tasks", slow()).json() == {**TASK, "id": 1}


@pytest.mark.slow
def test_408_comes_after_10_seconds(client: Client) -> None:
    answer = client.begin("POST", "/tasks", stalled(b"{"))
    with pytest.raises(TimeoutError):
        answer.result(9.5)
    check_error(answer.result(2), 408)


# 413

LARGEST = b'{"done":true,"name":"x"%s}' % (b" " * (MIB - 24))


def test_a_body_of_1_mib_is_not_too_large(client: Client) -> None:
    assert len(LARGEST) == MIB
    assert client.post("/tasks", LARGEST).status_code == 200
    assert client.post("/tasks", pieces(LARGEST[:1000], LARGEST[1000:])).status_code == 200


LARGER = [(LARGEST + b" ", {}), (b"x" * 3 * MIB, {}), (LARGEST + b" ", {"content_length": "5"})]
LARGER += [(b"\xff", {"content_length": str(size)}) for size in (MIB + 1, 2**62)]


@pytest.mark.parametrize(("body", "headers"), LARGER, ids=short)
def test_413_if_the_body_is_larger(client: Client, body: bytes, headers: dict[str, str]) -> None:
    for method, path in BODY_ROUTES:
        check_error(client.request(method, path, body, **headers), 413)
        if not headers:
            check_error(client.request(method, path, pieces(body[:MIB], body[MIB:])), 413)
    assert client.tasks() == []


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
    answer = client.post(path, pieces(bytes(MIB), bytes(MIB)), **headers)
    assert answer.status_code == status


@pytest.mark.parametrize(("status", "type"), [(415, "text/plain"), (413, "application/json")])
def test_a_refused_body_that_stalls_hears_its_refusal(
    hasty: Client, status: int, type: str
) -> None:
    check_error(hasty.post("/tasks", stalled(bytes(MIB + 1)), content_type=type), status)


# 415

NO_JSON = ["", "text/plain", "text/json", "application/x-www-form-urlencoded", "application/jsonx"]
NO_JSON += ["multipart/form-data; boundary=x", "application/json+x", "application/x-json", "json"]
NO_JSON += ["text/plain; application/json", "application/x/y+json", "application/json, text/plain"]


@pytest.mark.parametrize("content_type", [*NO_JSON, []], ids=short)
def test_415_if_it_is_not_sent_as_json(client: Client, content_type: object) -> None:
    for method, path in BODY_ROUTES:
        for body in (TASK, b""):
            answer = client.request(method, path, body, content_type=content_type)
            check_error(answer, 415)
    assert client.tasks() == []


# 422: bodies

MALFORMED = b"""{ {"a"} {"a":} {"a":1,} {'a':1} [1, "abc "\\x" x 01 +1 .5 1. 0x1 - tru True {}{} """
MALFORMED += b"""\xef\xbb\xbf //x{} <xml/> name=x \xc3\xa9 {"name":"milk" \x00 x"""
NO_WORDS = ["maybe", "", " ", "2", "-1", "01", "1.0", " true", "true ", "true\x00", "o\uff4e"]
NO_STRINGS = [None, True, 0, -1.5, [], {}, ["x"], 10**4000]
NO_BOOLEANS = [None, [], {}, [True], 0.5, 1e-300, 1e19, 2**63]
NO_OBJECTS = [[], 1, 1.5, "", "x", True, False, [TASK]]
EMPTY = [b"", b"null", b" null ", b"\xef\xbb\xbfnull"]
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
    error = broken.value
    return body, [entry("json_invalid", f"body {error.pos}", {}, error=error.msg)]


TWO_FAULTS = entry("string_type", "body name", 5), entry("bool_parsing", "body done", "maybe")
FAULTS = [
    *[malformed(body) for body in [b" ", b'"\n"', b'"\x01"', *MALFORMED.split()]],
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
def test_422_has_an_entry_for_each_fault_of_a_body(
    client: Client, body: bytes, errors: list
) -> None:
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


@pytest.mark.parametrize("body", ["NaN", "[Infinity]", '{"name":"x","done":true,"more":-Infinity}'])
def test_422_for_numbers_that_are_not_json(client: Client, body: str) -> None:
    answer = client.post("/tasks", body.encode())
    (found,) = answer.json()["detail"]
    error = entry("json_invalid", "body 0", {}, error=found["ctx"]["error"])
    check_error(answer, 422, [{**error, "loc": ["body", found["loc"][1]]}])


# 422: headers and parameters

PATTERN = {"pattern": "^[!-~]{1,255}$"}


@pytest.mark.parametrize("key", ["", "a b", '"a b"', "x" * 256, "é", "ключ", "a\tb"], ids=short)
def test_422_for_a_bad_idempotency_key(client: Client, key: str) -> None:
    sent = key.encode().decode("latin-1")
    error = entry("string_pattern_mismatch", "header idempotency-key", sent, **PATTERN)
    check_error(client.post("/tasks", idempotency_key=key), 422, [error])
    assert client.tasks() == []


def test_422_lists_the_fault_of_the_header_first(client: Client) -> None:
    bad_key = entry("string_pattern_mismatch", "header idempotency-key", "a b", **PATTERN)
    for body, errors in [FAULTS[-1], (b"", [entry("missing", "body", None)])]:
        check_error(client.post("/tasks", body, idempotency_key="a b"), 422, [bad_key, *errors])


NO_DIGITS = [("", ""), ("x", "x"), ("1.5", "1.5"), ("1e1", "1e1"), ("-1", "-1"), ("%2B1", "+1")]
NO_DIGITS += [("+1", " 1"), ("1+", "1 "), ("1_0", "1_0"), ("1%00", "1\x00"), ("1%0A", "1\n")]
NO_DIGITS += [("%D9%A1", "\u0661"), ("%C2%B2", "\u00b2"), ("%FF", "\ufffd"), ("0x1", "0x1")]
NO_DONES = [
    ("done", ""),
    ("done=", ""),
    ("done=2", "2"),
    ("done=+true", " true"),
    ("done=1.0", "1.0"),
]
BOTH = entry("bool_parsing", "query done", "z"), entry("int_parsing", "query after", "y")
PARAMETERS = [
    *[(query, [entry("bool_parsing", "query done", it)]) for query, it in NO_DONES],
    *[(f"limit={text}", [entry("int_parsing", "query limit", it)]) for text, it in NO_DIGITS],
    *[(f"after={text}", [entry("int_parsing", "query after", it)]) for text, it in NO_DIGITS],
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
    ("?done=true&done=true", [EXTRAS["done"]]),
    ("?done=false&done=true", [EXTRAS["done"]]),
]


@pytest.mark.parametrize(("query", "errors"), DELETIONS)
def test_422_rather_than_delete_more_than_was_meant(
    client: Client, query: str, errors: list
) -> None:
    client.create(done=True)
    for path in ("/tasks", "/tasks/"):
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


@pytest.fixture
def impatient(start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client of an application that waits for locks for a moment only."""
    monkeypatch.setattr(todo, "WRITE_TIMEOUT", 0.05)
    return start()


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_503_while_another_program_holds_the_lock(
    impatient: Client, caplog: pytest.LogCaptureFixture, method: str, path: str
) -> None:
    task = impatient.create().json()
    with locked(impatient.db):
        check_error(impatient.request(method, path, TASK), 503)
        one_line(caplog)
        assert impatient.tasks() == [task]
        check(impatient.get("/healthz"), {"status": "ok"}, cache_control="no-store")
    assert impatient.request(method, path, TASK).status_code == 200


def test_writes_that_were_given_up_never_happen(impatient: Client) -> None:
    with locked(impatient.db):
        waiting = [impatient.begin("POST", "/tasks", TASK) for _ in range(20)]
        for write in waiting:
            check_error(write.result(10), 503)
    assert impatient.create().json()["id"] == 1
    assert len(impatient.tasks()) == 1


@pytest.mark.parametrize("replace", [False, True])
def test_503_for_writes_and_health_if_the_file_was_moved(
    start: Callable[..., Client], caplog: pytest.LogCaptureFixture, empty: Path, replace: bool
) -> None:
    client = start()
    client.create()
    client.db.rename(client.db.with_name("moved.db"))
    if replace:
        client.db.write_bytes(empty.read_bytes())
    for method, path in [*WRITES, ("GET", "/healthz")]:
        check_error(client.request(method, path, TASK), 503)
        assert "moved or replaced" in one_line(caplog)
    assert len(client.tasks()) == 1


def test_503_for_health_if_the_tasks_cannot_be_read(
    start: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    client = start()
    with closing(sqlite3.connect(client.db)) as db:
        db.execute("DROP TABLE task")
    check_error(client.get("/healthz"), 503)
    assert "no such table" in one_line(caplog)


@pytest.mark.slow
def test_503_comes_after_5_seconds(start: Callable[..., Client]) -> None:
    client = start()
    with locked(client.db):
        write = client.begin("POST", "/tasks", TASK)
        with pytest.raises(TimeoutError):
            write.result(4.5)
        check_error(write.result(1.5), 503)


# 507


def test_507_while_there_is_no_room(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite says that it is full when it runs out of ids, too."""
    task = client.create().json()
    set_last_id(client.db, 2**63 - 1)
    for _ in range(2):
        check_error(client.post("/tasks"), 507)
        assert "full" in one_line(caplog)
    assert client.tasks() == [task]
    assert client.put("/tasks/1", BREAD).status_code == 200
    set_last_id(client.db, 1)
    assert client.create().json()["id"] == 2


def set_last_id(db: Path, id: int) -> None:
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE sqlite_sequence SET seq = ?", [id])


def test_a_write_that_fails_fails_alone(client: Client) -> None:
    client.create()
    set_last_id(client.db, 2**63 - 1)
    with locked(client.db):  # so that they wait, and share a transaction
        writes = [("POST", "/tasks", 507), ("PUT", "/tasks/1", 200)] * 5
        answers = [client.begin(method, path, BREAD) for method, path, _ in writes]
        client.get("/")
    assert [answer.result(10).status_code for answer in answers] == [row[2] for row in writes]


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


def test_refusals_come_in_order(
    start: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(todo, "BODY_TIMEOUT", 0.02)
    client = start(TODO_TOKEN="token")
    client.post("/tasks", authorization="Bearer token")
    for turn, (status, _) in enumerate(ORDER):
        request = {"path": "/tasks/1", "body": lambda: pieces(compact(TASK))}
        request |= {"authorization": "Bearer token"}
        for _, faults in reversed(ORDER[turn:]):
            request |= faults
        path, body = request.pop("path"), request.pop("body")
        for method in ("PUT", "PATCH"):
            answer = client.request(method, path, body(), **request)
            assert answer.status_code == status
