"""The error contract: every error is JSON with one member, `detail`; one test for each source of errors.

`check_error` is that contract. What is not HTTP, uvicorn refuses by itself: that is in test_input.py.
"""

import asyncio
import contextlib
import json
import select
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Server

import todo

JSON = {"content-type": "application/json"}
TASK = b'{"name":"milk","done":false}'
MIB = 2**20
UNREADABLE = "There was an error parsing the body"
TEXTS = {
    "missing": "Field required",
    "string_type": "Input should be a valid string",
    "string_unicode": "Input should be a valid string, unable to parse raw data as a unicode string",
    "bool_type": "Input should be a valid boolean",
    "bool_parsing": "Input should be a valid boolean, unable to interpret input",
    "int_parsing": "Input should be a valid integer, unable to parse string as an integer",
    "greater_than_equal": "Input should be greater than or equal to {ge}",
    "less_than_equal": "Input should be less than or equal to {le}",
    "json_invalid": "JSON decode error",
    "model_attributes_type": "Input should be a valid dictionary or object to extract fields from",
    "extra_forbidden": "Extra inputs are not permitted",
}

Entry = dict[str, Any]


def strict(text: bytes) -> Any:
    """The value of strict JSON: UTF-8, compact, without NaN or Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    value = json.loads(text.decode(), parse_constant=refuse)
    assert text == compact(value)
    return value


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def check_error(answer: httpx.Response, status: int, detail: Any = None) -> None:
    """Check the shape of any error and, if it is given, its whole `detail`."""
    assert answer.status_code == status, answer.content[:1000]
    assert answer.headers["content-type"] == "application/json"
    body = strict(answer.content)
    assert list(body) == ["detail"]
    if status == 422:
        assert isinstance(body["detail"], list)
        assert body["detail"]
        for entry in body["detail"]:
            check_entry(entry)
    else:
        assert isinstance(body["detail"], str)
        assert body["detail"]
    if detail is not None:
        assert compact(body["detail"]) == compact(detail)  # 1 == True in Python


def check_entry(entry: Entry) -> None:
    assert [name for name in entry if name != "ctx"] == ["type", "loc", "msg", "input"]
    assert entry["loc"][0] in ("body", "query", "header")
    assert all(isinstance(step, str | int) for step in entry["loc"])
    if entry["type"] in TEXTS:
        assert entry["msg"] == TEXTS[entry["type"]].format(**entry.get("ctx", {}))
    assert entry["msg"]


def entry(type: str, loc: Iterable[str | int], input: Any, **ctx: Any) -> Entry:
    found = {"type": type, "loc": list(loc), "msg": TEXTS[type].format(**ctx), "input": input}
    return {**found, "ctx": ctx} if ctx else found


class Wire:
    """A connection on which anything can be sent, and each answer read as it comes."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(server.address, timeout=30)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> "Wire":
        self.socket.sendall(data)
        return self

    def request(self, method: str, target: str, headers: Mapping[str, str] = {}, body: bytes = b"") -> "Wire":
        fields = {"Host": "test", **headers}
        if body and not {"content-length", "transfer-encoding"} & {name.lower() for name in fields}:
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in fields.items()]]
        return self.send("\r\n".join([*lines, "", ""]).encode(errors="surrogateescape") + body)

    def answer(self, head: bool = False) -> httpx.Response:
        """The next answer; raises ConnectionError if there is none."""
        status = self.file.readline().split()
        if not status:
            raise ConnectionError("closed")
        headers = []
        while line := self.file.readline().strip():
            name, _, value = line.decode("latin-1").partition(": ")
            headers.append((name, value))
        answer = httpx.Response(int(status[1]), headers=headers)
        body = b"" if head or answer.status_code in (204, 304) else self.body(answer)
        kept = [(name, value) for name, value in headers if name.lower() != "transfer-encoding"]
        return httpx.Response(answer.status_code, headers=kept, content=body)

    def body(self, answer: httpx.Response) -> bytes:
        if "transfer-encoding" not in answer.headers:
            return self.file.read(int(answer.headers["content-length"]))
        chunks = []
        while size := int(self.file.readline(), 16):
            chunks.append(self.file.read(size + 2)[:-2])
        self.file.readline()
        return b"".join(chunks)

    def closed(self) -> bool:
        """Whether the server has closed the connection; waits for it."""
        try:
            return self.file.read(1) == b""
        except ConnectionError:
            return True


