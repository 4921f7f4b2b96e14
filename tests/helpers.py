"""A client for an application in this process, and checks of whole answers."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import httpx

import todo

MIB = 2**20
TASK = {"name": "milk", "done": False}
BREAD = {"name": "bread", "done": True}
DEFAULTS: dict[str, object] = {"POST": TASK, "PUT": BREAD, "PATCH": {"done": True}}
KEY = "header idempotency-key"
BODY_ROUTES = [("POST", "/tasks"), ("PUT", "/tasks/1"), ("PATCH", "/tasks/1")]
METHODS = dict.fromkeys(["/", "/info", "/healthz", "/openapi.json", "/docs"], "GET HEAD OPTIONS")
METHODS |= dict.fromkeys(["/tasks", "/tasks/"], "GET HEAD POST DELETE OPTIONS")
METHODS |= dict.fromkeys(["/tasks/1", "/tasks/x"], "GET HEAD PUT PATCH DELETE OPTIONS")


class Client:
    """An open application, and requests to it: `client.put("/tasks/1", TASK, if_match='"x"')`.

    A body is bytes, or a value that is sent as JSON; without one POST, PUT and PATCH send what is
    in DEFAULTS. A header is given by its name, with a list for several lines.
    """

    def __init__(self, portal, **settings):
        self.portal = portal
        self.db = Path(settings.get("TODO_DB") or "todo.db")
        self.application = todo.Application(settings)
        self.app: Any = self.application
        self.state: Mapping[str, Any] = {}
        self.stack = contextlib.ExitStack()

    def open(self):
        """Start the application; raise todo.StartRefused."""
        lifespan = self.application.router.lifespan_context(self.application)
        self.state = self.stack.enter_context(self.portal.wrap_async_context_manager(lifespan))
        return self

    def close(self):
        self.stack.close()

    async def __call__(self, scope, receive, send):
        """Be the application for one request, as uvicorn calls it."""
        asgi = {"version": "3.0", "spec_version": "2.3"}
        await self.app({**scope, "asgi": asgi, "state": dict(self.state)}, receive, send)

    async def ask(self, method, target, body=None, root_path="", **headers):
        """The answer to a request; its body may also be an iterator of pieces."""
        if method in DEFAULTS:
            headers = {"content_type": "application/json", **headers}
        lines = []
        for name, values in headers.items():
            for value in values if isinstance(values, list) else [values]:
                field = value.encode("utf-8", "surrogateescape")
                lines.append((name.replace("_", "-").encode(), field))
        content: Any = DEFAULTS.get(method, b"") if body is None else body
        if not isinstance(content, bytes | AsyncIterator):
            content = compact(content)
        request = httpx.Request(method, f"http://test{target}", headers=lines, content=content)
        transport = httpx.ASGITransport(self, root_path=root_path)
        answer = await transport.handle_async_request(request)
        await answer.aread()
        return answer

    def begin(self, *args, **named):
        """Send a request; its answer comes with `result()`."""
        return self.portal.start_task_soon(partial(self.ask, *args, **named))

    def request(self, *args, **named):
        return self.begin(*args, **named).result(30)

    get = partialmethod(request, "GET")
    head = partialmethod(request, "HEAD")
    post = partialmethod(request, "POST")
    put = partialmethod(request, "PUT")
    patch = partialmethod(request, "PATCH")
    delete = partialmethod(request, "DELETE")
    options = partialmethod(request, "OPTIONS")

    def create(self, name="milk", done=False, **headers):
        """A new task's answer, of which the place and the tag are in the headers."""
        answer = self.post("/tasks", {"name": name, "done": done}, **headers)
        assert answer.status_code == 200
        return answer

    def tasks(self):
        """Every task, as the list gives it."""
        tasks: list[dict[str, Any]] = self.get("/tasks").json()
        return tasks


@contextlib.contextmanager
def locked(db):
    """Hold SQLite's lock for writes, as another program may."""
    with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def insert(db, tasks):
    """Put tasks into the file, past the server."""
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.executemany("INSERT INTO task (name, done) VALUES (?, ?)", tasks)