def ask(server: Server, method: str, target: str, headers: Mapping[str, str] = {}, body: bytes = b"") -> httpx.Response:
    """The answer to one request on a connection of its own, its target just as it is written."""
    with Wire(server) as wire:
        return wire.request(method, target, headers, body).answer(head=method == "HEAD")


@contextlib.contextmanager
def running(db: Path, *options: str, **env: str) -> Iterator[Server]:
    """A server for the tests of a file that want it set up otherwise than `server`."""
    server = Server(db, *options, **env)
    try:
        yield server
    finally:
        server.stop()


def chunked(*chunks: bytes) -> bytes:
    return b"".join([b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk]) + b"0\r\n\r\n"


# 304


def test_304_has_the_tag_and_no_body(client: httpx.Client) -> None:
    task = client.post("/tasks", content=TASK, headers=JSON)
    answer = client.get(task.headers["location"], headers={"if-none-match": task.headers["etag"]})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == task.headers["etag"]
    assert answer.headers["cache-control"] == "no-cache"
    assert "content-type" not in answer.headers


# 400


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b'{"name":"\xff","done":true}',
        b'{"name":"\xed\xa0\x80","done":true}',  # a surrogate, encoded
        b'{"name":"\xc0\x80","done":true}',  # an overlong NUL
        b'{"name":"x","done":true,"more":"\xff"}',
        TASK.decode().encode("utf-16"),
        TASK.decode().encode("utf-16-le"),
        TASK.decode().encode("utf-16-be"),
        TASK.decode().encode("utf-32"),
        TASK.decode().encode("utf-32-le"),
        TASK.decode().encode("utf-32-be"),
        '{"name":"é"}'.encode("latin-1"),
        b'{"name":"x","done":%s}' % (b"1" * 4301),  # more digits than Python reads
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"name":"x","done":true,"more":%s}' % (b"[" * 10_000 + b"]" * 10_000),
    ],
    ids=lambda body: repr(body[:40]),
)
def test_400_if_the_body_cannot_be_read(server: Server, body: bytes) -> None:
    for method, path in [("POST", "/tasks"), ("PUT", "/tasks/1"), ("PATCH", "/tasks/1")]:
        check_error(ask(server, method, path, JSON, body), 400, UNREADABLE)


# 401


@pytest.mark.parametrize("target", ["/", "/info", "/tasks", "/tasks/", "/tasks/1", "/nothing", "/tasks/0", "//"])
def test_401_without_the_token(guarded: Server, target: str) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"):
        answer = ask(guarded, method, target)
        check_error(answer, 401, "Not authenticated")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("guarded") / "todo.db", TODO_TOKEN="secret") as server:
        yield server


# 404

UNKNOWN = ["/nothing", "/Tasks", "/tasks.json", "/tasks/1/", "/tasks/1/x", "/tasks//", "//tasks", "/tasks//1", "//"]
UNKNOWN += ["/info/", "/healthz/", "/docs/", "/openapi.json/", "/info%0A", "/tasks%0A", "/tasks/%0A", "/tasks/1%0A"]
UNKNOWN += ["/%0A", "/healthz%0A", "/tasks/1%2F", "/tasks%2F1%2F2", "/tasks%3Fdone=true", "/%2e%2e/tasks", "/redoc"]


@pytest.mark.parametrize("target", UNKNOWN)
def test_404_for_an_unknown_path_whatever_the_method(server: Server, target: str) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        check_error(ask(server, method, target), 404, "Not Found")


NO_IDS = ["0", "01", "00", "001", "+1", "-1", "-0", "1.0", "1.", "1e0", "1E0", "0x1", "1_0", "%201", "1%20", "1%09"]
NO_IDS += [
    "%0A1",
    "%0D1",
    "1%00",
    "%001",
    "x",
    "1x",
    "%EF%BC%91",
    "%D9%A1",
    "%C2%B9",
    "null",
    "true",
    "NaN",
    "*",
    "1,2",
]
NO_IDS += ["1,2", "%FF", "1%FF", "%C2%A01", "1;2", "'1'", "%221%22", "1%20OR%201=1", str(2**63), str(2**63 - 1)]
NO_IDS += [str(2**64 + 1), str(-(2**63)), "9" * 18, "9" * 19, "9" * 5000, "0" * 5000 + "1", "1" + "0" * 5000]


@pytest.mark.parametrize("id", [*NO_IDS, "2"], ids=lambda id: id[:30])
def test_404_for_what_is_no_task_whatever_the_id_looks_like(one_task: Server, id: str) -> None:
    for method, body in [("GET", b""), ("PUT", TASK), ("PATCH", b"{}"), ("DELETE", b"")]:
        check_error(ask(one_task, method, f"/tasks/{id}", JSON, body), 404, "Task not found")
    assert ask(one_task, "HEAD", f"/tasks/{id}").status_code == 404
    assert ask(one_task, "GET", "/tasks").content == b'[{"name":"milk","done":false,"id":1}]'


@pytest.fixture(scope="module")
def one_task(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("one") / "todo.db") as server:
        assert ask(server, "POST", "/tasks", JSON, TASK).status_code == 200
        yield server


# 405

ALLOWED = {
    "/": "GET HEAD OPTIONS",
    "/info": "GET HEAD OPTIONS",
    "/healthz": "GET HEAD OPTIONS",
    "/openapi.json": "GET HEAD OPTIONS",
    "/docs": "GET HEAD OPTIONS",
    "/tasks": "GET HEAD POST DELETE OPTIONS",
    "/tasks/": "GET HEAD POST DELETE OPTIONS",
    "/tasks/1": "GET HEAD PUT PATCH DELETE OPTIONS",
    "/tasks/x": "GET HEAD PUT PATCH DELETE OPTIONS",
}


def allow(answer: httpx.Response) -> list[str]:
    return sorted(answer.headers["allow"].split(", "))


@pytest.mark.parametrize(("path", "methods"), ALLOWED.items())
def test_405_names_every_method_of_the_path(server: Server, path: str, methods: str) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - set(methods.split()):
        answer = ask(server, method, path, JSON, TASK)
        check_error(answer, 405, "Method Not Allowed")
        assert allow(answer) == sorted(methods.split())


# 408

HALF = {**JSON, "Content-Length": "28"}
CHUNKS = {**JSON, "Transfer-Encoding": "chunked"}
STOPS = [
    ("POST", "/tasks", HALF, TASK[:10]),
    ("POST", "/tasks", HALF, b""),
    ("POST", "/tasks", CHUNKS, b'5\r\n{"nam\r\n'),
    ("POST", "/tasks", CHUNKS, b'5\r\n{"n'),
    ("POST", "/tasks", HALF, b"\xff"),  # 408 comes before 400
    ("POST", "/tasks", {**HALF, "Idempotency-Key": "not one"}, b"{}"),  # and before 422
    ("PUT", "/tasks/999", HALF, TASK[:-1]),  # and before 404
    ("PATCH", "/tasks/999", {**HALF, "If-Match": '"x"'}, TASK[:10]),
]


def stop_in_the_middle(server: Server, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
    with Wire(server) as wire:
        started = time.monotonic()
        answer = wire.request(method, path, headers, body).answer()
        assert 9.5 < time.monotonic() - started < 13
        check_error(answer, 408)
        assert answer.headers["connection"] == "close"
        assert wire.closed()


def trickle(server: Server, path: str) -> bytes:
    """Send a body that takes longer than 10 s, but never pauses for so long; return the answer's."""
    with Wire(server) as wire:
        wire.request("POST", path, HALF)
        for part in (TASK[:1], TASK[1:10], TASK[10:]):
            assert not select.select([wire.socket], [], [], 3.6)[0]  # no answer yet
            wire.send(part)
        return wire.answer().content


# 412


@pytest.mark.parametrize("tag", ['"x"', "", "x", 'W/"x"', '"a", "b"'])
def test_412_if_the_task_has_another_tag_and_nothing_changes(client: httpx.Client, tag: str) -> None:
    task = client.post("/tasks", content=TASK, headers=JSON)
    path = task.headers["location"]
    for method, body in [("PUT", b'{"name":"x","done":true}'), ("PATCH", b'{"done":true}'), ("DELETE", b"")]:
        check_error(client.request(method, path, content=body, headers={**JSON, "if-match": tag}), 412)
    assert client.get(path).content == task.content


# 413


def test_a_body_of_exactly_1_mib_is_not_too_large(server: Server) -> None:
    body = b'{"done":true,"name":"%s"}' % (b"x" * (MIB - 23))
    assert len(body) == MIB
    for headers, sent in [(JSON, body), (CHUNKS, chunked(body[:70_000], body[70_000:]))]:
        answer = ask(server, "POST", "/tasks", headers, sent)
        assert answer.status_code == 200
        assert len(strict(answer.content)["name"]) == MIB - 23


LARGE = b'{"done":true,"name":"%s"}' % (b"x" * (MIB - 22))


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, LARGE),
        (JSON, b"x" * 3 * MIB),
        (CHUNKS, chunked(LARGE)),
        (CHUNKS, chunked(*[LARGE[i : i + 1000] for i in range(0, len(LARGE), 1000)])),
        ({**JSON, "Content-Length": str(MIB + 1)}, b"{}"),  # a lie
        ({**JSON, "Content-Length": str(2**62)}, b"{}"),
    ],
    ids=["declared", "3 MiB", "one chunk", "many chunks", "declared only", "declared huge"],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/tasks"), ("PUT", "/tasks/1"), ("PATCH", "/tasks/1")])