def compact(value):
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def strict(text):
    """The value of compact JSON in UTF-8 without NaN or Infinity."""
    value = json.loads(text.decode())
    assert text == compact(value)
    return value


# Whole answers


def fields(answer):
    """The headers of an answer, but for those that uvicorn adds."""
    return {name: value for name, value in answer.headers.items() if name not in ("date", "server")}


def check(answer, value, **headers):
    """Check a 200: its value, to the byte, and its headers, of which there are no others."""
    assert (answer.status_code, answer.content) == (200, compact(value))
    expected = {"content-type": "application/json", "content-length": str(len(answer.content))}
    assert fields(answer) == expected | written(headers)


def check_tagged(answer, value, **headers):
    """Check a 200 that carries an ETag."""
    check(answer, value, etag=tag(answer), cache_control="no-cache", **headers)


def check_empty(answer, status, **headers):
    """Check a 204 or a 304, which have no body and say nothing of one."""
    assert (answer.status_code, answer.content) == (status, b"")
    assert fields(answer) == written(headers)


def written(headers):
    return {name.replace("_", "-"): value for name, value in headers.items()}


def tag(answer):
    """The ETag of an answer, which is strong and as RFC 9110 wants it."""
    found = answer.headers["etag"]
    assert found[0] == found[-1] == '"'
    assert found[1:-1].isalnum()
    return str(found)


SENTENCES = {  # the details that clients know by heart
    400: "There was an error parsing the body",
    401: "Not authenticated",
    405: "Method Not Allowed",
    500: "Internal Server Error",
}
HINTS = {408: "body", 412: "ETag", 413: "1048576 bytes", 415: "curl --json"}  # parts of others
HINTS |= {503: "try again", 507: "disk is full"}
LATER = {"retry-after": "1", "cache-control": "no-store"}
BESIDE = {401: {"www-authenticate": "Bearer"}, 412: {"cache-control": "no-cache"}}  # the headers
BESIDE |= {408: {"connection": "close"}, 413: {"connection": "close"}, 503: LATER, 507: LATER}


def check_error(answer, status, detail=None, **more):
    """Check the whole answer of an error: JSON with one member, and no headers but its status's."""
    assert answer.status_code == status, answer.content[:1000]
    body = strict(answer.content)
    assert list(body) == ["detail"]
    if status in HINTS:
        assert HINTS[status] in body["detail"]
    else:
        assert compact(body["detail"]) == compact(detail or SENTENCES[status])  # True == 1
    expected = {"content-type": "application/json", "content-length": str(len(answer.content))}
    assert fields(answer) == expected | BESIDE.get(status, {}) | written(more)


TEXTS = {
    "missing": "Field required",
    "string_type": "Input should be a valid string",
    "string_unicode": "Input should be a valid string, "
    "unable to parse raw data as a unicode string",
    "string_too_long": "String should have at most {max_length} characters",
    "string_pattern_mismatch": "String should match pattern '{pattern}'",
    "bool_type": "Input should be a valid boolean",
    "bool_parsing": "Input should be a valid boolean, unable to interpret input",
    "int_parsing": "Input should be a valid integer, unable to parse string as an integer",
    "greater_than_equal": "Input should be greater than or equal to {ge}",
    "less_than_equal": "Input should be less than or equal to {le}",
    "json_invalid": "JSON decode error",
    "model_attributes_type": "Input should be a valid dictionary or object to extract fields from",
    "extra_forbidden": "Extra inputs are not permitted",
    "idempotency_key_reused": "Idempotency-Key was used with another body",
}


def entry(type, loc, input, **ctx):
    """An entry of a 422: `entry("string_type", "body name", 5)`."""
    steps = [int(step) if step.isdigit() else step for step in loc.split()]
    found = {"type": type, "loc": steps, "msg": TEXTS[type].format(**ctx), "input": input}
    return {**found, "ctx": ctx} if ctx else found