def test_413_if_the_body_is_larger_than_1_mib(
    server: Server, method: str, path: str, headers: Mapping[str, str], body: bytes
) -> None:
    check_error(ask(server, method, path, headers, body), 413)


def test_413_if_a_small_length_is_declared_for_large_chunks(server: Server) -> None:
    answer = ask(server, "POST", "/tasks", {**CHUNKS, "Content-Length": "5"}, chunked(LARGE))
    assert answer.status_code in (400, 413)  # 400 is uvicorn's: such a request is no HTTP


def test_413_leaves_the_connection_usable_once_the_body_is_through(server: Server) -> None:
    with Wire(server) as wire:
        check_error(wire.request("POST", "/tasks", CHUNKS, chunked(LARGE)).answer(), 413)
        assert wire.request("GET", "/info").answer().content == b'"starlette"'


# 415

OTHER_TYPES = ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json"]
OTHER_TYPES += ["application/jsonp", "application/json5", "text/json", "application/xml", "application/", "*/*"]
OTHER_TYPES += ["application/+json", "application/x+json+zip", "application/json/x", "application/json,text/plain"]
OTHER_TYPES += ["text/plain; application/json", "application/x json", "application/a/b+json", "xapplication/json"]


@pytest.mark.parametrize("type", [None, *OTHER_TYPES])
def test_415_says_which_type_to_send(server: Server, type: str | None) -> None:
    headers = {} if type is None else {"content-type": type}
    for method, path in [("POST", "/tasks"), ("POST", "/tasks/"), ("PUT", "/tasks/1"), ("PATCH", "/tasks/1")]:
        for body in (TASK, b""):
            answer = ask(server, method, path, headers, body)
            check_error(answer, 415)
            assert "application/json" in answer.json()["detail"]
            assert "--json" in answer.json()["detail"]


JSON_TYPES = ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=x"]
JSON_TYPES += [
    "application/json ; a=b",
    "application/merge-patch+json",
    "application/vnd.api+json",
    "application/x+json;v=1",
]


@pytest.mark.parametrize("type", JSON_TYPES)
def test_every_json_type_is_accepted(client: httpx.Client, type: str) -> None:
    headers = {"content-type": type}
    task = client.post("/tasks", content=TASK, headers=headers)
    assert task.status_code == 200
    assert client.put(task.headers["location"], content=TASK, headers=headers).content == task.content
    assert client.patch(task.headers["location"], content=TASK, headers=headers).content == task.content


# 422: bodies


def malformed(body: bytes) -> Entry:
    """The entry for a body that Python's json refuses: it says where and why."""
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads(body.decode("utf-8-sig"))
    return entry("json_invalid", ["body", caught.value.pos], {}, error=caught.value.msg)


MALFORMED = [b" ", b"\n", b"{", b'{"name":', b'{"name":"x","done":true', b'{"name":"x","done":true}}', b'{"name":"x",}']
MALFORMED += [
    b'{"name" "x"}',
    b"{'name':'x'}",
    b"{name:1}",
    b"[1,",
    b"[1 2]",
    b'"abc',
    b'"\x01"',
    b'"\n"',
    b'"\\x"',
    b"x",
]
MALFORMED += [
    b'"\\u12"',
    b"01",
    b"+1",
    b".5",
    b"1.",
    b"0x1",
    b"1e",
    b"-",
    b"tru",
    b"True",
    b"nul",
    b"undefined",
    b"\x00",
]
MALFORMED += [
    b"x",
    b"\x00",
    b"\xef\xbb\xbf",
    b"\xef\xbb\xbf{x",
    b"// x\n{}",
    b"{}{}",
    b"<xml/>",
    b"name=x",
    "é".encode(),
]


@pytest.mark.parametrize("body", MALFORMED, ids=repr)
def test_422_says_where_the_json_breaks(server: Server, body: bytes) -> None:
    for method, path in [("POST", "/tasks"), ("PUT", "/tasks/1"), ("PATCH", "/tasks/1")]:
        check_error(ask(server, method, path, JSON, body), 422, [malformed(body)])


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "nan", "inf"])
def test_422_for_numbers_that_are_not_json(server: Server, word: str) -> None:
    for body in (word, f"[{word}]", f'{{"name":"x","done":{word}}}', f'{{"name":"x","done":true,"more":{word}}}'):
        answer = ask(server, "POST", "/tasks", JSON, body.encode())
        check_error(answer, 422)
        (found,) = answer.json()["detail"]
        assert (found["type"], found["loc"][0], found["input"]) == ("json_invalid", "body", {})


@pytest.mark.parametrize("body", [b"[]", b"1", b"1.5", b'"x"', b"true", b"false", b'[{"name":"x","done":true}]', b'""'])
def test_422_for_a_body_that_is_no_object(server: Server, body: bytes) -> None:
    wrong = entry("model_attributes_type", ["body"], json.loads(body))
    for method, path in [("POST", "/tasks"), ("PUT", "/tasks/1"), ("PATCH", "/tasks/1")]:
        check_error(ask(server, method, path, JSON, body), 422, [wrong])


@pytest.mark.parametrize("body", [b"", b"null", b" null ", b"\xef\xbb\xbfnull"])
def test_422_for_no_body_or_null(server: Server, body: bytes) -> None:
    for method, path in [("POST", "/tasks"), ("PUT", "/tasks/1"), ("PATCH", "/tasks/1")]:
        check_error(ask(server, method, path, JSON, body), 422, [entry("missing", ["body"], None)])


@pytest.mark.parametrize("body", [{}, {"name": "x"}, {"done": True}, {"Name": "x", "DONE": True}, {"a": {"name": "x"}}])
def test_422_for_each_member_that_is_missing(server: Server, body: dict[str, Any]) -> None:
    wrong = [entry("missing", ["body", name], body) for name in ("name", "done") if name not in body]
    for method, path in [("POST", "/tasks"), ("PUT", "/tasks/1")]:
        check_error(ask(server, method, path, JSON, compact(body)), 422, wrong)


NO_NAMES = [None, True, False, 0, 1, -1.5, [], {}, ["x"], {"x": "y"}, 10**4000]


@pytest.mark.parametrize("value", NO_NAMES, ids=lambda value: repr(value)[:20])
def test_422_for_a_name_that_is_no_string(server: Server, value: Any) -> None:
    wrong = entry("string_type", ["body", "name"], value)
    for method, path in [("POST", "/tasks"), ("PUT", "/tasks/1"), ("PATCH", "/tasks/1")]:
        body = compact({"name": value, "done": True})
        check_error(ask(server, method, path, JSON, body), 422, [wrong])


@pytest.mark.parametrize("text", [r"\ud800", r"\udfff", r"a\ud83d b", r"\udc00\ud800", r"\ud83d\u0041"])
def test_422_for_a_name_with_half_a_character(server: Server, text: str) -> None:
    for method, path in [("POST", "/tasks"), ("PUT", "/tasks/1"), ("PATCH", "/tasks/1")]:
        answer = ask(server, method, path, JSON, b'{"name":"%s","done":true}' % text.encode())
        check_error(answer, 422)
        (found,) = answer.json()["detail"]
        assert (found["type"], found["loc"]) == ("string_unicode", ["body", "name"])


NO_WORDS = [
    "",
    " ",
    "maybe",
    "2",
    "-1",
    "01",
    "1.0",
    " true",
    "true ",
    "tru",
    "yess",
    "ja",
    "null",
    "true\x00",
    "o\uff4e",
]
NO_NUMBERS = [2, -1, 10, 2.0, -3.0, 1e10, 2**63 - 1, -(2**63) + 1]
NO_BOOLEANS = [None, [], {}, [True], {"done": True}, 0.5, 1.5, 1e-300, 1.0000000001, 1e19, -1e300, 2**63, 10**4000]


@pytest.mark.parametrize(
    ("type", "value"),
    [("bool_parsing", value) for value in NO_WORDS + NO_NUMBERS] + [("bool_type", value) for value in NO_BOOLEANS],
    ids=lambda value: repr(value)[:20],
)
def test_422_for_a_done_that_is_no_boolean(server: Server, type: str, value: Any) -> None:
    wrong = entry(type, ["body", "done"], value)
    for method, path in [("POST", "/tasks"), ("PUT", "/tasks/1"), ("PATCH", "/tasks/1")]:
        check_error(ask(server, method, path, JSON, compact({"name": "x", "done": value})), 422, [wrong])


@pytest.mark.parametrize("number", ["1e400", "-1e400", "[1e400]", '{"x":[-1e400]}'])
def test_422_repeats_an_infinite_number_in_strict_json(server: Server, number: str) -> None:
    for body in (f'{{"name":"x","done":{number}}}', f'{{"name":{number},"done":true}}', f'{{"name":{number}}}', number):
        check_error(ask(server, "POST", "/tasks", JSON, body.encode()), 422)


@pytest.mark.parametrize("number", ["1.5e308", "-1.79e308", "5e-324", "0.1"])
def test_422_repeats_a_finite_number_as_it_is(server: Server, number: str) -> None:
    body = f'{{"name":{number},"done":true}}'
    check_error(
        ask(server, "POST", "/tasks", JSON, body.encode()), 422, [entry("string_type", ["body", "name"], float(number))]
    )


def test_422_repeats_half_a_character_in_utf_8(server: Server) -> None:
    for body in (b'{"done":"\\ud800"}', b'{"\\udfff":1}', b'["\\ud800"]', b'{"name":{"\\ud800":"\\udc00"},"done":1}'):
        check_error(ask(server, "POST", "/tasks", JSON, body), 422)


def test_422_has_an_entry_for_each_fault(server: Server) -> None:
    wrong = [entry("string_type", ["body", "name"], 5), entry("bool_parsing", ["body", "done"], "maybe")]
    for method, path in [("POST", "/tasks"), ("PUT", "/tasks/1"), ("PATCH", "/tasks/1")]:
        check_error(ask(server, method, path, JSON, b'{"name":5,"done":"maybe"}'), 422, wrong)
    wrong = [entry("string_type", ["body", "name"], 5), entry("missing", ["body", "done"], {"name": 5})]
    check_error(ask(server, "POST", "/tasks", JSON, b'{"name":5}'), 422, wrong)
    bodies = {
        b'{"name":5}': wrong,
        b"[]": [entry("model_attributes_type", ["body"], [])],
        b"null": [entry("missing", ["body"], None)],
        b"": [entry("missing", ["body"], None)],
    }
    for body, faults in bodies.items():
        answer = ask(server, "POST", "/tasks", {**JSON, "Idempotency-Key": "a b"}, body)
        check_error(answer, 422)
        assert answer.json()["detail"][0]["type"] == "idempotency_key_invalid"
        assert answer.json()["detail"][1:] == faults


def test_422_for_null_in_a_patch(client: httpx.Client) -> None:
    path = client.post("/tasks", content=TASK, headers=JSON).headers["location"]
    wrong = [entry("string_type", ["body", "name"], None), entry("bool_type", ["body", "done"], None)]
    check_error(client.patch(path, content=b'{"name":null,"done":null}', headers=JSON), 422, wrong)
    check_error(client.patch(path, content=b'{"done":null}', headers=JSON), 422, wrong[1:])
    check_error(client.patch(path, content=b'{"name":null,"done":true}', headers=JSON), 422, wrong[:1])
    assert client.get(path).json()["done"] is False


# 422: parameters and headers

BAD_PARAMETERS = [
    ("done=", [entry("bool_parsing", ["query", "done"], "")]),
    ("done", [entry("bool_parsing", ["query", "done"], "")]),
    ("done=maybe", [entry("bool_parsing", ["query", "done"], "maybe")]),
    ("done=2", [entry("bool_parsing", ["query", "done"], "2")]),
    ("done=+true", [entry("bool_parsing", ["query", "done"], " true")]),
    ("done=1.0", [entry("bool_parsing", ["query", "done"], "1.0")]),
    ("done=true&done=x", [entry("bool_parsing", ["query", "done"], "x")]),
    ("limit=", [entry("int_parsing", ["query", "limit"], "")]),
    ("limit=x", [entry("int_parsing", ["query", "limit"], "x")]),
    ("limit=1.5", [entry("int_parsing", ["query", "limit"], "1.5")]),
    ("limit=1e1", [entry("int_parsing", ["query", "limit"], "1e1")]),
    ("limit=1__0", [entry("int_parsing", ["query", "limit"], "1__0")]),
    ("limit=--1", [entry("int_parsing", ["query", "limit"], "--1")]),
    ("limit=1%00", [entry("int_parsing", ["query", "limit"], "1\x00")]),
    ("limit=%1C1", [entry("int_parsing", ["query", "limit"], "\x1c1")]),
    ("limit=1%1D", [entry("int_parsing", ["query", "limit"], "1\x1d")]),
    ("limit=1%1E%0A", [entry("int_parsing", ["query", "limit"], "1\x1e\n")]),
    ("limit=1%0A%1F", [entry("int_parsing", ["query", "limit"], "1\n\x1f")]),
    ("limit=%D9%A1", [entry("int_parsing", ["query", "limit"], "\u0661")]),
    ("limit=%FF", [entry("int_parsing", ["query", "limit"], "\ufffd")]),
    ("limit=1&limit=x", [entry("int_parsing", ["query", "limit"], "x")]),
    ("limit=0", [entry("greater_than_equal", ["query", "limit"], "0", ge=1)]),
    ("limit=-5", [entry("greater_than_equal", ["query", "limit"], "-5", ge=1)]),
    ("limit=1001", [entry("less_than_equal", ["query", "limit"], "1001", le=1000)]),
    (f"limit={2**64}", [entry("less_than_equal", ["query", "limit"], str(2**64), le=1000)]),
    ("limit=" + "1" * 4300, [entry("less_than_equal", ["query", "limit"], "1" * 4300, le=1000)]),
    ("limit=" + "1" * 5000, [entry("int_parsing", ["query", "limit"], "1" * 5000)]),
    ("limit=1" + "_1" * 4999, [entry("int_parsing", ["query", "limit"], "1" + "_1" * 4999)]),
    ("after=x", [entry("int_parsing", ["query", "after"], "x")]),
    ("after=", [entry("int_parsing", ["query", "after"], "")]),
    ("after=-1", [entry("greater_than_equal", ["query", "after"], "-1", ge=0)]),
    (f"after={2**63}", [entry("less_than_equal", ["query", "after"], str(2**63), le=2**63 - 1)]),
    ("after=" + "9" * 5000, [entry("int_parsing", ["query", "after"], "9" * 5000)]),
    (
        "after=y&limit=x&done=z&q=ok",
        [
            entry("bool_parsing", ["query", "done"], "z"),
            entry("int_parsing", ["query", "limit"], "x"),
            entry("int_parsing", ["query", "after"], "y"),
        ],
    ),
]


@pytest.mark.parametrize(("query", "wrong"), BAD_PARAMETERS, ids=lambda value: str(value)[:30])
def test_422_for_a_bad_list_parameter(server: Server, query: str, wrong: list[Entry]) -> None:
    for path in ("/tasks", "/tasks/"):
        check_error(ask(server, "GET", f"{path}?{query}"), 422, wrong)


BAD_KEYS = ["", '""', " ", "a b", '"a b"', '"a', '"', "x" * 256, f'"{"x" * 256}"', "é", "a\tb", "ключ"]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: repr(key)[:10])
def test_422_for_a_bad_idempotency_key(client: httpx.Client, server: Server, key: str) -> None:
    answer = ask(server, "POST", "/tasks", {**JSON, "Idempotency-Key": key}, TASK)
    check_error(answer, 422)
    (found,) = answer.json()["detail"]
    assert (found["type"], found["loc"]) == ("idempotency_key_invalid", ["header", "idempotency-key"])
    assert client.get("/tasks").json() == []


def test_422_for_an_idempotency_key_of_another_request(client: httpx.Client) -> None:
    headers = {**JSON, "idempotency-key": "once"}
    task = client.post("/tasks", content=TASK, headers=headers)
    answer = client.post("/tasks", content=b'{"name":"milk","done":true}', headers=headers)
    check_error(answer, 422)
    (found,) = answer.json()["detail"]
    assert (found["type"], found["loc"]) == ("idempotency_key_reused", ["header", "idempotency-key"])
    assert client.get("/tasks").json() == [task.json()]


# The order of refusals

Fault = tuple[int, dict[str, str], bytes]
FAULTS: list[Fault] = [  # one request with every fault; each mended in its turn
    (415, {"content-type": "text/plain", "content-length": str(2**30)}, b"\xff"),
    (413, {**JSON, "content-length": str(2**30)}, b"\xff"),
    (400, {**JSON}, b'{"name":5,"\xff":1}'),
    (422, {**JSON}, b'{"name":5,"done":true}'),
    (404, {**JSON}, TASK),
]


@pytest.mark.parametrize(("status", "headers", "body"), FAULTS, ids=lambda value: str(value)[:10])
def test_refusals_come_in_order(server: Server, status: int, headers: Mapping[str, str], body: bytes) -> None:
    more = {"If-Match": '"x"', "If-None-Match": "*", **headers}
    check_error(ask(server, "PUT", "/tasks/0", more, body), status)
    check_error(ask(server, "PATCH", "/tasks/999999", more, body), status)
    check_error(ask(server, "PUT", "/tasks/0/", more, body), 404, "Not Found")
    check_error(ask(server, "POST", "/tasks/1", more, body), 405)


@pytest.mark.parametrize(("status", "headers", "body"), FAULTS, ids=lambda value: str(value)[:10])
def test_a_missing_token_comes_before_all_others(
    guarded: Server, status: int, headers: Mapping[str, str], body: bytes
) -> None:
    for method, path in [("PUT", "/tasks/0"), ("PUT", "/tasks/0/"), ("POST", "/tasks/1"), ("POST", "/tasks")]:
        check_error(ask(guarded, method, path, headers, body), 401)
    check_error(ask(guarded, "PUT", "/tasks/0", {**headers, "Authorization": "Bearer secret"}, body), status)


def test_422_comes_before_412_and_404_before_412(client: httpx.Client) -> None:
    path = client.post("/tasks", content=TASK, headers=JSON).headers["location"]
    headers = {**JSON, "if-match": '"x"'}
    check_error(client.put(path, content=b"{}", headers=headers), 422)
    check_error(client.put(path, content=TASK, headers=headers), 412)
    assert client.delete(path).content == b"1"
    for method in ("PUT", "PATCH", "DELETE"):
        check_error(client.request(method, path, content=TASK, headers=headers), 404, "Task not found")
        check_error(client.request(method, path, content=TASK, headers={**JSON, "if-match": "*"}), 404)


def test_a_head_of_an_error_is_its_head(server: Server) -> None:
    for target in ("/nothing", "/tasks/0", "/tasks?limit=0"):
        full, head = ask(server, "GET", target), ask(server, "HEAD", target)
        assert (head.status_code, head.content) == (full.status_code, b"")
        assert head.headers["content-length"] == str(len(full.content))
        assert head.headers["content-type"] == "application/json"


def test_408_if_the_rest_of_a_body_does_not_come_for_10_seconds(
    pauses: tuple[Server, list[Future[None]], Future[bytes]],
) -> None:
    server, stopped, patient = pauses
    with server.client() as client:
        assert client.get("/info", timeout=2).status_code == 200
        for future in stopped:
            future.result()
        assert strict(patient.result()) == {**json.loads(TASK), "id": 1}
        assert len(client.get("/tasks").json()) == 1


@pytest.mark.parametrize("path", ["/tasks", "/tasks/1", "/nowhere", "/\n"])
def test_a_websocket_is_closed_before_it_opens(path: str) -> None:
    """uvicorn makes a 403 of that. (It asks the app only where a package for WebSockets is installed.)"""
    sent: list[object] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: object) -> None:
        sent.append(message)

    asyncio.run(todo.app({"type": "websocket", "path": path, "root_path": "", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1000, "reason": ""}]
